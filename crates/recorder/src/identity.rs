//! Which directory of which file system a brick is: recorded beside its index, never on the brick.
//!
//! An unmounted brick looks like an empty one, and a new file system may give its root the handle of the old one. So a
//! brick is recorded only where both the file system and the handle of the root are those of before, or where the
//! operator said that another one is meant.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use protocol::brick::ACCEPT_FILE;

use crate::disk::Root;
use crate::error::{Error, Result};
use crate::handle::Handle;

/// Where it is recorded, in the state directory.
const FILE: &str = "identity";

/// A consent that is older was meant for something else: the brick may have been in order since.
const CONSENT_FOR: Duration = Duration::from_secs(600);

/// The file has two short lines.
const FILE_MAX: usize = 4096;

/// A directory and its file system.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// How the file system names itself (`uuid:...`, `fsid:...`), or `unknown`.
    pub filesystem: String,
    /// Handle of the directory.
    pub root: Handle,
}

/// What follows from what was recorded and what is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Nothing was recorded yet.
    New,
    /// It is the one.
    Same,
    /// It is another one: what.
    Other(&'static str),
}

/// A brick that may be recorded.
#[derive(Debug)]
pub struct Admitted {
    /// The identity by which its objects are named: that of the first time, also where the kernel tells it in another
    /// way now.
    pub identity: Identity,
    /// Another brick than before took its place: of what is in the index nothing may be found by its handle.
    pub replaced: bool,
    /// The operator said that it is right as it is now.
    pub consented: bool,
    state: PathBuf,
}

/// Compares. Pure.
pub fn compare(known: Option<&Identity>, present: &Identity) -> Verdict {
    let Some(known) = known else { return Verdict::New };
    let scheme = |name: &str| name.split(':').next().map(str::to_owned);
    // A kernel that tells less or more than the one before proves nothing.
    let comparable = scheme(&known.filesystem) == scheme(&present.filesystem);
    if comparable && known.filesystem != present.filesystem {
        Verdict::Other("another file system")
    } else if known.root != present.root {
        Verdict::Other("another directory")
    } else {
        Verdict::Same
    }
}

/// Decides whether what is at the brick's path may be recorded. Changes nothing.
///
/// # Errors
/// [`Error::NeedsConsent`] where it is another brick than before; what the system says.
pub fn admit(path: &Path, state: &Path, root: &Root) -> Result<Admitted> {
    let known = read(state)?;
    let consented = has_consent(state);
    let present = root.identity();
    let admitted = |identity, replaced| Admitted { identity, replaced, consented, state: state.to_owned() };
    match compare(known.as_ref(), &present) {
        Verdict::New => Ok(admitted(present, false)),
        Verdict::Same => Ok(admitted(known.unwrap_or(present), false)),
        Verdict::Other(_) if consented => Ok(admitted(present, true)),
        Verdict::Other(what) => Err(Error::needs_consent(
            path,
            &format!("{what} than the one that was recorded before: is its file system mounted?"),
        )),
    }
}

impl Admitted {
    /// Records the identity, durably, and uses the consent up.
    ///
    /// # Errors
    /// What the system says.
    pub fn settle(&self) -> Result<()> {
        if read(&self.state)?.as_ref() != Some(&self.identity) {
            write(&self.state, &self.identity)?;
        }
        let consent = self.state.join(ACCEPT_FILE);
        match std::fs::remove_file(&consent) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", consent)(error)),
            _ => Ok(()),
        }
    }
}

fn has_consent(state: &Path) -> bool {
    let modified = std::fs::metadata(state.join(ACCEPT_FILE)).and_then(|metadata| metadata.modified());
    modified.is_ok_and(|at| at.elapsed().is_ok_and(|age| age < CONSENT_FOR))
}

fn read(state: &Path) -> Result<Option<Identity>> {
    let path = state.join(FILE);
    match std::fs::read(&path) {
        Ok(bytes) => Ok(Some(decode(&bytes).ok_or_else(|| {
            Error::Unsuitable(format!(
                "{} is damaged, so it is not known whether the brick is the one of before: if it is, remove this file",
                path.display()
            ))
        })?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("read", path)(error)),
    }
}

fn write(state: &Path, identity: &Identity) -> Result<()> {
    let (path, new) = (state.join(FILE), state.join("identity.new"));
    let written = || -> io::Result<()> {
        let mut file = File::create(&new)?;
        file.write_all(encode(identity).as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&new, &path)?;
        Ok(rustix::fs::fsync(File::open(state)?.as_fd())?)
    };
    written().map_err(Error::io("write", &path))
}

fn encode(identity: &Identity) -> String {
    let root: String = identity.root.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("filesystem {}\nroot {root}\n", identity.filesystem)
}

fn decode(bytes: &[u8]) -> Option<Identity> {
    let text = std::str::from_utf8(bytes).ok().filter(|text| text.len() <= FILE_MAX)?;
    let mut lines = text.strip_suffix('\n')?.split('\n');
    let filesystem = lines.next()?.strip_prefix("filesystem ")?.to_owned();
    let root = lines.next()?.strip_prefix("root ")?.as_bytes();
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let pairs = root.chunks(2).map(|pair| Some((digit(pair.first()?)? << 4 | digit(pair.get(1)?)?) as u8));
    let root = Handle::from_bytes(&pairs.collect::<Option<Vec<u8>>>()?)?;
    (lines.next().is_none() && !filesystem.is_empty()).then_some(Identity { filesystem, root })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(filesystem: &str, root: &[u8]) -> Identity {
        Identity { filesystem: filesystem.into(), root: Handle::new(1, root).unwrap() }
    }

    #[test]
    fn another_file_system_or_directory_is_told() {
        let known = identity("uuid:01", b"root");
        for (present, expected) in [
            (identity("uuid:01", b"root"), Verdict::Same),
            (identity("uuid:02", b"root"), Verdict::Other("another file system")),
            (identity("uuid:01", b"other"), Verdict::Other("another directory")),
            (identity("uuid:02", b"other"), Verdict::Other("another file system")),
            // Another kernel.
            (identity("fsid:09", b"root"), Verdict::Same),
            (identity("unknown", b"root"), Verdict::Same),
            (identity("unknown", b"other"), Verdict::Other("another directory")),
        ] {
            assert_eq!(compare(Some(&known), &present), expected, "{present:?}");
        }
        assert_eq!(compare(None, &known), Verdict::New);
    }

    #[test]
    fn it_is_kept_and_damage_is_noticed() {
        let identity = identity("uuid:00ff", &[0, 255, 7]);
        let text = encode(&identity);
        assert_eq!(text, "filesystem uuid:00ff\nroot 0100000000ff07\n");
        assert_eq!(decode(text.as_bytes()), Some(identity));
        for length in 0..text.len() {
            assert_eq!(decode(&text.as_bytes()[..length]), None, "{length}");
        }
        assert_eq!(decode(b"filesystem uuid:00ff\nroot 0100000000fg07\n"), None);
        assert_eq!(decode(format!("{text}more\n").as_bytes()), None);
    }
}
