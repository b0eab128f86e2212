//! What has to be true of the directories of a session on this machine, before anything is changed.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use cluster::Secondary;

use crate::address::Declared;
use crate::exit::problem;

/// State of replication at the root of a secondary; such a directory is ours already.
const PRIVATE_DIR: &str = ".gsync";

/// What a new file system may have in it.
const IGNORED: &str = "lost+found";

/// What is at the secondary's place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// Nothing, in an existing directory.
    Missing,
    /// An empty directory.
    Empty,
    /// A directory that was a secondary before.
    Ours,
    /// A directory with something in it.
    Filled,
}

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
    if found == Path::new("/") {
        let hint = "name a directory below; a file system that is mounted there is no part of it";
        return Err(problem("the root directory cannot be replicated", hint));
    }
    Ok(found)
}

/// Returns a local secondary, absolute and without links, and what is there.
pub fn local_secondary(path: &Path) -> anyhow::Result<(PathBuf, Place)> {
    let shown = path.display();
    match fs::canonicalize(path) {
        Ok(found) if found.is_dir() => {
            let place = look(&found)?;
            Ok((found, place))
        }
        Ok(_) => Err(problem(format!("the secondary {shown} is not a directory"), "name an empty directory")),
        Err(error) if error.kind() == ErrorKind::NotFound && fs::symlink_metadata(path).is_err() => {
            let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
                return Err(problem(format!("the secondary {shown} cannot be used"), "name an empty directory"));
            };
            match fs::canonicalize(parent) {
                Ok(parent) if parent.is_dir() => Ok((parent.join(name), Place::Missing)),
                _ => Err(problem(
                    format!("neither the secondary {shown} nor the directory above it exists"),
                    "create it, or mount the file system that it is on",
                )),
            }
        }
        Err(error) => Err(problem(format!("the secondary {shown} cannot be looked at: {error}"), "check its path")),
    }
}

fn look(path: &Path) -> anyhow::Result<Place> {
    let mut place = Place::Empty;
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        if name == PRIVATE_DIR {
            return Ok(Place::Ours);
        }
        if name != IGNORED {
            place = Place::Filled;
        }
    }
    Ok(place)
}

/// Refuses a secondary with unknown things in it.
pub fn is_usable(place: Place, shown: &str, force: bool) -> anyhow::Result<()> {
    if place != Place::Filled || force {
        return Ok(());
    }
    let hint = "empty it or name another one; with --force it is taken as it is, and what is in the way of \
                replicated files is put into quarantine below .gsync";
    Err(problem(format!("the secondary {shown} is not empty"), hint))
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
        if dir.starts_with(path) || path.starts_with(&dir) {
            let text = format!("the {what} {} and our own directory {} overlap", path.display(), dir.display());
            return Err(problem(text, "choose another --state-dir or --run-dir, or another directory"));
        }
    }
    Ok(())
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
