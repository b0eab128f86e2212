//! Every kind of object and of change, as scenarios that all run in one session.
//!
//! A [`Scenario`] works in a directory of its own. It makes one part before the session starts (the first copy) and
//! the other part while the session runs; after each of them both trees have to be equal and [`Scenario::check`]
//! looks at the secondary itself, so that the comparison is not believed alone.
//!
//! Layout:
//! - [`look`]: two objects side by side, by system calls
//! - [`kinds`], [`links`], [`attributes`], [`xattrs`], [`holes`], [`names`], [`deep`], [`renames`], [`writes`]: scenarios
//! - [`slow`]: what takes its time

use std::path::PathBuf;

use crate::fs::FileSystem;
use crate::proxy::Proxy;
use crate::session::Session;

pub mod attributes;
pub mod deep;
pub mod holes;
pub mod kinds;
pub mod links;
pub mod look;
pub mod names;
pub mod renames;
pub mod slow;
pub mod writes;
pub mod xattrs;

/// Which half was copied when [`Scenario::check`] is called.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Half {
    /// What was there before the start.
    First,
    /// Everything.
    Both,
}

/// One kind of object or change.
pub struct Scenario {
    /// Its name, and that of its directory.
    pub name: &'static str,
    /// Makes what is there before the session starts.
    pub before: fn(&Ground) -> anyhow::Result<()>,
    /// Changes things while the session runs.
    pub live: fn(&Ground) -> anyhow::Result<()>,
    /// Looks at the secondary; both trees have been compared already.
    pub check: fn(&Ground, Half) -> anyhow::Result<()>,
}

/// Where a scenario takes place.
#[derive(Debug)]
pub struct Ground<'a> {
    /// The file system of both sides.
    pub kind: FileSystem,
    /// The scenario's directory in the brick.
    pub near: PathBuf,
    /// The same directory on the secondary.
    pub far: PathBuf,
    /// A directory of the scenario on the brick's file system that is not replicated.
    pub outside: PathBuf,
    /// The session.
    pub session: &'a Session<'a>,
    /// What counts the bytes to the secondary.
    pub proxy: &'a Proxy,
}

/// All that may take place at the same time.
pub const ALL: &[&[Scenario]] = &[
    kinds::SCENARIOS,
    links::SCENARIOS,
    attributes::SCENARIOS,
    xattrs::SCENARIOS,
    holes::SCENARIOS,
    names::SCENARIOS,
    deep::SCENARIOS,
    renames::SCENARIOS,
    writes::SCENARIOS,
];

impl<'a> Ground<'a> {
    /// Makes the scenario's directories.
    ///
    /// # Errors
    /// What the system says.
    pub fn new(kind: FileSystem, session: &'a Session<'a>, proxy: &'a Proxy, name: &str) -> anyhow::Result<Ground<'a>> {
        let (near, far) = (session.brick.join(name), session.secondary.join(name));
        let outside = session.outside.join(name);
        std::fs::create_dir(&near)?;
        std::fs::create_dir(&outside)?;
        Ok(Ground { kind, near, far, outside, session, proxy })
    }

    /// A name on both sides.
    pub fn both(&self, name: &str) -> [PathBuf; 2] {
        [self.near.join(name), self.far.join(name)]
    }

    /// Whether files share extents here.
    pub fn clones(&self) -> bool {
        matches!(self.kind, FileSystem::Xfs | FileSystem::Btrfs)
    }
}
