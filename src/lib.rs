//! The binary's inside: the only room that sees every other.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod cli;
pub mod client;
pub mod config;
pub mod demo;
pub mod logging;
pub mod run;
