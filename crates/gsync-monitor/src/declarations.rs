//! What is declared, read again whenever it changes. A store on other machines may be away for a while: then what was
//! read last holds.

use std::time::Duration;

use cluster::registry::Declared;
use cluster::store::Watch;
use cluster::{Registry, RegistryError, StoreError};
use tokio::sync::{mpsc, oneshot};

/// Between two attempts to reach a store that is away.
const RETRY: Duration = Duration::from_secs(1);

/// What is declared now, and who asked for it to be read. An error is final.
pub type News = Result<(Declared, Option<oneshot::Sender<()>>), RegistryError>;

/// Sends news until nobody wants them. Somebody who asks is dropped when the store is away.
pub async fn follow(registry: Registry, mut refreshes: mpsc::Receiver<oneshot::Sender<()>>, news: mpsc::Sender<News>) {
    let mut changes: Option<Watch> = None;
    let mut asker = None;
    let mut is_away = false;
    loop {
        match read(&registry, &mut changes).await {
            Ok(declared) => {
                if std::mem::take(&mut is_away) {
                    tracing::info!("the store is back");
                }
                if news.send(Ok((declared, asker.take()))).await.is_err() {
                    return;
                }
            }
            Err(RegistryError::Store(error @ (StoreError::Unreachable { .. } | StoreError::Refused { .. }))) => {
                if !std::mem::replace(&mut is_away, true) {
                    tracing::warn!(%error, "the store is away; everything goes on as it was declared before");
                }
                asker = None;
                tokio::time::sleep(RETRY).await;
                continue;
            }
            Err(error) => {
                let _ = news.send(Err(error)).await;
                return;
            }
        }
        tokio::select! {
            asked = refreshes.recv() => match asked {
                Some(asked) => asker = Some(asked),
                None => return,
            },
            change = next(&mut changes) => {
                if change.is_none() {
                    changes = None;
                }
            }
        }
    }
}

async fn next(changes: &mut Option<Watch>) -> Option<cluster::store::Change> {
    changes.as_mut()?.next().await
}

/// Watches first and reads then, so that no change falls in between.
async fn read(registry: &Registry, changes: &mut Option<Watch>) -> Result<Declared, RegistryError> {
    if changes.is_none() {
        *changes = Some(registry.watch().await?);
    }
    registry.declared().await
}
