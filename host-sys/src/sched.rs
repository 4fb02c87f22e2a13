//! Scheduling parameters of host threads.

use std::io;

use crate::sys;

/// The kernel's `struct sched_attr` (`sched_setattr(2)`), first version plus nothing.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attr {
    /// The structure's size in bytes; leave it as `default` made it.
    pub size: u32,
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// Nice, for the time-sharing policies.
    pub nice: i32,
    /// 1..=99 for the real-time policies, else 0.
    pub priority: u32,
    /// For time-sharing policies the wished slice in nanoseconds (Linux 6.12), 0 for the kernel's own.
    pub runtime: u64,
    /// Deadline policy only.
    pub deadline: u64,
    /// Deadline policy only.
    pub period: u64,
}

impl Default for Attr {
    fn default() -> Self {
        Self { size: 48, policy: 0, flags: 0, nice: 0, priority: 0, runtime: 0, deadline: 0, period: 0 }
    }
}

/// Children do not inherit the policy.
pub const RESET_ON_FORK: u64 = 1;

/// Reads a thread's parameters.
///
/// # Errors
/// `ESRCH`.
pub fn get(tid: i32) -> io::Result<Attr> {
    sys::sched_getattr(tid)
}

/// Sets a thread's parameters; 0 is the calling thread.
///
/// # Errors
/// `ESRCH`, `EPERM`, `EINVAL`.
pub fn set(tid: i32, attr: &Attr) -> io::Result<()> {
    sys::sched_setattr(tid, attr)
}

/// Reads a thread's nice value.
///
/// # Errors
/// `ESRCH`.
pub fn nice(tid: i32) -> io::Result<i8> {
    Ok(get(tid)?.nice as i8)
}

/// How a thread that decides over others was favoured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Favour {
    /// `SCHED_FIFO`: runs as soon as it is woken.
    Fifo,
    /// A short slice: soon scheduled, never long.
    ShortSlice,
    /// Nothing could be had.
    None,
}

/// Favours the calling thread as far as its rights go, so that its decisions come in time and do not disturb the sharing.
pub fn favour_self() -> Favour {
    const SCHED_FIFO: u32 = 1;
    // Should a real-time thread of ours ever spin, the kernel ends it, and its keeper makes good.
    let limit = std::time::Duration::from_millis(500).as_micros() as u64;
    let _ = nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_RTTIME, limit, limit);
    let fifo = Attr { policy: SCHED_FIFO, priority: 1, flags: RESET_ON_FORK, ..Attr::default() };
    if set(0, &fifo).is_ok() {
        return Favour::Fifo;
    }
    let short = Attr { runtime: 100_000, ..Attr::default() };
    if set(0, &short).is_ok() { Favour::ShortSlice } else { Favour::None }
}
