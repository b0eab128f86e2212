//! Pairs of equal trees with everything in them that a file system can hold.
#![allow(dead_code)]

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Timespec, Timestamps};
use verify::{Options, Report, Side};

/// A name of the greatest length.
pub const LONG_NAME: &str = concat!(
    "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789",
    "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789",
    "0123456789012345678901234567890123456789012345678901234",
);

/// A primary and a secondary that begin as copies of each other.
pub struct Trees {
    dir: tempfile::TempDir,
}

impl Trees {
    /// Two empty trees.
    pub fn empty() -> Trees {
        let trees = Trees { dir: tempfile::tempdir().unwrap() };
        fs::create_dir(trees.primary()).unwrap();
        fs::create_dir(trees.secondary()).unwrap();
        trees.align(Path::new(""));
        trees
    }

    /// Two trees with one of everything.
    pub fn full() -> Trees {
        let trees = Trees { dir: tempfile::tempdir().unwrap() };
        fs::create_dir(trees.primary()).unwrap();
        populate(&trees.primary());
        run("cp", &["--archive".as_ref(), trees.primary().as_os_str(), trees.secondary().as_os_str()]);
        trees
    }

    pub fn primary(&self) -> PathBuf {
        self.dir.path().join("primary")
    }

    pub fn secondary(&self) -> PathBuf {
        self.dir.path().join("secondary")
    }

    /// Something for the test itself, beside the trees.
    pub fn aside(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn compare(&self) -> Report {
        self.compare_with(&Options::default())
    }

    pub fn compare_with(&self, options: &Options) -> Report {
        let (mut primary, mut secondary) = (Side::local(self.primary()), Side::local(self.secondary()));
        verify::compare(&mut primary, &mut secondary, options).unwrap()
    }

    /// Gives a path the same mtime on both sides.
    pub fn align(&self, path: &Path) {
        set_mtime(&self.primary().join(path), 1_000_000, 1);
        set_mtime(&self.secondary().join(path), 1_000_000, 1);
    }
}

/// Whether the test can do what only root can; says so loudly where not.
pub fn is_root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        // Not eprintln!: what that prints is hidden by the test harness as long as the test does not fail.
        let _ = writeln!(std::io::stderr().lock(), "SKIPPED: {test}: needs root");
    }
    root
}

/// Everything that differs, one line each.
pub fn lines(report: &Report) -> Vec<String> {
    report.differences.iter().map(ToString::to_string).collect()
}

/// Path and kind of everything that differs, as JSON has them.
pub fn kinds(report: &Report) -> Vec<(String, String)> {
    let json = serde_json::to_value(report).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    json["differences"].as_array().unwrap().iter().map(|d| (text(&d["path"]), text(&d["what"]))).collect()
}

pub fn run(program: &str, arguments: &[&OsStr]) {
    let status = Command::new(program).args(arguments).status().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(status.success(), "{program} {arguments:?}: {status}");
}

pub fn set_mtime(path: &Path, secs: i64, nanos: i64) {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
        last_modification: Timespec { tv_sec: secs, tv_nsec: nanos },
    };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Does something and brings the mtime of `path` back.
pub fn keeping_mtime<T>(path: &Path, act: impl FnOnce() -> T) -> T {
    let before = fs::symlink_metadata(path).unwrap();
    let result = act();
    set_mtime(path, before.mtime(), before.mtime_nsec());
    result
}

pub fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

pub fn make_node(path: &Path, kind: FileType, device: u64) {
    rustix::fs::mknodat(CWD, path, kind, Mode::from_raw_mode(0o640), device).unwrap();
}

pub fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    xattr::set(path, name, value).unwrap_or_else(|e| panic!("{path:?} {name}: {e}"));
}

pub fn bytes_name(bytes: &[u8]) -> &OsStr {
    OsStr::from_bytes(bytes)
}

fn populate(root: &Path) {
    fs::create_dir_all(root.join("dir/sub/.gsync")).unwrap();
    fs::create_dir(root.join("empty")).unwrap();
    for (path, content) in [("file", "content"), ("dir/file", "other"), ("dir/sub/deep", ""), ("plain", "plain")] {
        fs::write(root.join(path), content).unwrap();
    }
    fs::write(root.join("dir/sub/.gsync/data"), "is compared").unwrap();
    for name in [b"new\nline".as_slice(), b"\xff\xfe%", b" leading", b"dir.x", b"dir-x", LONG_NAME.as_bytes()] {
        fs::write(root.join(bytes_name(name)), name).unwrap();
    }
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    sparse.write_all_at(b"end", 3 << 20).unwrap();
    symlink("dir/file", root.join("link")).unwrap();
    symlink("/nowhere", root.join("dangling")).unwrap();
    fs::write(root.join("hard-a"), "hard").unwrap();
    fs::hard_link(root.join("hard-a"), root.join("hard-b")).unwrap();
    fs::hard_link(root.join("hard-a"), root.join("dir/hard-c")).unwrap();
    for name in ["same-a", "same-b"] {
        fs::write(root.join(name), "same content, two files").unwrap();
        set_mtime(&root.join(name), 5, 5);
    }
    make_node(&root.join("fifo"), FileType::Fifo, 0);
    make_node(&root.join("socket"), FileType::Socket, 0);
    make_node(&root.join("char"), FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    make_node(&root.join("block"), FileType::BlockDevice, rustix::fs::makedev(7, 200));
    set_mode(&root.join("plain"), 0o4755);
    set_mode(&root.join("empty"), 0o3775);
    set_xattr(&root.join("file"), "user.a", b"value");
    set_xattr(&root.join("file"), "trusted.b", b"");
    set_xattr(&root.join("dir"), "user.big", &[b'x'; 2000]);
    run("setfacl", &["-m".as_ref(), "u:1000:r--".as_ref(), root.join("file").as_os_str()]);
    run("setfacl", &["-d".as_ref(), "-m".as_ref(), "g:1000:rwx".as_ref(), root.join("empty").as_os_str()]);
    rustix::fs::chownat(
        CWD,
        root.join("link"),
        Some(rustix::fs::Uid::from_raw(12)),
        Some(rustix::fs::Gid::from_raw(34)),
        AtFlags::SYMLINK_NOFOLLOW,
    )
    .unwrap();
}

/// A chain of directories with long names, a file behind the next directory in each; longer than `PATH_MAX` after 16.
pub fn make_deep(root: &Path, levels: usize, content: &[u8]) {
    let open = |base: &OwnedFd, name: &str| {
        rustix::fs::openat(base, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()
    };
    let mut chain = vec![rustix::fs::open(root, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap()];
    for _ in 0..levels {
        let base = chain.last().unwrap();
        rustix::fs::mkdirat(base, LONG_NAME, Mode::from_raw_mode(0o755)).unwrap();
        let next = open(base, LONG_NAME);
        let flags = OFlags::CREATE | OFlags::WRONLY;
        let file = rustix::fs::openat(base, "z", flags, Mode::from_raw_mode(0o644)).unwrap();
        rustix::io::write(&file, content).unwrap();
        posix::object::set_mtime(file.as_fd(), posix::Time { secs: 7, nanos: 7 }).unwrap();
        chain.push(next);
    }
    for fd in &chain {
        posix::object::set_mtime(fd.as_fd(), posix::Time { secs: 8, nanos: 8 }).unwrap();
    }
}
