//! Sessions, bricks, settings and roles as state that all nodes share.
//!
//! Layout
//! - [`ids`]: identities and the fencing number
//! - [`volume`], [`secondary`], [`session`]: what an operator declares
//! - [`options`]: the one table of settings; [`settings`]: a session's settings, parsed; [`words`]: splitting like a shell
//! - [`store`]: the seam: what is asked of the shared store, as a contract
//! - [`embedded`] with `summary`: the store of one machine, in a directory; [`memory`]: the same in memory, for tests
//! - [`etcd`]: the store of several machines; [`cluster_file`]: how to reach it
//! - [`leadership`]: a lead that was won, and how sure it is
//! - [`registry`]: the declared objects in a store
//!
//! Nothing here knows of processes, sockets or the terminal.

#![forbid(unsafe_code)]

pub mod cluster_file;
pub mod embedded;
pub mod etcd;
mod feed;
pub mod ids;
pub mod leadership;
pub mod memory;
pub mod options;
pub mod registry;
pub mod secondary;
pub mod session;
pub mod settings;
pub mod store;
mod summary;
pub mod volume;
pub mod words;

#[cfg(test)]
mod contract;

pub use embedded::Embedded;
pub use etcd::Etcd;
pub use ids::{BrickId, Epoch, SessionId};
pub use leadership::{Leadership, Standing};
pub use memory::Memory;
pub use registry::{Registry, RegistryError};
pub use secondary::Secondary;
pub use session::{Desired, Session, Transition};
pub use settings::{LogLevel, Settings, SyncEngine};
pub use store::{Expected, Store, StoreError};
pub use volume::{Brick, Volume};
