//! File systems of their own for a test.

use std::ffi::OsStr;
use std::fmt::{self, Display};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use crate::need;

/// How often an image is copied until it was quiet for long enough.
const COPIES_MAX: usize = 50;

/// How long a file system that was unmounted may still be in use.
const LIMIT: std::time::Duration = std::time::Duration::from_secs(60);

/// A kind of file system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileSystem {
    /// ext4 in a file.
    Ext4,
    /// XFS in a file.
    Xfs,
    /// btrfs in a file.
    Btrfs,
    /// tmpfs.
    Tmpfs,
}

/// A mounted file system in a temporary directory, unmounted and removed on drop.
#[derive(Debug)]
pub struct Mounted {
    kind: FileSystem,
    root: PathBuf,
    /// Holds the mount point and the image; removed after the mount.
    dir: tempfile::TempDir,
}

impl FileSystem {
    /// Those with a disk format.
    pub const ON_DISK: [FileSystem; 3] = [FileSystem::Ext4, FileSystem::Xfs, FileSystem::Btrfs];

    /// All that are supported as bricks.
    pub const ALL: [FileSystem; 4] = [FileSystem::Ext4, FileSystem::Xfs, FileSystem::Btrfs, FileSystem::Tmpfs];

    /// The name that mount(8) takes.
    pub fn name(self) -> &'static str {
        match self {
            FileSystem::Ext4 => "ext4",
            FileSystem::Xfs => "xfs",
            FileSystem::Btrfs => "btrfs",
            FileSystem::Tmpfs => "tmpfs",
        }
    }

    /// The smallest size that its mkfs accepts, in MiB.
    fn smallest_mib(self) -> u64 {
        match self {
            FileSystem::Ext4 | FileSystem::Tmpfs => 16,
            FileSystem::Xfs => 300,
            FileSystem::Btrfs => 128,
        }
    }

    /// Whether this machine can make and mount one.
    ///
    /// # Errors
    /// What is missing, in words.
    pub fn available(self) -> Result<(), String> {
        need::root()?;
        if self == FileSystem::Tmpfs {
            return Ok(());
        }
        need::loop_devices()?;
        need::program(&format!("mkfs.{}", self.name()))?;
        // Where the module is not loaded, mount(8) loads it; where it cannot be, only the attempt shows it.
        let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
        let loaded = known.lines().any(|line| line.split_whitespace().last() == Some(self.name()));
        let loadable = || Command::new("modprobe").arg(self.name()).output().is_ok_and(|o| o.status.success());
        if loaded || loadable() { Ok(()) } else { Err(format!("needs a kernel with {}", self.name())) }
    }
}

impl Display for FileSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Mounted {
    /// Makes and mounts a file system of about this size (more where mkfs wants more). The image is sparse.
    ///
    /// # Errors
    /// When a program fails, with what it said.
    pub fn new(kind: FileSystem, size_mib: u64) -> anyhow::Result<Mounted> {
        let dir = tempfile::Builder::new().prefix("gsync-").tempdir()?;
        let root = dir.path().join("mnt");
        fs::create_dir(&root)?;
        let size_mib = size_mib.max(kind.smallest_mib());
        if kind == FileSystem::Tmpfs {
            let size = format!("size={size_mib}m,mode=755");
            let arguments = ["-t".as_ref(), "tmpfs".as_ref(), "-o".as_ref(), size.as_ref(), "gsync".as_ref()];
            run("mount", arguments.into_iter().chain([root.as_os_str()]))?;
        } else {
            mount_image(kind, size_mib, &dir.path().join("image"), &root)?;
        }
        Ok(Mounted { kind, root, dir })
    }

    /// What kind it is.
    pub fn kind(&self) -> FileSystem {
        self.kind
    }

    /// Where it is mounted.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Takes it away, even while somebody uses it.
    ///
    /// # Errors
    /// When umount(8) fails, with what it said.
    pub fn unmount_lazily(&self) -> anyhow::Result<()> {
        run("umount", ["-l".as_ref(), self.root.as_os_str()]).map(drop)
    }

    /// Mounts the image again, when nobody has it mounted any more, here or in another mount namespace.
    ///
    /// # Errors
    /// When a program fails, with what it said.
    pub fn mount_again(&self) -> anyhow::Result<()> {
        self.wait_for_end();
        mount_existing(self.kind, &self.image(), &self.root)
    }

    fn wait_for_end(&self) {
        crate::wait::wait_for("the end of the mount", LIMIT, || {
            let devices = run("losetup", ["-j".as_ref(), self.image().as_os_str()]).map_err(|e| format!("{e:#}"))?;
            if devices.is_empty() { Ok(()) } else { Err(devices) }
        });
    }

    /// Copies the image of the live file system: what the disk has when power fails now. A copy takes a while, and a
    /// disk has no state of two moments: so two copies have to be equal.
    ///
    /// # Errors
    /// When cp(1) fails, or the file system is written to without a pause.
    pub fn copy_image(&self) -> anyhow::Result<PathBuf> {
        let (copy, again) = (self.dir.path().join("copy"), self.dir.path().join("again"));
        for _ in 0..COPIES_MAX {
            for to in [&copy, &again] {
                run("cp", ["--sparse=always".as_ref(), self.image().as_os_str(), to.as_os_str()])?;
            }
            let equal = Command::new("cmp").arg("-s").args([&copy, &again]).status()?.success();
            fs::remove_file(&again)?;
            if equal {
                return Ok(copy);
            }
        }
        anyhow::bail!("{} is written to without a pause", self.root.display())
    }

    /// Power failed, and the machine is up again: a [copy](Mounted::copy_image) is what is mounted now. Nobody may use
    /// the file system any more.
    ///
    /// # Errors
    /// When a program fails, with what it said.
    pub fn come_back_as(&self, copy: &Path) -> anyhow::Result<()> {
        let unmounted = || run("umount", [self.root.as_os_str()]).map_err(|error| format!("{error:#}"));
        crate::wait::wait_for("the unmount", LIMIT, unmounted);
        self.wait_for_end();
        fs::rename(copy, self.image())?;
        self.mount_again()
    }

    fn image(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    /// Makes a directory on it, e.g. a brick.
    ///
    /// # Errors
    /// What the system says.
    pub fn directory(&self, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.root.join(name);
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let root = self.root.as_os_str();
        // A process may still be in it, e.g. one that a failed test leaves behind for its own handle to kill.
        let lazily = || run("umount", ["-l".as_ref(), root]);
        if run("umount", [root]).or_else(|_| lazily()).is_err() {
            eprintln!("{} in {} stays mounted", self.kind, self.dir.path().display());
        }
    }
}

fn mount_image(kind: FileSystem, size_mib: u64, image: &Path, root: &Path) -> anyhow::Result<()> {
    fs::File::create(image)?.set_len(size_mib << 20)?;
    let flags: &[&str] = match kind {
        FileSystem::Ext4 => &["-q", "-F"],
        FileSystem::Xfs | FileSystem::Btrfs | FileSystem::Tmpfs => &["-q", "-f"],
    };
    let mkfs = need::program(&format!("mkfs.{kind}")).map_err(anyhow::Error::msg)?;
    run(mkfs, flags.iter().map(OsStr::new).chain([image.as_os_str()]))?;
    mount_existing(kind, image, root)
}

fn mount_existing(kind: FileSystem, image: &Path, root: &Path) -> anyhow::Result<()> {
    let device = run("losetup", ["--find".as_ref(), "--show".as_ref(), image.as_os_str()])?;
    let device = OsStr::new(device.trim());
    let mounted = run("mount", ["-t".as_ref(), kind.name().as_ref(), device, root.as_os_str()]);
    // The kernel keeps a device that is in use until the unmount, and gives it back then by itself: nothing is left
    // even when this process is killed and somebody unmounts by hand.
    let detached = run("losetup", ["--detach".as_ref(), device]);
    mounted.and(detached).map(|_| ())
}

/// Runs a program; its output.
fn run<'a>(program: impl AsRef<OsStr>, arguments: impl IntoIterator<Item = &'a OsStr>) -> anyhow::Result<String> {
    let program = program.as_ref();
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("cannot start {}", program.to_string_lossy()))?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{} failed, {}: {out}{err}", program.to_string_lossy(), output.status);
    Ok(out.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounts_below(path: &Path) -> usize {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        mounts.lines().filter(|line| line.contains(&*path.to_string_lossy())).count()
    }

    #[test]
    fn each_kind_is_mounted_and_leaves_nothing() {
        for kind in FileSystem::ALL {
            crate::require!(kind.available());
            let mounted = Mounted::new(kind, 64).unwrap();
            let brick = mounted.directory("brick").unwrap();
            fs::write(brick.join("f"), "x").unwrap();
            xattr::set(brick.join("f"), "trusted.t", b"x").unwrap();
            let dir = mounted.dir.path().to_owned();
            assert_eq!(mounts_below(&dir), 1, "{kind}");
            drop(mounted);
            assert_eq!(mounts_below(&dir), 0, "{kind}");
            assert!(!dir.exists(), "{kind}");
        }
    }

    #[test]
    fn a_panic_and_an_open_file_leave_nothing() {
        crate::require!(FileSystem::Ext4.available());
        let mounted = Mounted::new(FileSystem::Ext4, 16).unwrap();
        let dir = mounted.dir.path().to_owned();
        let open = fs::File::create(mounted.root().join("f")).unwrap();
        let result = std::panic::catch_unwind(move || {
            let _mounted = mounted;
            panic!("a failing test");
        });
        assert!(result.is_err());
        assert_eq!(mounts_below(&dir), 0);
        drop(open);
        let image = dir.join("image");
        crate::wait::wait_until("the loop device to be given back", std::time::Duration::from_secs(10), || {
            let devices = Command::new("losetup").args(["--list", "--output", "BACK-FILE"]).output().unwrap();
            !String::from_utf8_lossy(&devices.stdout).contains(&*image.to_string_lossy())
        });
    }
}
