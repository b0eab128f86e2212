//! The journal of one brick.

pub mod gfid;
pub mod record;

pub use gfid::Gfid;
pub use record::{Birth, EntryName, EntryOp, Fop, Record};
