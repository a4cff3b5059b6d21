//! Proxies of several hosts in one process, with views written by hand: what an application sees, what the far
//! application sees, and what is in force after a change.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on shall stop")]

mod apps;
mod kit;

mod change;
mod hostile;
mod http;
mod life;
mod policy;
mod tcp;
