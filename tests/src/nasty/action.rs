//! One call after the other, chosen at random.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, RenameFlags, Timespec, Timestamps, Uid};

use super::{acl, names};

/// The most bytes of an ordinary write.
const WRITE_BYTES_MAX: usize = 64 << 10;

/// The xattrs that come and go.
const XATTRS: [&str; 4] = ["user.a", "user.b", "trusted.a", "trusted.b"];

/// A call, and how often it is made compared with others.
type Action = (u32, &'static str, fn(&mut Hand) -> io::Result<()>);

/// What there is to do. Enough is made to outweigh what is removed.
const ACTIONS: &[Action] = &[
    (10, "create", Hand::create),
    (8, "rewrite", Hand::rewrite),
    (5, "append", Hand::append),
    (5, "pwrite", Hand::pwrite),
    (3, "truncate", Hand::truncate),
    (3, "write-held", Hand::write_held),
    (4, "replace", Hand::replace),
    (12, "rename", Hand::rename),
    (4, "rename-and-back", Hand::rename_and_back),
    (5, "exchange", Hand::exchange),
    (5, "noreplace", Hand::no_replace),
    (4, "overwrite-dir", Hand::overwrite_directory),
    (4, "move-out", |hand| hand.cross(false)),
    (6, "move-in", |hand| hand.cross(true)),
    (3, "exchange-across", Hand::exchange_across),
    (6, "link", Hand::link),
    (2, "link-across", Hand::link_across),
    (6, "unlink", Hand::unlink),
    (3, "rmdir", Hand::rmdir),
    (1, "remove-tree", Hand::remove_tree),
    (6, "mkdir", Hand::mkdir),
    (4, "make-tree", Hand::make_tree),
    (4, "symlink", Hand::symlink),
    (2, "mknod", Hand::mknod),
    (5, "chmod", Hand::chmod),
    (4, "chown", Hand::chown),
    (4, "set-xattr", Hand::set_xattr),
    (2, "remove-xattr", Hand::remove_xattr),
    (3, "set-acl", Hand::set_acl),
    (3, "utimens", Hand::utimens),
];

/// One writer's state.
pub(super) struct Hand {
    brick: PathBuf,
    outside: PathBuf,
    random: fastrand::Rng,
    /// A file that stays open while others rename, overwrite and unlink it.
    held: Option<File>,
    weights: u32,
}

impl Hand {
    pub(super) fn new(brick: &Path, outside: &Path, seed: u64) -> Hand {
        let weights = ACTIONS.iter().map(|action| action.0).sum();
        let (brick, outside) = (brick.to_owned(), outside.to_owned());
        Hand { brick, outside, random: fastrand::Rng::with_seed(seed), held: None, weights }
    }

    /// Makes one call: its name and what came of it.
    pub(super) fn act(&mut self) -> (&'static str, io::Result<()>) {
        let mut choice = self.random.u32(0..self.weights);
        for (weight, name, run) in ACTIONS {
            if choice < *weight {
                return (name, run(self));
            }
            choice -= weight;
        }
        unreachable!("the choice is less than the sum of the weights")
    }

    /// Any path, mostly in the brick.
    fn path(&mut self) -> PathBuf {
        if self.random.u8(0..8) == 0 { self.path_outside() } else { self.path_inside() }
    }

    fn path_inside(&mut self) -> PathBuf {
        self.brick.join(names::path(&mut self.random))
    }

    fn path_outside(&mut self) -> PathBuf {
        self.outside.join(names::path(&mut self.random))
    }

    fn bytes(&mut self) -> Vec<u8> {
        let most = if self.random.u8(0..20) == 0 { WRITE_BYTES_MAX * 16 } else { WRITE_BYTES_MAX };
        let length = self.random.usize(0..most).min(self.random.usize(0..most));
        vec![self.random.u8(b'a'..=b'z'); length]
    }

    fn open(&mut self, options: &mut OpenOptions) -> io::Result<File> {
        open(&self.path(), options)
    }

    fn create(&mut self) -> io::Result<()> {
        let bytes = self.bytes();
        self.open(OpenOptions::new().create_new(true))?.write_all(&bytes)
    }

    fn rewrite(&mut self) -> io::Result<()> {
        let mut file = self.open(OpenOptions::new().create(true).truncate(true))?;
        for _ in 0..self.random.u8(1..4) {
            file.write_all(&self.bytes())?;
        }
        Ok(())
    }

    fn append(&mut self) -> io::Result<()> {
        let bytes = self.bytes();
        self.open(OpenOptions::new().append(true))?.write_all(&bytes)
    }

    fn pwrite(&mut self) -> io::Result<()> {
        let (bytes, at) = (self.bytes(), self.random.u64(0..2 * WRITE_BYTES_MAX as u64));
        self.open(&mut OpenOptions::new())?.write_all_at(&bytes, at)
    }

    fn truncate(&mut self) -> io::Result<()> {
        let length = self.random.u64(0..2 * WRITE_BYTES_MAX as u64);
        self.open(&mut OpenOptions::new())?.set_len(length)
    }

    fn write_held(&mut self) -> io::Result<()> {
        let bytes = self.bytes();
        if let Some(mut file) = self.held.take() {
            file.write_all(&bytes)?;
            if self.random.bool() {
                self.held = Some(file);
            }
            return Ok(());
        }
        self.held = Some(self.open(OpenOptions::new().create(true).truncate(false))?);
        Ok(())
    }

    /// As careful applications write: aside, then renamed over.
    fn replace(&mut self) -> io::Result<()> {
        let (path, bytes) = (self.path_inside(), self.bytes());
        let temporary = path.with_file_name(format!(".tmp-{}", self.random.u8(0..4)));
        put(&temporary, &bytes)?;
        fs::rename(temporary, path)
    }

    fn rename(&mut self) -> io::Result<()> {
        fs::rename(self.path(), self.path())
    }

    fn rename_and_back(&mut self) -> io::Result<()> {
        let (from, to) = (self.path_inside(), self.path_inside());
        fs::rename(&from, &to)?;
        fs::rename(&to, &from)
    }

    fn rename_with(&mut self, from: &Path, to: &Path, flags: RenameFlags) -> io::Result<()> {
        Ok(rustix::fs::renameat_with(CWD, from, CWD, to, flags)?)
    }

    fn exchange(&mut self) -> io::Result<()> {
        let (from, to) = (self.path_inside(), self.path_inside());
        self.rename_with(&from, &to, RenameFlags::EXCHANGE)
    }

    fn exchange_across(&mut self) -> io::Result<()> {
        let (from, to) = (self.path_inside(), self.path_outside());
        self.rename_with(&from, &to, RenameFlags::EXCHANGE)
    }

    fn no_replace(&mut self) -> io::Result<()> {
        let (from, to) = (self.path(), self.path());
        self.rename_with(&from, &to, RenameFlags::NOREPLACE)
    }

    fn overwrite_directory(&mut self) -> io::Result<()> {
        let (from, to) = (self.path_inside(), self.path_inside());
        for path in [&from, &to] {
            match fs::create_dir(path) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                other => other?,
            }
        }
        fs::rename(from, to)
    }

    fn cross(&mut self, inwards: bool) -> io::Result<()> {
        let (inside, outside) = (self.path_inside(), self.path_outside());
        if inwards { fs::rename(outside, inside) } else { fs::rename(inside, outside) }
    }

    fn link(&mut self) -> io::Result<()> {
        fs::hard_link(self.path_inside(), self.path_inside())
    }

    fn link_across(&mut self) -> io::Result<()> {
        let (inside, outside) = (self.path_inside(), self.path_outside());
        if self.random.bool() { fs::hard_link(inside, outside) } else { fs::hard_link(outside, inside) }
    }

    fn unlink(&mut self) -> io::Result<()> {
        fs::remove_file(self.path())
    }

    fn rmdir(&mut self) -> io::Result<()> {
        fs::remove_dir(self.path())
    }

    fn remove_tree(&mut self) -> io::Result<()> {
        let path = self.path();
        if fs::symlink_metadata(&path)?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
    }

    fn mkdir(&mut self) -> io::Result<()> {
        fs::create_dir(self.path())
    }

    /// A small subtree, made faster than anybody can watch each new directory.
    fn make_tree(&mut self) -> io::Result<()> {
        let root = self.path();
        let deepest = root.join(names::path(&mut self.random));
        fs::create_dir_all(&deepest)?;
        for _ in 0..self.random.u8(0..4) {
            put(&deepest.join(names::name(&mut self.random)), &self.bytes())?;
        }
        Ok(())
    }

    fn symlink(&mut self) -> io::Result<()> {
        symlink(names::target(&mut self.random), self.path())
    }

    fn mknod(&mut self) -> io::Result<()> {
        let (path, mode) = (self.path(), Mode::from_raw_mode(0o640));
        let (kind, device) = match self.random.u8(0..3) {
            0 => (FileType::Socket, 0),
            1 => (FileType::CharacterDevice, rustix::fs::makedev(1, 3)),
            _ => (FileType::Fifo, 0),
        };
        Ok(rustix::fs::mknodat(CWD, path, kind, mode, device)?)
    }

    fn chmod(&mut self) -> io::Result<()> {
        let path = self.path();
        // chmod(2) follows links, also to what lies outside of the test.
        if fs::symlink_metadata(&path)?.is_symlink() {
            return Err(io::Error::from_raw_os_error(libc::ELOOP));
        }
        let special = if self.random.u8(0..3) == 0 { self.random.u32(0..8) << 9 } else { 0 };
        fs::set_permissions(path, fs::Permissions::from_mode(special | self.random.u32(0..0o1000)))
    }

    fn chown(&mut self) -> io::Result<()> {
        let (uid, gid) = (Uid::from_raw(self.random.u32(0..3)), Gid::from_raw(self.random.u32(1000..1003)));
        Ok(rustix::fs::chownat(CWD, self.path(), Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    fn set_xattr(&mut self) -> io::Result<()> {
        let name = XATTRS[self.random.usize(0..XATTRS.len())];
        let value = vec![self.random.u8(..); self.random.usize(0..200)];
        xattr::set(self.path(), name, &value)
    }

    fn remove_xattr(&mut self) -> io::Result<()> {
        let name = XATTRS[self.random.usize(0..XATTRS.len())];
        xattr::remove(self.path(), name)
    }

    fn set_acl(&mut self) -> io::Result<()> {
        let name = if self.random.bool() { "system.posix_acl_access" } else { "system.posix_acl_default" };
        let value = acl::bytes(&mut self.random);
        let path = self.path();
        if self.random.u8(0..4) == 0 { xattr::remove(path, OsStr::new(name)) } else { xattr::set(path, name, &value) }
    }

    fn utimens(&mut self) -> io::Result<()> {
        let stamp = Timespec { tv_sec: self.random.i64(0..2_000_000_000), tv_nsec: self.random.i64(0..1_000_000_000) };
        let times = Timestamps { last_access: stamp, last_modification: stamp };
        Ok(rustix::fs::utimensat(CWD, self.path(), &times, AtFlags::SYMLINK_NOFOLLOW)?)
    }
}

/// Opens for writing without following links and without waiting for the reader of a fifo.
fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    options.write(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)
}

fn put(path: &Path, bytes: &[u8]) -> io::Result<()> {
    open(path, OpenOptions::new().create(true).truncate(true))?.write_all(bytes)
}
