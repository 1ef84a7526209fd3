//! The binary: the command line's outcome as an exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    switchyard::cli::run(std::env::args_os(), switchyard::config::environment())
}
