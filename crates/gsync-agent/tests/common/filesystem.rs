//! Small file systems on loop devices, gone with the value.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A mounted file system.
pub struct FileSystem {
    dir: tempfile::TempDir,
    mounted: bool,
}

impl FileSystem {
    /// Makes and mounts one; `None`, with the reason on stderr, where that is not possible.
    pub fn make(kind: &str) -> Option<FileSystem> {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        std::fs::File::create(&image).unwrap().set_len(512 << 20).unwrap();
        std::fs::create_dir(dir.path().join("mounted")).unwrap();
        let mut made = FileSystem { dir, mounted: false };
        let quiet = if kind == "ext4" { "-qF" } else { "-qf" };
        run(Command::new(format!("mkfs.{kind}")).arg(quiet).arg(&image), kind)?;
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(made.path()), kind)?;
        made.mounted = true;
        Some(made)
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("mounted")
    }
}

impl Drop for FileSystem {
    fn drop(&mut self) {
        if self.mounted {
            let _ = Command::new("umount").arg(self.path()).status().is_ok_and(|s| s.success())
                || Command::new("umount").arg("-l").arg(self.path()).status().is_ok();
        }
    }
}

fn run(command: &mut Command, kind: &str) -> Option<()> {
    match command.output() {
        Ok(output) if output.status.success() => Some(()),
        Ok(output) => skip(kind, &String::from_utf8_lossy(&output.stderr)),
        Err(error) => skip(kind, &error.to_string()),
    }
}

fn skip(kind: &str, reason: &str) -> Option<()> {
    eprintln!("SKIPPED on {kind}: {reason}");
    None
}

/// Runs a test on ext4 (or whatever holds temporary files), XFS and btrfs.
pub fn on_each(mut test: impl FnMut(&Path)) {
    let dir = tempfile::tempdir().unwrap();
    test(dir.path());
    for kind in ["xfs", "btrfs"] {
        if let Some(made) = FileSystem::make(kind) {
            println!("on {kind}");
            test(&made.path());
        }
    }
}
