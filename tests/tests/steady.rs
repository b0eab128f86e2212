//! A session with nothing to do does nothing, and what is changed then is there at once.

use std::fs;
use std::time::{Duration, Instant};

use gsync_tests::deployment::Deployment;
use gsync_tests::fs::{FileSystem, Mounted};
use gsync_tests::listings::Listings;
use gsync_tests::session::Session;
use gsync_tests::sshd::Sshd;
use gsync_tests::{require, wait};

/// How long nothing happens.
const IDLE: Duration = Duration::from_secs(10);

/// What each process may use meanwhile: 1 %.
const CPU_MAX: Duration = Duration::from_millis(100);

/// What may start anew or end at the border of the idle time, such as a slice that is closed.
const CALM: Duration = Duration::from_secs(3);

/// In how long a small change has to be there, and how many are made.
const LATENCY_MAX: Duration = Duration::from_secs(1);
const CHANGES: usize = 20;

/// For a change to come at all.
const LIMIT: Duration = Duration::from_secs(30);

const PROGRAMS: [&str; 5] = ["gsync-recorder", "gsync-worker", "gsync-agent", "gsync-monitor", "ssh"];

fn idle_then_changes(ssh: bool) -> anyhow::Result<()> {
    // A file system of its own: the recorder is told of everything on it, also what other tests do.
    let mounted = Mounted::new(FileSystem::Ext4, 256)?;
    let sshd = if ssh { Some(Sshd::start_open()?) } else { None };
    let deployment = Deployment::new()?;
    let session = Session::create(&deployment, mounted.root(), mounted.root(), sshd.as_ref())?;
    for number in 0..1000 {
        let dir = session.brick.join(format!("d{}", number % 10));
        fs::create_dir_all(&dir)?;
        fs::write(dir.join(format!("f{number}")), format!("content {number}"))?;
    }
    session.start()?;
    session.settle(LIMIT)?;
    session.must_be_equal()?;
    std::thread::sleep(CALM);

    let listings = Listings::watch(mounted.root())?;
    let processes = deployment.processes(&PROGRAMS);
    for name in PROGRAMS.iter().take(if ssh { 5 } else { 4 }) {
        assert!(processes.iter().any(|process| process.name() == *name), "{name} does not run: {processes:?}");
    }
    let before: Vec<Duration> = processes.iter().map(|process| process.cpu_time()).collect();
    std::thread::sleep(IDLE);
    listings.assert_none("an idle session");
    for (process, before) in processes.iter().zip(before) {
        let used = process.cpu_time().saturating_sub(before);
        eprintln!("idle for {IDLE:?}: {} used {used:?} of CPU", process.name());
        assert!(used <= CPU_MAX, "{} used {used:?}", process.name());
    }
    assert_eq!(deployment.processes(&PROGRAMS), processes, "processes came or went");

    let mut took: Vec<Duration> = Vec::new();
    for number in 0..CHANGES {
        let name = format!("d{}/change", number % 10);
        let content = format!("change {number}");
        let start = Instant::now();
        fs::write(session.brick.join(&name), &content)?;
        let far = session.secondary.join(&name);
        wait::wait_until("a change", LIMIT, || fs::read_to_string(&far).is_ok_and(|found| found == content));
        took.push(start.elapsed());
        // Not in step with anything that happens every so often.
        std::thread::sleep(Duration::from_millis(37 * (number as u64 % 7)));
    }
    listings.assert_none("small changes");
    took.sort();
    eprintln!("a change is there after {:?} (median), {:?} (worst)", took[CHANGES / 2], took[CHANGES - 1]);
    assert!(took[CHANGES / 2] < LATENCY_MAX, "{took:?}");
    session.must_be_equal()
}

#[test]
fn idle_on_this_machine() {
    require!(FileSystem::Ext4.available());
    idle_then_changes(false).unwrap_or_else(|error| panic!("{error:#}"));
}

#[test]
fn idle_through_ssh() {
    require!(FileSystem::Ext4.available(), Sshd::available());
    idle_then_changes(true).unwrap_or_else(|error| panic!("{error:#}"));
}
