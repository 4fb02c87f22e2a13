//! `enter`: a shell in which guest tasks are processes.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Args;

use crate::args::Context;
use crate::enter::place::Place;
use crate::enter::supervisor::Supervisor;
use crate::exit::CliError;
use crate::gate;

/// Start a shell, or a command, in which ps, top, kill and the like see guest tasks beside processes.
#[derive(Debug, Args)]
pub(crate) struct EnterArgs {
    /// The command and its arguments [default: $SHELL, else /bin/sh]
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
    command: Vec<OsString>,
}

impl EnterArgs {
    /// Becomes the shell; comes back with its status if that cannot be executed.
    pub(crate) fn run(self, context: &Context) -> Result<ExitCode, CliError> {
        let place = Place::of(&context.tree()?)?;
        // There can be one listener only, and it serves us already.
        if !place.is_entered() {
            let supervisor = Supervisor::start(&place.root)?;
            let namespaces = place.enter()?;
            supervisor.hand_over(&namespaces)?;
        }
        let shell =
            || std::env::var_os("SHELL").filter(|s| !s.is_empty()).unwrap_or_else(|| "/bin/sh".into());
        let command = if self.command.is_empty() { vec![shell()] } else { self.command };
        Ok(gate::become_program(&command[0], &command[1..]))
    }
}
