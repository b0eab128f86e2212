//! What the secondary is like: one JSON object, for the operator's `create` and `status`.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};

use protocol::hello::Versions;
use rustix::fs::{Access, AtFlags};
use serde_json::{Value, json};

use crate::private::{Private, open_root};

/// Looks at a root; nothing but `.gsync/` is made, and that only for root.
pub fn check(root: &Path) -> Value {
    let versions = Versions::ours();
    let opened = open_root(root);
    let free = opened.as_ref().ok().and_then(|root| rustix::fs::fstatvfs(root).ok());
    let private = Private::open(root);
    json!({
        "software": versions.software,
        "protocol_min": versions.min,
        "protocol_max": versions.max,
        "is_root": rustix::process::geteuid().is_root(),
        "root_exists": opened.is_ok(),
        "writable": opened.as_ref().is_ok_and(is_writable),
        "file_system": opened.as_ref().ok().and_then(file_system),
        "free_bytes": free.as_ref().map(|free| free.f_bavail.saturating_mul(free.f_frsize)),
        "free_inodes": free.as_ref().map(|free| free.f_favail),
        "can_clone": private.as_ref().is_ok_and(crate::crawl::can_clone),
        "rsync": rsync_version(),
        "error": private.as_ref().err().map(|error| crate::applier::explain(error)),
    })
}

fn is_writable(root: &OwnedFd) -> bool {
    rustix::fs::accessat(root, ".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS).is_ok()
}

/// The type's name for those that are known, else its number.
fn file_system(root: &OwnedFd) -> Option<String> {
    let number = rustix::fs::fstatfs(root).ok()?.f_type as u64;
    Some(match number {
        0xef53 => "ext4".into(),
        0x5846_5342 => "xfs".into(),
        0x9123_683e => "btrfs".into(),
        0x0102_1994 => "tmpfs".into(),
        0x6573_5546 => "fuse".into(),
        other => format!("{other:#x}"),
    })
}

fn rsync_version() -> Option<String> {
    let output = Command::new("rsync").arg("--version").stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut words = text.split_ascii_whitespace().skip_while(|word| *word != "version");
    words.nth(1).map(ToString::to_string)
}
