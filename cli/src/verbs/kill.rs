//! `kill`: a signal by way of the tree, so that it reaches guest tasks as well.

use clap::Args;
use nix::sys::signal::Signal;

use super::for_each;
use crate::args::Context;
use crate::exit::CliError;
use crate::signals;
use crate::tree::{Side, Tree};

/// Send a signal to processes or guest tasks.
#[derive(Debug, Args)]
pub(crate) struct KillArgs {
    /// Name or number of the signal
    #[arg(short, long, value_name = "SIG", default_value = "TERM", value_parser = signals::parse)]
    signal: Signal,
    /// The processes or guest tasks
    #[arg(required = true, value_name = "PID", value_parser = clap::value_parser!(i32).range(1..))]
    pids: Vec<i32>,
}

impl KillArgs {
    /// Sends it.
    pub(crate) fn run(self, context: &Context) -> Result<(), CliError> {
        let tree = context.tree()?;
        for_each(&self.pids, |pid| send(&tree, pid, self.signal))
    }
}

/// Sends a signal to a member.
pub(super) fn send(tree: &Tree, pid: i32, signal: Signal) -> Result<(), CliError> {
    let group = tree.group_of(Side::Sched, pid)?;
    Ok(group.write(&format!("{pid}/signal"), signal.as_str().trim_start_matches("SIG"))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::fake;

    #[test]
    fn signal_is_written_to_the_members_file() {
        let (_dir, tree) = fake::tree();

        send(&tree, 42, Signal::SIGHUP).expect("a member");

        let web = tree.group(&"web".parse().expect("a name"));
        assert_eq!(web.read("42/signal").expect("readable"), "HUP");
        assert!(send(&tree, 9, Signal::SIGHUP).is_err());
    }
}
