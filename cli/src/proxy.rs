//! A process that stands for a guest task, so that any shell's `ps` shows it and any `kill` reaches it.
//!
//! It is this binary, executed with the task's command line as its name and the task's directory in its environment. It passes every signal that
//! can be caught on; those that cannot, its parent ([`crate::verbs::task_proxy`]) notices. It ends when the task has ended, or its parent.

use std::ffi::{CString, OsString};
use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::{set_name, set_pdeathsig};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::getppid;

use crate::exit::{Exit, describe};

/// Names the task's directory in the control tree, and says by that what this process is.
pub(crate) const VARIABLE: &str = "COMPARTMENT_PROXY";
/// Names the parent, which may be gone before the proxy looks.
pub(crate) const PARENT: &str = "COMPARTMENT_PROXY_PARENT";

/// How often to look whether the task is still there: nobody is told when one ends.
const LOOK_MS: u16 = 500;

/// The task's directory, if this process is to be its proxy.
pub(crate) fn asked(nr_args: usize) -> Option<PathBuf> {
    std::env::var_os(VARIABLE).filter(|dir| nr_args == 1 && !dir.is_empty()).map(PathBuf::from)
}

/// Stands for the task until it has ended.
pub(crate) fn main(task: &Path) -> ExitCode {
    match stand_for(task) {
        Ok(()) => Exit::Ok.into(),
        Err(e) => {
            eprintln!("compartment: cannot stand for {}: {}", task.display(), describe(&e));
            Exit::Failed.into()
        }
    }
}

fn stand_for(task: &Path) -> io::Result<()> {
    set_pdeathsig(Signal::SIGKILL)?;
    let parent = std::env::var_os(PARENT).unwrap_or_default();
    if parent != *OsString::from(getppid().to_string()) {
        return Ok(());
    }
    let mut comm = fs::read_to_string(task.join("comm"))?;
    comm.truncate(comm.trim_end().len());
    comm.retain(|c| c != '\0');
    set_name(&CString::new(comm)?)?;
    let all = SigSet::all();
    all.thread_block()?;
    let signals = SignalFd::with_flags(&all, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
    loop {
        let _ = poll(&mut [PollFd::new(signals.as_fd(), PollFlags::POLLIN)], PollTimeout::from(LOOK_MS));
        while let Some(info) = signals.read_signal()? {
            // Refused: whoever has sent it has no way to hear of that, as with a signal that a process ignores.
            let _ = pass_on(task, &info.ssi_signo.to_string());
        }
        if !task.join("comm").exists() {
            return Ok(());
        }
    }
}

/// Sends a task a signal, by name or number.
pub(crate) fn pass_on(task: &Path, signal: &str) -> io::Result<()> {
    fs::OpenOptions::new()
        .write(true)
        .open(task.join("signal"))
        .and_then(|mut file| io::Write::write_all(&mut file, signal.as_bytes()))
}
