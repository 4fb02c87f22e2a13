//! `compartment`: the command line, and under other names the daemon, a keeper, a worker.

use std::process::ExitCode;

fn main() -> ExitCode {
    compartment_cli::main(std::env::args_os())
}
