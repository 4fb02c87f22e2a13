//! Processes: handles, start times, states, CPU time, and the fork that shares descriptors.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use crate::sys;

/// A handle of a process that no other process can take over, whatever happens to the number.
#[derive(Debug)]
pub struct Pidfd {
    fd: OwnedFd,
}

impl Pidfd {
    /// Opens the process.
    ///
    /// # Errors
    /// `ESRCH` if there is none; `EINVAL` for a thread that is not the first of its process.
    pub fn open(pid: i32) -> io::Result<Self> {
        Ok(Self { fd: sys::pidfd_open(pid)? })
    }

    /// Sends a signal; 0 only asks whether that would be possible.
    ///
    /// # Errors
    /// `ESRCH` if it has ended, `EPERM`, `EINVAL`.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        sys::pidfd_send_signal(self.fd.as_fd(), signal)
    }

    /// Copies a descriptor out of the process.
    ///
    /// # Errors
    /// `EPERM` without the right to trace it, `EBADF`, `ESRCH`.
    pub fn copy_fd(&self, fd: i32) -> io::Result<OwnedFd> {
        sys::pidfd_getfd(self.fd.as_fd(), fd)
    }
}

impl AsFd for Pidfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Which side of a fork we are on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ForkResult {
    /// The parent, with the child's PID.
    Parent(i32),
    /// The child.
    Child,
}

/// Forks a child that shares our descriptor table: what either opens or closes, the other has or has not.
///
/// The calling process must have a single thread.
///
/// # Errors
/// Those of `clone`; `EBUSY` if the process has more than one thread.
pub fn fork_sharing_fds() -> io::Result<ForkResult> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::from_raw_os_error(libc::EBUSY));
    }
    Ok(match sys::fork_files()? {
        0 => ForkResult::Child,
        pid => ForkResult::Parent(pid),
    })
}

/// Ends the process at once: no destructors, no buffers flushed, nothing that a forked child shares with its parent is touched.
pub fn exit_now(code: i32) -> ! {
    sys::exit_now(code)
}
/// Closes every descriptor but these.
///
/// # Errors
/// Those of reading `/proc/self/fd`.
pub fn close_all_but(keep: &[i32]) -> io::Result<()> {
    let entries = std::fs::read_dir("/proc/self/fd")?;
    let open: Vec<u32> = entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok()).collect();
    for fd in open.into_iter().filter(|fd| !keep.contains(&fd.cast_signed())) {
        let _ = sys::close_range(fd, fd);
    }
    Ok(())
}

/// Takes over a descriptor known by its number only, as another process that shares our table, or the kernel, has put it there. The
/// caller sees to it that nobody else owns it.
pub fn take_fd(fd: i32) -> Option<OwnedFd> {
    sys::own_given(fd)
}

/// Writes to a descriptor known by its number only, at offset 0. Errors are of no use to the caller: whoever reads of a number in a
/// table after a death can only try.
pub fn write_fd(fd: i32, bytes: &[u8]) {
    sys::pwrite_raw(fd, bytes);
}

/// Sets what a signal does: ignored or default.
///
/// # Errors
/// `EINVAL`; a handler function is refused as well.
pub fn set_handler(
    signal: nix::sys::signal::Signal,
    handler: nix::sys::signal::SigHandler,
) -> io::Result<()> {
    use nix::sys::signal::SigHandler;
    if matches!(handler, SigHandler::SigIgn | SigHandler::SigDfl) {
        sys::set_handler(signal, handler)
    } else {
        Err(io::ErrorKind::InvalidInput.into())
    }
}

/// Waits for events of `epoll` until `timeout`, with its full resolution.
///
/// # Errors
/// Those of `epoll_pwait2`; an interrupted wait gives no events.
pub fn epoll_wait(
    epoll: BorrowedFd<'_>,
    events: &mut [nix::sys::epoll::EpollEvent],
    timeout: Option<std::time::Duration>,
) -> io::Result<usize> {
    sys::epoll_pwait2(epoll, events, timeout)
}

/// CPU time of a process with all its threads, past ones included, up to this instant.
///
/// # Errors
/// `ESRCH`.
pub fn cpu_time(pid: i32) -> io::Result<u64> {
    // The kernel's CPUCLOCK_SCHED clock of a process: `~pid << 3 | 2`.
    let clock = nix::time::ClockId::from_raw((!pid) << 3 | 2);
    let time = nix::time::clock_gettime(clock).map_err(|_| io::Error::from_raw_os_error(libc::ESRCH))?;
    Ok(time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}

/// The monotonic clock in nanoseconds.
pub fn now() -> u64 {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    time.map_or(0, |t| t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64)
}

/// CPU time of the calling process in nanoseconds.
pub fn own_cpu_time() -> u64 {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID);
    time.map_or(0, |t| t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64)
}

/// What `/proc/PID/stat` says, as far as the drivers need it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stat {
    /// `R`, `S`, `D`, `T`, `t`, `Z`, `X`, `I`.
    pub state: u8,
    /// Parent process.
    pub ppid: i32,
    /// `PF_*`.
    pub flags: u32,
    /// Nice.
    pub nice: i8,
    /// Clock ticks after boot.
    pub start_time: u64,
}

impl Stat {
    /// Whether it is a thread of the kernel (`PF_KTHREAD`).
    pub const fn is_kernel_thread(&self) -> bool {
        self.flags & 0x0020_0000 != 0
    }

    /// Whether it is on a runqueue (or about to be stopped there).
    pub const fn is_runnable(&self) -> bool {
        self.state == b'R'
    }

    /// Whether it is on its way out (`PF_EXITING`) or has ended.
    pub const fn is_exiting(&self) -> bool {
        self.flags & 0x4 != 0 || self.is_dead()
    }

    /// Whether it has ended.
    pub const fn is_dead(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x')
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let close = text.iter().rposition(|&b| b == b')')?;
        let rest = std::str::from_utf8(text.get(close + 2..)?).ok()?;
        let mut fields = rest.split_ascii_whitespace();
        Some(Self {
            state: *fields.next()?.as_bytes().first()?,
            ppid: fields.next()?.parse().ok()?,
            flags: fields.nth(4)?.parse().ok()?,
            nice: fields.nth(9)?.parse().ok()?,
            start_time: fields.nth(2)?.parse().ok()?,
        })
    }
}

fn read_stat(path: &str) -> io::Result<Stat> {
    let text = std::fs::read(path).map_err(gone)?;
    Stat::parse(&text).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// A process that is gone has no directory: say so as the system calls do.
fn gone(e: io::Error) -> io::Error {
    if e.kind() == io::ErrorKind::NotFound { io::Error::from_raw_os_error(libc::ESRCH) } else { e }
}

/// Reads the state of a process (of its first thread).
///
/// # Errors
/// `ESRCH` if there is none.
pub fn stat(pid: i32) -> io::Result<Stat> {
    read_stat(&format!("/proc/{pid}/stat"))
}

/// Reads the state of a thread.
///
/// # Errors
/// `ESRCH` if there is none.
pub fn thread_stat(pid: i32, tid: i32) -> io::Result<Stat> {
    read_stat(&format!("/proc/{pid}/task/{tid}/stat"))
}

/// Lists the threads of a process.
///
/// # Errors
/// `ESRCH` if there is none.
pub fn threads(pid: i32) -> io::Result<Vec<i32>> {
    let mut tids = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/task")).map_err(gone)? {
        if let Some(tid) = entry.map_err(gone)?.file_name().to_str().and_then(|s| s.parse().ok()) {
            tids.push(tid);
        }
    }
    Ok(tids)
}

/// Gives the process that a thread belongs to.
///
/// # Errors
/// `ESRCH` if there is no such thread.
pub fn thread_group(tid: i32) -> io::Result<i32> {
    status_field(tid, "Tgid:")
}

/// Gives the process that traces a thread, 0 for none.
///
/// # Errors
/// `ESRCH` if there is no such thread.
pub fn tracer(tid: i32) -> io::Result<i32> {
    status_field(tid, "TracerPid:")
}

fn status_field(tid: i32, key: &str) -> io::Result<i32> {
    let text = std::fs::read_to_string(format!("/proc/{tid}/status")).map_err(gone)?;
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.trim().parse().ok())
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// An open `/proc/PID/task/TID/schedstat`: the cheapest way to a thread's CPU time (0.4 µs).
#[derive(Debug)]
pub struct SchedStat {
    file: File,
}

impl SchedStat {
    /// Opens a thread's.
    ///
    /// # Errors
    /// `ESRCH` if there is no such thread.
    pub fn open(pid: i32, tid: i32) -> io::Result<Self> {
        let file = File::open(format!("/proc/{pid}/task/{tid}/schedstat")).map_err(gone)?;
        Ok(Self { file })
    }

    /// Reads the CPU time and the time spent waiting on a runqueue, both in nanoseconds.
    ///
    /// # Errors
    /// `ESRCH` if the thread has ended.
    pub fn read(&self) -> io::Result<(u64, u64)> {
        let mut buf = [0u8; 96];
        let len = self.file.read_at(&mut buf, 0)?;
        let text = std::str::from_utf8(&buf[..len]).map_err(|_| io::ErrorKind::InvalidData)?;
        let mut fields = text.split_ascii_whitespace().map(str::parse);
        match (fields.next(), fields.next()) {
            (Some(Ok(cpu)), Some(Ok(wait))) => Ok((cpu, wait)),
            _ => Err(io::Error::from_raw_os_error(libc::ESRCH)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_with_odd_name_is_parsed() {
        let text = b"12 (a) b) R 1 12 12 0 -1 4194560 0 0 0 0 12 3 0 0 20 -7 1 0 1000 10 5";

        let stat = Stat::parse(text).expect("a stat line");

        assert_eq!((stat.state, stat.ppid, stat.nice, stat.start_time), (b'R', 1, -7, 1000));
    }

    #[test]
    fn own_stat_is_runnable() {
        let me = std::process::id() as i32;
        assert_eq!(thread_group(me).expect("exists"), me);
        assert!(!stat(me).expect("exists").is_kernel_thread());
        assert_eq!(stat(0x3fff_ffff).map_err(|e| e.raw_os_error()), Err(Some(libc::ESRCH)));
    }
}
