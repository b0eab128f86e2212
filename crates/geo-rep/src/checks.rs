//! What has to be true of the directories of a session on this machine, before anything is changed.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use cluster::Secondary;
use protocol::check::Location;

use crate::address::Declared;
use crate::exit::problem;

/// Returns the primary directory, absolute and without links.
pub fn primary(path: &Path) -> anyhow::Result<PathBuf> {
    let shown = path.display();
    let found = match fs::canonicalize(path) {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let hint = "create it, or mount the file system that it is on";
            return Err(problem(format!("the primary directory {shown} does not exist"), hint));
        }
        Err(error) => {
            return Err(problem(format!("the primary {shown} cannot be looked at: {error}"), "check its path"));
        }
    };
    if !found.is_dir() {
        return Err(problem(format!("the primary {shown} is not a directory"), "name the directory to be replicated"));
    }
    if let Err(error) = fs::read_dir(&found) {
        let hint = "the recorder reads it as root; are you in a container, or is it on FUSE or NFS with root squashed?";
        return Err(problem(format!("the primary {shown} cannot be read: {error}"), hint));
    }
    if found == Path::new("/") {
        let hint = "name a directory below; a file system that is mounted there is no part of it";
        return Err(problem("the root directory cannot be replicated", hint));
    }
    Ok(found)
}

/// Returns a local secondary, absolute and without links; it need not be there yet.
pub fn local_secondary(path: &Path) -> anyhow::Result<PathBuf> {
    let shown = path.display();
    match fs::canonicalize(path) {
        Ok(found) if found.is_dir() => Ok(found),
        Ok(_) => Err(problem(format!("the secondary {shown} is not a directory"), "name an empty directory")),
        Err(error) if error.kind() == ErrorKind::NotFound && fs::symlink_metadata(path).is_err() => {
            let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
                return Err(problem(format!("the secondary {shown} cannot be used"), "name an empty directory"));
            };
            match fs::canonicalize(parent) {
                Ok(parent) if parent.is_dir() => Ok(parent.join(name)),
                _ => Err(problem(
                    format!("neither the secondary {shown} nor the directory above it exists"),
                    "create it, or mount the file system that it is on",
                )),
            }
        }
        Err(error) => Err(problem(format!("the secondary {shown} cannot be looked at: {error}"), "check its path")),
    }
}

/// Refuses directories that lie in each other.
pub fn are_apart(primary: &Path, secondary: &Path) -> anyhow::Result<()> {
    let (first, second) = (primary.display(), secondary.display());
    let hint = "name two directories of which neither is inside the other";
    if primary == secondary {
        return Err(problem(format!("primary and secondary are the same directory, {first}"), hint));
    }
    if secondary.starts_with(primary) {
        return Err(problem(format!("the secondary {second} is inside the primary {first}"), hint));
    }
    if primary.starts_with(secondary) {
        return Err(problem(format!("the primary {first} is inside the secondary {second}"), hint));
    }
    Ok(())
}

/// Refuses to replicate our own state, which changes with each change.
pub fn is_apart_from_state(what: &str, path: &Path, own: &[&Path]) -> anyhow::Result<()> {
    for dir in own {
        let dir = fs::canonicalize(dir).unwrap_or_else(|_| dir.to_path_buf());
        let overlaps = located(path).zip(located(&dir)).is_some_and(|(a, b)| a.overlaps(&b));
        if overlaps || dir.starts_with(path) || path.starts_with(&dir) {
            let text = format!("the {what} {} and our own directory {} overlap", path.display(), dir.display());
            return Err(problem(text, "choose another --state-dir or --run-dir, or another directory"));
        }
    }
    Ok(())
}

/// Where a directory is, whatever it is mounted as; of a missing one, where it would be.
pub fn located(path: &Path) -> Option<Location> {
    let existing = path.ancestors().find(|above| above.exists())?;
    let rest = path.strip_prefix(existing).ok()?;
    let (device, base) = posix::location::locate(existing).ok()?;
    let whole = if rest.as_os_str().is_empty() { base } else { base.join(rest) };
    Some(Location { device, path: whole.display().to_string() })
}

/// Refuses a secondary that overlaps with a directory of another session.
pub fn is_free(secondary: &Secondary, declared: &Declared) -> anyhow::Result<()> {
    let overlap = |a: &Path, b: &Path| a.starts_with(b) || b.starts_with(a);
    for session in &declared.sessions {
        let name = &session.name;
        if session.secondary.is_same(secondary) {
            let text = format!("{secondary} is the secondary of session '{name}' already");
            return Err(problem(text, "give each session a secondary of its own"));
        }
        let Secondary::Local { path } = secondary else { continue };
        if let Secondary::Local { path: other } = &session.secondary
            && overlap(path, other)
        {
            let text = format!("{secondary} overlaps with {}, the secondary of session '{name}'", other.display());
            return Err(problem(text, "give each session a secondary of its own"));
        }
        let bricks = declared.volume(session).map(|volume| volume.bricks.as_slice()).unwrap_or_default();
        if let Some(brick) = bricks.iter().find(|brick| overlap(path, &brick.path)) {
            let text = format!("{secondary} overlaps with {}, the primary of session '{name}'", brick.path.display());
            return Err(problem(text, "a secondary is written by its session only; name another directory"));
        }
    }
    Ok(())
}

/// Refuses a name that cannot be one.
pub fn is_possible_name(name: &str) -> anyhow::Result<()> {
    if cluster::ids::is_name(name) {
        return Ok(());
    }
    let hint = "a name has 1 to 64 letters, digits, '.', '_' or '-' and begins with a letter or digit";
    Err(problem(format!("'{name}' cannot name a session"), hint))
}

/// Refuses a name that is taken; without a name one is made from the directory's.
pub fn name(wanted: Option<&str>, primary: &Path, declared: &Declared) -> anyhow::Result<String> {
    let is_taken = |name: &str| declared.sessions.iter().any(|session| session.name == name);
    let Some(name) = wanted else {
        let base = cluster::ids::to_name(&primary.file_name().unwrap_or_default().to_string_lossy());
        let numbered = (2u32..).map(|number| format!("{base}-{number}"));
        let free = std::iter::once(base.clone()).chain(numbered).find(|name| !is_taken(name));
        return Ok(free.unwrap_or(base));
    };
    if is_taken(name) {
        return Err(problem(format!("there is already a session named '{name}'"), "choose another one with --name"));
    }
    Ok(name.to_owned())
}

/// Whether a program can be started.
pub fn is_installed(program: &Path) -> bool {
    if program.is_absolute() {
        return program.is_file();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// The version that an rsync says of itself; `None` when it cannot be started.
pub fn rsync_version(program: &Path) -> Option<String> {
    let output =
        std::process::Command::new(program).arg("--version").stdin(std::process::Stdio::null()).output().ok()?;
    protocol::rsync::parse_version(&String::from_utf8_lossy(&output.stdout)).map(ToOwned::to_owned)
}
