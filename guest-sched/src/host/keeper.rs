//! The keeper: the small process beside each worker that outlives it.
//!
//! It shares the worker's descriptor table, so the `cgroup.freeze` files that the worker has open are open in
//! the keeper too: when the worker dies, it reads in the table who is parked, writes `0` to those, and starts a worker anew.
//! The worker in turn watches the keeper: if that dies, it resumes everybody, starts another keeper, and makes way for that
//! one's worker. A keeper that is stopped or stuck is killed for that by the worker, which looks at it once a second while anybody wants to run. Between a worker's death and the resumption the keeper allocates nothing and opens nothing.
//!
//! A worker that lives but is stopped or stuck is as bad as a dead one, while it holds somebody off the host's runqueue. So it leaves a
//! sign of life in the table (the *beat*), at which the keeper looks now and then while anybody is held, and never else: then
//! the worker calls it through an event descriptor. Stops are told by the kernel. What is silent for too long is killed.

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use host_sys::process::{close_all_but, exit_now, now, stat};
use host_sys::{ForkResult, Pidfd, fork_sharing_fds};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::lease::Lease;
use super::table::{Parked, Table};
use super::watch::{SILENCE, Watch, own_time};
use super::worker;

/// A worker that dies sooner than this after its start is not started again at once.
const SHORT_LIFE: Duration = Duration::from_secs(1);
const MAX_SHORT_LIVES: u32 = 5;
/// How often the beat is looked at while somebody is held, and how often while something is wrong.
const LOOK: Duration = Duration::from_millis(100);
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// How long an earlier worker of the group may take to end.
const PREDECESSOR: Duration = Duration::from_secs(5);

/// Runs a keeper for the group in `state_dir`, in the calling process, until the group is dissolved.
pub fn main(state_dir: &Path) -> ExitCode {
    let _ = nix::unistd::setsid();
    let _ = nix::unistd::chdir("/");
    for signal in [nix::sys::signal::SIGHUP, nix::sys::signal::SIGINT, nix::sys::signal::SIGPIPE] {
        let ignore = nix::sys::signal::SigHandler::SigIgn;
        let _ = host_sys::process::set_handler(signal, ignore);
    }
    let start = || -> io::Result<(Lease, Table)> {
        let lease = Lease::take(state_dir, PREDECESSOR)?;
        Ok((lease, Table::create(state_dir).map_err(io::Error::other)?))
    };
    match start() {
        Ok((lease, table)) => keep(state_dir, &lease, &table),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            tracing::info!("the group has another keeper");
            ExitCode::FAILURE
        }
        Err(error) => {
            tracing::error!(%error, "a keeper cannot start");
            ExitCode::FAILURE
        }
    }
}

/// Starts workers, one after the other as they die.
fn keep(state_dir: &Path, lease: &Lease, table: &Table) -> ExitCode {
    let mut short_lives = 0;
    loop {
        let started = Instant::now();
        let (pid, pidfd, ears) = match start_worker(state_dir, table) {
            Ok(worker) => worker,
            Err(error) => {
                tracing::error!(%error, "a worker cannot be started");
                return ExitCode::FAILURE;
            }
        };
        wait_for_end(pid, &pidfd, &ears, table);
        resume_all(table);
        let status = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None);
        if table.is_dissolved() {
            return ExitCode::SUCCESS;
        }
        drop((pidfd, ears));
        // What the worker had open is open here too, and of no use to the next one.
        let _ = close_all_but(&[0, 1, 2, lease.fd()]);
        tracing::warn!(worker = pid, ?status, "a worker died; its members are resumed");
        short_lives = if started.elapsed() < SHORT_LIFE { short_lives + 1 } else { 0 };
        if short_lives >= MAX_SHORT_LIVES {
            tracing::error!("workers die as soon as they start; the group is given up");
            return ExitCode::FAILURE;
        }
    }
}

/// What a keeper hears.
struct Ears {
    /// The worker calls: it holds somebody.
    bell: EventFd,
    /// The worker was stopped; its end is told by its handle.
    stops: SignalFd,
}

fn start_worker(state_dir: &Path, table: &Table) -> io::Result<(i32, Pidfd, Ears)> {
    let keeper = std::process::id() as i32;
    let _ = table.set_beat(0);
    table.set_watched(false);
    let signals = SigSet::from(Signal::SIGCHLD);
    signals.thread_block()?;
    let stops = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
    match fork_sharing_fds()? {
        ForkResult::Parent(pid) => Ok((pid, Pidfd::open(pid)?, Ears { bell, stops })),
        ForkResult::Child => {
            let _ = signals.thread_unblock();
            exit_now(worker::run(state_dir, keeper, ManuallyDrop::new(bell)))
        }
    }
}

/// Waits until the worker has ended, and ends it if it is stopped or stuck.
fn wait_for_end(pid: i32, pidfd: &Pidfd, ears: &Ears, table: &Table) {
    let mut watch = Watch::default();
    loop {
        let is_armed = table.beat() != 0;
        table.set_watched(is_armed);
        // The worker may have begun to hold somebody just before it saw that we sleep.
        let timeout = match watch.is_alarmed() {
            true => Some(LOOK_AGAIN),
            false if is_armed || table.beat() != 0 => {
                Some(LOOK.max(Duration::from_nanos((table.beat() + SILENCE).saturating_sub(now()))))
            }
            false => None,
        };
        table.set_keeper_beat(timeout.map_or(0, |timeout| now() + timeout.as_nanos() as u64));
        let timeout = timeout.map_or(PollTimeout::NONE, |t| t.try_into().unwrap_or(PollTimeout::MAX));
        let mut fds = [pidfd.as_fd(), ears.bell.as_fd(), ears.stops.as_fd()]
            .map(|fd: BorrowedFd<'_>| PollFd::new(fd, PollFlags::POLLIN));
        let heard = poll(&mut fds, timeout);
        if fds[0].any().unwrap_or(false) {
            return;
        }
        let (is_called, is_told) = (fds[1].any().unwrap_or(false), fds[2].any().unwrap_or(false));
        if is_called {
            let _ = ears.bell.read();
        }
        if is_told {
            let _ = ears.stops.read_signal();
        }
        if heard.is_ok()
            && (is_told || watch.is_alarmed() || watch.is_overdue(table.beat(), now()))
            && let Ok(look) = stat(pid)
            && watch.is_hung(&look, table.beat(), now(), || own_time(pid))
        {
            tracing::error!(worker = pid, state = %char::from(look.state), "a worker hangs and is killed");
            let _ = pidfd.signal(libc::SIGKILL);
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
