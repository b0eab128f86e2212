//! Adopting an older copy: which files over there have the content already, and what is over there only.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use protocol::agent::{Batch, Candidate, Examined, Item, MAX_CANDIDATES, Outcome, Request, Response, Seen};
use protocol::brick::{Look, Names};
use protocol::{Gfid, Object, Place};
use syncer::{Control, Source};

use crate::brick::Brick;
use crate::core::one_batch;
use crate::error::WorkerError;
use crate::event::TransferState;

/// How long a file waits for its directory before it is sent without looking for an older copy.
const DIRECTORY_PATIENCE: Duration = Duration::from_secs(60);

/// Names that were left over are tried again so often while that helps: a directory goes after what is in it.
const MAX_TRIES: usize = 4096;

/// Names that one sweep remembers.
const MAX_LISTED: usize = 100_000;

/// Names in one batch.
const MAX_PART: usize = 512;

/// A file to be sent unless the secondary has it, and how long it has been waiting.
pub type Waiting = (Source, Duration);

/// Has the secondary take over what it has of these files. Returns those that are to be sent, and what became of the
/// others.
///
/// # Errors
/// The way to the brick or to the secondary is broken.
pub async fn adopt(
    brick: &Brick,
    control: &Control,
    files: Vec<Waiting>,
) -> Result<(Vec<Source>, Vec<(Gfid, TransferState)>), WorkerError> {
    let (mut to_send, mut settled) = (Vec::new(), Vec::new());
    let mut files = files.into_iter().peekable();
    while files.peek().is_some() {
        let part: Vec<Waiting> = files.by_ref().take(MAX_CANDIDATES).collect();
        let (send, done) = adopt_part(brick, control, part).await?;
        to_send.extend(send);
        settled.extend(done);
    }
    Ok((to_send, settled))
}

async fn adopt_part(
    brick: &Brick,
    control: &Control,
    files: Vec<Waiting>,
) -> Result<(Vec<Source>, Vec<(Gfid, TransferState)>), WorkerError> {
    let names = brick.names(files.iter().map(|(source, _)| source.gfid).collect()).await?;
    let candidates = files.iter().zip(names).map(|((source, _), names)| {
        let places = match names {
            Names::Alive(_, places) => places,
            Names::Gone | Names::Unrecorded => Vec::new(),
        };
        let size = Object::read_stat(source.fd.as_fd()).map_or(u64::MAX, |object| object.size);
        Candidate { gfid: source.gfid, places, size }
    });
    let Response::Examined(examined) = control.call(Request::Examine(candidates.collect())).await? else {
        return Err(WorkerError::Nonsense);
    };
    let (mut to_send, mut settled) = (Vec::new(), Vec::new());
    let (mut items, mut taken) = (Vec::new(), Vec::new());
    for ((source, waited), examined) in files.into_iter().zip(examined) {
        let (seen, checksum) = match examined {
            Examined::ParentMissing if waited < DIRECTORY_PATIENCE => {
                settled.push((source.gfid, TransferState::Early));
                continue;
            }
            Examined::Nothing | Examined::ParentMissing => {
                to_send.push(source);
                continue;
            }
            Examined::Differs(seen) => (seen, None),
            Examined::Read(seen, checksum) => (seen, Some(checksum)),
        };
        let (source, object) = compare(source, checksum).await?;
        items.push(adopting(&source, object.as_ref(), seen)?);
        taken.push((source, object));
    }
    if items.is_empty() {
        return Ok((to_send, settled));
    }
    let outcomes = apply(control, items).await?;
    for ((source, object), outcome) in taken.into_iter().zip(outcomes) {
        match (object, outcome) {
            (Some(object), Outcome::Done) => settled.push((source.gfid, TransferState::Current(object))),
            _ => to_send.push(source),
        }
    }
    Ok((to_send, settled))
}

/// The statement about a file over there: the same, or an older content.
fn adopting(source: &Source, object: Option<&Object>, seen: Seen) -> Result<Item, WorkerError> {
    let local = |source| WorkerError::Local { doing: "looking at a file", source };
    let now = || Object::read(source.fd.as_fd()).map_err(local);
    let same = object.is_some();
    let object = object.cloned().map_or_else(now, Ok)?;
    Ok(Item::Adopt { gfid: source.gfid, object, seen, same })
}

/// The file's attributes if its content has this checksum, and it stood still.
async fn compare(source: Source, checksum: Option<[u8; 32]>) -> Result<(Source, Option<Object>), WorkerError> {
    let Some(checksum) = checksum else { return Ok((source, None)) };
    let compared = tokio::task::spawn_blocking(move || {
        let object = read_and_compare(&source, &checksum).unwrap_or_default();
        (source, object)
    });
    compared.await.map_err(|e| WorkerError::Local { doing: "reading a file", source: std::io::Error::other(e) })
}

fn read_and_compare(source: &Source, checksum: &[u8; 32]) -> std::io::Result<Option<Object>> {
    let Some(before) = source.begin()? else { return Ok(None) };
    let fd: OwnedFd = source.fd.try_clone()?;
    let mut hasher = blake3::Hasher::new();
    let reader = OffsetReader { file: File::from(fd), offset: 0 };
    hasher.update_reader(reader)?;
    let same = hasher.finalize().as_bytes() == checksum && source.stood_still(&before)?;
    Ok(same.then_some(before.object))
}

/// Reads without moving the position of a descriptor that others use.
struct OffsetReader {
    file: File,
    offset: u64,
}

impl std::io::Read for OffsetReader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = std::os::unix::fs::FileExt::read_at(&self.file, buffer, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}

async fn apply(control: &Control, items: Vec<Item>) -> Result<Vec<Outcome>, WorkerError> {
    let mut items = items.into_iter().peekable();
    let mut outcomes = Vec::new();
    while items.peek().is_some() {
        let batch = Batch { items: one_batch(&mut items), gone: Vec::new() };
        let Response::Applied { items, .. } = control.call(Request::Apply(batch)).await? else {
            return Err(WorkerError::Nonsense);
        };
        outcomes.extend(items);
    }
    Ok(outcomes)
}

/// What a sweep over the secondary found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Swept {
    /// Names that have to be looked at, with the objects that are there over there.
    pub stale: Vec<(Place, Vec<Gfid>)>,
    /// Something cannot be told yet: sweep again later.
    pub is_unclear: bool,
    /// Objects that went to quarantine.
    pub left_over: u64,
}

/// What is to be done about one name over there.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Verdict {
    /// It is right.
    Right,
    /// The primary has something else there, or the object elsewhere: it has to be stated.
    Stale(Vec<Gfid>),
    /// The primary does not have it.
    LeftOver,
    /// It cannot be told yet.
    Unclear,
}

/// Decides about a name. Pure.
fn judge(listed: Option<Gfid>, look: &Look, names: Option<&Names>) -> Verdict {
    match (look, listed) {
        (Look::Present(there, _), Some(listed)) if *there == listed => Verdict::Right,
        (Look::Present(there, _), listed) => Verdict::Stale([Some(*there), listed].into_iter().flatten().collect()),
        (Look::Absent, None) => Verdict::LeftOver,
        (Look::Absent, Some(listed)) => match names {
            Some(Names::Gone) => Verdict::LeftOver,
            Some(Names::Alive(..)) => Verdict::Stale(vec![listed]),
            Some(Names::Unrecorded) | None => Verdict::Unclear,
        },
        (Look::Unrecorded | Look::Failed(_), _) => Verdict::Unclear,
    }
}

/// Goes through all names over there and has those moved to quarantine that the primary does not have.
///
/// # Errors
/// The way to the brick or to the secondary is broken.
pub async fn sweep(brick: &Brick, control: &Control) -> Result<Swept, WorkerError> {
    // What an index that is being made does not have yet is not gone.
    brick.barrier().await?;
    let mut swept = Swept::default();
    let mut not_empty = Vec::new();
    loop {
        let Response::Swept { names: listed, done } = control.call(Request::Sweep).await? else {
            return Err(WorkerError::Nonsense);
        };
        let mut left_over = Vec::new();
        for ((place, there), verdict) in judge_all(brick, listed).await? {
            match verdict {
                Verdict::Right => {}
                Verdict::Stale(mentions) => swept.stale.push((place, mentions)),
                Verdict::LeftOver => left_over.push((place, there)),
                Verdict::Unclear => swept.is_unclear = true,
            }
        }
        not_empty.extend(quarantine(control, left_over, &mut swept).await?);
        // Back-pressure instead of memory: the rest is for the next sweep.
        if done || swept.stale.len() + not_empty.len() > MAX_LISTED {
            swept.is_unclear |= !done;
            break;
        }
    }
    for _ in 0..MAX_TRIES {
        let before = not_empty.len();
        not_empty = quarantine(control, not_empty, &mut swept).await?;
        if not_empty.is_empty() || not_empty.len() == before {
            break;
        }
    }
    swept.is_unclear |= !not_empty.is_empty();
    Ok(swept)
}

async fn judge_all(
    brick: &Brick,
    listed: Vec<(Place, Option<Gfid>)>,
) -> Result<Vec<((Place, Option<Gfid>), Verdict)>, WorkerError> {
    let looks = brick.look(listed.iter().map(|(place, _)| place.clone()).collect()).await?;
    let absent = listed.iter().zip(&looks).filter(|(_, look)| matches!(look, Look::Absent));
    let asked: Vec<Gfid> = absent.filter_map(|((_, gfid), _)| *gfid).collect();
    let names = brick.names(asked.clone()).await?;
    let lives: std::collections::HashMap<Gfid, Names> = asked.into_iter().zip(names).collect();
    let judged = listed.into_iter().zip(looks).map(|((place, there), look)| {
        let verdict = judge(there, &look, there.and_then(|gfid| lives.get(&gfid)));
        ((place, there), verdict)
    });
    Ok(judged.collect())
}

/// Returns directories that still hold something.
async fn quarantine(
    control: &Control,
    names: Vec<(Place, Option<Gfid>)>,
    swept: &mut Swept,
) -> Result<Vec<(Place, Option<Gfid>)>, WorkerError> {
    let mut not_empty = Vec::new();
    for part in names.chunks(MAX_PART) {
        let item = |(place, gfid): &(Place, Option<Gfid>)| Item::LeftOver { place: place.clone(), gfid: *gfid };
        let outcomes = apply(control, part.iter().map(item).collect()).await?;
        for (name, outcome) in part.iter().zip(outcomes) {
            match outcome {
                Outcome::Done => swept.left_over += 1,
                Outcome::NotEmpty => not_empty.push(name.clone()),
                other => {
                    tracing::warn!(name = %name.0.name.escape_ascii(), ?other, "something left over stays for now");
                    swept.is_unclear = true;
                }
            }
        }
    }
    Ok(not_empty)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_primary_surely_has_not_is_left_over() {
        let (a, b) = (Gfid([1; 16]), Gfid([2; 16]));
        let object = || Object {
            kind: protocol::Kind::File,
            mode: 0,
            uid: 0,
            gid: 0,
            nlink: 1,
            rdev: 0,
            size: 0,
            mtime: protocol::Time { secs: 0, nanos: 0 },
            ctime: protocol::Time { secs: 0, nanos: 0 },
            target: Vec::new(),
            xattrs: Vec::new(),
        };
        let here = |gfid| Look::Present(gfid, object());
        let alive = Names::Alive(object(), Vec::new());
        for (listed, look, names, expected) in [
            (Some(a), here(a), None, Verdict::Right),
            (Some(a), here(b), None, Verdict::Stale(vec![b, a])),
            (None, here(b), None, Verdict::Stale(vec![b])),
            (None, Look::Absent, None, Verdict::LeftOver),
            (Some(a), Look::Absent, Some(Names::Gone), Verdict::LeftOver),
            (Some(a), Look::Absent, Some(alive), Verdict::Stale(vec![a])),
            (Some(a), Look::Absent, Some(Names::Unrecorded), Verdict::Unclear),
            (Some(a), Look::Absent, None, Verdict::Unclear),
            (None, Look::Unrecorded, None, Verdict::Unclear),
            (Some(a), Look::Failed(5), None, Verdict::Unclear),
        ] {
            assert_eq!(judge(listed, &look, names.as_ref()), expected, "{listed:?} {look:?}");
        }
    }
}
