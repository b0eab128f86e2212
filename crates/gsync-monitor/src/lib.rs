//! One per node: opens the store, keeps the processes of its bricks running, answers the operator's command.
//!
//! Layout, in the order in which a session meets it
//! - [`paths`]: files below the state directory and the run directory
//! - [`store`]: which store this node has; [`declarations`]: what is declared there, and when it changes
//! - [`api`], [`client`]: what the command asks, and how
//! - [`server`], [`service`]: answering, changing what is declared
//! - [`want`]: what should run on this node, from what is declared
//! - [`event`], [`mod@unit`], [`machine`] with `settle`, [`backoff`]: what to do next, from events; pure
//! - [`mod@run`]: the loop: events, decision, effects
//! - [`effects`], [`process`], [`programs`], [`recorder`], [`worker`]: carrying effects out
//! - `claims`: what sessions still need of the changelogs
//! - [`status`]: the rows of the status table
//!
//! A child process gets SIGKILL when the monitor dies, so that a new monitor finds none of them running. What they do
//! is safe against that at any moment.

#![deny(unsafe_code)]

pub mod api;
pub mod backoff;
mod claims;
pub mod client;
pub mod declarations;
pub mod effects;
pub mod error;
pub mod event;
pub mod machine;
pub mod paths;
pub mod process;
pub mod programs;
pub mod recorder;
pub mod run;
pub mod server;
pub mod service;
mod settle;
pub mod status;
pub mod store;
mod sys;
pub mod unit;
pub mod want;
pub mod worker;

#[cfg(test)]
mod machine_tests;

pub use client::{Client, ClientError};
pub use error::MonitorError;
pub use paths::{RunDir, StateDir};
pub use programs::Programs;
pub use run::{MonitorConfig, run};
