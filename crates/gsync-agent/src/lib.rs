//! The secondary's own side: applies below one plain directory, for all sessions that write there.
//!
//! Layout, in the order in which a change meets it:
//! - [`door`]: what ssh starts; hands its descriptors to the agent, or becomes rsync
//! - [`serve`]: the agent of a root: listens, stops when nobody needs it
//! - [`channel`]: a worker's two ends, control channels, stage channels
//! - [`stage`]: content on its way
//! - [`applier`]: the one thread that owns everything below; sessions, epochs, requests in order
//! - [`apply`]: statements carried out
//! - [`adopt`]: an older copy becomes the primary's objects
//! - [`tree`]: objects and names below the root, and what is done with them
//! - [`stamp`], [`index`], [`crawl`]: identity on the objects, the index of it, made again when it is lost
//! - [`state`]: mark, pending list and epoch; [`losses`]: how much was lost lately; [`claim`]: which session the root
//!   belongs to
//! - [`private`]: `.gsync/` below the root
//! - [`error`]
//!
//! Every change of the tree is made by one thread. After every system call that changes a name the index is changed;
//! after an unclean stop the index is made again from the stamps.

pub mod adopt;
pub mod applier;
pub mod apply;
pub mod channel;
pub mod claim;
pub mod crawl;
pub mod door;
pub mod error;
pub mod index;
pub mod losses;
pub mod private;
pub mod serve;
pub mod stage;
pub mod stamp;
pub mod state;
pub mod sys;
pub mod tree;

pub use error::AgentError;
