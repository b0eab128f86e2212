//! The two file systems and the sshd that everything runs on.
//!
//! Each side has a file system of its own, as on two machines: the recorder of the primary's does not hear of what is
//! written to the secondary.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::ensure;
use gsync_tests::fs::{FileSystem, Mounted};
use gsync_tests::session::Session;
use gsync_tests::sshd::Sshd;

use crate::size::{LIMIT, Size};

/// Size of each file system.
const FILE_SYSTEM_MIB: u64 = 8 << 10;

/// How much of each is written once before anything is measured.
const WARM_BYTES: u64 = 5 << 29;

/// What everything runs on.
pub struct Ground {
    near: Mounted,
    far: Mounted,
    /// Leads to the secondary.
    pub sshd: Sshd,
}

impl Ground {
    /// Makes it. Blocks of an image that were never written cost more than others: all that are needed are, once.
    pub fn new(size: &Size) -> anyhow::Result<Ground> {
        let mount = || Mounted::new(FileSystem::Ext4, FILE_SYSTEM_MIB);
        let ground = Ground { near: mount()?, far: mount()?, sshd: Sshd::start_open()? };
        if size.is_whole() {
            warm(ground.near.root())?;
            warm(ground.far.root())?;
        }
        Ok(ground)
    }

    /// A directory on the primary's side.
    pub fn near(&self) -> anyhow::Result<Scratch> {
        Scratch::new(&self.near)
    }

    /// A directory on the secondary's side.
    pub fn far(&self) -> anyhow::Result<Scratch> {
        Scratch::new(&self.far)
    }
}

/// A directory for one run, removed after it so that each run finds the same free space.
pub struct Scratch(PathBuf);

impl Scratch {
    fn new(mounted: &Mounted) -> anyhow::Result<Scratch> {
        Ok(Scratch(mounted.directory("run")?))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A directory in it.
    pub fn dir(&self, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.0.join(name);
        fs::create_dir_all(&path)?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
        // What a removal leaves for the disk to do is no part of the next run.
        let _ = self.0.parent().map(sync);
    }
}

/// Writes everything out: what was written before a run is no part of it.
pub fn sync(path: &Path) -> anyhow::Result<()> {
    let status = Command::new("sync").arg("-f").arg(path).status()?;
    ensure!(status.success(), "sync: {status}");
    Ok(())
}

/// Waits until all is durably there. The worker's socket may not be there yet.
pub fn settle(session: &Session<'_>) {
    gsync_tests::wait::wait_for("the worker", LIMIT, || session.settle(LIMIT).map_err(|e| format!("{e:#}")));
}

/// Files of 256 B to 8 KiB, 200 in a directory.
pub fn small_files(root: &Path, size: &Size, rng: &mut fastrand::Rng) -> std::io::Result<()> {
    let mut content = vec![0; 8 << 10];
    for number in 0..size.small_files() {
        let dir = root.join(format!("d{}", number / 200));
        if number % 200 == 0 {
            fs::create_dir(&dir)?;
        }
        let length = rng.usize(256..=content.len());
        rng.fill(&mut content[..length]);
        fs::write(dir.join(format!("f{number}")), &content[..length])?;
    }
    Ok(())
}

/// One large file.
pub fn large_file(root: &Path, size: &Size, rng: &mut fastrand::Rng) -> std::io::Result<()> {
    random_file(&root.join("large"), size.large_bytes(), rng)
}

/// A file that nobody can compress.
pub fn random_file(path: &Path, bytes: u64, rng: &mut fastrand::Rng) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    let mut block = vec![0; 1 << 20];
    let mut left = bytes;
    while left > 0 {
        rng.fill(&mut block);
        let length = left.min(block.len() as u64);
        file.write_all(&block[..length as usize])?;
        left -= length;
    }
    Ok(())
}

fn warm(root: &Path) -> anyhow::Result<()> {
    let path = root.join("warm");
    let file = File::create(&path)?;
    let block = vec![1; 4 << 20];
    for number in 0..WARM_BYTES / block.len() as u64 {
        file.write_all_at(&block, number * block.len() as u64)?;
    }
    file.sync_all()?;
    fs::remove_file(path)?;
    sync(root)
}
