//! `compartmentd`: the same program as `compartment`, which is the daemon under this name.

use std::process::ExitCode;

fn main() -> ExitCode {
    compartment_cli::main(std::env::args_os())
}
