//! Follows the brick's changelog from a thread of its own.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use changelog::{JournalReader, JournalWatcher, Position, Record, Unproven};
use tokio::sync::mpsc;

use crate::error::WorkerError;

/// Records in one delivery.
const BATCH_RECORDS: usize = 2000;

/// Deliveries that may wait: what is read ahead is bounded.
const QUEUE: usize = 2;

/// How often it is looked without a hint that there is something.
const POLL: Duration = Duration::from_millis(500);

/// How often an idle reader says that it is at the tail.
const REPORT: Duration = Duration::from_secs(5);

/// The recorder writes down what happened within this time when it is not crawling.
const RECORDER_LAG_SECS: u64 = 2;

/// Some records.
#[derive(Debug, Default)]
pub struct Delivery {
    /// What may be missing before these records, and why; `None`: nothing.
    pub unproven: Option<String>,
    /// The records.
    pub records: Vec<(Position, Record)>,
    /// Behind the last.
    pub next: Position,
    /// Nothing more is there for now.
    pub at_tail: bool,
    /// All changes before this time (seconds since 1970) are among what was delivered so far; 0 when not known.
    pub read_until: u64,
}

/// Starts to follow a changelog; ends when the receiver is dropped.
///
/// # Errors
/// When the thread cannot be started. What goes wrong later is delivered as an error, which is the last delivery.
pub fn follow(dir: PathBuf, from: Position) -> Result<mpsc::Receiver<Result<Delivery, WorkerError>>, WorkerError> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    thread::Builder::new()
        .name("changelog".into())
        .spawn(move || {
            if let Err(e) = run(dir, from, &sender) {
                let _ = sender.blocking_send(Err(e));
            }
        })
        .map_err(|source| WorkerError::Local { doing: "starting a thread", source })?;
    Ok(receiver)
}

fn run(dir: PathBuf, from: Position, sender: &mpsc::Sender<Result<Delivery, WorkerError>>) -> Result<(), WorkerError> {
    // Without a watch (the system may have none left) the poll alone finds what is new.
    let watcher = JournalWatcher::new(&dir).ok();
    let mut reader = JournalReader::open(&dir, from)?;
    let mut last: Option<(Position, Instant)> = None;
    while !sender.is_closed() {
        let before = now_secs();
        let batch = reader.read(BATCH_RECORDS)?;
        let unproven = batch.unproven.first().map(|span| describe(span, batch.unproven.len()));
        let news = unproven.is_some()
            || !batch.records.is_empty()
            || last.is_none_or(|(position, at)| position != batch.next || at.elapsed() >= REPORT);
        let at_tail = batch.at_tail;
        if news {
            last = Some((batch.next, Instant::now()));
            let read_until = if at_tail { before.saturating_sub(RECORDER_LAG_SECS) } else { batch.next.after };
            let delivery = Delivery { unproven, records: batch.records, next: batch.next, at_tail, read_until };
            if sender.blocking_send(Ok(delivery)).is_err() {
                break;
            }
        }
        if at_tail {
            match &watcher {
                Some(watcher) => {
                    watcher.wait(POLL);
                }
                None => thread::sleep(POLL),
            }
        }
    }
    Ok(())
}

/// A span of time in words, for the operator; the first of so many.
fn describe(span: &Unproven, spans: usize) -> String {
    let to = span.to.map_or_else(|| "now".into(), |to| to.to_string());
    let more = if spans > 1 { format!(" (and {} more spans)", spans - 1) } else { String::new() };
    format!("the changelog is not complete between {} and {to}: {}{more}", span.from, span.reason)
}

/// Wall clock, seconds since 1970.
pub fn now_secs() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
