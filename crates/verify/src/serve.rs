//! The answering end of a channel.

use std::io::{Read, Write};
use std::path::Path;

use protocol::FrameError;
use protocol::frame::{read_frame, write_frame};

use crate::request::Request;
use crate::wire::{self, Answer, Ask, BATCH_BYTES, WireEntry};
use crate::{Entry, Outcome, TreePath, VerifyError, Walk};

/// The most bytes of paths that one request may have.
const REQUEST_BYTES_MAX: usize = 256 << 20;

/// What an entry takes at least besides its path and its variable parts.
const ENTRY_BYTES: usize = 100;

/// Answers what is asked about the tree at `root`, until the client closes the channel.
///
/// Only reads, and only below `root`.
///
/// # Errors
/// When the channel breaks or carries nonsense. A root that cannot be opened is told to the client.
pub fn serve(root: &Path, mut input: impl Read, mut output: impl Write) -> Result<(), VerifyError> {
    wire::greet(&mut input, &mut output)?;
    while let Some(request) = read_request(&mut input)? {
        match Walk::open(root, request) {
            Ok(walk) => send_entries(walk, &mut output)?,
            Err(e) => write_frame(&mut output, &Answer::Failed { reason: with_causes(&e) })?,
        }
    }
    Ok(())
}

/// `None` at the end.
fn read_request(input: &mut impl Read) -> Result<Option<Request>, VerifyError> {
    let mut all = Vec::new();
    let mut bytes = 0;
    loop {
        match read_frame(input) {
            Err(FrameError::Closed) if all.is_empty() => return Ok(None),
            Err(e) => return Err(e.into()),
            Ok(Ask::Whole) => return Ok(Some(Request::Whole)),
            Ok(Ask::Some { looks, last }) => {
                bytes += looks.iter().map(|(path, _)| path.len() + size_of::<crate::Look>()).sum::<usize>();
                if bytes > REQUEST_BYTES_MAX {
                    return Err(VerifyError::RequestTooLong { limit_bytes: REQUEST_BYTES_MAX });
                }
                for look in looks {
                    let after = || VerifyError::Disorder { after: TreePath::root() };
                    all.push(wire::unpack_look(look).ok_or_else(after)?);
                }
                if last {
                    return Ok(Some(Request::some(all)));
                }
            }
        }
    }
}

fn send_entries(walk: Walk, output: &mut impl Write) -> Result<(), VerifyError> {
    let (mut batch, mut bytes, mut objects) = (Vec::new(), 0, 0);
    let mut before = TreePath::root();
    for entry in walk {
        let path = entry.path.clone();
        bytes += size_of_entry(&entry);
        batch.push(WireEntry::pack(entry, &before));
        before = path;
        objects += 1;
        if bytes >= BATCH_BYTES {
            write_frame(output, &Answer::Entries(std::mem::take(&mut batch)))?;
            bytes = 0;
        }
    }
    if !batch.is_empty() {
        write_frame(output, &Answer::Entries(batch))?;
    }
    Ok(write_frame(output, &Answer::End { objects })?)
}

/// About how many bytes an entry takes in a frame.
fn size_of_entry(entry: &Entry) -> usize {
    let variable = match &entry.outcome {
        Outcome::Seen(facts) => {
            let xattrs: usize = facts.xattrs.iter().map(|(name, value)| name.len() + value.head.len() + 50).sum();
            facts.target.len() + xattrs
        }
        Outcome::Mount | Outcome::Unreadable { .. } => 0,
    };
    ENTRY_BYTES + entry.path.as_bytes().len() + variable
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
