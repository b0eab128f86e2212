//! Where our own programs are.

use std::path::{Path, PathBuf};

/// Finds programs: in a given directory, else beside the running program, else in PATH.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Programs {
    dirs: Vec<PathBuf>,
}

impl Programs {
    /// Looks only in this directory.
    pub fn in_dir(dir: PathBuf) -> Programs {
        Programs { dirs: vec![dir] }
    }

    /// Looks beside the running program.
    pub fn beside_this() -> Programs {
        let own = std::env::current_exe().ok();
        Programs { dirs: own.as_deref().and_then(Path::parent).map(Into::into).into_iter().collect() }
    }

    /// Returns the path of a program; its bare name, which is searched in PATH when it is started, if it is in none of
    /// the directories.
    pub fn find(&self, name: &str) -> PathBuf {
        let found = self.dirs.iter().map(|dir| dir.join(name)).find(|path| path.is_file());
        found.unwrap_or_else(|| name.into())
    }
}
