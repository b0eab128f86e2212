//! Small file systems in images, mounted for the time of a test.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// What the recorder supports.
pub const KINDS: [&str; 4] = ["ext4", "xfs", "btrfs", "tmpfs"];

/// A mounted file system; unmounted when dropped, also by a panic.
pub struct FileSystem {
    dir: TempDir,
}

impl FileSystem {
    /// Makes one. `None`, and a line on standard error, where that is not possible here.
    pub fn new(kind: &str) -> Option<FileSystem> {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("fs");
        std::fs::create_dir(&root).unwrap();
        let image = dir.path().join("image");
        let result = match kind {
            "tmpfs" => run(Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(&root)),
            _ => {
                std::fs::File::create(&image).unwrap().set_len(400 << 20).unwrap();
                let quiet = if kind == "ext4" { "-qF" } else { "-q" };
                run(Command::new(format!("mkfs.{kind}")).arg(quiet).arg(&image))
                    .and_then(|()| run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&root)))
            }
        };
        match result {
            Ok(()) => Some(FileSystem { dir }),
            Err(reason) => {
                eprintln!("SKIPPED on {kind}: {reason}");
                None
            }
        }
    }

    /// Where it is mounted.
    pub fn root(&self) -> PathBuf {
        self.dir.path().join("fs")
    }

    /// Unmounts and mounts it again: the kernel forgets everything about it that is not on the disk.
    pub fn remount(&self) {
        let image = self.dir.path().join("image");
        if image.exists() {
            run(Command::new("umount").arg(self.root())).unwrap();
            run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(self.root())).unwrap();
        }
    }

    /// Takes it away even while somebody uses it.
    pub fn unmount_lazily(&self) {
        run(Command::new("umount").arg("-l").arg(self.root())).unwrap();
    }

    /// Mounts its image, again.
    pub fn mount(&self) {
        // The device of a lazy unmount is given back when the last descriptor is closed.
        self.wait_for_end();
        let mut mount = Command::new("mount");
        mount.args(["-o", "loop"]).arg(self.dir.path().join("image")).arg(self.root());
        run(&mut mount).unwrap();
    }

    /// Waits until nobody has the image mounted, here or in another mount namespace.
    fn wait_for_end(&self) {
        let image = self.dir.path().join("image");
        super::wait_for("the loop device's end", || {
            Command::new("losetup").arg("-j").arg(&image).output().is_ok_and(|output| output.stdout.is_empty())
        });
    }

    /// Makes a new file system in the image, and mounts it.
    pub fn make_anew(&mut self, kind: &str) {
        run(Command::new("umount").arg(self.root())).unwrap();
        let force = if kind == "ext4" { "-qF" } else { "-qf" };
        run(Command::new(format!("mkfs.{kind}")).arg(force).arg(self.dir.path().join("image"))).unwrap();
        self.mount();
    }

    /// Unmounts it; a file system that is in use fails the test.
    pub fn unmount(&self) {
        run(Command::new("umount").arg(self.root())).unwrap();
    }

    /// Copies the image of the live file system: what a disk has when power fails. A disk has no state of two moments:
    /// two copies have to be equal.
    pub fn copy_image(&self) -> PathBuf {
        let (copy, again) = (self.dir.path().join("image.copy"), self.dir.path().join("image.again"));
        for _ in 0..50 {
            for to in [&copy, &again] {
                run(Command::new("cp").arg("--sparse=always").arg(self.dir.path().join("image")).arg(to)).unwrap();
            }
            if run(Command::new("cmp").arg("-s").args([&copy, &again])).is_ok() {
                return copy;
            }
        }
        panic!("it is written to without a pause")
    }

    /// Mounts a copy of the image in the place of the image.
    pub fn replace(&mut self, copy: &Path) {
        run(Command::new("umount").arg(self.root())).unwrap();
        self.wait_for_end();
        std::fs::rename(copy, self.dir.path().join("image")).unwrap();
        self.mount();
    }

    /// A directory in it, made if it is missing.
    pub fn dir(&self, name: &str) -> PathBuf {
        let dir = self.root().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    /// A directory beside it, on another file system.
    pub fn outside(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for FileSystem {
    fn drop(&mut self) {
        if std::fs::read_to_string("/proc/self/mounts")
            .is_ok_and(|mounts| !mounts.contains(self.root().to_str().unwrap()))
        {
            return;
        }
        for attempt in 0..50 {
            match run(Command::new("umount").arg(self.root())) {
                Ok(()) => return,
                Err(reason) if attempt == 49 => eprintln!("not unmounted: {reason}"),
                Err(_) => std::thread::sleep(std::time::Duration::from_millis(100)),
            }
        }
        drop(run(Command::new("umount").arg("-l").arg(self.root())));
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
    }
}
