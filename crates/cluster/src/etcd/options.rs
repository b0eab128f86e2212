//! How to reach etcd.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// A lead and an announcement outlive a crash by this much, unless told otherwise. Below 5 s a short stall of etcd makes
/// roles move, above 30 s nobody replicates for that long.
pub const DEFAULT_LEASE: Duration = Duration::from_secs(10);

/// Everything of ours in etcd is below this, unless told otherwise.
pub const DEFAULT_PREFIX: &str = "gsync/";

/// What is needed to use an etcd.
#[derive(Clone, PartialEq, Eq)]
pub struct EtcdOptions {
    /// Addresses of its members, `http://host:port` or `https://host:port`; at least one.
    pub endpoints: Vec<String>,
    /// For `https`.
    pub tls: Option<TlsFiles>,
    /// Name and password.
    pub user: Option<(String, String)>,
    /// Begins all keys of ours.
    pub prefix: String,
    /// How long leads and announcements outlive a crash.
    pub lease: Duration,
    /// Name of this node. Two running processes of one name do no harm, except that after a broken connection a write
    /// may fail that was made.
    pub name: String,
    /// Where the lease of this process is kept, so that the next one ends it at once instead of waiting for it to
    /// expire. To be used by one process at a time.
    pub lease_file: Option<PathBuf>,
}

/// Contents of PEM files.
#[derive(Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificates of those who vouch for etcd.
    pub ca: Vec<u8>,
    /// Our certificate and its private key, for an etcd that wants one.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl EtcdOptions {
    /// An etcd without TLS and users.
    pub fn new(endpoints: Vec<String>, name: String) -> EtcdOptions {
        EtcdOptions {
            endpoints,
            tls: None,
            user: None,
            prefix: DEFAULT_PREFIX.into(),
            lease: DEFAULT_LEASE,
            name,
            lease_file: None,
        }
    }
}

impl fmt::Debug for EtcdOptions {
    /// Without secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdOptions")
            .field("endpoints", &self.endpoints)
            .field("tls", &self.tls.is_some())
            .field("user", &self.user.as_ref().map(|(name, _)| name))
            .field("prefix", &self.prefix)
            .field("lease", &self.lease)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
