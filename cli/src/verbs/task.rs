//! `task publish`: something that is no process here, shown as one: a service on another host, a job, a whole project.

use std::ffi::OsString;
use std::io::Write;
use std::os::fd::AsFd as _;
use std::process::{Child, ExitCode};
use std::thread;
use std::time::Duration;

use clap::{Args, Subcommand};
use guest_task::{Accepts, Action, Options, Registry, Status, Task, TaskSpec, TaskState, socket_beside};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::run::code_of;
use super::task_proxy::ProxyArgs;
use crate::args::Context;
use crate::exit::{CliError, Exit};
use crate::gate::Launch;
use crate::signals::{self, Signals};
use crate::tree::MOUNT_VARIABLE;

/// Show things that are no processes of this host as tasks.
#[derive(Debug, Args)]
pub(crate) struct TaskArgs {
    #[command(subcommand)]
    verb: TaskVerb,
}

#[derive(Debug, Subcommand)]
enum TaskVerb {
    /// Show a task for as long as this command runs, and run commands for the signals that it gets
    Publish(PublishArgs),
    /// Have real processes stand for guest tasks, for every shell's ps and kill
    Proxy(ProxyArgs),
}

const AFTER_HELP: &str = "\
The task is in sched-groups/PID/, PID being that of this command, and in `compartment ps`.

With CMD the task lasts as long as CMD does, whose status is passed on; a signal without a command of its own goes to CMD.
Without CMD it lasts until this command is ended, or until a command for HUP, INT, QUIT, KILL or TERM has succeeded.
A command finds the signal's name in COMPARTMENT_SIGNAL. No daemon need be running.";

/// Show a task.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
struct PublishArgs {
    /// Its name, of at most 32 bytes
    #[arg(long)]
    name: String,
    /// Its command line, of at most 112 bytes [default: CMD and its arguments]
    #[arg(long, value_name = "TEXT")]
    cmdline: Option<String>,
    /// For whom it is done, in at most 32 bytes
    #[arg(long, value_name = "TEXT", default_value = "")]
    owner: String,
    /// The process or guest task that it is shown below [default: this command]
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(i32).range(1..))]
    parent: Option<i32>,
    /// Its state: running, sleeping, waiting, queued or stopped
    #[arg(long, default_value = "running", value_parser = parse_state)]
    state: TaskState,
    /// Its nice value
    #[arg(long, value_name = "NICE", default_value_t = 0, allow_negative_numbers = true, value_parser = clap::value_parser!(i8).range(-20..=19))]
    nice: i8,
    /// A shell command for a signal that the task gets; may be given several times
    #[arg(long, num_args = 2, value_names = ["SIG", "COMMAND"])]
    on: Vec<String>,
    /// A command to run meanwhile, and its arguments
    #[arg(last = true, value_name = "CMD")]
    command: Vec<OsString>,
}

fn parse_state(word: &str) -> Result<TaskState, String> {
    TaskState::from_name(word).ok_or_else(|| format!("there is no state {word:?}"))
}

/// Signals that end a process which does not care for them: whoever sends one wants an end.
const ENDING: [Signal; 5] =
    [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGKILL, Signal::SIGTERM];

/// How long a daemon may take to answer before the user is told that none does.
const ANSWER: Duration = Duration::from_secs(2);

impl TaskArgs {
    /// Does it.
    pub(crate) fn run(self, context: &Context, out: &mut dyn Write) -> Result<ExitCode, CliError> {
        match self.verb {
            TaskVerb::Publish(args) => args.run(context),
            TaskVerb::Proxy(args) => args.run(context, out),
        }
    }
}

/// A shown task with all that acts on it.
struct Published {
    task: Task,
    handlers: Vec<(Signal, String)>,
    child: Option<Child>,
    /// Commands that run, and the signals that they are for.
    running: Vec<(Signal, Child)>,
}

impl PublishArgs {
    fn run(self, context: &Context) -> Result<ExitCode, CliError> {
        let handlers = handlers(&self.on)?;
        let signals = Signals::block()?;
        let options = options(context);
        let failed = |e: guest_task::ConnectError| CliError::Failed(e.to_string());
        let registry = Registry::connect(options).map_err(failed)?;
        let task = registry.publish(self.spec(&handlers, &self.cmdline()));
        let child = (!self.command.is_empty()).then(|| start(self.command)).transpose()?;
        tell_status(registry.clone());
        let mut published = Published { task, handlers, child, running: Vec::new() };
        loop {
            let received = signals.wait_or(registry.event_fd().as_fd())?;
            while let Some(event) = registry.next_event() {
                if let Action::Signal(number) = event.action
                    && let Ok(signal) = Signal::try_from(number)
                {
                    published.on_signal(signal)?;
                }
            }
            if let Some(code) = published.reap()? {
                return Ok(code);
            }
            match received {
                Some(received) if published.child.is_none() && received.is_ending() => {
                    return Err(CliError::Interrupted(received.signal));
                }
                Some(received) if received.signal != Signal::SIGCHLD && !received.is_from_terminal => {
                    published.pass_on(received.signal);
                }
                _ => {}
            }
        }
    }

    fn cmdline(&self) -> String {
        let words: Vec<_> = self.command.iter().map(|word| word.to_string_lossy()).collect();
        self.cmdline.clone().unwrap_or_else(|| words.join("\0"))
    }

    fn spec<'a>(&'a self, handlers: &[(Signal, String)], cmdline: &'a str) -> TaskSpec<'a> {
        let own = handlers.iter().fold(Accepts::NONE, |all, (signal, _)| all.signal(*signal as i32));
        let all = || Signal::iterator().fold(own, |all, signal| all.signal(signal as i32));
        let spec =
            TaskSpec::new(&self.name).cmdline(cmdline).owner(&self.owner).state(self.state).nice(self.nice);
        let spec = spec.accepts(if self.command.is_empty() { own } else { all() });
        self.parent.map_or(spec, |pid| spec.parent_pid(pid))
    }
}

fn handlers(words: &[String]) -> Result<Vec<(Signal, String)>, CliError> {
    let pairs = words.chunks(2).map(|pair| Ok((signals::parse(&pair[0])?, pair[1].clone())));
    pairs.collect::<Result<_, String>>().map_err(CliError::Usage)
}

/// The daemon of the tree that was asked for, else the crate's own choice.
pub(super) fn options(context: &Context) -> Options {
    let variable = || std::env::var_os(MOUNT_VARIABLE).filter(|v| !v.is_empty()).map(Into::into);
    let has_socket = std::env::var_os(guest_task::SOCKET_VARIABLE).is_some_and(|v| !v.is_empty());
    match (&context.mount, has_socket) {
        (Some(mount), _) => Options::default().socket(socket_beside(mount)),
        (None, true) => Options::default(),
        (None, false) => variable().map_or_else(Options::default, |mount: std::path::PathBuf| {
            Options::default().socket(socket_beside(&mount))
        }),
    }
}

fn start(argv: Vec<OsString>) -> Result<Child, CliError> {
    Launch::new(argv).hold()?.open()
}

/// Says once on standard error if nobody shows the task; it is no failure.
pub(super) fn tell_status(registry: Registry) {
    thread::spawn(move || match registry.wait_answer(ANSWER) {
        Status::Connected => {}
        Status::Absent => eprintln!("compartment: no daemon answers; the task is shown as soon as one does"),
        Status::Refused(reason) => eprintln!("compartment: the daemon does not show the task: {reason}"),
    });
}

impl Published {
    /// Does what is to be done for a signal that the task has got.
    fn on_signal(&mut self, signal: Signal) -> Result<(), CliError> {
        match self.handlers.iter().find(|(of, _)| *of == signal) {
            Some((_, command)) => {
                let name = signal.as_str().trim_start_matches("SIG");
                let env = format!("COMPARTMENT_SIGNAL={name}");
                let argv = ["env", &env, "sh", "-c", command].map(OsString::from);
                self.running.push((signal, start(argv.into())?));
            }
            None => self.pass_on(signal),
        }
        match signal {
            Signal::SIGSTOP | Signal::SIGTSTP => self.task.set_state(TaskState::Stopped),
            Signal::SIGCONT => self.task.set_state(TaskState::Running),
            _ => {}
        }
        Ok(())
    }

    fn pass_on(&self, signal: Signal) {
        if let Some(child) = &self.child {
            // It cannot be another process: the number stays taken until `try_wait` has seen the end.
            let _ = kill(Pid::from_raw(child.id().cast_signed()), signal);
        }
    }

    /// Takes the status of what has ended; gives the code for our own end.
    fn reap(&mut self) -> Result<Option<ExitCode>, CliError> {
        let wait = |child: &mut Child| child.try_wait().map_err(CliError::os("wait for a command"));
        let mut is_over = false;
        let mut still = Vec::new();
        for (signal, mut child) in self.running.drain(..) {
            match wait(&mut child)? {
                None => still.push((signal, child)),
                Some(status) => is_over |= status.success() && ENDING.contains(&signal),
            }
        }
        self.running = still;
        match &mut self.child {
            Some(child) => Ok(wait(child)?.map(code_of)),
            None => Ok(is_over.then(|| Exit::Ok.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_for_signals_are_pairs_with_known_signals() {
        let words = |all: &[&str]| all.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();

        let parsed = handlers(&words(&["TERM", "a b", "sigusr1", "c"])).expect("signals");
        assert_eq!(parsed, [(Signal::SIGTERM, "a b".into()), (Signal::SIGUSR1, "c".into())]);
        assert!(matches!(handlers(&words(&["NOTHING", "a"])), Err(CliError::Usage(_))));
    }
}
