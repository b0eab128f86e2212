//! Strict comparison of two trees, by walking both and asking nobody's index.
//!
//! It is the oracle: what the recorder, the worker and the agent believe plays no part in it, only what the two file
//! systems say. Two trees are equal when the same paths exist and each has the same type, mode with special bits,
//! owner, size, content, link target, device number, replicated xattrs with POSIX ACLs, and mtime to the nanosecond
//! (directories, links and the root itself included), and when the same paths share an inode. Not compared: ctime,
//! atime, link counts (names may lie outside of the tree), inode numbers, how sparse a file is. The directory `.gsync`
//! directly below a root does not exist for it.
//!
//! What "equal" means on trees that live: each object was equal at the moment in which it was looked at. An object
//! that changed *while* it was looked at is a difference of its own and is looked at again.
//!
//! Layout, in the order in which a comparison meets it:
//! - [`path`]: paths as bytes, in the order of the walk
//! - [`request`]: what is to be looked at: everything, or some paths again
//! - [`walk`], `descent`, `content`: one tree as an ordered stream of entries, with bounded memory and descriptors
//! - [`entry`]: what was seen at one path
//! - [`serve`](mod@serve), `wire`, `client`: the same stream from another machine
//! - [`side`]: a local tree or one behind a channel
//! - [`compare`](mod@compare), `judge`, `links`: both streams merged, differences found
//! - [`difference`], [`value`], `acl`, [`report`]: what was found, for people and as JSON
//! - [`settled`]: waiting for what is in flight
//! - [`error`]: why there is no result

#![forbid(unsafe_code)]

mod acl;
mod client;
pub mod compare;
mod content;
mod descent;
pub mod difference;
pub mod entry;
pub mod error;
mod judge;
mod links;
pub mod path;
pub mod report;
pub mod request;
pub mod serve;
pub mod settled;
pub mod side;
pub mod value;
pub mod walk;
mod wire;

pub use compare::{Options, compare, recheck};
pub use difference::{Difference, What};
pub use entry::{Entry, Facts, Outcome};
pub use error::VerifyError;
pub use path::TreePath;
pub use report::Report;
pub use request::{Look, Request};
pub use serve::serve;
pub use settled::compare_settled;
pub use side::Side;
pub use walk::Walk;

/// The directory below a root that holds the state of replication and is no part of the tree.
pub const PRIVATE_DIR: &[u8] = b".gsync";
