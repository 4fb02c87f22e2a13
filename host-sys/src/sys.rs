//! The raw system calls: one operation each, errors as [`io::Error`].
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn own(fd: libc::c_long) -> OwnedFd {
    // SAFETY: only called with a descriptor that the kernel has just returned to us, which nobody else owns.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

/// Takes over a descriptor that `accept` or `recvmsg` has just given us.
pub(crate) fn own_received(fd: i32) -> OwnedFd {
    own(fd.into())
}

/// A mapping of 64-bit words, unmapped when dropped.
#[derive(Debug)]
pub(crate) struct Words {
    start: NonNull<AtomicU64>,
    len: usize,
}

// SAFETY: the mapping belongs to the value and is only reached through atomics.
unsafe impl Send for Words {}
// SAFETY: as above: shared access is atomic access.
unsafe impl Sync for Words {}

impl Words {
    /// Maps `len` words of `fd` from its start, shared.
    pub(crate) fn map(fd: BorrowedFd<'_>, len: usize, writable: bool) -> io::Result<Self> {
        let prot = if writable { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let start =
            unsafe { libc::mmap(std::ptr::null_mut(), len * 8, prot, libc::MAP_SHARED, fd.as_raw_fd(), 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { start, len })
    }

    pub(crate) fn as_slice(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is `len` words long, page-aligned, and lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// Copies bytes out of the words from byte `from` on; the caller stays inside the mapping.
    pub(crate) fn copy_bytes(&self, from: usize, to: &mut [u8]) {
        assert!(from + to.len() <= self.len * 8, "copy inside the mapping");
        // SAFETY: the range is inside the mapping (asserted); the kernel writes a ring's unread part no more, so that there is no race.
        unsafe {
            std::ptr::copy_nonoverlapping(
                self.start.as_ptr().cast::<u8>().add(from),
                to.as_mut_ptr(),
                to.len(),
            );
        }
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        // SAFETY: unmaps exactly what `map` has mapped; no reference outlives `self`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len * 8) };
    }
}

pub(crate) fn perf_event_open(attr: &crate::perf::Attr, pid: i32, cpu: i32) -> io::Result<OwnedFd> {
    const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 8;
    // SAFETY: `attr` is a complete `perf_event_attr` whose `size` field says its size.
    let fd = unsafe { libc::syscall(libc::SYS_perf_event_open, attr, pid, cpu, -1, PERF_FLAG_FD_CLOEXEC) };
    check(fd).map(own)
}

pub(crate) fn perf_ioctl(fd: BorrowedFd<'_>, request: u64, arg: u64) -> io::Result<()> {
    // SAFETY: the requests used here take an integer argument.
    check(libc::c_long::from(unsafe { libc::ioctl(fd.as_raw_fd(), request as _, arg) })).map(drop)
}

pub(crate) fn perf_ioctl_str(fd: BorrowedFd<'_>, request: u64, arg: &CStr) -> io::Result<()> {
    // SAFETY: the request reads a NUL-terminated string, which `arg` is.
    check(libc::c_long::from(unsafe { libc::ioctl(fd.as_raw_fd(), request as _, arg.as_ptr()) })).map(drop)
}

pub(crate) fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: integers only.
    check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) }).map(own)
}

pub(crate) fn pidfd_send_signal(fd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: a null siginfo is allowed.
    let r = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            fd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    check(r).map(drop)
}

/// `fork` whose child shares our file descriptor table. Gives 0 in the child.
pub(crate) fn fork_files() -> io::Result<i32> {
    let flags = libc::CLONE_FILES | libc::SIGCHLD;
    // SAFETY: without CLONE_VM this is a fork: the child runs on a copy of our memory; callers are single-threaded (asserted by them),
    // so no lock can be held by a thread that is not there any more.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0usize, 0usize, 0usize, 0usize) };
    check(pid).map(|pid| pid as i32)
}

pub(crate) fn sched_setattr(tid: i32, attr: &crate::sched::Attr) -> io::Result<()> {
    // SAFETY: `attr` is a `sched_attr` whose `size` field says its size.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, tid, attr, 0) }).map(drop)
}

pub(crate) fn sched_getattr(tid: i32) -> io::Result<crate::sched::Attr> {
    let mut attr = crate::sched::Attr::default();
    let size = attr.size;
    // SAFETY: the kernel writes at most the size that it is told.
    check(unsafe { libc::syscall(libc::SYS_sched_getattr, tid, &mut attr, size, 0) })?;
    Ok(attr)
}

pub(crate) fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: integers only; the callers own what they close, or are about to exit.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }).map(drop)
}

pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: ends the process without running what it shares with its parent.
    unsafe { libc::_exit(code) }
}

pub(crate) fn pwrite_raw(fd: i32, bytes: &[u8]) {
    // SAFETY: `bytes` is readable for its length; a number that is no open descriptor gives EBADF.
    unsafe { libc::pwrite(fd, bytes.as_ptr().cast(), bytes.len(), 0) };
}

pub(crate) fn set_handler(
    signal: nix::sys::signal::Signal,
    handler: nix::sys::signal::SigHandler,
) -> io::Result<()> {
    // SAFETY: the caller passes only the ignoring or the default handler, which run no code of ours.
    unsafe { nix::sys::signal::signal(signal, handler) }?;
    Ok(())
}

pub(crate) fn epoll_pwait2(
    epoll: BorrowedFd<'_>,
    events: &mut [nix::sys::epoll::EpollEvent],
    timeout: Option<std::time::Duration>,
) -> io::Result<usize> {
    let timeout =
        timeout.map(|t| libc::timespec { tv_sec: t.as_secs() as i64, tv_nsec: i64::from(t.subsec_nanos()) });
    let pointer = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: `events` is writable for its length (`EpollEvent` is a transparent `epoll_event`), `pointer` is null or points to `timeout`.
    let n = unsafe {
        libc::syscall(
            libc::SYS_epoll_pwait2,
            epoll.as_raw_fd(),
            events.as_mut_ptr(),
            events.len() as i32,
            pointer,
            std::ptr::null::<libc::sigset_t>(),
            0usize,
        )
    };
    match check(n) {
        Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(0),
        other => other.map(|n| n as usize),
    }
}
