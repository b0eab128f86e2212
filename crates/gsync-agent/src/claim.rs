//! Which session a root belongs to, and whether it is the root that a session means.
//!
//! `.gsync/claim` holds a [`Claim`] as JSON. It is written when a session is created (or first connects) and removed
//! when it is deleted. `.gsync/adopt` is there while what was found below the root is being adopted.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use posix::beneath;
use protocol::agent::{Refusal, WorkerHello};
use protocol::check::Claim;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::private::Private;

const CLAIM: &str = "claim";
const NEW_CLAIM: &str = "claim.new";
const ADOPT: &str = "adopt";

/// The largest claim that is read.
const MAX_CLAIM_BYTES: u64 = 64 << 10;

/// The claim on a root; `None` when there is none, or none that can be read (the next session claims it anew).
///
/// # Errors
/// What the system says.
pub fn read(private: &Private) -> io::Result<Option<Claim>> {
    let file = match beneath::open_file(private.base.as_fd(), CLAIM.as_bytes(), OFlags::RDONLY, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let mut text = Vec::new();
    file.take(MAX_CLAIM_BYTES).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text).ok())
}

/// Claims a root, durably.
///
/// # Errors
/// What the system says.
pub fn write(private: &Private, claim: &Claim) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
    let mode = Mode::RUSR | Mode::WUSR;
    let mut file = File::from(beneath::open_file(private.base.as_fd(), NEW_CLAIM.as_bytes(), flags, mode)?);
    file.write_all(&serde_json::to_vec(claim)?)?;
    file.sync_all()?;
    rustix::fs::renameat(&private.base, NEW_CLAIM, &private.base, CLAIM)?;
    Ok(rustix::fs::fsync(&private.base)?)
}

/// Takes the claim away, with the order to adopt.
///
/// # Errors
/// What the system says.
pub fn remove(private: &Private) -> io::Result<()> {
    for name in [ADOPT, CLAIM] {
        remove_one(private, name)?;
    }
    Ok(rustix::fs::fsync(&private.base)?)
}

/// Whether what is below the root is being adopted.
pub fn is_adopting(private: &Private) -> bool {
    rustix::fs::statat(&private.base, ADOPT, AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

/// Begins or ends the adoption, durably.
///
/// # Errors
/// What the system says.
pub fn set_adopting(private: &Private, adopting: bool) -> io::Result<()> {
    if adopting {
        let flags = OFlags::WRONLY | OFlags::CREATE;
        beneath::open_file(private.base.as_fd(), ADOPT.as_bytes(), flags, Mode::RUSR | Mode::WUSR)?;
    } else {
        remove_one(private, ADOPT)?;
    }
    Ok(rustix::fs::fsync(&private.base)?)
}

fn remove_one(private: &Private, name: &str) -> io::Result<()> {
    match rustix::fs::unlinkat(&private.base, name, AtFlags::empty()) {
        Err(Errno::NOENT) | Ok(()) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Checks that a worker means this root and that its session may use it; claims it when nobody does.
///
/// # Errors
/// [`Refusal`] for the operator.
pub fn admit(private: &Private, hello: &WorkerHello) -> Result<(), Refusal> {
    if !is_root(private, &hello.root) {
        let served = std::fs::read_link(posix::fd_path(private.root.as_fd())).unwrap_or_default();
        return Err(Refusal::OtherRoot { served: served.display().to_string() });
    }
    let unusable = |e: io::Error| Refusal::Root(format!("the claim on the root cannot be used: {e}"));
    let own = Claim { session: uuid_text(&hello.session), name: hello.name.clone(), primary: hello.primary.clone() };
    match read(private).map_err(unusable)? {
        Some(claim) if claim.session == own.session => Ok(()),
        Some(claim) => Err(Refusal::Claimed(describe(&claim))),
        None => write(private, &own).map_err(unusable),
    }
}

/// Who uses a root, and what is to be done about it.
pub fn describe(claim: &Claim) -> String {
    format!(
        "session '{}' of {} uses this directory; delete that session, or, where it is not there any more, create \
         yours with --force",
        claim.name, claim.primary
    )
}

/// Whether a path leads to the root that is served.
fn is_root(private: &Private, path: &[u8]) -> bool {
    let path = Path::new(std::ffi::OsStr::from_bytes(path));
    let (Ok(asked), Ok(served)) = (rustix::fs::stat(path), rustix::fs::fstat(&private.root)) else { return false };
    (asked.st_dev, asked.st_ino) == (served.st_dev, served.st_ino)
}

/// A UUID as the primary writes it.
fn uuid_text(id: &[u8; 16]) -> String {
    protocol::Gfid(*id).to_string()
}
