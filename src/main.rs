//! The `purlin` binary. All that it does is in the library, where tests reach it.

use std::process::ExitCode;

fn main() -> ExitCode {
    purlin::cli::main(std::env::args_os())
}
