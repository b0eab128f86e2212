//! What a restart costs: no directory is listed on either side, and nothing that changed meanwhile is missed.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use gsync_tests::deployment::Deployment;
use gsync_tests::fs::{FileSystem, Mounted};
use gsync_tests::listings::Listings;
use gsync_tests::session::Session;
use gsync_tests::{need, proc, require, wait};
use rustix::process::Signal;

/// Files, and how many of them share a directory.
const FILES: usize = 20_000;
const FILES_PER_DIRECTORY: usize = 100;

/// All directories are 200. The agent looks into its own few ones when it starts, the recorder into those named below.
const LISTINGS_MAX: u64 = 10;

/// For anything that is to happen by itself.
const LIMIT: Duration = Duration::from_secs(120);

const PRIMARY_PROGRAMS: [&str; 3] = ["gsync-monitor", "gsync-recorder", "gsync-worker"];

fn fill(brick: &Path) -> std::io::Result<()> {
    for number in 0..FILES {
        let dir = brick.join(format!("dir-{}", number / FILES_PER_DIRECTORY));
        if number % FILES_PER_DIRECTORY == 0 {
            fs::create_dir(&dir)?;
        }
        fs::File::create(dir.join(format!("file-{number}")))?;
    }
    Ok(())
}

/// Something of everything, without the help of anybody who could tell of it.
fn change(brick: &Path, step: &str) -> std::io::Result<()> {
    fs::write(brick.join(format!("new-{step}")), step)?;
    fs::write(brick.join("dir-1/file-101"), step)?;
    fs::rename(brick.join("dir-2"), brick.join(format!("dir-2-{step}")))?;
    fs::rename(brick.join(format!("dir-2-{step}")), brick.join("dir-2"))?;
    fs::rename(brick.join("dir-3/file-301"), brick.join(format!("dir-4/from-{step}")))?;
    fs::rename(brick.join(format!("dir-4/from-{step}")), brick.join("dir-3/file-301"))?;
    fs::create_dir_all(brick.join(format!("made-{step}/below")))?;
    fs::write(brick.join(format!("made-{step}/below/file")), step)?;
    fs::hard_link(brick.join("dir-5/file-501"), brick.join(format!("link-{step}")))
}

fn crawls(session: &Session) -> anyhow::Result<u64> {
    let status = session.status()?;
    status["crawls"].as_u64().with_context(|| format!("no crawls in {status}"))
}

fn restarts() -> anyhow::Result<()> {
    let (near, far) = (Mounted::new(FileSystem::Ext4, 256)?, Mounted::new(FileSystem::Ext4, 256)?);
    let deployment = Deployment::new()?;
    let session = Session::create(&deployment, near.root(), far.root(), None)?;
    fill(&session.brick)?;
    session.start()?;
    session.settle(LIMIT)?;
    session.must_be_equal()?;
    ensure!(crawls(&session)? == 1, "the first copy is one crawl");
    let agents = || deployment.processes(&["gsync-agent"]);

    for way in ["stopped", "killed"] {
        let monitor = deployment.monitor().context("no monitor")?;
        monitor.signal(if way == "stopped" { Signal::TERM } else { Signal::KILL });
        wait::wait_until("the end of the primary's processes", LIMIT, || {
            deployment.processes(&PRIMARY_PROGRAMS).is_empty()
        });
        ensure!(deployment.holders().len() == 1, "{:?}", deployment.holders());
        if way == "stopped" {
            // Nobody needs the agent, so it ends by itself, in order.
            wait::wait_until("the agent's end", LIMIT, || agents().is_empty());
            ensure!(session.secondary.join(".gsync/clean").exists(), "no clean end of the agent");
        }

        let (listed_near, listed_far) = (Listings::watch(near.root())?, Listings::watch(far.root())?);
        change(&session.brick, way)?;
        deployment.run(["status"])?;
        session.wait_for_status("Active", LIMIT);
        session.settle(LIMIT)?;
        let found = fs::read_to_string(session.secondary.join(format!("made-{way}/below/file")))?;
        ensure!(found == way, "{found}");
        let (near_seen, far_seen) = (listed_near.take(), listed_far.take());
        eprintln!("{way}: listed on the primary: {near_seen:?}, on the secondary: {far_seen:?}");
        // The root is looked into at each start, and so is a directory that was made. After a kill so is one that was
        // renamed: its content may have been on its way out.
        ensure!(near_seen.values().sum::<u64>() <= LISTINGS_MAX, "{way}: {near_seen:?}");
        ensure!(far_seen.values().sum::<u64>() <= LISTINGS_MAX, "{way}: {far_seen:?}");
        ensure!(crawls(&session)? == 0, "{way}: the recorder crawls");
        session.must_be_equal()?;
    }

    // Another recorder, beside everything else.
    let recorder = deployment.processes(&["gsync-recorder"]).pop().context("no recorder")?;
    recorder.kill();
    wait::wait_until("its end", LIMIT, || !proc::is_running(recorder.pid));
    change(&session.brick, "alone")?;
    wait::wait_until("another recorder", LIMIT, || session.status().is_ok_and(|status| status["crawls"] == 0));
    session.must_be_equal()?;

    // A stopped session is recorded on; a deleted one is not.
    deployment.run(["stop", "t"])?;
    change(&session.brick, "away")?;
    session.start()?;
    session.settle(LIMIT)?;
    ensure!(crawls(&session)? == 0, "a stopped session was not recorded");
    session.must_be_equal()?;
    deployment.run(["stop", "t"])?;
    deployment.run(["delete", "t"])?;
    wait::wait_until("the holder's end", LIMIT, || deployment.holders().is_empty());
    Ok(())
}

#[test]
fn a_restart_lists_nothing_and_misses_nothing() {
    require!(need::root(), FileSystem::Ext4.available());
    restarts().unwrap_or_else(|error| panic!("{error:#}"));
}
