//! Which of its programs the one binary is this time, and the few calls into the others' crates.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser as _;
use compartmentd::{RecoverError, Recovered};
use nix::sys::signal::SigSet;
use nix::unistd::geteuid;

use crate::enter::{place, supervisor};
use crate::exit::CliError;
use crate::{args, gate, proxy};

/// What the arguments ask the binary to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Role {
    /// `compartmentd`: called by that name, or with the first argument `daemon`; so many arguments come before its own.
    Daemon { skip: usize },
    /// The keeper of one group, started by the daemon: `keeper STATE_DIR`.
    Keeper,
    /// The keeper of one mem_group, started by the daemon: `mem-keeper STATE_DIR`.
    MemKeeper,
    /// The gate before a program of ours: `exec-gate …`.
    Gate,
    /// The process beside an entered shell: `enter-supervisor …`.
    EnterSupervisor,
    /// Its helper: `enter-refresh …`.
    EnterRefresh,
    /// The command line.
    Cli,
}

fn role(args: &[OsString]) -> Role {
    let name = args.first().and_then(|a| Path::new(a).file_name());
    match args.get(1).and_then(|a| a.to_str()) {
        Some("keeper") if args.len() == 3 => Role::Keeper,
        Some(guest_mm::uffd::client::KEEPER_ARG) if args.len() == 3 => Role::MemKeeper,
        Some(gate::WORD) => Role::Gate,
        Some(supervisor::WORD) => Role::EnterSupervisor,
        Some(place::REFRESH) => Role::EnterRefresh,
        Some("daemon") => Role::Daemon { skip: 2 },
        _ if name == Some(OsStr::new("compartmentd")) => Role::Daemon { skip: 1 },
        _ => Role::Cli,
    }
}

/// Runs the program that `args` (with the program's name first) ask for.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    if let Some(task) = proxy::asked(args.len()) {
        return proxy::main(&task);
    }
    match role(&args) {
        Role::Keeper => {
            clear_signal_mask();
            keeper_main(Path::new(&args[2]))
        }
        Role::MemKeeper => {
            clear_signal_mask();
            compartmentd::start_log();
            guest_mm::uffd::keeper::main(Path::new(&args[2]))
        }
        Role::Daemon { skip } => {
            clear_signal_mask();
            daemon_main(args.into_iter().skip(skip))
        }
        Role::Gate => gate::main(&args[2..]),
        Role::EnterSupervisor => supervisor::main(&args[2..]),
        Role::EnterRefresh => place::refresh_main(&args[2..]),
        Role::Cli => args::main(args),
    }
}

/// Undoes what the command line that started us blocked for itself.
fn clear_signal_mask() {
    let _ = SigSet::empty().thread_set_mask();
}

fn keeper_main(state_dir: &Path) -> ExitCode {
    compartmentd::start_log();
    guest_sched::host::keeper::main(state_dir)
}

fn daemon_main(args: impl Iterator<Item = OsString>) -> ExitCode {
    compartmentd::main(args)
}

/// What came of resuming the groups of a state directory.
#[derive(Debug)]
pub(crate) enum Recovery {
    /// A daemon uses the directory, and does it itself.
    InUse,
    /// It was done.
    Done(Recovered),
}

/// Resumes what the dead groups of a state directory left parked.
pub(crate) fn recover(state_dir: &Path) -> Result<Recovery, CliError> {
    match compartmentd::recover(state_dir) {
        Ok(done) => Ok(Recovery::Done(done)),
        Err(RecoverError::InUse(_)) => Ok(Recovery::InUse),
        Err(RecoverError::Open { path, source }) => {
            Err(CliError::os(format!("open {}", path.display()))(source))
        }
    }
}

/// Gives where the daemon of this user keeps its state.
pub(crate) fn default_state_dir() -> Option<PathBuf> {
    let args = compartmentd::args::Args::try_parse_from(["compartmentd"]).ok()?;
    let runtime_dir = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    Some(args.places(geteuid().is_root(), runtime_dir).ok()?.state)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role_of(args: &[&str]) -> Role {
        role(&args.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn role_is_told_by_name_or_first_argument() {
        assert_eq!(role_of(&["/usr/bin/compartmentd", "--mount", "/x"]), Role::Daemon { skip: 1 });
        assert_eq!(role_of(&["compartment", "daemon", "--embedded"]), Role::Daemon { skip: 2 });
        assert_eq!(role_of(&["/usr/bin/compartmentd", "keeper", "/state"]), Role::Keeper);
        assert_eq!(role_of(&["compartment", "keeper"]), Role::Cli);
        assert_eq!(role_of(&["/usr/bin/compartmentd", "mem-keeper", "/state"]), Role::MemKeeper);
        assert_eq!(role_of(&["compartment", "exec-gate", "3"]), Role::Gate);
        assert_eq!(role_of(&["compartment", "ps"]), Role::Cli);
        assert_eq!(role_of(&[]), Role::Cli);
    }
}
