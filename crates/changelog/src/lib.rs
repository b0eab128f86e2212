//! The journal of one brick: reading and writing changelogs of GlusterFS.
//!
//! A *record* says which name or which object of a brick changed, a *slice* is a file of records, and a *journal* is a
//! brick's directory of slices. Its own journals have GlusterFS's format, so this crate reads both with one reader.
//!
//! Layout
//! - [`gfid`], [`record`]: what a record says
//! - [`header`], [`encoding`]: its bytes, versions 1.1 and 1.2, binary and ASCII
//! - [`mod@slice`]: one file, rolled or growing
//! - [`layout`]: names and places of files
//! - [`htime`], `index`: which slices there are, and what proves that none is missing
//! - `seal`: length and checksum of our own slices
//! - [`unproven`]: spans of time that need a look at the brick itself, with the reason
//! - [`position`], [`reader`]: the journal as one ordered stream
//! - [`watcher`]: a hint that there is more
//! - [`writer`], `disk`: the recorder's side
//! - [`retention`], [`compact`], `begins`: removing slices that nobody needs, and compacting those that somebody does
//! - [`json`], [`history`]: for the operator
//!
//! What is lost without a trace: records that GlusterFS had not synced when the power failed (up to
//! `changelog.fsync-interval`), where the file happens to end between two records. Our own slices are sealed.

#![forbid(unsafe_code)]

mod begins;
pub mod compact;
mod disk;
pub mod encoding;
pub mod error;
pub mod gfid;
pub mod header;
pub mod history;
pub mod htime;
mod index;
pub mod json;
pub mod layout;
pub mod position;
mod race;
pub mod reader;
pub mod record;
pub mod retention;
mod seal;
pub mod slice;
pub mod unproven;
pub mod watcher;
pub mod writer;

pub use error::{Damage, Error, Result};
pub use gfid::Gfid;
pub use header::{Encoding, Format, Version};
pub use history::History;
pub use json::record_json;
pub use layout::locate;
pub use position::Position;
pub use reader::{JournalReader, ReadBatch, ReaderStats};
pub use record::{Birth, EntryName, EntryOp, Fop, Record};
pub use slice::{SliceReader, SliceStep};
pub use unproven::{Reason, Unproven};
pub use watcher::{JournalWatch, JournalWatcher};
pub use writer::{JournalOptions, JournalWriter};
