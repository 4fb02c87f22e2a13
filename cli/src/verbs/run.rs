//! `run`: a command inside a group from its first instruction on, with a daemon of its own where none is running.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, ExitCode, ExitStatus};
use std::time::{Duration, Instant};

use clap::Args;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::create;
use super::settings::Settings;
use crate::args::Context;
use crate::embedded::{Embedded, Options};
use crate::exit::CliError;
use crate::gate::Launch;
use crate::signals::{Received, Signals};
use crate::tree::values::Pairs;
use crate::tree::{Compartment, GroupName, MOUNT_VARIABLE, Side, Tree, TreeError};

/// Run a command in a group.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    settings: Settings,
    /// Name of the new group [default: run-PID]
    #[arg(long, value_name = "NAME", conflicts_with = "group")]
    name: Option<GroupName>,
    /// Run in this group, which exists
    #[arg(long, value_name = "GROUP", conflicts_with_all = ["cpu", "nice", "scheduler", "vcpus", "slice", "memory", "swap_max", "swap_tiers"])]
    group: Option<GroupName>,
    /// Say where the group is, and show the daemon's messages
    #[arg(short, long)]
    verbose: bool,
    /// The driver's parts that an embedded daemon shall use, like "park=stop envelope=none"
    #[arg(long, value_name = "PARTS", hide = true)]
    force_mode: Option<String>,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// The group of a run: removed at the end if it was made for it.
#[derive(Debug)]
struct RunGroup {
    group: Compartment,
    is_own: bool,
}

impl Drop for RunGroup {
    fn drop(&mut self) {
        if self.is_own {
            let _ = self.group.remove();
        }
    }
}

impl RunArgs {
    /// Runs the command, and gives its status.
    pub(crate) fn run(self, context: &Context) -> Result<ExitCode, CliError> {
        let signals = Signals::block()?;
        // Dropped in the reverse order: the group first, its daemon after it.
        let (daemon, tree) = self.daemon(context, &signals)?;
        let group = self.make_group(&tree)?;
        if self.verbose {
            for part in group.group.parts() {
                eprintln!("compartment: group {}", part.path().display());
            }
        }
        let mut child = start_inside(self.command, &tree, &group.group)?;
        let (status, is_interrupted) = wait(&mut child, &signals)?;
        if group.is_own && !is_interrupted {
            wait_until_empty(&group.group, &signals)?;
        }
        if let (true, None, Ok(members)) = (group.is_own, &daemon, group.group.members())
            && !members.is_empty()
        {
            eprintln!("compartment: group {} stays: it has {} members", group.group.name(), members.len());
        }
        Ok(code_of(status))
    }

    fn daemon(&self, context: &Context, signals: &Signals) -> Result<(Option<Embedded>, Tree), CliError> {
        let is_asked =
            context.mount.is_some() || std::env::var_os(MOUNT_VARIABLE).is_some_and(|v| !v.is_empty());
        match context.tree() {
            Ok(tree) => Ok((None, tree)),
            // Who names a tree, or a group in it, means that one.
            Err(TreeError::Unreachable { .. }) if !is_asked && self.group.is_none() => {
                let daemon = self.start_daemon(signals)?;
                let tree = daemon.tree().clone();
                Ok((Some(daemon), tree))
            }
            Err(e) => Err(e.into()),
        }
    }

    fn start_daemon(&self, signals: &Signals) -> Result<Embedded, CliError> {
        Embedded::start(signals, &Options { is_verbose: self.verbose, force_mode: self.force_mode.clone() })
    }

    fn make_group(&self, tree: &Tree) -> Result<RunGroup, CliError> {
        if let Some(name) = &self.group {
            return Ok(RunGroup { group: tree.compartment(name)?, is_own: false });
        }
        let default = || format!("run-{}", std::process::id()).parse().map_err(CliError::Usage);
        let name = self.name.clone().map_or_else(default, Ok)?;
        Ok(RunGroup { group: create::make(tree, &name, &self.settings)?, is_own: true })
    }
}

fn start_inside(command: Vec<OsString>, tree: &Tree, group: &Compartment) -> Result<Child, CliError> {
    let held = Launch::new(command).hold()?;
    // A child is born into its parent's groups, and we may be in some ourselves.
    group.take_in(tree, held.pid())?;
    held.open()
}

/// Waits for the command, passing signals on. Also tells whether one asked to end.
fn wait(child: &mut Child, signals: &Signals) -> Result<(ExitStatus, bool), CliError> {
    let mut is_interrupted = false;
    loop {
        if let Some(status) = child.try_wait().map_err(CliError::os("wait for the command"))? {
            return Ok((status, is_interrupted));
        }
        let Some(received) = signals.wait(Duration::from_secs(3600))? else { continue };
        is_interrupted |= received.is_ending();
        if is_to_forward(received) {
            // It cannot be another process: the number stays taken until `try_wait` has seen the end.
            let _ = kill(Pid::from_raw(child.id().cast_signed()), received.signal);
        }
    }
}

/// What the terminal sends, the command has got as well: it is in the same process group.
fn is_to_forward(received: Received) -> bool {
    received.signal != Signal::SIGCHLD && !received.is_from_terminal
}

/// How long a group must look empty: what was forked just before its parent's end is noticed a little later.
const GRACE: Duration = Duration::from_millis(100);

/// Waits until the last process that the command left behind is gone; a signal ends that.
fn wait_until_empty(group: &Compartment, signals: &Signals) -> Result<(), CliError> {
    let mut pause = Duration::from_millis(10);
    let mut empty_since = None;
    loop {
        if is_empty(group) {
            if empty_since.get_or_insert_with(Instant::now).elapsed() >= GRACE {
                return Ok(());
            }
            pause = Duration::from_millis(10);
        } else {
            empty_since = None;
        }
        match signals.sleep(pause) {
            Err(CliError::Interrupted(_)) => return Ok(()),
            other => other?,
        }
        pause = (pause * 2).min(Duration::from_millis(500));
    }
}

/// Whether neither the daemon nor the workers know of a member. A group that is gone, or whose daemon is, holds nobody.
fn is_empty(compartment: &Compartment) -> bool {
    compartment.parts().all(|group| {
        let stat = match group.side() {
            Side::Sched => "cpu.stat",
            Side::Mem => "memory.stat",
        };
        let has_listed = group.members().is_ok_and(|members| !members.is_empty());
        let counted = || Pairs::parse(&group.read(stat).unwrap_or_default()).get::<u64>("nr_members");
        !has_listed && counted().unwrap_or(0) == 0
    })
}

/// As shells do: 128 + n for the signal n.
pub(super) fn code_of(status: ExitStatus) -> ExitCode {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_of_a_signal_is_128_more() {
        assert_eq!(code_of(ExitStatus::from_raw(15)), ExitCode::from(143));
        assert_eq!(code_of(ExitStatus::from_raw(7 << 8)), ExitCode::from(7));
    }

    #[test]
    fn signal_of_the_terminal_is_not_sent_twice() {
        let by_hand = Received { signal: Signal::SIGINT, is_from_terminal: false };

        assert!(is_to_forward(by_hand));
        assert!(!is_to_forward(Received { is_from_terminal: true, ..by_hand }));
        assert!(!is_to_forward(Received { signal: Signal::SIGCHLD, ..by_hand }));
    }

    #[test]
    fn group_is_empty_when_nobody_is_listed_or_counted() {
        let (dir, tree) = crate::tree::fake::tree();
        crate::tree::fake::mem_group(dir.path(), "web");
        let all = tree.compartment(&"web".parse().expect("a name")).expect("exists");
        let web = all.sched().expect("both");

        assert!(!is_empty(&all));
        for pid in web.members().expect("readable") {
            std::fs::remove_dir_all(web.member_path(pid)).expect("exists");
        }
        assert!(!is_empty(&all), "two are counted");
        crate::tree::fake::write(dir.path(), "sched-groups/web/cpu.stat", "nr_members 0\n");
        assert!(!is_empty(&all), "one is counted in the other half");
        crate::tree::fake::write(dir.path(), "mem-groups/web/memory.stat", "nr_members 0\n");
        assert!(is_empty(&all));
    }

    #[test]
    fn group_made_for_a_run_is_removed_with_it() {
        let (_dir, tree) = crate::tree::fake::tree();
        let group = create::make(&tree, &"x".parse().expect("a name"), &Settings::default()).expect("made");

        drop(RunGroup { group: group.clone(), is_own: true });

        assert!(tree.compartment(group.name()).is_err());
    }
}
