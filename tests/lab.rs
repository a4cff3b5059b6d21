//! Stories of users, told on hosts: network namespaces with addresses of their own, real processes, real clients.
//!
//! The program first moves itself into private namespaces (users too, when not root), so that it needs no privilege
//! beyond what an ordinary user has, and nothing it starts can outlive it.

#![allow(unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

mod kit;
mod story;

use std::process::ExitCode;

fn main() -> ExitCode {
    let args = libtest_mimic::Arguments::from_args();
    if !args.list
        && let Err(error) = kit::privacy::enter()
    {
        eprintln!("lab: {error}");
        return ExitCode::FAILURE;
    }
    let trials = story::all().into_iter().map(|(name, run)| {
        libtest_mimic::Trial::test(name, move || {
            run();
            Ok(())
        })
    });
    libtest_mimic::run(&args, trials.collect()).exit_code()
}
