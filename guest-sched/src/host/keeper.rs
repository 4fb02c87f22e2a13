//! The keeper: the small process beside each worker that outlives it.
//!
//! It shares the worker's descriptor table, so the `cgroup.freeze` files that the worker has open are open in
//! the keeper too: when the worker dies, it reads in the table who is parked, writes `0` to those, and starts a worker anew.
//! The worker in turn watches the keeper: if that dies, it resumes everybody, starts another keeper, and makes way for that
//! one's worker. Between a worker's death and the resumption the keeper allocates nothing and opens nothing.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use host_sys::process::{close_from, exit_now, stat};
use host_sys::{ForkResult, Pidfd, fork_sharing_fds};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::table::{Parked, Table};
use super::worker;

/// A worker that dies sooner than this after its start is not started again at once.
const SHORT_LIFE: Duration = Duration::from_secs(1);
const MAX_SHORT_LIVES: u32 = 5;

/// Runs a keeper for the group in `state_dir`, in the calling process, until the group is dissolved.
pub fn main(state_dir: &Path) -> ExitCode {
    let _ = nix::unistd::setsid();
    let _ = nix::unistd::chdir("/");
    for signal in [nix::sys::signal::SIGHUP, nix::sys::signal::SIGINT, nix::sys::signal::SIGPIPE] {
        let ignore = nix::sys::signal::SigHandler::SigIgn;
        let _ = host_sys::process::set_handler(signal, ignore);
    }
    let table = match Table::create(state_dir) {
        Ok(table) => table,
        Err(error) => {
            tracing::error!(%error, "a keeper cannot start");
            return ExitCode::FAILURE;
        }
    };
    keep(state_dir, &table)
}

/// Starts workers, one after the other as they die.
fn keep(state_dir: &Path, table: &Table) -> ExitCode {
    let mut short_lives = 0;
    loop {
        let started = Instant::now();
        let (pid, pidfd) = match start_worker(state_dir) {
            Ok(worker) => worker,
            Err(error) => {
                tracing::error!(%error, "a worker cannot be started");
                return ExitCode::FAILURE;
            }
        };
        wait_for_end(pidfd.as_fd());
        resume_all(table);
        let status = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None);
        if table.is_dissolved() {
            return ExitCode::SUCCESS;
        }
        drop(pidfd);
        // What the worker had open is open here too, and of no use to the next one.
        let _ = close_from(3);
        tracing::warn!(worker = pid, ?status, "a worker died; its members are resumed");
        short_lives = if started.elapsed() < SHORT_LIFE { short_lives + 1 } else { 0 };
        if short_lives >= MAX_SHORT_LIVES {
            tracing::error!("workers die as soon as they start; the group is given up");
            return ExitCode::FAILURE;
        }
    }
}

fn start_worker(state_dir: &Path) -> io::Result<(i32, Pidfd)> {
    let keeper = std::process::id() as i32;
    match fork_sharing_fds()? {
        ForkResult::Parent(pid) => Ok((pid, Pidfd::open(pid)?)),
        ForkResult::Child => exit_now(worker::run(state_dir, keeper)),
    }
}

fn wait_for_end(pidfd: BorrowedFd<'_>) {
    loop {
        let mut fds = [PollFd::new(pidfd, PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(n) if n > 0 => return,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return,
        }
    }
}

/// Puts everybody whom the worker has parked back on the host's runqueue.
fn resume_all(table: &Table) {
    table.for_each_parked(|index, pid, start_time, parked| {
        match parked {
            Parked::Freeze(fd) => host_sys::process::write_fd(fd, b"0"),
            Parked::Stop => {
                if let Ok(pidfd) = Pidfd::open(pid)
                    && stat(pid).is_ok_and(|s| s.start_time == start_time)
                {
                    let _ = pidfd.signal(libc::SIGCONT);
                }
            }
            Parked::No => {}
        }
        table.set_parked(index, Parked::No);
    });
}
