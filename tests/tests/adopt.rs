//! A secondary that holds an older copy already: what is equal stays, what differs is sent, nothing is lost.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use gsync_tests::deployment::Deployment;
use gsync_tests::fs::{FileSystem, Mounted};
use gsync_tests::proxy::{Proxy, Wire};
use gsync_tests::sshd::Sshd;
use gsync_tests::{need, programs, require, wait};

/// How long a copy may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(180);

/// Files of the copy, and how large they are.
const FILES: usize = 200;
const FILE_BYTES: usize = 64 << 10;

/// One large file: the rsync engine sends the differing part of it only.
const LARGE_BYTES: usize = 24 << 20;

/// What may travel for each object besides its content: statements, questions and their share of ssh's packets.
const METADATA_BYTES: u64 = 600;

struct Rig {
    mounted: Mounted,
    sshd: Sshd,
    proxy: Proxy,
    deployment: Deployment,
}

impl Rig {
    fn new(kind: FileSystem) -> anyhow::Result<Rig> {
        let (mounted, sshd) = (Mounted::new(kind, 512)?, Sshd::start_open()?);
        let (proxy, deployment) = (Proxy::start(sshd.port())?, Deployment::new()?);
        let rig = Rig { mounted, sshd, proxy, deployment };
        rig.deployment.belongs(&rig.copy());
        Ok(rig)
    }

    fn brick(&self) -> PathBuf {
        self.mounted.root().join("brick")
    }

    fn copy(&self) -> PathBuf {
        self.mounted.root().join("copy")
    }

    fn create(&self, more: &[&str]) -> anyhow::Result<String> {
        let mut words: Vec<String> = ["create", "--name", "t"].map(String::from).to_vec();
        words.extend(["--ssh-port".into(), self.proxy.port().to_string()]);
        words.extend(["--ssh-identity".into(), self.sshd.identity().display().to_string()]);
        words.extend(["--remote-agent".into(), programs::path("gsync-agent").display().to_string()]);
        words.extend(more.iter().map(ToString::to_string));
        words.push(self.brick().display().to_string());
        words.push(format!("{}@127.0.0.1:{}", self.sshd.user(), self.copy().display()));
        self.deployment.run(words)
    }

    fn status(&self) -> anyhow::Result<serde_json::Value> {
        let status = self.deployment.json(["status", "t", "--json"])?;
        status.pointer("/sessions/0/bricks/0").cloned().context("no row")
    }

    /// Waits until the adoption has ended, and everything is equal.
    fn complete(&self) -> anyhow::Result<()> {
        let marker = self.copy().join(".gsync/adopt");
        wait::wait_for("the end of the adoption", LIMIT, || {
            if marker.exists() {
                Err(self.status().map_or_else(|e| e.to_string(), |status| status.to_string()))
            } else {
                Ok(())
            }
        });
        self.must_be_equal()
    }

    fn must_be_equal(&self) -> anyhow::Result<()> {
        let said = self.deployment.run(["verify", "t", "--timeout", "120"])?;
        ensure!(said.contains("are equal"), "{said}");
        Ok(())
    }
}

/// Bytes that do not compress and do not repeat.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut bytes = vec![0; length];
    rng.fill(&mut bytes);
    bytes
}

fn path_of(number: usize) -> PathBuf {
    format!("dir {}/sub/file {number}", number % 10).into()
}

/// Fills the brick with every kind of object.
fn fill(brick: &Path, large: bool) -> anyhow::Result<()> {
    for number in 0..FILES {
        let path = brick.join(path_of(number));
        fs::create_dir_all(path.parent().context("no parent")?)?;
        fs::write(&path, noise(number as u64, FILE_BYTES))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600 + (number % 8) as u32))?;
    }
    for number in 0..10 {
        fs::hard_link(brick.join(path_of(number)), brick.join(format!("link {number}")))?;
        symlink(format!("dir {number}"), brick.join(format!("symlink {number}")))?;
    }
    fs::write(brick.join("empty"), "")?;
    let fifo = Command::new("mkfifo").arg(brick.join("fifo")).status()?;
    ensure!(fifo.success(), "mkfifo");
    xattr::set(brick.join(path_of(3)), "user.kept", b"value")?;
    if large {
        fs::write(brick.join("large"), noise(9999, LARGE_BYTES))?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status()?;
    ensure!(status.success(), "cp -a: {status}");
    Ok(())
}

/// Inode numbers by path, `.gsync` left out.
fn inodes(root: &Path) -> BTreeMap<PathBuf, u64> {
    fn add(root: &Path, dir: &Path, found: &mut BTreeMap<PathBuf, u64>) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(stat) = path.symlink_metadata() else { continue };
            if entry.file_name() == ".gsync" {
                continue;
            }
            if let Ok(below) = path.strip_prefix(root) {
                found.insert(below.into(), stat.ino());
            }
            if stat.is_dir() {
                add(root, &path, found);
            }
        }
    }
    let mut found = BTreeMap::new();
    add(root, root, &mut found);
    found
}

/// Changes 1 % of the content on the primary, and some attributes, names and additions on either side.
fn make_different(rig: &Rig, large: bool) -> anyhow::Result<Vec<PathBuf>> {
    let (brick, old) = (rig.brick(), rig.copy());
    let mut changed = Vec::new();
    for number in [50, 150] {
        let path = path_of(number);
        // The same size and mtime: only the content tells.
        let mtime = fs::metadata(brick.join(&path))?.modified()?;
        fs::write(brick.join(&path), noise(7000 + number as u64, FILE_BYTES))?;
        fs::File::options().write(true).open(brick.join(&path))?.set_modified(mtime)?;
        changed.push(path);
    }
    if large {
        let file = fs::File::options().write(true).open(brick.join("large"))?;
        std::os::unix::fs::FileExt::write_all_at(&file, &noise(8000, LARGE_BYTES / 100), (LARGE_BYTES / 2) as u64)?;
        changed.push("large".into());
    }
    // Attributes only: nothing of the content is to be sent.
    fs::set_permissions(old.join(path_of(7)), fs::Permissions::from_mode(0o777))?;
    fs::File::options().write(true).open(old.join(path_of(8)))?.set_modified(std::time::UNIX_EPOCH)?;
    xattr::set(old.join(path_of(9)), "user.stale", b"x")?;
    // Only over there.
    fs::create_dir_all(old.join("dir 1/unknown/deep"))?;
    fs::write(old.join("dir 1/unknown/deep/precious"), "precious")?;
    fs::write(old.join("stray"), "stray")?;
    // Another link over there: changed, it is to be taken apart.
    symlink("elsewhere", old.join("gone link"))?;
    fs::remove_file(old.join("symlink 2"))?;
    symlink("wrong", old.join("symlink 2"))?;
    Ok(changed)
}

fn adopt_difference(engine: &str, large: bool) -> anyhow::Result<()> {
    let rig = Rig::new(FileSystem::Ext4)?;
    fs::create_dir(rig.brick())?;
    fill(&rig.brick(), large)?;
    copy(&rig.brick(), &rig.copy())?;
    let before = inodes(&rig.copy());
    let changed = make_different(&rig, large)?;
    let refused = rig.create(&["--sync-engine", engine]).map_or_else(|e| e.to_string(), |_| String::new());
    ensure!(refused.contains("is not empty") && refused.contains("--adopt"), "{refused}");
    rig.create(&["--sync-engine", engine, "--adopt"])?;

    let sent: Wire = rig.proxy.wire();
    rig.deployment.run(["start", "t"])?;
    rig.complete_without_verify();
    let up_bytes = rig.proxy.wire().since(sent).up_bytes;
    rig.must_be_equal()?;
    let total = (FILES * FILE_BYTES + if large { LARGE_BYTES } else { 0 }) as u64;
    let allowed = total * 11 / 1000 + METADATA_BYTES * before.len() as u64;
    println!("{engine}: {up_bytes} bytes on the wire, {total} bytes of content, {} objects", before.len());
    ensure!(up_bytes <= allowed, "{up_bytes} bytes were sent, {allowed} are allowed");

    // What was equal is the object that it was.
    let after = inodes(&rig.copy());
    for (path, inode) in &before {
        let is_replaced = changed.contains(path) || path == Path::new("symlink 2");
        ensure!(is_replaced || after.get(path) == Some(inode), "{} was replaced", path.display());
    }
    // What was left over is under its path in quarantine.
    let kept = rig.copy().join(".gsync/quarantine/left-over");
    ensure!(fs::read(kept.join("dir 1/unknown/deep/precious"))? == b"precious");
    ensure!(fs::read(kept.join("stray"))? == b"stray");
    ensure!(fs::read_link(kept.join("gone link"))? == Path::new("elsewhere"));

    // Live changes go on as ever.
    fs::write(rig.brick().join("new"), "new")?;
    fs::remove_file(rig.brick().join(path_of(11)))?;
    rig.must_be_equal()?;
    ensure!(!kept.join(path_of(11)).exists(), "what is deleted later is no left-over");
    again_without_transfer(&rig)
}

/// Deleted and created anew, the session finds its own objects.
fn again_without_transfer(rig: &Rig) -> anyhow::Result<()> {
    rig.deployment.run(["stop", "t"])?;
    rig.deployment.run(["delete", "t"])?;
    let gone = rig.brick().join(path_of(12));
    fs::remove_file(&gone)?;
    let before = inodes(&rig.copy());
    rig.create(&[])?;
    rig.deployment.run(["start", "t"])?;
    rig.complete()?;
    let status = rig.status()?;
    ensure!(status["sent_files"] == 0 && status["sent_bytes"] == 0, "{status}");
    let mut after = inodes(&rig.copy());
    let missing: Vec<_> = before.iter().filter(|(path, inode)| after.remove(*path) != Some(**inode)).collect();
    ensure!(missing.len() == 1 && missing[0].0 == &path_of(12), "{missing:?}");
    ensure!(after.is_empty(), "{after:?}");
    // Deleted while no session was there: nothing proves that it was meant for the secondary too.
    ensure!(rig.copy().join(".gsync/quarantine/left-over").join(path_of(12)).exists(), "the file was deleted");
    Ok(())
}

impl Rig {
    fn complete_without_verify(&self) {
        let marker = self.copy().join(".gsync/adopt");
        wait::wait_for("the end of the adoption", LIMIT, || {
            if marker.exists() { Err(self.status().map_or_else(|e| e.to_string(), |s| s.to_string())) } else { Ok(()) }
        });
    }
}

/// Everything is killed again and again until it is through.
fn killed_in_the_middle() -> anyhow::Result<()> {
    let rig = Rig::new(FileSystem::Xfs)?;
    fs::create_dir(rig.brick())?;
    fill(&rig.brick(), true)?;
    copy(&rig.brick(), &rig.copy())?;
    let before = inodes(&rig.copy());
    let changed = make_different(&rig, true)?;
    rig.create(&["--adopt"])?;
    rig.deployment.run(["start", "t"])?;
    let seed = std::env::var("GSYNC_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("GSYNC_SEED={seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    for _ in 0..6 {
        std::thread::sleep(Duration::from_millis(rng.u64(100..1500)));
        let names: &[&str] = match rng.u8(..4) {
            0 => &["gsync-agent"],
            1 => &["gsync-worker"],
            2 => &["gsync-agent", "gsync-worker"],
            _ => &["gsync-recorder", "gsync-agent", "gsync-worker"],
        };
        println!("killed {} of {names:?}", rig.deployment.kill(names));
    }
    rig.complete()?;
    let after = inodes(&rig.copy());
    for (path, inode) in &before {
        let is_replaced = changed.contains(path) || path == Path::new("symlink 2");
        ensure!(is_replaced || after.get(path) == Some(inode), "{} was replaced", path.display());
    }
    ensure!(fs::read(rig.copy().join(".gsync/quarantine/left-over/stray"))? == b"stray");
    Ok(())
}

/// A copy whose files have names outside of it, as rotating back-ups do: their changes would show in the other copies.
fn links_to_outside() -> anyhow::Result<()> {
    let rig = Rig::new(FileSystem::Ext4)?;
    fs::create_dir(rig.brick())?;
    fs::create_dir(rig.copy())?;
    fs::write(rig.brick().join("file"), "new content")?;
    fs::write(rig.copy().join("file"), "content")?;
    fs::hard_link(rig.copy().join("file"), rig.mounted.root().join("yesterday"))?;
    let said = rig.create(&["--adopt"]).map_or_else(|e| format!("{e:#}"), |_| String::new());
    ensure!(said.contains("1 files have hard links outside") && said.contains("--quarantine"), "{said}");
    ensure!(!rig.copy().join(".gsync").exists(), "something was made");
    // The other way, which touches no file.
    rig.create(&["--quarantine"])?;
    rig.deployment.run(["start", "t"])?;
    rig.must_be_equal()?;
    ensure!(fs::read(rig.mounted.root().join("yesterday"))? == b"content");
    let quarantine = fs::read_dir(rig.copy().join(".gsync/quarantine"))?.next().context("empty")??.path();
    ensure!(fs::metadata(quarantine.join("file"))?.ino() == fs::metadata(rig.mounted.root().join("yesterday"))?.ino());
    Ok(())
}

fn available() -> Result<(), String> {
    Sshd::available()?;
    FileSystem::Ext4.available()
}

#[test]
fn whole_files_that_differ_are_sent_by_tar() {
    require!(available());
    adopt_difference("tar", false).unwrap_or_else(|error| panic!("{error:#}"));
}

#[test]
fn parts_of_files_that_differ_are_sent_by_rsync() {
    require!(available(), need::program("rsync"));
    adopt_difference("rsync", true).unwrap_or_else(|error| panic!("{error:#}"));
}

#[test]
fn an_adoption_survives_kills() {
    require!(available(), FileSystem::Xfs.available());
    killed_in_the_middle().unwrap_or_else(|error| panic!("{error:#}"));
}

#[test]
fn files_with_names_outside_are_not_adopted() {
    require!(available());
    links_to_outside().unwrap_or_else(|error| panic!("{error:#}"));
}
