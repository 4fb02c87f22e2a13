//! `task proxy`: real processes that stand for guest tasks.

use std::io::Write;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use clap::Args;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::args::Context;
use crate::exit::{CliError, Exit};
use crate::proxy;
use crate::signals::Signals;
use crate::tree::{Side, Tree};

const AFTER_HELP: &str = "\
Prints a line for each: the PID of its proxy, and its own. A proxy has the task's name and command line, passes the signals that it gets on to the task,
STOP, CONT and KILL included, and ends with the task. All end with this command.";

/// Have real processes stand for guest tasks, for every shell's ps and kill.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct ProxyArgs {
    /// The guest tasks
    #[arg(required = true, value_name = "PID", value_parser = clap::value_parser!(i32).range(4_194_304..))]
    pids: Vec<i32>,
}

/// A proxy, and the directory of what it stands for.
struct Proxy {
    pid: Pid,
    task: PathBuf,
}

impl ProxyArgs {
    pub(super) fn run(self, context: &Context, out: &mut dyn Write) -> Result<ExitCode, CliError> {
        let signals = Signals::block()?;
        let tree = context.tree()?;
        let mut proxies = Proxies(Vec::new());
        for pid in self.pids {
            let proxy = start(&tree, pid)?;
            writeln!(out, "{} {pid}", proxy.pid)?;
            proxies.0.push(proxy);
        }
        out.flush()?;
        while !proxies.0.is_empty() {
            match signals.wait(Duration::from_secs(3_600))? {
                Some(received) if received.is_ending() => return Err(CliError::Interrupted(received.signal)),
                _ => proxies.look()?,
            }
        }
        Ok(Exit::Ok.into())
    }
}

fn start(tree: &Tree, pid: i32) -> Result<Proxy, CliError> {
    let group = tree.group_of(Side::Sched, pid)?;
    let task = group.member_path(pid);
    let cmdline = group.read(&format!("{pid}/cmdline"))?;
    let title = match cmdline.trim_end_matches('\0') {
        "" => format!("[{}]", group.read(&format!("{pid}/comm"))?),
        words => words.replace('\0', " "),
    };
    let exe = std::env::current_exe().map_err(CliError::os("find the own binary"))?;
    let mut command = Command::new(exe);
    command.arg0(title).env(proxy::VARIABLE, &task).env(proxy::PARENT, std::process::id().to_string());
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
    let child = child.map_err(CliError::os("start a proxy"))?;
    Ok(Proxy { pid: Pid::from_raw(child.id().cast_signed()), task })
}

/// All proxies; killed with the value.
struct Proxies(Vec<Proxy>);

impl Proxies {
    /// Takes what has become of them; what they could not pass on themselves is passed on.
    fn look(&mut self) -> Result<(), CliError> {
        let flags = WaitPidFlag::WNOHANG | WaitPidFlag::WUNTRACED;
        let mut ended = Vec::new();
        for proxy in &self.0 {
            loop {
                match waitpid(proxy.pid, Some(flags)).map_err(CliError::nix("wait for a proxy"))? {
                    WaitStatus::StillAlive => break,
                    WaitStatus::Stopped(..) => drop(proxy::pass_on(&proxy.task, "STOP")),
                    WaitStatus::Signaled(_, Signal::SIGKILL, _) => {
                        let _ = proxy::pass_on(&proxy.task, "KILL");
                        ended.push(proxy.pid);
                        break;
                    }
                    WaitStatus::Exited(..) | WaitStatus::Signaled(..) => {
                        ended.push(proxy.pid);
                        break;
                    }
                    _ => {}
                }
            }
        }
        self.0.retain(|proxy| !ended.contains(&proxy.pid));
        Ok(())
    }
}

impl Drop for Proxies {
    fn drop(&mut self) {
        for proxy in &self.0 {
            let _ = kill(proxy.pid, Signal::SIGKILL);
            let _ = waitpid(proxy.pid, None);
        }
    }
}
