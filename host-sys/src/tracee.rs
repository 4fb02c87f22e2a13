//! System calls in another process, by `ptrace(2)`.
//!
//! One thread of it is stopped for as long as a [`Tracee`] lives; the others run on. It then goes on where it was, in the middle of a
//! system call too: a wait that the stop has broken off is begun again.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::sys;

/// How long a thread may take to stop: one that sleeps uninterruptibly does not.
const PATIENCE: Duration = Duration::from_secs(2);
const PTRACE_SETOPTIONS: libc::c_uint = 0x4200;
/// `PTRACE_O_SUSPEND_SECCOMP`: the injected calls are ours, not the program's. For root only.
const SUSPEND_SECCOMP: usize = 1 << 21;
/// `PTRACE_O_EXITKILL`: should we end in the middle of a call of ours, the program must not go on from there.
const EXIT_KILL: usize = 1 << 20;
/// The code segment of 64-bit programs.
const CS_64: u64 = 0x33;
const AT_SYSINFO_EHDR: u64 = 33;

/// Waits that give `EINTR` after any stop, and that can be begun again as they were.
const WAITS: &[i64] = &[
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_io_getevents,
    libc::SYS_io_uring_enter,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    libc::SYS_accept,
    libc::SYS_accept4,
];

/// A stopped thread of another process. Goes on when dropped.
#[derive(Debug)]
pub struct Tracee {
    tid: Pid,
    saved: libc::user_regs_struct,
    mask: u64,
    /// A stop signal that came meanwhile, which cannot be masked.
    stop_signal: Option<Signal>,
    /// Where its address space has a `syscall` instruction.
    gate: u64,
}

/// A thread that has been asked to stop. One that is in the middle of a fault that somebody serves stops only when that is served.
///
/// Dropped, it goes on: at once, or as soon as it has stopped, see [`release_strays`].
#[derive(Debug)]
pub struct Stopping {
    tid: Pid,
    gate: u64,
    is_over: bool,
}

/// What became of a thread that was asked to stop.
#[derive(Debug)]
pub enum Asked {
    /// It has stopped.
    Stopped(Box<Tracee>),
    /// It has not stopped yet.
    NotYet(Stopping),
}

/// Threads that were asked to stop, had not done so, and are not wanted any more.
static STRAYS: Mutex<Vec<Stray>> = Mutex::new(Vec::new());

/// Such a thread, and where it was if a call of ours is not done yet.
#[derive(Debug)]
struct Stray {
    tid: Pid,
    before: Option<(libc::user_regs_struct, u64)>,
}

/// Lets go on what has stopped after nobody waited for it any more; gives whether there is some left. The thread that asked must call it,
/// again and again while there is.
pub fn release_strays() -> bool {
    let mut strays = STRAYS.lock().unwrap_or_else(PoisonError::into_inner);
    strays.retain(|stray| match has_stopped(stray.tid) {
        Ok(None) => true,
        Ok(Some(stop)) => {
            let signal = match stray.before {
                Some((regs, mask)) => {
                    let _ = ptrace::setregs(stray.tid, regs);
                    let _ = sys::ptrace_swap_mask(stray.tid.as_raw(), mask);
                    None
                }
                None => stop.signal(),
            };
            let _ = ptrace::detach(stray.tid, signal);
            false
        }
        Err(_) => false,
    });
    !strays.is_empty()
}

impl Stopping {
    /// Asks a thread to stop.
    ///
    /// # Errors
    /// `EPERM` if it has a tracer already, or must not be traced by us; `ESRCH`; `EOPNOTSUPP` for a program without a vDSO.
    pub fn ask(pid: i32, tid: i32) -> io::Result<Self> {
        let gate = find_gate(pid)?;
        let tid = Pid::from_raw(tid);
        ptrace::seize(tid, Options::empty())?;
        let stopping = Self { tid, gate, is_over: false };
        ptrace::interrupt(tid)?;
        Ok(stopping)
    }

    /// Looks whether it has stopped, for at most so long.
    ///
    /// # Errors
    /// `ESRCH`; `EOPNOTSUPP` for a 32-bit program.
    pub fn wait(mut self, at_most: Duration) -> io::Result<Asked> {
        match wait_for_interrupt(self.tid, at_most) {
            Ok(()) => {
                self.is_over = true;
                let tracee = Tracee::take(self.tid, self.gate);
                tracee.map(|tracee| Asked::Stopped(Box::new(tracee))).inspect_err(|_| {
                    let _ = ptrace::detach(self.tid, None);
                })
            }
            Err(e) if e.raw_os_error() == Some(libc::ETIMEDOUT) => Ok(Asked::NotYet(self)),
            Err(e) => Err(e),
        }
    }
}

impl Drop for Stopping {
    fn drop(&mut self) {
        if !self.is_over && ptrace::detach(self.tid, None).is_err() {
            let stray = Stray { tid: self.tid, before: None };
            STRAYS.lock().unwrap_or_else(PoisonError::into_inner).push(stray);
        }
    }
}

impl Tracee {
    /// Stops a thread.
    ///
    /// # Errors
    /// As [`Stopping::ask`] and [`Stopping::wait`]; `ETIMEDOUT` if it does not stop.
    pub fn stop(pid: i32, tid: i32) -> io::Result<Self> {
        match Stopping::ask(pid, tid)?.wait(PATIENCE)? {
            Asked::Stopped(tracee) => Ok(*tracee),
            Asked::NotYet(_) => Err(io::Error::from_raw_os_error(libc::ETIMEDOUT)),
        }
    }

    fn take(tid: Pid, gate: u64) -> io::Result<Self> {
        let saved = ptrace::getregs(tid)?;
        if saved.cs != CS_64 {
            return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        }
        // Not granted to everybody; then a filter of the program's may refuse us what we need, and we say so.
        if sys::ptrace_word(PTRACE_SETOPTIONS, tid.as_raw(), 0, SUSPEND_SECCOMP | EXIT_KILL).is_err() {
            sys::ptrace_word(PTRACE_SETOPTIONS, tid.as_raw(), 0, EXIT_KILL)?;
        }
        // All but SIGTRAP, which the kernel would force upon it, its own handler lost.
        let mask = sys::ptrace_swap_mask(tid.as_raw(), !(1 << (libc::SIGTRAP - 1)))?;
        Ok(Self { tid, saved, mask, stop_signal: None, gate })
    }

    /// Runs one system call in the thread and gives what it returns.
    ///
    /// # Errors
    /// Those of the call; `ESRCH` if the process ended.
    pub fn syscall(&mut self, number: i64, args: [u64; 6]) -> io::Result<u64> {
        let mut regs = self.call_regs(number, args);
        regs.rip = self.gate;
        ptrace::setregs(self.tid, regs)?;
        for _ in 0..100 {
            ptrace::step(self.tid, None)?;
            self.wait()?;
            let regs = ptrace::getregs(self.tid)?;
            // A stop of another kind may come before the instruction is done.
            if regs.rip != self.gate {
                return result(regs.rax);
            }
        }
        // It cannot be done: the process executes another program, whose instruction is elsewhere.
        Err(io::Error::from_raw_os_error(libc::EAGAIN))
    }

    /// Runs the code at `start`, which begins with a `syscall` instruction and ends with a breakpoint, with `r12` set to `argument`.
    ///
    /// # Errors
    /// As [`Tracee::syscall`].
    pub fn run(&mut self, start: u64, argument: u64, number: i64, args: [u64; 6]) -> io::Result<u64> {
        let mut regs = self.call_regs(number, args);
        regs.rip = start;
        regs.r12 = argument;
        ptrace::setregs(self.tid, regs)?;
        for _ in 0..100 {
            ptrace::cont(self.tid, None)?;
            self.wait()?;
            let regs = ptrace::getregs(self.tid)?;
            if regs.rip != start {
                return result(regs.rax);
            }
        }
        Err(io::Error::from_raw_os_error(libc::EIO))
    }

    fn wait(&mut self) -> io::Result<()> {
        if wait_for_stop(self.tid, PATIENCE)? == Stop::Signal(Signal::SIGSTOP) {
            self.stop_signal = Some(Signal::SIGSTOP);
        }
        Ok(())
    }

    fn call_regs(&self, number: i64, args: [u64; 6]) -> libc::user_regs_struct {
        let [rdi, rsi, rdx, r10, r8, r9] = args;
        libc::user_regs_struct {
            rax: number.cast_unsigned(),
            orig_rax: u64::MAX,
            rdi,
            rsi,
            rdx,
            r10,
            r8,
            r9,
            ..self.saved
        }
    }
}

impl Drop for Tracee {
    fn drop(&mut self) {
        let mut regs = self.saved;
        let interrupted = (-i64::from(libc::EINTR)).cast_unsigned();
        if regs.rax == interrupted && WAITS.contains(&regs.orig_rax.cast_signed()) {
            // As if it had not been called yet: back to the instruction, which is two bytes long.
            regs.rax = regs.orig_rax;
            regs.orig_rax = u64::MAX;
            regs.rip -= 2;
        }
        let _ = ptrace::setregs(self.tid, regs);
        let _ = sys::ptrace_swap_mask(self.tid.as_raw(), self.mask);
        if ptrace::detach(self.tid, None) == Err(Errno::ESRCH) {
            // A call of ours is not done yet, or it has ended.
            let stray = Stray { tid: self.tid, before: Some((regs, self.mask)) };
            STRAYS.lock().unwrap_or_else(PoisonError::into_inner).push(stray);
        }
        if let Some(signal) = self.stop_signal {
            let _ = nix::sys::signal::kill(self.tid, signal);
        }
    }
}

/// How a tracee has stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stop {
    /// A signal is to be delivered, or was raised by a step.
    Signal(Signal),
    /// Because it was asked to, or with its whole process.
    Event,
}

impl Stop {
    fn signal(self) -> Option<Signal> {
        match self {
            Self::Signal(signal) => Some(signal),
            Self::Event => None,
        }
    }
}

fn result(rax: u64) -> io::Result<u64> {
    match rax.cast_signed() {
        error @ -4095..=-1 => Err(io::Error::from_raw_os_error(-error as i32)),
        _ => Ok(rax),
    }
}

/// Looks whether a tracee has stopped.
fn has_stopped(tid: Pid) -> io::Result<Option<Stop>> {
    match waitpid(tid, Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG)) {
        Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) => Ok(None),
        Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) => {
            Err(io::Error::from_raw_os_error(libc::ESRCH))
        }
        Ok(WaitStatus::Stopped(_, signal)) => Ok(Some(Stop::Signal(signal))),
        Ok(_) => Ok(Some(Stop::Event)),
        Err(e) => Err(e.into()),
    }
}

/// Waits for the stop that was asked for. A signal that comes before it is delivered first.
fn wait_for_interrupt(tid: Pid, at_most: Duration) -> io::Result<()> {
    while let Stop::Signal(signal) = wait_for_stop(tid, at_most)? {
        ptrace::cont(tid, signal)?;
    }
    Ok(())
}

fn wait_for_stop(tid: Pid, at_most: Duration) -> io::Result<Stop> {
    let started = Instant::now();
    let mut tries = 0u32;
    loop {
        if let Some(stop) = has_stopped(tid)? {
            return Ok(stop);
        }
        tries += 1;
        if started.elapsed() > at_most {
            return Err(io::Error::from_raw_os_error(libc::ETIMEDOUT));
        }
        if tries < 100 {
            std::thread::yield_now();
        } else {
            std::thread::sleep(Duration::from_micros(u64::from(tries.min(1000))));
        }
    }
}

/// How long a process that is just executing a program may take to have its auxiliary vector.
const EXEC_PATIENCE: Duration = Duration::from_millis(100);

/// Finds a `syscall` instruction in the process's vDSO.
fn find_gate(pid: i32) -> io::Result<u64> {
    use std::os::unix::fs::FileExt;
    let none = || io::Error::from_raw_os_error(libc::EOPNOTSUPP);
    let started = Instant::now();
    let vdso = loop {
        match vdso(pid)? {
            Some(vdso) => break vdso,
            None if started.elapsed() > EXEC_PATIENCE => return Err(none()),
            None => std::thread::sleep(Duration::from_micros(20)),
        }
    };
    let memory = std::fs::File::open(format!("/proc/{pid}/mem"))?;
    let mut code = [0u8; 4096];
    memory.read_exact_at(&mut code, vdso)?;
    let at = code.windows(2).position(|w| w == [0x0f, 0x05]);
    at.map(|at| vdso + at as u64).ok_or_else(none)
}

/// Looks into the auxiliary vector, which is empty for a moment after an exec.
fn vdso(pid: i32) -> io::Result<Option<u64>> {
    let auxv = std::fs::read(format!("/proc/{pid}/auxv"))?;
    let word = |chunk: &[u8]| chunk.try_into().map_or(0, u64::from_ne_bytes);
    let pair = auxv.chunks_exact(16).find(|pair| word(&pair[..8]) == AT_SYSINFO_EHDR);
    Ok(pair.map(|pair| word(&pair[8..])))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn syscall_is_run_in_a_sleeping_child_that_sleeps_on() {
        let mut child = Command::new("sleep").arg("0.3").spawn().expect("sleep");
        let pid = child.id() as i32;
        while !std::fs::read_to_string(format!("/proc/{pid}/wchan")).is_ok_and(|w| w.contains("nanosleep")) {
            std::thread::yield_now();
        }
        let started = Instant::now();

        let mut tracee = Tracee::stop(pid, pid).expect("our child");
        assert_eq!(tracee.syscall(libc::SYS_getpid, [0; 6]).expect("no error"), pid as u64);
        let refused = tracee.syscall(libc::SYS_close, [999, 0, 0, 0, 0, 0]);
        assert_eq!(refused.map_err(|e| e.raw_os_error()), Err(Some(libc::EBADF)));
        drop(tracee);

        assert!(child.wait().expect("a child").success());
        assert!(started.elapsed() > Duration::from_millis(150), "the sleep went on");
    }

    #[test]
    fn process_that_is_none_gives_no_tracee() {
        assert!(Tracee::stop(0x3fff_ffff, 0x3fff_ffff).is_err());
    }
}
