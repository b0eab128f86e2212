//! What the secondary is like, for the operator's `create`. Nothing is left changed.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use protocol::check::{Claim, Location, Place, Report};
use protocol::hello::Versions;
use rustix::fs::{Access, AtFlags, Mode, OFlags};

use super::features;
use crate::private::{PRIVATE, open_root};

/// What a new file system may have in it.
const IGNORED: &str = "lost+found";

/// Looks at a root, which need not be there yet.
pub fn check(root: &Path) -> Report {
    let versions = Versions::ours();
    let uname = rustix::system::uname();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut report = Report {
        software: versions.software,
        protocol_min: versions.min,
        protocol_max: versions.max,
        is_root: rustix::process::geteuid().is_root(),
        rsync: rsync_version(),
        kernel: uname.release().to_string_lossy().into_owned(),
        boot_id: posix::location::boot_id().unwrap_or_default(),
        now_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
        path: root.display().to_string(),
        ..Report::default()
    };
    report.place = place(root);
    let (existing, rest) = match report.place {
        Place::Empty | Place::Ours | Place::Filled => (root.to_path_buf(), None),
        Place::Missing => (root.parent().map_or_else(PathBuf::new, Path::to_path_buf), root.file_name()),
        Place::Lost | Place::Other => return report,
    };
    let existing = existing.canonicalize().unwrap_or(existing);
    let whole = |base: &Path| rest.map_or_else(|| base.to_path_buf(), |name| base.join(name));
    report.path = whole(&existing).display().to_string();
    report.location = posix::location::locate(&existing)
        .ok()
        .map(|(device, path)| Location { device, path: whole(&path).display().to_string() });
    match open_root(&existing) {
        Ok(dir) => look_at_file_system(&mut report, dir),
        Err(error) => report.error = Some(crate::applier::explain(&error)),
    }
    report
}

/// What is at a path.
fn place(root: &Path) -> Place {
    let Ok(entries) = std::fs::read_dir(root) else {
        let has_parent = root.parent().is_some_and(Path::is_dir);
        return match root.symlink_metadata() {
            // A directory that may not be read is told apart when it is opened.
            Ok(_) if root.is_dir() => Place::Filled,
            Ok(_) => Place::Other,
            Err(_) if has_parent => Place::Missing,
            Err(_) => Place::Lost,
        };
    };
    let mut found = Place::Empty;
    for name in entries.flatten().map(|entry| entry.file_name()) {
        if name.as_encoded_bytes() == PRIVATE {
            return Place::Ours;
        }
        if name != IGNORED {
            found = Place::Filled;
        }
    }
    found
}

fn look_at_file_system(report: &mut Report, dir: OwnedFd) {
    let mut volume_id = [0u8; 16];
    if rustix::fs::fgetxattr(&dir, "trusted.glusterfs.volume-id", &mut volume_id).is_ok() {
        let path = PathBuf::from(&report.path);
        report.error = Some(crate::AgentError::GlusterBrick { path }.to_string());
        return;
    }
    report.is_writable = rustix::fs::accessat(&dir, ".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS).is_ok();
    report.file_system = rustix::fs::fstatfs(&dir).ok().map(|found| file_system(&found));
    if let Ok(free) = rustix::fs::fstatvfs(&dir) {
        report.free_bytes = Some(free.f_bavail.saturating_mul(free.f_frsize));
        report.free_inodes = (free.f_files > 0).then_some(free.f_favail);
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let private = rustix::fs::openat(&dir, PRIVATE, flags, Mode::empty()).ok().filter(|_| report.place == Place::Ours);
    report.claim = private.as_ref().and_then(read_claim);
    if report.is_root && report.is_writable {
        match features::try_all(private.unwrap_or(dir)) {
            Ok(features) => (report.lacks, report.can_clone) = (features.lacks, features.can_clone),
            Err(error) => report.error = Some(format!("no directory can be made in {}: {error}", report.path)),
        }
    }
}

fn read_claim(private: &OwnedFd) -> Option<Claim> {
    serde_json::from_slice(&std::fs::read(super::path_below(private, "claim")).ok()?).ok()
}

/// The type's name for those that are known, else its number.
fn file_system(found: &rustix::fs::StatFs) -> String {
    match found.f_type as u64 {
        0xef53 => "ext4".into(),
        0x5846_5342 => "xfs".into(),
        0x9123_683e => "btrfs".into(),
        0x0102_1994 => "tmpfs".into(),
        0x6573_5546 => "fuse".into(),
        other => format!("{other:#x}"),
    }
}

fn rsync_version() -> Option<String> {
    let output = Command::new("rsync").arg("--version").stdin(Stdio::null()).output().ok()?;
    protocol::rsync::parse_version(&String::from_utf8_lossy(&output.stdout)).map(ToOwned::to_owned)
}
