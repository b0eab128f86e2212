//! A hint that a journal may have something new. The caller polls behind it: hints get lost, and network file systems
//! give none.

use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use crate::error::{Error, Result};
use crate::layout::HTIME_DIR;

/// Watches a journal's directory and its index directory.
#[derive(Debug)]
pub struct JournalWatcher {
    _watch: RecommendedWatcher,
    hints: Receiver<()>,
}

/// Watches a journal and calls a function; ends when dropped.
#[derive(Debug)]
pub struct JournalWatch {
    _watch: RecommendedWatcher,
}

impl JournalWatcher {
    /// Begins to watch.
    ///
    /// # Errors
    /// [`Error::Io`] when the directory is not there, or the system has no watch left. Poll then.
    pub fn new(dir: &Path) -> Result<JournalWatcher> {
        // One hint waiting is as good as many.
        let (sender, hints) = sync_channel(1);
        let watch = watch(dir, move || {
            sender.try_send(()).ok();
        })?;
        Ok(JournalWatcher { _watch: watch, hints })
    }

    /// Waits until something may be new, or the time is over; says which. Returns at once when something happened
    /// since the last call.
    pub fn wait(&self, timeout: Duration) -> bool {
        match self.hints.recv_timeout(timeout) {
            Ok(()) => true,
            Err(RecvTimeoutError::Timeout) => false,
            Err(RecvTimeoutError::Disconnected) => {
                // The watch died. The caller polls; it must not spin.
                std::thread::sleep(timeout);
                false
            }
        }
    }
}

impl JournalWatch {
    /// Begins to watch, and calls `hint` from a thread of its own for each event. `hint` must not block: a
    /// `tokio::sync::Notify::notify_one` does.
    ///
    /// # Errors
    /// As [`JournalWatcher::new`].
    pub fn new(dir: &Path, hint: impl FnMut() + Send + 'static) -> Result<JournalWatch> {
        Ok(JournalWatch { _watch: watch(dir, hint)? })
    }
}

fn watch(dir: &Path, mut hint: impl FnMut() + Send + 'static) -> Result<RecommendedWatcher> {
    let failed = |error: notify::Error| {
        let source = match error.kind {
            notify::ErrorKind::Io(source) => source,
            kind => std::io::Error::other(format!("{kind:?}")),
        };
        Error::io("watch", dir)(source)
    };
    let handler = move |event: notify::Result<Event>| {
        // An error may stand for lost events.
        if event.map_or(true, |event| is_change(event.kind)) {
            hint();
        }
    };
    let mut watcher = notify::recommended_watcher(handler).map_err(failed)?;
    watcher.watch(dir, RecursiveMode::NonRecursive).map_err(failed)?;
    let htime_dir = dir.join(HTIME_DIR);
    if htime_dir.is_dir() {
        watcher.watch(&htime_dir, RecursiveMode::NonRecursive).map_err(failed)?;
    }
    Ok(watcher)
}

/// Readers open and close files too; these events would wake them for ever.
fn is_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(access) => access == AccessKind::Close(AccessMode::Write),
        _ => true,
    }
}
