//! Helpers of the tests that need several processes, real file systems or a real sshd.
//!
//! Everything that is started or mounted here is stopped and unmounted again when its handle is dropped, also while a
//! test panics. What a machine cannot do is skipped with [`skip!`] or [`require!`], loudly.
//!
//! Layout:
//! - [`need`], [`mod@skip`]: what a test needs, and what happens where that is missing
//! - [`mod@wait`]: waiting for an event with a deadline
//! - [`fs`]: file systems of their own for a test
//! - [`programs`]: the programs of this workspace
//! - [`proc`]: processes of a deployment, found and killed
//! - [`sshd`]: a real sshd with a forced command
//! - [`proxy`]: counts the bytes on the way to it, and breaks the way
//! - [`listings`]: who lists directories
//! - [`etcd`]: a real etcd, with certificates
//! - [`deployment`]: a primary machine with its state, driven by `geo-rep`
//! - [`session`]: one session of a deployment
//! - [`nasty`]: concurrent writers that do everything to a small name space
//! - [`fidelity`]: every kind of object and of change, as scenarios
//! - [`stamped`], [`readers`]: files that tell their version, and readers that notice half a file

pub mod deployment;
pub mod etcd;
pub mod fidelity;
pub mod fs;
pub mod listings;
pub mod nasty;
pub mod need;
pub mod proc;
pub mod programs;
pub mod proxy;
pub mod readers;
pub mod session;
pub mod skip;
pub mod sshd;
pub mod stamped;
mod sys;
pub mod wait;
