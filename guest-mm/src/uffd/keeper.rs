//! The keeper: the small process beside each worker that outlives it.
//!
//! It shares the worker's descriptor table, so userfaultfds, agents' sockets and swap files stay open when a worker is killed; their
//! numbers and everything else that the next worker needs are in memory files (`held`). Members that fault meanwhile wait. When the
//! keeper dies, its worker becomes a keeper and starts another worker. A worker that somebody stops is made to go on, and does the same
//! for its keeper; one that hangs is ended by an alarm of its own. When both die at once, the agents kill the members.

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use host_sys::process::{close_all_but, exit_now};
use host_sys::{ForkResult, fork_sharing_fds};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::held::Held;
use super::table::MemTable;
use super::worker::{self, End};

/// A worker that dies sooner than this after its start is not started again at once.
const SHORT_LIFE: Duration = Duration::from_secs(1);
const MAX_SHORT_LIVES: u32 = 20;

/// Runs a keeper for the memory group in `state_dir`, in the calling process, until the group is dissolved.
pub fn main(state_dir: &Path) -> ExitCode {
    let _ = nix::unistd::setsid();
    let _ = nix::unistd::chdir("/");
    for signal in [nix::sys::signal::SIGHUP, nix::sys::signal::SIGINT, nix::sys::signal::SIGPIPE] {
        let _ = host_sys::process::set_handler(signal, nix::sys::signal::SigHandler::SigIgn);
    }
    // Nothing is dropped: what is open here is for the next worker.
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        tell(info);
        exit_now(101)
    }));
    let start = || -> io::Result<(MemTable, Held)> {
        let table = MemTable::create(state_dir).map_err(io::Error::other)?;
        Ok((table, Held::new()?))
    };
    match start() {
        Ok((table, held)) => keep(state_dir, &table, &held),
        Err(error) => {
            tracing::error!(%error, "a keeper cannot start");
            ExitCode::FAILURE
        }
    }
}

/// Starts workers, one after the other as they die.
fn keep(state_dir: &Path, table: &MemTable, held: &Held) -> ExitCode {
    let mut short_lives = 0;
    table.set_keeper_pid(std::process::id() as i32);
    loop {
        let started = Instant::now();
        let keeper = std::process::id() as i32;
        let pid = match fork_sharing_fds() {
            Ok(ForkResult::Parent(pid)) => pid,
            Ok(ForkResult::Child) => match worker::run(state_dir, keeper, table, held) {
                End::Dissolved => exit_now(0),
                End::Failed => exit_now(1),
                // What we know is in the memory files; nothing of ours may close what the next worker needs.
                End::KeeperDied => {
                    tracing::info!(keeper = std::process::id(), "a memory worker is the keeper now");
                    close_leftovers(held);
                    table.set_keeper_pid(std::process::id() as i32);
                    short_lives = 0;
                    continue;
                }
            },
            Err(error) => {
                tracing::error!(%error, "a memory worker cannot be started");
                return ExitCode::FAILURE;
            }
        };
        let status = wait_for_end(Pid::from_raw(pid));
        if table.is_dissolved() {
            return ExitCode::SUCCESS;
        }
        close_leftovers(held);
        tracing::warn!(worker = pid, ?status, "a memory worker died; its members wait for the next one");
        // One that is killed from outside says nothing about the next one.
        let is_own_fault =
            !matches!(status, Ok(WaitStatus::Signaled(_, Signal::SIGKILL | Signal::SIGTERM, _)));
        short_lives = if is_own_fault && started.elapsed() < SHORT_LIFE { short_lives + 1 } else { 0 };
        if short_lives >= MAX_SHORT_LIVES {
            tracing::error!(
                "memory workers die as soon as they start; the group is given up and its members killed"
            );
            return ExitCode::FAILURE;
        }
    }
}

/// Closes what the dead worker had open and the next one has no use for: the daemon notices by that.
fn close_leftovers(held: &Held) {
    let mut keep: Vec<i32> = vec![0, 1, 2];
    keep.extend(held.fds());
    match held.journal() {
        Ok(journal) => keep.extend(journal.fds()),
        Err(error) => {
            tracing::error!(%error, "the journal cannot be read");
            return;
        }
    }
    if let Err(error) = close_all_but(&keep) {
        tracing::warn!(%error, "a dead worker's descriptors stay open");
    }
}

/// Waits for a worker to end; one that somebody stops goes on at once, for its members would wait for it.
fn wait_for_end(worker: Pid) -> nix::Result<WaitStatus> {
    loop {
        match waitpid(worker, Some(WaitPidFlag::WUNTRACED)) {
            Ok(WaitStatus::Stopped(_, signal)) => {
                tracing::warn!(%worker, %signal, "a memory worker was stopped, and is made to go on");
                let _ = kill(worker, Signal::SIGCONT);
            }
            Err(Errno::EINTR) => {}
            end => return end,
        }
    }
}
