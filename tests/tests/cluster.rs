//! A node whose sessions are in a real etcd.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use gsync_tests::deployment::Deployment;
use gsync_tests::etcd::Etcd;
use gsync_tests::fs::{FileSystem, Mounted};
use gsync_tests::session::{NAME, Session};
use gsync_tests::{need, proc, require, wait};
use rustix::process::Signal;

/// For anything that is to happen by itself.
const LIMIT: Duration = Duration::from_secs(60);

fn write_cluster_file(deployment: &Deployment, etcd: &Etcd) -> anyhow::Result<()> {
    let endpoints: Vec<String> = etcd.endpoints().iter().map(|endpoint| format!("\"{endpoint}\"")).collect();
    let text = format!("# members of etcd\nendpoints = [{}]\nlease-seconds = 30\n", endpoints.join(", "));
    Ok(fs::write(deployment.cluster_file(), text)?)
}

fn end_monitor(deployment: &Deployment, signal: Signal) {
    let monitor = deployment.monitor().expect("a monitor");
    monitor.signal(signal);
    wait::wait_until("the monitor's end", LIMIT, || !proc::is_running(monitor.pid));
}

fn epoch(session: &Session<'_>) -> u64 {
    session.wait_for_status("Active", LIMIT)["epoch"].as_u64().expect("an epoch")
}

fn life() -> anyhow::Result<()> {
    let mounted = Mounted::new(FileSystem::Ext4, 256)?;
    let mut etcd = Etcd::start(3)?;
    let deployment = Deployment::new()?;
    write_cluster_file(&deployment, &etcd)?;
    let session = Session::create(&deployment, mounted.root(), mounted.root(), None)?;
    fs::write(session.brick.join("first"), "1")?;
    session.start()?;
    session.must_be_equal()?;
    assert!(!deployment.state_dir().join("store").exists(), "there is an embedded store beside etcd");
    let stored = etcd.must(&["get", "--print-value-only", &format!("gsync/keys/declared/sessions/{NAME}")])?;
    let stored: serde_json::Value = serde_json::from_str(&stored)?;
    assert_eq!((stored["name"].as_str(), stored["desired"].as_str()), (Some(NAME), Some("started")));

    session.config("sync-engine", "rsync")?;
    fs::write(session.brick.join("second"), "2")?;
    session.must_be_equal()?;
    let before = epoch(&session);

    // The monitor is killed: the next one does not wait until the lease of 30 s has expired.
    end_monitor(&deployment, Signal::KILL);
    let start = std::time::Instant::now();
    let after = epoch(&session);
    assert!(after > before, "epoch {after} after {before}");
    assert!(start.elapsed() < Duration::from_secs(25), "the lead of the killed monitor held it up");

    // All of etcd is killed: replication goes on, and commands work again when it is back.
    (0..etcd.len()).for_each(|number| etcd.kill(number));
    fs::write(session.brick.join("third"), "3")?;
    let arrived = || fs::read(session.secondary.join("third")).is_ok_and(|content| content == b"3");
    wait::wait_until("a change while etcd is away", LIMIT, arrived);
    let refused = deployment.output(["config", NAME, "sync-engine", "tar"])?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("cannot reach etcd: http://127.0.0.1:"), "{said}");
    (0..etcd.len()).for_each(|number| etcd.launch(number).unwrap());
    etcd.wait_until_up()?;
    wait::wait_until("a command", LIMIT, || deployment.run(["config", NAME]).is_ok());
    assert_eq!(epoch(&session), after, "the worker was started anew because etcd was away");
    session.config("sync-engine", "tar")?;

    deployment.run(["stop", NAME])?;
    fs::write(session.brick.join("fourth"), "4")?;
    session.start()?;
    session.must_be_equal()?;
    assert!(epoch(&session) > after);
    deployment.run(["stop", NAME])?;
    deployment.run(["delete", NAME])?;

    // Told to end, it leaves no lead and no lease behind.
    end_monitor(&deployment, Signal::TERM);
    assert_eq!(etcd.must(&["get", "--prefix", "--keys-only", "gsync/elections/"])?.trim(), "");
    let leases = etcd.must(&["lease", "list"])?;
    assert!(leases.trim().starts_with("found 0 leases"), "{leases}");
    Ok(())
}

#[test]
fn a_node_lives_with_etcd_as_with_its_own_store() {
    require!(need::root(), FileSystem::Ext4.available(), Etcd::available());
    life().unwrap();
}

fn mistakes() -> anyhow::Result<()> {
    let deployment = Deployment::new()?;
    let fails = |want: &str| -> anyhow::Result<()> {
        let output = deployment.output(["config", "none"])?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(want), "not '{want}' but: {said}");
        Ok(())
    };
    fs::write(deployment.cluster_file(), "endpoints = [\"http://127.0.0.1:1\"]\nuser = \"u\"\n")?;
    fails("'user' and 'password-file' belong together")?;
    fs::write(deployment.cluster_file(), "endpoints = [\"http://127.0.0.1:1\"]\n")?;
    fails("cannot reach etcd: http://127.0.0.1:1")?;

    // From the embedded store to etcd and back: sessions must not fall silent.
    fs::remove_file(deployment.cluster_file())?;
    let [brick, secondary] = ["brick", "secondary"].map(|name| deployment.dir().join(name));
    fs::create_dir(&brick)?;
    fs::create_dir(&secondary)?;
    deployment.run(["create", "--name", NAME, &brick.display().to_string(), &secondary.display().to_string()])?;
    let end = || end_monitor(&deployment, Signal::TERM);
    end();
    let etcd = Etcd::start(1)?;
    write_cluster_file(&deployment, &etcd)?;
    fails("has sessions, and")?;
    fs::remove_dir_all(deployment.state_dir().join("store"))?;
    deployment.run(["status"])?;
    assert_eq!(fs::metadata(deployment.state_dir().join("etcd-lease"))?.size(), 17);
    end();
    fs::remove_file(deployment.cluster_file())?;
    fails("this node's sessions are in etcd, and there is no cluster file")
}

#[test]
fn mistakes_with_the_cluster_file_are_explained() {
    require!(need::root(), Etcd::available());
    mistakes().unwrap();
}
