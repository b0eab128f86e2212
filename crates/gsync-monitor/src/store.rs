//! Which store a node has.

use std::path::Path;
use std::sync::Arc;

use cluster::{Embedded, Etcd, Registry, cluster_file};

use crate::error::MonitorError;
use crate::paths::StateDir;

/// Opens the store that the cluster file tells of, or the embedded one. Refuses to change from one to the other while
/// there are sessions in the other one: they would stop replicating without a word.
///
/// # Errors
/// [`MonitorError`].
pub async fn open(state: &StateDir, file: Option<&Path>, node: &str) -> Result<Registry, MonitorError> {
    let lease = state.etcd_lease();
    let Some(file) = file else {
        if lease.exists() {
            return Err(MonitorError::NoClusterFile { lease });
        }
        return Ok(Registry::new(Arc::new(Embedded::open(&state.store())?)));
    };
    let mut options = cluster_file::read(file, node)?;
    let store = state.store();
    if store.exists() {
        let declared = Registry::new(Arc::new(Embedded::open(&store)?)).declared().await?;
        if !declared.sessions.is_empty() {
            return Err(MonitorError::Embedded { store, cluster_file: file.into() });
        }
    }
    options.lease_file = Some(lease);
    tracing::info!(file = %file.display(), endpoints = options.endpoints.join(","), "the store is in etcd");
    Ok(Registry::new(Arc::new(Etcd::open(options).await?)))
}
