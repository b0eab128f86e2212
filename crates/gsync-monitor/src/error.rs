//! Why the monitor cannot run.

use std::io;
use std::path::{Path, PathBuf};

/// Every variant ends the monitor; it can be started again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MonitorError {
    /// Another monitor has this state directory or run directory.
    #[error("another monitor uses {}", path.display())]
    Running {
        /// The lock that it holds.
        path: PathBuf,
    },
    /// The store cannot be opened or failed.
    #[error(transparent)]
    Store(#[from] cluster::StoreError),
    /// What tells how to reach etcd cannot be used.
    #[error(transparent)]
    ClusterFile(#[from] cluster::cluster_file::ClusterFileError),
    /// There is a cluster file, and sessions are declared in the embedded store.
    #[error(
        "{} has sessions, and {} says that they are in etcd; delete them without it, or move the store away",
        store.display(),
        cluster_file.display()
    )]
    Embedded {
        /// The embedded store.
        store: PathBuf,
        /// The cluster file.
        cluster_file: PathBuf,
    },
    /// There is no cluster file, and the last monitor used one.
    #[error(
        "this node's sessions are in etcd, and there is no cluster file; give it, or remove {} to begin without",
        lease.display()
    )]
    NoClusterFile {
        /// What the last monitor left.
        lease: PathBuf,
    },
    /// What is declared cannot be read.
    #[error(transparent)]
    Registry(#[from] cluster::RegistryError),
    /// The run directory's path is so long that sockets in it could not be bound.
    #[error("the path of the run directory {} is longer than {} bytes", path.display(), crate::paths::RUN_DIR_MAX)]
    RunDirTooLong {
        /// The run directory.
        path: PathBuf,
    },
    /// A file or socket of the monitor itself.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl MonitorError {
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> MonitorError {
        move |source| MonitorError::Io { doing, path: path.into(), source }
    }
}
