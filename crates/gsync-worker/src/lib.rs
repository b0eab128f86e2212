//! One brick: journal, dirty set, plan, apply, mark.

#![forbid(unsafe_code)]

pub mod config;
pub mod control;
