//! Watching a part of etcd over broken connections, other members and compactions, without missing a change.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Error, EventType, WatchOptions, WatchResponse, WatchStream};
use tokio::time::sleep;

use super::pool::{CALL_LIMIT, Pool};
use super::{entry, revision_now};
use crate::feed::{Feed, Subscription};
use crate::store::{Change, StoreError};

/// Before a stream that broke is opened again.
const PAUSE: Duration = Duration::from_millis(200);

/// What became of a stream.
enum End {
    /// Open it again where it was.
    Broken,
    /// The changes after the last one are not kept any more.
    Compacted,
    /// Nobody watches any more.
    Unwatched,
}

/// Begins to watch all keys of etcd that begin with `prefix`; `strip` bytes of them are left out.
pub(super) async fn watch(pool: &Arc<Pool>, prefix: String, strip: usize) -> Result<Subscription, StoreError> {
    let next = revision_now(pool, &prefix, CALL_LIMIT).await? + 1;
    Ok(watch_from(pool, &prefix, strip, next))
}

/// The same from a revision on.
pub(super) fn watch_from(pool: &Arc<Pool>, prefix: &str, strip: usize, next: i64) -> Subscription {
    let feed = Feed::new();
    let subscription = feed.subscribe();
    let watcher = Watcher { pool: Arc::clone(pool), feed, prefix: prefix.into(), strip, next };
    tokio::spawn(watcher.run());
    subscription
}

struct Watcher {
    pool: Arc<Pool>,
    feed: Feed,
    prefix: String,
    strip: usize,
    /// The first revision whose changes were not handed out.
    next: i64,
}

impl Watcher {
    async fn run(mut self) {
        while self.feed.is_watched() && !self.pool.is_closed() {
            match self.follow().await {
                End::Unwatched => return,
                End::Broken => sleep(PAUSE).await,
                End::Compacted => {
                    // From here on nothing is missed; what was before, the watcher finds by listing after it is told.
                    match revision_now(&self.pool, &self.prefix, CALL_LIMIT).await {
                        Ok(revision) => {
                            self.next = revision + 1;
                            self.feed.publish(Change::Lost);
                        }
                        Err(_) => sleep(PAUSE).await,
                    }
                }
            }
        }
    }

    async fn follow(&mut self) -> End {
        let mut moves = self.pool.moves();
        let (mut stream, move_number) = match self.open().await {
            Ok(open) => open,
            Err(error) => {
                tracing::debug!(%error, prefix = self.prefix, "cannot watch");
                return End::Broken;
            }
        };
        loop {
            let message = tokio::select! {
                () = self.feed.unwatched() => return End::Unwatched,
                _ = moves.changed() => return End::Broken,
                message = stream.message() => message,
            };
            match message {
                Ok(Some(response)) if response.compact_revision() > 0 => return End::Compacted,
                Ok(Some(response)) if response.canceled() => {
                    tracing::debug!(reason = response.cancel_reason(), prefix = self.prefix, "watch cancelled");
                    self.pool.leave(move_number).await;
                    return End::Broken;
                }
                Ok(Some(response)) => self.hand_out(&response),
                Ok(None) | Err(_) => {
                    self.pool.leave(move_number).await;
                    return End::Broken;
                }
            }
        }
    }

    async fn open(&self) -> Result<(WatchStream, usize), Error> {
        let (mut connection, move_number) = self.pool.current().await?;
        let options = WatchOptions::new().with_prefix().with_start_revision(self.next).with_progress_notify();
        let opened = tokio::select! {
            opened = connection.watch.watch(self.prefix.as_bytes(), Some(options)) => opened,
            () = sleep(CALL_LIMIT) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
        };
        if opened.is_err() {
            self.pool.leave(move_number).await;
        }
        Ok((opened?, move_number))
    }

    fn hand_out(&mut self, response: &WatchResponse) {
        for event in response.events() {
            let Some(kv) = event.kv() else { continue };
            self.next = self.next.max(kv.mod_revision() + 1);
            let Some(entry) = entry(kv, self.strip) else { continue };
            self.feed.publish(match event.event_type() {
                EventType::Put => Change::Put(entry),
                EventType::Delete => Change::Deleted { key: entry.key, revision: entry.revision },
            });
        }
        // A sign of life: nothing happened up to here.
        if response.events().is_empty() && !response.created() {
            let revision = response.header().map_or(0, |header| header.revision());
            self.next = self.next.max(revision + 1);
        }
    }
}
