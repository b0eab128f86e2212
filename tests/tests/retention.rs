//! What a session still needs of a changelog, and what happens when that is not there any more.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gsync_tests::deployment::Deployment;
use gsync_tests::fs::{FileSystem, Mounted};
use gsync_tests::session::{NAME, Session};
use gsync_tests::{need, require, wait};

/// For anything that is to happen by itself.
const LIMIT: Duration = Duration::from_secs(90);

/// Files of the sample, and bytes in each.
const FILES: usize = 400;
const FILE_BYTES: usize = 8 << 10;

/// What may be sent when almost everything is equal.
const SENT_MAX: u64 = 200 << 10;

fn on_ext4() -> Result<(), String> {
    need::root()?;
    FileSystem::Ext4.available()
}

fn sample(brick: &Path) -> anyhow::Result<()> {
    let mut rng = fastrand::Rng::with_seed(7);
    for number in 0..FILES {
        let dir = brick.join(format!("dir-{}/below", number % 8));
        fs::create_dir_all(&dir)?;
        let mut content = vec![0; FILE_BYTES];
        rng.fill(&mut content);
        fs::write(dir.join(format!("file-{number}")), content)?;
    }
    fs::hard_link(brick.join("dir-0/below/file-0"), brick.join("link"))?;
    Ok(())
}

/// Changes of every kind of which the changelog is to lose the records.
fn change(brick: &Path) -> anyhow::Result<()> {
    for number in [1, 9, 17] {
        fs::remove_file(brick.join(format!("dir-1/below/file-{number}")))?;
    }
    fs::remove_dir_all(brick.join("dir-2"))?;
    fs::rename(brick.join("dir-3"), brick.join("dir-4/moved"))?;
    fs::rename(brick.join("dir-5/below/file-5"), brick.join("renamed"))?;
    fs::rename(brick.join("dir-5/below/file-13"), brick.join("dir-5/below/file-21"))?;
    fs::remove_file(brick.join("link"))?;
    fs::write(brick.join("dir-6/below/file-6"), "new content")?;
    fs::write(brick.join("new"), "new file")?;
    fs::create_dir_all(brick.join("new-dir/below"))?;
    fs::write(brick.join("new-dir/below/file"), "new")?;
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(brick.join("dir-7"), fs::Permissions::from_mode(0o700))?;
    Ok(())
}

/// The changelog directory of the only brick.
fn changelogs(deployment: &Deployment) -> anyhow::Result<PathBuf> {
    let bricks = fs::read_dir(deployment.state_dir().join("bricks"))?;
    let dirs: Vec<PathBuf> = bricks.flatten().map(|entry| entry.path().join("changelogs")).collect();
    anyhow::ensure!(dirs.len() == 1, "{dirs:?}");
    Ok(dirs[0].clone())
}

/// Rolled slices, oldest first.
fn slices(dir: &Path) -> Vec<PathBuf> {
    let (mut found, mut waiting) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                waiting.push(entry.path());
            } else if name.starts_with("CHANGELOG.") {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

/// Ends the monitor and with it all its processes, in order.
fn end(deployment: &Deployment) {
    if let Some(monitor) = deployment.monitor() {
        monitor.signal(rustix::process::Signal::TERM);
    }
    deployment.wait_for_end(LIMIT);
}

fn records_are_lost(lose: impl FnOnce(&Path) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let mounted = Mounted::new(FileSystem::Ext4, 128)?;
    let deployment = Deployment::new()?;
    let session = Session::create(&deployment, mounted.root(), mounted.root(), None)?;
    sample(&session.brick)?;
    session.start()?;
    session.must_be_equal()?;
    deployment.run(["stop", NAME])?;
    let before = slices(&changelogs(&deployment)?).len();
    change(&session.brick)?;
    end(&deployment);
    let changelogs = changelogs(&deployment)?;
    assert!(slices(&changelogs).len() > before, "the changes are not recorded");
    lose(&changelogs)?;

    deployment.run(["start", NAME])?;
    session.must_be_equal()?;
    let (bytes, _) = session.sent()?;
    assert!(bytes < SENT_MAX, "{bytes} bytes were sent, most of which were equal");
    let status = session.wait_for_status("Active", LIMIT);
    assert_eq!((&status["rescan"], &status["crawl_status"]), (&"".into(), &"Changelog Crawl".into()), "{status}");
    let log = fs::read_to_string(deployment.state_dir().join("log").join(format!("{NAME}-0.log")))?;
    assert!(log.contains("both sides are compared as a whole"), "no rescan was made");
    Ok(())
}

#[test]
fn a_slice_that_is_gone_costs_a_comparison_that_finds_deletes_too() {
    require!(on_ext4());
    let lose = |dir: &Path| Ok(fs::remove_file(slices(dir).last().expect("there is one"))?);
    records_are_lost(lose).unwrap_or_else(|error| panic!("{error:#}"));
}

#[test]
fn a_changelog_that_is_gone_costs_a_comparison_that_finds_deletes_too() {
    require!(on_ext4());
    records_are_lost(|dir| Ok(fs::remove_dir_all(dir)?)).unwrap_or_else(|error| panic!("{error:#}"));
}

/// Asked for by the operator; killed in the middle again and again, while the primary goes on changing.
fn killed() -> anyhow::Result<()> {
    let mounted = Mounted::new(FileSystem::Ext4, 128)?;
    let deployment = Deployment::new()?;
    let session = Session::create(&deployment, mounted.root(), mounted.root(), None)?;
    sample(&session.brick)?;
    session.start()?;
    session.must_be_equal()?;
    // What nobody tells of: somebody changed the secondary.
    fs::remove_file(session.secondary.join("dir-4/below/file-4"))?;
    fs::write(session.secondary.join("dir-1/below/file-1"), "spoilt")?;
    deployment.run(["resync", NAME])?;
    for (step, program) in ["gsync-worker", "gsync-agent", "gsync-recorder", "gsync-worker"].into_iter().enumerate() {
        fs::write(session.brick.join(format!("during-{step}")), program)?;
        fs::rename(session.brick.join(format!("dir-{step}")), session.brick.join(format!("renamed-{step}")))?;
        deployment.kill(&[program]);
        let running = || deployment.processes(&["gsync-worker"]).len() == 1;
        wait::wait_until("the worker's return", LIMIT, running);
    }
    session.must_be_equal()?;
    let status = session.status()?;
    assert_eq!(status["rescan"], "", "{status}");
    deployment.run(["stop", NAME])?;
    let refused = deployment.output(["resync", NAME])?;
    assert_eq!(refused.status.code(), Some(2), "a stopped session is compared");
    Ok(())
}

#[test]
fn a_comparison_is_ended_whatever_is_killed() {
    require!(on_ext4());
    killed().unwrap_or_else(|error| panic!("{error:#}"));
}

/// Every slice goes once its records are over there, and none that a stopped session needs; restarts change nothing.
fn shortened() -> anyhow::Result<()> {
    let mounted = Mounted::new(FileSystem::Ext4, 128)?;
    let deployment = Deployment::new()?;
    let session = Session::create(&deployment, mounted.root(), mounted.root(), None)?;
    session.config("changelog-budget", "1")?;
    sample(&session.brick)?;
    session.start()?;
    session.must_be_equal()?;
    let changelogs = changelogs(&deployment)?;
    wait::wait_for("the end of the first slices", LIMIT, || {
        let left = slices(&changelogs);
        if changelogs.join("BEGINS").exists() && left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
    deployment.run(["stop", NAME])?;
    change(&session.brick)?;
    let log = || std::fs::read_to_string(deployment.state_dir().join("log").join(format!("{NAME}-0.log")));
    // More than the budget of what repeats: names that go to and fro, in slices of their own.
    let name = |number: usize, side: &str| session.brick.join(format!("{}-{number}-{side}", "n".repeat(200)));
    for number in 0..150 {
        fs::write(name(number, "a"), "x")?;
    }
    for round in 0..16 {
        let (from, to) = if round % 2 == 0 { ("a", "b") } else { ("b", "a") };
        for number in 0..150 {
            fs::rename(name(number, from), name(number, to))?;
        }
        // What is undone before it is recorded makes no records.
        std::thread::sleep(Duration::from_millis(150));
        if round % 4 == 3 {
            end(&deployment);
            deployment.run(["status"])?;
        }
    }
    wait::wait_for("a compaction", LIMIT, || {
        let bytes: u64 = slices(&changelogs).iter().filter_map(|path| fs::metadata(path).ok()).map(|m| m.len()).sum();
        if (1..800 << 10).contains(&bytes) { Ok(()) } else { Err(format!("{bytes} bytes")) }
    });
    deployment.run(["start", NAME])?;
    session.must_be_equal()?;
    assert!(!log()?.contains("both sides are compared"), "what was needed is gone");
    Ok(())
}

#[test]
fn a_changelog_keeps_what_is_needed_and_no_more() {
    require!(on_ext4());
    shortened().unwrap_or_else(|error| panic!("{error:#}"));
}
