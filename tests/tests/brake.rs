//! The brake: what would empty the secondary is asked about first, whoever dies meanwhile.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use gsync_tests::deployment::Deployment;
use gsync_tests::fs::{FileSystem, Mounted};
use gsync_tests::session::{NAME, Session};
use gsync_tests::{need, require, wait};

/// For anything that is to happen by itself.
const LIMIT: Duration = Duration::from_secs(90);

fn on_ext4() -> Result<(), String> {
    need::root()?;
    FileSystem::Ext4.available()
}

/// So many files in directories of a hundred.
fn fill(brick: &Path, files: usize) -> anyhow::Result<()> {
    for number in 0..files {
        let dir = brick.join(format!("d{}", number / 100));
        if number % 100 == 0 {
            fs::create_dir_all(&dir)?;
        }
        fs::write(dir.join(format!("f{number}")), number.to_string())?;
    }
    Ok(())
}

fn empty(brick: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(brick)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}

/// Paths of everything below, `.gsync` left out.
fn paths(root: &Path) -> anyhow::Result<BTreeSet<String>> {
    let (mut found, mut waiting) = (BTreeSet::new(), vec![root.to_owned()]);
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            if dir == root && entry.file_name() == ".gsync" {
                continue;
            }
            found.insert(entry.path().strip_prefix(root)?.display().to_string());
            if entry.file_type()?.is_dir() {
                waiting.push(entry.path());
            }
        }
    }
    Ok(found)
}

/// Halted, with everything as it was before.
fn must_have_halted(session: &Session, before: &BTreeSet<String>) -> anyhow::Result<serde_json::Value> {
    let status = session.wait_for_status("Halted", LIMIT);
    let now = paths(&session.secondary)?;
    let removed: Vec<&String> = before.difference(&now).collect();
    assert!(removed.is_empty(), "{} of {} were removed: {removed:?}; {status}", removed.len(), before.len());
    Ok(status)
}

/// 3,000 files and 30 directories on both sides, and small limits.
fn with_session(test: impl FnOnce(&Deployment, &Session) -> anyhow::Result<()>) {
    require!(on_ext4());
    let run = || {
        let mounted = Mounted::new(FileSystem::Ext4, 256)?;
        let deployment = Deployment::new()?;
        let session = Session::create(&deployment, mounted.root(), mounted.root(), None)?;
        session.config("brake-count", "1000")?;
        fill(&session.brick, 3000)?;
        session.start()?;
        session.settle(LIMIT)?;
        test(&deployment, &session).unwrap_or_else(|error| {
            let status = deployment.run(["status", NAME, "--json"]).unwrap_or_default();
            panic!("{error:#}\n{status}");
        });
        Ok(())
    };
    run().unwrap_or_else(|error: anyhow::Error| panic!("{error:#}"));
}

#[test]
fn an_emptied_brick_is_asked_about_until_it_is_meant() {
    with_session(|deployment, session| {
        let before = paths(&session.secondary)?;
        deployment.run(["pause", NAME])?;
        empty(&session.brick)?;
        deployment.run(["resume", NAME]).unwrap_or_default();
        let status = must_have_halted(session, &before)?;
        assert_eq!(status["halted"]["removals"], 3030, "{status}");
        let shown = deployment.run(["status", NAME])?;
        assert!(shown.contains("3030 of 3030 objects") && shown.contains("--accept-removals"), "{shown}");
        assert!(shown.contains("for example d"), "{shown}");

        // Neither a killed worker nor a killed monitor lets it slip through, nor does asking again.
        for program in ["gsync-worker", "gsync-monitor", "gsync-agent"] {
            deployment.kill(&[program]);
            wait::wait_for("another worker", LIMIT, || {
                deployment.run(["status"]).map_err(|e| format!("{e:#}"))?;
                let pid = session.status().map_err(|e| format!("{e:#}"))?["worker_pid"].clone();
                if pid.is_null() { Err("no worker".into()) } else { Ok(()) }
            });
            must_have_halted(session, &before)?;
        }
        deployment.output(["resume", NAME])?;
        must_have_halted(session, &before)?;
        let refused = deployment.output(["resume", NAME, "--accept-removals", "--nonsense"])?;
        assert!(!refused.status.success());

        deployment.run(["resume", NAME, "--accept-removals"])?;
        session.settle(LIMIT)?;
        assert!(paths(&session.secondary)?.is_empty());
        session.must_be_equal()?;
        // It was meant once.
        fill(&session.brick, 2000)?;
        session.settle(LIMIT)?;
        let before = paths(&session.secondary)?;
        deployment.run(["pause", NAME])?;
        empty(&session.brick)?;
        deployment.run(["resume", NAME]).unwrap_or_default();
        must_have_halted(session, &before)?;
        let refused = deployment.output(["resume", "nobody", "--accept-removals"])?;
        assert!(!refused.status.success());
        Ok(())
    });
}

#[test]
fn a_brick_that_is_emptied_while_it_is_watched() {
    with_session(|_, session| {
        let before = paths(&session.secondary)?.len();
        empty(&session.brick)?;
        session.wait_for_status("Halted", LIMIT);
        // Some went before it was known that all would go.
        let left = paths(&session.secondary)?.len();
        assert!(left > before * 9 / 10, "{left} of {before} are left");
        Ok(())
    });
}

#[test]
fn data_that_was_restored_needs_no_acceptance() {
    with_session(|deployment, session| {
        let before = paths(&session.secondary)?;
        deployment.run(["pause", NAME])?;
        empty(&session.brick)?;
        deployment.run(["resume", NAME]).unwrap_or_default();
        must_have_halted(session, &before)?;
        let refused = deployment.output(["start", NAME])?;
        assert!(!refused.status.success(), "it is started already");
        fill(&session.brick, 3000)?;
        deployment.run(["resume", NAME])?;
        session.settle(LIMIT)?;
        session.must_be_equal()?;
        assert_eq!(paths(&session.secondary)?, before);
        // A normal removal goes through right after it.
        fs::remove_dir_all(session.brick.join("d0"))?;
        session.settle(LIMIT)?;
        session.must_be_equal()
    });
}

#[test]
fn a_kill_in_the_midst_of_accepted_removals() {
    with_session(|deployment, session| {
        let before = paths(&session.secondary)?;
        deployment.run(["pause", NAME])?;
        empty(&session.brick)?;
        deployment.run(["resume", NAME]).unwrap_or_default();
        must_have_halted(session, &before)?;
        deployment.output(["resume", NAME, "--accept-removals"])?;
        wait::wait_until("the first removal", LIMIT, || paths(&session.secondary).is_ok_and(|now| now != before));
        deployment.kill(&["gsync-worker"]);
        // What was accepted stays accepted.
        wait::wait_until("the end of removals", LIMIT, || paths(&session.secondary).is_ok_and(|now| now.is_empty()));
        session.wait_for_status("Active", LIMIT);
        session.must_be_equal()
    });
}

#[test]
fn renames_and_a_normal_removal_pass() {
    with_session(|_, session| {
        fs::create_dir(session.brick.join("all"))?;
        for dir in 0..30 {
            fs::rename(session.brick.join(format!("d{dir}")), session.brick.join(format!("all/d{dir}")))?;
        }
        session.settle(LIMIT)?;
        fs::rename(session.brick.join("all"), session.brick.join("renamed"))?;
        for number in 0..2000 {
            let dir = session.brick.join(format!("renamed/d{}", number / 100));
            fs::rename(dir.join(format!("f{number}")), dir.join(format!("moved-{number}")))?;
        }
        session.settle(LIMIT)?;
        // Each is replaced by a new object of the same name, as editors and package managers do.
        for number in 0..2000 {
            let dir = session.brick.join(format!("renamed/d{}", number / 100));
            fs::write(dir.join("new"), "new")?;
            fs::rename(dir.join("new"), dir.join(format!("moved-{number}")))?;
        }
        session.settle(LIMIT)?;
        // A fifth may go.
        for dir in 0..6 {
            fs::remove_dir_all(session.brick.join(format!("renamed/d{dir}")))?;
        }
        session.settle(LIMIT)?;
        session.must_be_equal()?;
        assert_eq!(session.status()?["status"], "Active");
        Ok(())
    });
}
