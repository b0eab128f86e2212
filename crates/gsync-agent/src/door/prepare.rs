//! Making a root ready for a session, and giving it free again.

use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use protocol::check::{Holdings, Prepare, Prepared, Release};
use rustix::fs::{AtFlags, Dir, Mode, RenameFlags};

use crate::claim;
use crate::error::AgentError;
use crate::private::{PRIVATE, Private};

/// The longest request.
const MAX_REQUEST_BYTES: u64 = 64 << 10;

/// How long an agent that nobody needs any more takes to end by itself, with a margin.
const AGENT_END: Duration = Duration::from_secs(50);

/// How often it is looked whether it has.
const AGENT_POLL: Duration = Duration::from_millis(100);

/// Carries out a [`Prepare`] that is read from `input`.
pub fn prepare(root: &Path, input: impl Read) -> Prepared {
    answer(read(input).and_then(|asked: Prepare| prepare_root(root, &asked)))
}

/// Carries out a [`Release`] that is read from `input`.
pub fn release(root: &Path, input: impl Read) -> Prepared {
    answer(read(input).and_then(|asked: Release| release_root(root, &asked)).map(|()| None))
}

fn answer(result: Result<Option<String>, String>) -> Prepared {
    match result {
        Ok(quarantine) => Prepared { error: None, quarantine },
        Err(error) => Prepared { error: Some(error), quarantine: None },
    }
}

fn read<T: serde::de::DeserializeOwned>(input: impl Read) -> Result<T, String> {
    let mut text = Vec::new();
    input.take(MAX_REQUEST_BYTES).read_to_end(&mut text).map_err(|e| e.to_string())?;
    serde_json::from_slice(&text).map_err(|e| format!("the request is not understood: {e}"))
}

fn prepare_root(root: &Path, asked: &Prepare) -> Result<Option<String>, String> {
    let private = Private::open(root).map_err(|e: AgentError| crate::applier::explain(&e))?;
    let said = |e: std::io::Error| e.to_string();
    match claim::read(&private).map_err(said)? {
        Some(claim) if claim.session != asked.claim.session && !asked.force => return Err(claim::describe(&claim)),
        _ => {}
    }
    let moved = match asked.holdings {
        Holdings::None => None,
        Holdings::Adopt => {
            super::census::refuse_foreign_links(&private)?;
            claim::set_adopting(&private, true).map_err(said)?;
            None
        }
        Holdings::Quarantine => Some(quarantine(&private)?),
    };
    claim::write(&private, &asked.claim).map_err(said)?;
    Ok(moved)
}

/// Moves everything below the root into a directory in quarantine; returns its path below the root.
fn quarantine(private: &Private) -> Result<String, String> {
    let said = |e: rustix::io::Errno| e.to_string();
    let deadline = Instant::now() + AGENT_END;
    let _lock = loop {
        match private.lock().map_err(|e| e.to_string())? {
            Some(lock) => break lock,
            None if Instant::now() < deadline => std::thread::sleep(AGENT_POLL),
            None => return Err("a worker is still connected to this root; stop its session".into()),
        }
    };
    // What the index tells is not true any more.
    private.take_clean_marker().map_err(|e| e.to_string())?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (name, to) = make_numbered(private, now).map_err(said)?;
    for (from, except) in [(&private.root, PRIVATE), (&private.parked, b"".as_slice())] {
        for entry in Dir::read_from(from).map_err(said)? {
            let entry = entry.map_err(said)?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b".." | b"lost+found") || name.to_bytes() == except {
                continue;
            }
            rustix::fs::renameat_with(from, name, &to, name, RenameFlags::NOREPLACE)
                .map_err(|e| format!("{} cannot be moved to quarantine: {e}", name.to_bytes().escape_ascii()))?;
        }
    }
    rustix::fs::syncfs(&private.root).map_err(said)?;
    Ok(format!(".gsync/quarantine/{name}"))
}

fn make_numbered(private: &Private, now: u64) -> rustix::io::Result<(String, std::os::fd::OwnedFd)> {
    for number in 0..1000u32 {
        let name = format!("{now}-{number}-before");
        match rustix::fs::mkdirat(&private.quarantine, name.as_str(), Mode::RWXU) {
            Err(rustix::io::Errno::EXIST) => {}
            Err(e) => return Err(e),
            Ok(()) => {
                let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
                let dir = rustix::fs::openat(&private.quarantine, name.as_str(), flags, Mode::empty())?;
                return Ok((name, dir));
            }
        }
    }
    Err(rustix::io::Errno::EXIST)
}

fn release_root(root: &Path, asked: &Release) -> Result<(), String> {
    let private = Private::open(root).map_err(|e| crate::applier::explain(&e))?;
    let claim = claim::read(&private).map_err(|e| e.to_string())?;
    if claim.is_some_and(|claim| claim.session == asked.session) {
        claim::remove(&private).map_err(|e| e.to_string())?;
    }
    remove_unused(&private);
    Ok(())
}

/// Removes `.gsync/` when no session ever wrote here: only empty directories and the lock.
fn remove_unused(private: &Private) {
    let Ok(Some(_lock)) = private.lock() else { return };
    let used = |name: &[u8]| name.starts_with(b"index") || name.starts_with(b"state-") || name.starts_with(b"agent");
    let Ok(entries) = Dir::read_from(&private.base) else { return };
    if entries.flatten().any(|entry| used(entry.file_name().to_bytes())) {
        return;
    }
    // A directory that is not empty is not removed, and keeps `.gsync/` too.
    for name in ["stage", "made", "relink", "parked", "quarantine"] {
        if rustix::fs::unlinkat(&private.base, name, AtFlags::REMOVEDIR).is_err() {
            return;
        }
    }
    let _ = rustix::fs::unlinkat(&private.base, "lock", AtFlags::empty());
    let _ = rustix::fs::unlinkat(&private.root, PRIVATE, AtFlags::REMOVEDIR);
}
