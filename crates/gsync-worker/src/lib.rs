//! One brick: journal, dirty set, plan, apply, mark.
//!
//! Layout, in the order in which a change passes:
//! - [`journal`]: follows the brick's changelog
//! - [`dirty`]: what has to be looked at, in tables of [`work`]
//! - [`brick`]: the questions to the brick's recorder
//! - [`plan`]: from what was seen to what is stated to the secondary (pure)
//! - [`brake`]: asks before too much is removed (pure)
//! - [`transfer`]: carries contents
//! - [`rescan`]: comparing both sides as a whole, when the changelog cannot tell what changed (pure); [`listing`] lists
//! - [`core`]: the state machine that decides what is done next, from [`event`]s to effects (pure)
//! - [`session`]: carries out what it decides over one connection; [`run`] connects again when that breaks
//! - [`config`], [`control`], [`server`], [`shared`]: what a worker is told, is asked, answers and shows

#![forbid(unsafe_code)]

pub mod adoption;
pub mod brake;
pub mod brick;
pub mod config;
pub mod control;
pub mod core;
pub mod dirty;
pub mod error;
pub mod event;
pub mod journal;
pub mod listing;
pub mod plan;
pub mod rescan;
pub mod run;
pub mod server;
pub mod session;
pub mod shared;
pub mod transfer;
pub mod work;
