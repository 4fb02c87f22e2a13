//! The command line: its grammar, and from there to the verbs.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand};

use crate::exit::{CliError, Exit};
use crate::tree::{Tree, TreeError};
use crate::verbs::task::TaskArgs;
use crate::verbs::uml::UmlArgs;
use crate::verbs::{
    completions, create, demo, doctor, enter, kill, man, mv, ps, recover, rm, run, set, show, top,
};

const AFTER_HELP: &str = "\
Everything a verb does can be done by cat, echo, mkdir and mv in the control tree.

Exit codes: 0 ok, 1 failed, 2 usage, 3 daemon unreachable, 4 not permitted; `run` and `enter` pass on their command's.";

/// The grammar.
#[derive(Debug, Parser)]
#[command(name = "compartment", version, about = "Confine ordinary processes with a guest scheduler and a guest virtual memory", after_help = AFTER_HELP, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    context: Context,
    #[command(subcommand)]
    verb: Verb,
}

/// What all verbs share.
#[derive(Debug, Args)]
pub(crate) struct Context {
    /// The control tree [default: $COMPARTMENTS_MOUNT, else $XDG_RUNTIME_DIR/compartments, else /run/compartments]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) mount: Option<PathBuf>,
}

impl Context {
    /// Finds the control tree.
    pub(crate) fn tree(&self) -> Result<Tree, TreeError> {
        Tree::find(self.mount.as_deref())
    }
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Tell what works on this host, and how to get the rest
    Doctor(doctor::DoctorArgs),
    /// Show a group at work: one program outside, two inside, one CPU
    Demo(demo::DemoArgs),
    /// Make a lasting group
    Create(create::CreateArgs),
    /// Run a command in a group; brings its own daemon where none is running
    Run(run::RunArgs),
    /// Move processes into a group
    Mv(mv::MvArgs),
    /// Change settings of a group or of its members
    Set(set::SetArgs),
    /// Show a group, or one of its members
    Show(show::ShowArgs),
    /// List groups and their members
    Ps(ps::PsArgs),
    /// Watch groups and members
    Top(top::TopArgs),
    /// Send a signal to processes or guest tasks
    Kill(kill::KillArgs),
    /// Start a shell in which ps, top, kill and the like see guest tasks
    Enter(enter::EnterArgs),
    /// Show things that are no processes of this host as tasks
    Task(TaskArgs),
    /// Show the processes of a user-mode-linux instance as tasks
    Uml(UmlArgs),
    /// Remove a group
    Rm(rm::RmArgs),
    /// Resume what dead daemons left parked; needs no daemon
    Recover(recover::RecoverArgs),
    /// Print completions for a shell
    Completions(completions::CompletionsArgs),
    /// Write the manual pages
    Man(man::ManArgs),
}

/// Gives the grammar, for whoever makes completions or pages of it.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs the command line.
pub(crate) fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(e) => {
            let _ = e.print();
            return if e.use_stderr() { Exit::Usage.into() } else { Exit::Ok.into() };
        }
    };
    let mut out = io::stdout().lock();
    let result = dispatch(cli, &mut out).and_then(|code| Ok(out.flush().map(|()| code)?));
    match result {
        Ok(code) => code,
        Err(e) => {
            if !e.is_silent() {
                eprintln!("compartment: {e}");
            }
            e.status()
        }
    }
}

fn dispatch(cli: Cli, out: &mut dyn io::Write) -> Result<ExitCode, CliError> {
    let context = &cli.context;
    let done = |()| Exit::Ok.into();
    match cli.verb {
        Verb::Doctor(args) => args.run(context, out).map(ExitCode::from),
        Verb::Demo(args) => args.run(out).map(ExitCode::from),
        Verb::Create(args) => args.run(context).map(done),
        Verb::Run(args) => args.run(context),
        Verb::Mv(args) => args.run(context).map(done),
        Verb::Set(args) => args.run(context).map(done),
        Verb::Show(args) => args.run(context, out).map(done),
        Verb::Ps(args) => args.run(context, out).map(done),
        Verb::Top(args) => args.run(context, out).map(done),
        Verb::Kill(args) => args.run(context).map(done),
        Verb::Enter(args) => args.run(context),
        Verb::Task(args) => args.run(context, out),
        Verb::Uml(args) => args.run(context, out),
        Verb::Rm(args) => args.run(context).map(done),
        Verb::Recover(args) => args.run(out).map(done),
        Verb::Completions(args) => args.run(out).map(done),
        Verb::Man(args) => args.run(out).map(done),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grammar_is_consistent() {
        command().debug_assert();
    }
}
