//! Carries contents: opens files, asks which the secondary has, sends the others.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};

use protocol::agent::{Batch, Item, Outcome, Request, Response};
use protocol::{Gfid, Object, Version};
use rustix::io::Errno;
use syncer::engine::{Sent, SentState};
use syncer::{Control, Engine, Source};

use crate::adoption::{Waiting, adopt};
use crate::brick::Brick;
use crate::error::WorkerError;
use crate::event::{TransferJob, TransferState, Transferred};
use crate::journal::now_secs;

/// A store through a mapping into a page that is dirty already changes no time; the kernel writes pages out after
/// 30 s, and looks for them every 5 s. With a wide margin.
const SETTLED_AFTER_SECS: u64 = 120;

/// A file to be sent, open.
struct Opened {
    job: TransferJob,
    fd: OwnedFd,
    /// Equal times do not prove equal content.
    doubted: bool,
}

/// Carries out one [`Effect::Transfer`](crate::event::Effect::Transfer). Also returns how many bytes were read.
///
/// # Errors
/// The way to the brick or to the secondary is broken.
pub async fn transfer(
    brick: &Brick,
    control: &Control,
    engine: &dyn Engine,
    adopting: bool,
    jobs: Vec<TransferJob>,
) -> Result<(Vec<Transferred>, u64), WorkerError> {
    let gfids: Vec<Gfid> = jobs.iter().map(|job| job.gfid).collect();
    let opened = brick.open(&gfids).await?;
    let mut states = HashMap::new();
    let mut files = Vec::new();
    for (job, opened) in jobs.into_iter().zip(opened) {
        match opened {
            Ok((fd, doubted)) => files.push(Opened { job, fd, doubted }),
            Err(errno) => drop(states.insert(job.gfid, unopened(errno))),
        }
    }
    let waiting = skip_current(control, files, &mut states).await?;
    let sources = if adopting && !waiting.is_empty() {
        let (sources, settled) = adopt(brick, control, waiting).await?;
        states.extend(settled);
        sources
    } else {
        waiting.into_iter().map(|(source, _)| source).collect()
    };
    let mut bytes = 0;
    for Sent { gfid, state, bytes: read } in engine.send(sources).await? {
        bytes += read;
        let state = match state {
            SentState::Staged { object, whole } => TransferState::Staged { object, whole },
            SentState::Busy => TransferState::Busy,
            SentState::Failed { reason, .. } => TransferState::Failed(reason),
        };
        states.insert(gfid, state);
    }
    let silent = || TransferState::Failed("the engine said nothing of it".into());
    let file = |gfid| Transferred { gfid, state: states.remove(&gfid).unwrap_or_else(silent) };
    Ok((gfids.into_iter().map(file).collect(), bytes))
}

fn unopened(errno: i32) -> TransferState {
    match Errno::from_raw_os_error(errno) {
        Errno::NOENT | Errno::STALE | Errno::LOOP | Errno::ISDIR | Errno::NXIO => TransferState::Missing,
        other => TransferState::Failed(format!("opening the file on the primary: {other}")),
    }
}

/// Whether equal times prove equal content: no page that was dirty when the times changed can still be.
fn is_settled(object: &Object) -> bool {
    u64::try_from(object.ctime.secs).is_ok_and(|changed| changed + SETTLED_AFTER_SECS < now_secs())
}

/// Files that need not be hard are sent only if the secondary has another version.
async fn skip_current(
    control: &Control,
    files: Vec<Opened>,
    states: &mut HashMap<Gfid, TransferState>,
) -> Result<Vec<Waiting>, WorkerError> {
    let mut items = Vec::new();
    let mut asked: Vec<(Gfid, Object)> = Vec::new();
    for Opened { job, fd, doubted } in &files {
        let Ok(object) = Object::read_stat(fd.as_fd()) else { continue };
        if !doubted && (!job.hard || is_settled(&object)) {
            items.push(Item::Have { gfid: job.gfid, version: Version::of(&object) });
            asked.push((job.gfid, object));
        }
    }
    if !items.is_empty() {
        let batch = Batch { items, gone: Vec::new() };
        let Response::Applied { items, .. } = control.call(Request::Apply(batch)).await? else {
            return Err(WorkerError::Nonsense);
        };
        for ((gfid, object), outcome) in asked.into_iter().zip(items) {
            if outcome == Outcome::Done {
                states.insert(gfid, TransferState::Current(object));
            }
        }
    }
    let source = |Opened { job, fd, .. }: Opened| {
        (Source { gfid: job.gfid, fd, accept_unstable: job.accept_unstable }, job.waited)
    };
    Ok(files.into_iter().filter(|Opened { job, .. }| !states.contains_key(&job.gfid)).map(source).collect())
}
