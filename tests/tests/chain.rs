//! Sessions that hang together: several of one brick, and a secondary that is the brick of a further one.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use gsync_tests::deployment::Deployment;
use gsync_tests::fs::{FileSystem, Mounted};
use gsync_tests::nasty::{Options, Writers};
use gsync_tests::proxy::Proxy;
use gsync_tests::session::Session;
use gsync_tests::sshd::Sshd;
use gsync_tests::{need, require, wait};
use rustix::fs::{CWD, RenameFlags};
use rustix::process::Signal;

/// For anything that is to happen by itself.
const LIMIT: Duration = Duration::from_secs(120);

/// A file that is patched in place where the file system does not clone.
const LARGE_BYTES: usize = 80 << 20;

/// What a change that needs no content may cost on the second hop.
const NO_CONTENT_MAX: u64 = 256 << 10;

/// And an append to the large file.
const APPEND_MAX: u64 = 8 << 20;

/// How long the nasty writers work.
const NASTY: Duration = Duration::from_secs(6);

fn on_ext4() -> Result<(), String> {
    need::root()?;
    FileSystem::Ext4.available()
}

fn random(seed: u64, bytes: usize) -> Vec<u8> {
    let mut content = vec![0; bytes];
    fastrand::Rng::with_seed(seed).fill(&mut content);
    content
}

fn inode(path: &Path) -> anyhow::Result<u64> {
    Ok(fs::symlink_metadata(path)?.ino())
}

fn hops() -> anyhow::Result<()> {
    let mounted = Mounted::new(FileSystem::Ext4, 1024)?;
    let [a, b, c] = ["a", "b", "c"].map(|name| mounted.root().join(name));
    let sshd = Sshd::start_open()?;
    let proxy = Proxy::start(sshd.port())?;
    let deployment = Deployment::new()?;
    let first = Session::between(&deployment, "first", &a, &b, None)?;
    first.config("sync-engine", "rsync")?;
    fs::create_dir(a.join("dir"))?;
    for number in 0..50 {
        fs::write(a.join(format!("dir/f{number}")), random(number, 64 << 10))?;
    }
    fs::write(a.join("large"), random(99, LARGE_BYTES))?;
    first.start()?;
    first.settle(LIMIT)?;
    let second = Session::between(&deployment, "second", &b, &c, Some((&sshd, proxy.port())))?;
    second.config("sync-engine", "rsync")?;
    second.start()?;
    let settle = || first.settle(LIMIT).and_then(|()| second.settle(LIMIT));
    settle()?;
    second.must_be_equal()?;

    // What one step costs on the second hop.
    let cost = |step: &dyn Fn() -> anyhow::Result<()>| -> anyhow::Result<u64> {
        let before = proxy.wire();
        step()?;
        settle()?;
        Ok(proxy.wire().since(before).up_bytes)
    };
    let file = inode(&c.join("dir/f7"))?;
    let renamed = cost(&|| Ok(fs::rename(a.join("dir"), a.join("renamed"))?))?;
    assert!(renamed < NO_CONTENT_MAX, "a rename cost {renamed} bytes");
    assert_eq!(inode(&c.join("renamed/f7"))?, file, "a rename became a copy");

    // Through the parking place of the second machine.
    let exchange = || {
        let [x, y] = ["renamed/f7", "renamed/f8"].map(|name| a.join(name));
        Ok(rustix::fs::renameat_with(CWD, x, CWD, y, RenameFlags::EXCHANGE)?)
    };
    let exchanged = cost(&exchange)?;
    assert!(exchanged < NO_CONTENT_MAX, "an exchange cost {exchanged} bytes");
    assert_eq!(fs::read(c.join("renamed/f8"))?, random(7, 64 << 10));

    let linked = cost(&|| Ok(fs::hard_link(a.join("renamed/f7"), a.join("link"))?))?;
    assert!(linked < NO_CONTENT_MAX, "a link cost {linked} bytes");
    assert_eq!(inode(&c.join("link"))?, inode(&c.join("renamed/f7"))?);

    let append = || Ok(fs::OpenOptions::new().append(true).open(a.join("large"))?.write_all(&random(5, 64 << 10))?);
    let appended = cost(&append)?;
    assert!(appended < APPEND_MAX, "an append cost {appended} bytes");
    assert_eq!(fs::metadata(c.join("large"))?.len(), fs::metadata(a.join("large"))?.len());

    cost(&|| {
        fs::remove_dir_all(a.join("renamed"))?;
        Ok(fs::rename(a.join("large"), a.join("link"))?)
    })?;
    assert!(!c.join("renamed").exists() && !c.join("large").exists());
    first.must_be_equal()?;
    second.must_be_equal()?;
    let parked = fs::read_dir(c.join(".gsync/parked"))?.count();
    assert_eq!(parked, 0, "something stays parked");
    assert!(!c.join(".gsync/quarantine").read_dir()?.any(|_| true), "something went to quarantine");
    eprintln!("second hop: rename {renamed}, exchange {exchanged}, link {linked}, append {appended} bytes");
    Ok(())
}

#[test]
fn changes_cost_the_second_hop_what_they_cost_the_first() {
    require!(on_ext4(), Sshd::available(), need::program("rsync"));
    hops().unwrap_or_else(|error| panic!("{error:#}"));
}

fn nasty() -> anyhow::Result<()> {
    let mounted = Mounted::new(FileSystem::Ext4, 600)?;
    let [a, b, c] = ["a", "b", "c"].map(|name| mounted.root().join(name));
    fs::create_dir(mounted.root().join("outside"))?;
    let deployment = Deployment::new()?;
    let first = Session::between(&deployment, "first", &a, &b, None)?.without_brake()?;
    let second = Session::between(&deployment, "second", &b, &c, None)?.without_brake()?;
    first.start()?;
    second.start()?;
    let options = Options::new(&first.brick, &first.outside);
    let mut rng = fastrand::Rng::with_seed(options.seed);
    let writers = Writers::start(options);
    let end = Instant::now() + NASTY;
    let mut kills = 0;
    while Instant::now() < end {
        std::thread::sleep(Duration::from_millis(rng.u64(300..1500)));
        let victims = ["gsync-recorder", "gsync-worker", "gsync-agent"];
        kills += deployment.kill(&[victims[rng.usize(..victims.len())]]);
    }
    let counts = writers.stop();
    assert!(counts.unexpected.is_empty(), "{:?}", counts.unexpected);
    assert!(kills > 0, "nothing was killed");
    eprintln!("{} calls succeeded, {kills} processes killed", counts.done());
    first.must_be_equal()?;
    second.must_be_equal()
}

#[test]
fn nasty_writers_and_kills_through_two_hops() {
    require!(on_ext4());
    nasty().unwrap_or_else(|error| panic!("{error:#}"));
}

fn fan_out() -> anyhow::Result<()> {
    let mounted = Mounted::new(FileSystem::Ext4, 256)?;
    let [brick, one, two, three] = ["brick", "one", "two", "three"].map(|name| mounted.root().join(name));
    let sshd = Sshd::start_open()?;
    let deployment = Deployment::new()?;
    let healthy = Session::between(&deployment, "healthy", &brick, &one, None)?;
    let frozen = Session::between(&deployment, "frozen", &brick, &two, Some((&sshd, sshd.port())))?;
    let late = Session::between(&deployment, "late", &brick, &three, None)?;
    fs::write(brick.join("before"), "before")?;
    healthy.start()?;
    frozen.start()?;
    healthy.settle(LIMIT)?;
    frozen.settle(LIMIT)?;
    let stopped = sshd.sessions();
    let all = |signal| stopped.iter().filter(|process| process.signal(signal)).count();
    assert!(all(Signal::STOP) > 0, "nothing to freeze");
    let mut slowest = Duration::ZERO;
    for number in 0..100 {
        let (name, start) = (format!("f{number}"), Instant::now());
        fs::write(brick.join(&name), &name)?;
        let far = one.join(&name);
        wait::wait_until("a change", LIMIT, || fs::read_to_string(&far).is_ok_and(|found| found == name));
        slowest = slowest.max(start.elapsed());
    }
    healthy.settle(LIMIT)?;
    assert!(!two.join("f99").exists(), "it was not frozen");
    eprintln!("the slowest change took {slowest:?} while another session was frozen");
    all(Signal::CONT);
    late.start()?;
    // And one of them dies: the others do not notice.
    let agents = deployment.processes(&["gsync-agent"]);
    let workers = deployment.processes(&["gsync-worker"]).len();
    let of_two = two.display().to_string();
    let killed = agents.iter().filter(|agent| agent.mentions(&of_two) && agent.kill()).count();
    assert!(killed > 0, "no agent to kill");
    fs::write(brick.join("after"), "after")?;
    for session in [&healthy, &frozen, &late] {
        session.must_be_equal()?;
    }
    assert_eq!(deployment.processes(&["gsync-worker"]).len(), workers, "a worker ended");
    let marks: Vec<_> =
        [&healthy, &frozen, &late].map(|s| s.status().map(|row| row["mark"].clone())).into_iter().collect();
    assert!(marks.iter().all(|mark| mark.as_ref().is_ok_and(|mark| mark != "")), "{marks:?}");
    Ok(())
}

#[test]
fn a_slow_session_holds_back_no_other() {
    require!(on_ext4(), Sshd::available());
    fan_out().unwrap_or_else(|error| panic!("{error:#}"));
}
