//! What a primary or a secondary may suffer while nobody watches: power cuts, a brick that is not there, edits and
//! restores with the recorder down. Each ends with equal trees.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use gsync_tests::deployment::Deployment;
use gsync_tests::fs::{FileSystem, Mounted};
use gsync_tests::nasty::{Options, Writers};
use gsync_tests::session::{NAME, Session};
use gsync_tests::sshd::Sshd;
use gsync_tests::{need, require, wait};
use rustix::process::Signal;

/// For anything that is to happen by itself.
const LIMIT: Duration = Duration::from_secs(90);

/// Of the same length.
const OLD: &[u8] = b"the content of before";
const NEW: &[u8] = b"and the one of after!";

/// Everything of ours that runs on the primary.
const PRIMARY: [&str; 5] = ["gsync-monitor", "gsync-recorder", "gsync-worker", "ssh", "rsync"];

fn sample(dir: &Path) -> anyhow::Result<()> {
    for number in 0..60 {
        let dir = dir.join(format!("dir-{}/below", number % 5));
        fs::create_dir_all(&dir)?;
        fs::write(dir.join(format!("file-{number}")), format!("content {number} ").repeat(number * 20 + 1))?;
    }
    fs::hard_link(dir.join("dir-0/below/file-0"), dir.join("dir-1/link"))?;
    std::os::unix::fs::symlink("dir-0/below", dir.join("symlink"))?;
    Ok(())
}

/// Files below a directory with their contents, `.gsync` left out.
fn contents(root: &Path) -> anyhow::Result<BTreeMap<PathBuf, Vec<u8>>> {
    let (mut found, mut waiting) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(&dir)? {
            let (path, kind) = entry.map(|e| (e.path(), e.file_type()))?;
            if path == root.join(".gsync") {
                continue;
            }
            if kind?.is_dir() {
                waiting.push(path);
            } else if path.symlink_metadata()?.is_file() {
                found.insert(path.strip_prefix(root)?.to_owned(), fs::read(&path)?);
            }
        }
    }
    Ok(found)
}

fn run(program: &str, arguments: &[&str], dir: &Path) -> anyhow::Result<()> {
    let output = Command::new(program).args(arguments).current_dir(dir).output()?;
    ensure!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn wait_for_error(session: &Session, text: &str) {
    wait::wait_for(text, LIMIT, || {
        let status = session.status().map_err(|error| format!("{error:#}"))?;
        let is_told = status["status"] == "Faulty" && status["error"].as_str().is_some_and(|e| e.contains(text));
        if is_told { Ok(()) } else { Err(status.to_string()) }
    });
}

/// The secondary survives. It has what the primary's file system lost: the same size, the same times, another content.
fn primary_cut(kind: FileSystem, engine: &str) -> anyhow::Result<()> {
    let (mounted, far, sshd) = (Mounted::new(kind, 64)?, Mounted::new(FileSystem::Ext4, 64)?, Sshd::start_open()?);
    let deployment = Deployment::new()?;
    let session = Session::create(&deployment, mounted.root(), far.root(), Some(&sshd))?;
    session.config("sync-engine", engine)?;
    sample(&session.brick)?;
    for number in 0..4 {
        fs::write(session.brick.join(format!("in-place-{number}")), OLD)?;
    }
    rustix::fs::sync();
    session.start()?;
    session.must_be_equal()?;
    let mut before = Vec::new();
    for number in 0..4 {
        let path = session.brick.join(format!("in-place-{number}"));
        fs::File::options().write(true).open(&path)?.write_all_at(NEW, 0)?;
        before.push(fs::metadata(&path)?);
    }
    fs::File::create(session.outside.join("commits the times"))?.sync_all()?;
    session.settle(LIMIT)?;
    assert_eq!(fs::read(session.secondary.join("in-place-0"))?, NEW, "nothing is planted");
    // The link breaks, some more happens, power fails.
    deployment.kill(&["ssh"]);
    deployment.kill(&["gsync-worker"]);
    fs::rename(session.brick.join("dir-1"), session.brick.join("dir-1-renamed"))?;
    fs::remove_file(session.brick.join("dir-2/below/file-2"))?;
    let copy = mounted.copy_image()?;
    deployment.kill(&PRIMARY);
    mounted.come_back_as(&copy)?;
    let times = |m: &fs::Metadata| (m.len(), m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec());
    let mut hidden = 0;
    for (number, before) in before.iter().enumerate() {
        let path = session.brick.join(format!("in-place-{number}"));
        hidden += u32::from(fs::read(&path)? == OLD && times(&fs::metadata(&path)?) == times(before));
    }
    eprintln!("{kind}: {hidden} losses are hidden");
    ensure!(hidden > 0, "nothing was planted: all contents reached the disk");
    deployment.reboot(&[&mounted, &far])?;
    session.wait_for_status("Active", LIMIT);
    session.must_be_equal()?;
    assert_eq!(contents(&session.secondary)?, contents(&session.brick)?);
    sample(&session.brick.join("afterwards"))?;
    session.must_be_equal()
}

#[test]
fn the_primary_loses_power_on_ext4_with_tar() {
    require!(need::root(), FileSystem::Ext4.available(), Sshd::available());
    primary_cut(FileSystem::Ext4, "tar").unwrap_or_else(|error| panic!("{error:#}"));
}

#[test]
fn the_primary_loses_power_on_xfs_with_rsync() {
    require!(need::root(), FileSystem::Xfs.available(), Sshd::available(), need::program("rsync"));
    primary_cut(FileSystem::Xfs, "rsync").unwrap_or_else(|error| panic!("{error:#}"));
}

/// What the mark says is on the secondary's disk; the rest is sent again.
fn secondary_cut(kind: FileSystem, engine: &str) -> anyhow::Result<()> {
    let (mounted, far) = (Mounted::new(FileSystem::Ext4, 64)?, Mounted::new(kind, 64)?);
    let deployment = Deployment::new()?;
    let session = Session::create(&deployment, mounted.root(), far.root(), None)?;
    session.config("sync-engine", engine)?;
    sample(&session.brick.join("kept"))?;
    session.start()?;
    session.settle(LIMIT)?;
    for number in 0..10 {
        let path = session.brick.join(format!("kept/dir-{}/below/file-{}", (number + 50) % 5, number + 50));
        fs::File::options().write(true).open(path)?.write_all_at(format!("changed {number}").as_bytes(), 7)?;
    }
    session.settle(LIMIT)?;
    let promised = contents(&session.brick.join("kept"))?;
    fs::create_dir_all(session.brick.join("mess"))?;
    let writers = Writers::start(Options::new(session.brick.join("mess"), &session.outside));
    std::thread::sleep(Duration::from_millis(1500));
    // A disk has no state of two moments: they pause while it is copied.
    for process in deployment.processes(&["gsync-agent", "gsync-worker", "rsync"]) {
        process.signal(Signal::STOP);
    }
    let copy = far.copy_image()?;
    writers.stop();
    deployment.kill(&PRIMARY);
    deployment.kill(&["gsync-agent"]);
    far.come_back_as(&copy)?;
    assert!(contents(&session.secondary.join("kept"))? == promised, "something before the mark is missing");
    deployment.reboot(&[&mounted, &far])?;
    session.wait_for_status("Active", LIMIT);
    session.must_be_equal()
}

#[test]
fn the_secondary_loses_power_on_ext4_with_tar() {
    require!(need::root(), FileSystem::Ext4.available());
    secondary_cut(FileSystem::Ext4, "tar").unwrap_or_else(|error| panic!("{error:#}"));
}

#[test]
fn the_secondary_loses_power_on_xfs_with_rsync() {
    require!(need::root(), FileSystem::Ext4.available(), FileSystem::Xfs.available(), need::program("rsync"));
    secondary_cut(FileSystem::Xfs, "rsync").unwrap_or_else(|error| panic!("{error:#}"));
}

/// A brick that is unmounted while it is replicated, and one that is another one or empty: nothing is removed over there.
fn brick_not_there() -> anyhow::Result<()> {
    let (mounted, far) = (Mounted::new(FileSystem::Ext4, 64)?, Mounted::new(FileSystem::Ext4, 64)?);
    let deployment = Deployment::new()?;
    let session = Session::create(&deployment, mounted.root(), far.root(), None)?;
    sample(&session.brick)?;
    session.start()?;
    session.must_be_equal()?;
    let copied = contents(&session.secondary)?;

    mounted.unmount_lazily()?;
    wait_for_error(&session, "is not there");
    // Below the mount: an empty directory at the same path.
    fs::create_dir_all(&session.brick)?;
    wait_for_error(&session, " is another ");
    let text = deployment.run(["status", NAME])?;
    assert!(text.contains("--accept-brick"), "{text}");
    fs::remove_dir(&session.brick)?;
    assert_eq!(contents(&session.secondary)?, copied);
    mounted.mount_again()?;
    fs::write(session.brick.join("dir-3/meanwhile"), "x")?;
    session.wait_for_status("Active", LIMIT);
    session.must_be_equal()?;

    // Another file system at the same path, which the operator takes.
    fs::remove_file(session.brick.join("dir-3/meanwhile"))?;
    session.must_be_equal()?;
    deployment.shut_down();
    run("mount", &["-t", "tmpfs", "-o", "size=64m", "tmpfs", "brick"], mounted.root())?;
    let result = (|| -> anyhow::Result<()> {
        sample(&session.brick)?;
        fs::write(session.brick.join("only here"), "x")?;
        deployment.run(["status"])?;
        wait_for_error(&session, " is another ");
        assert_eq!(contents(&session.secondary)?, copied);
        accept(&deployment, &session)?;
        session.must_be_equal()
    })();
    deployment.shut_down();
    run("umount", &["brick"], mounted.root())?;
    result?;
    // And back.
    deployment.run(["status"])?;
    wait_for_error(&session, " is another ");
    accept(&deployment, &session)?;
    session.must_be_equal()?;

    // Everything is gone from it.
    deployment.shut_down();
    let away = mounted.root().join("away");
    fs::create_dir(&away)?;
    for name in fs::read_dir(&session.brick)?.map(|entry| entry.map(|e| e.file_name())).collect::<Vec<_>>() {
        let name = name?;
        fs::rename(session.brick.join(&name), away.join(&name))?;
    }
    deployment.run(["status"])?;
    wait_for_error(&session, "is empty, but");
    assert_eq!(contents(&session.secondary)?, copied);
    accept(&deployment, &session)?;
    session.must_be_equal()?;
    assert!(contents(&session.secondary)?.is_empty());
    Ok(())
}

fn accept(deployment: &Deployment, session: &Session) -> anyhow::Result<()> {
    // It may say that the session is not active yet.
    let output = deployment.output(["resume", NAME, "--accept-brick"])?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(matches!(output.status.code(), Some(0 | 3)), "{out}{err}");
    session.wait_for_status("Active", LIMIT);
    Ok(())
}

#[test]
fn a_brick_that_is_not_there_removes_nothing() {
    require!(need::root(), FileSystem::Ext4.available());
    brick_not_there().unwrap_or_else(|error| panic!("{error:#}"));
}

/// With the recorder down, on another kernel; then everything is removed and comes back out of a backup.
fn offline() -> anyhow::Result<()> {
    let mounted = Mounted::new(FileSystem::Xfs, 64)?;
    let deployment = Deployment::new()?;
    let session = Session::create(&deployment, mounted.root(), mounted.root(), None)?;
    sample(&session.brick)?;
    session.start()?;
    session.must_be_equal()?;

    deployment.shut_down();
    let brick = &session.brick;
    fs::rename(brick.join("dir-0"), brick.join("dir-9"))?;
    fs::remove_dir_all(brick.join("dir-1"))?;
    fs::write(brick.join("dir-2/new"), "new")?;
    fs::File::options().write(true).open(brick.join("dir-3/below/file-3"))?.write_all_at(b"C", 0)?;
    xattr::set(brick.join("dir-4"), "user.offline", b"x")?;
    fs::rename(brick.join("dir-4/below/file-4"), brick.join("dir-4/below/file-9"))?;
    deployment.reboot(&[&mounted])?;
    deployment.run(["status"])?;
    session.wait_for_status("Active", LIMIT);
    session.must_be_equal()?;
    assert!(fs::metadata(session.secondary.join("dir-9/below/file-0"))?.is_file());

    let whole = contents(&session.brick)?;
    deployment.shut_down();
    run("tar", &["--xattrs", "-cf", "backup.tar", "-C", "brick", "."], mounted.root())?;
    for entry in fs::read_dir(&session.brick)? {
        let path = entry?.path();
        if path.is_dir() && !path.is_symlink() {
            fs::remove_dir_all(path)?
        } else {
            fs::remove_file(path)?
        };
    }
    run("tar", &["--xattrs", "-xf", "backup.tar", "-C", "brick"], mounted.root())?;
    deployment.run(["status"])?;
    session.wait_for_status("Active", LIMIT);
    session.must_be_equal()?;
    assert!(contents(&session.secondary)? == whole);
    eprintln!("a restored backup costs {:?} bytes and files of {:?}", session.sent()?, whole.len());
    Ok(())
}

#[test]
fn offline_edits_and_a_restored_backup() {
    require!(need::root(), FileSystem::Xfs.available());
    offline().unwrap_or_else(|error| panic!("{error:#}"));
}

fn overflow() -> anyhow::Result<()> {
    let mounted = Mounted::new(FileSystem::Tmpfs, 256)?;
    let (deployment, far) = (Deployment::new()?, Mounted::new(FileSystem::Ext4, 128)?);
    deployment.with_recorder_argument("--limited-queue")?;
    let session = Session::create(&deployment, mounted.root(), far.root(), None)?;
    sample(&session.brick)?;
    session.start()?;
    session.must_be_equal()?;
    let recorders = deployment.processes(&["gsync-recorder"]);
    let [recorder] = recorders.as_slice() else { anyhow::bail!("{recorders:?}") };
    recorder.signal(Signal::STOP);
    // Each is one event, in which the kernel merges all calls; the queue takes 16,384.
    for number in 0..20_000 {
        let path = session.brick.join(format!("dir-{}/many-{number}", number % 5));
        fs::write(&path, "")?;
        fs::remove_file(&path)?;
    }
    // The last is not in the queue any more.
    fs::remove_file(session.brick.join("dir-1/below/file-1"))?;
    fs::write(session.brick.join("dir-1/below/last"), "last")?;
    recorder.signal(Signal::CONT);
    session.must_be_equal()?;
    let logs = fs::read_dir(deployment.state_dir().join("log"))?.flatten().map(|entry| entry.path());
    let log = logs.into_iter().find(|path| path.display().to_string().contains("recorder-")).context("no log")?;
    let log = fs::read_to_string(log)?;
    assert!(log.contains("events were lost"), "the queue did not overflow: {log} {recorder:?}");
    Ok(())
}

#[test]
fn a_queue_that_overflows() {
    require!(need::root(), FileSystem::Ext4.available());
    overflow().unwrap_or_else(|error| panic!("{error:#}"));
}
