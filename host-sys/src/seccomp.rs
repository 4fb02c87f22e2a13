//! System calls that another process answers (`seccomp_unotify(2)`): the filter that picks them, and its listener.
//!
//! Calls are picked by the numbers in their arguments, so that all others keep their cost: for a call that is in no [`Rule`] the kernel does not
//! even run the filter.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::sys;

/// Calls that the listener gets.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// The call's number, `SYS_*`.
    pub call: i64,
    /// Which of them.
    pub which: Which,
}

/// Which calls of a number.
#[derive(Clone, Copy, Debug)]
pub enum Which {
    /// All.
    All,
    /// Those with the low 32 bits of an argument in one of these ranges, both ends included.
    Argument(u8, &'static [(u32, u32)]),
}

#[cfg(target_arch = "x86_64")]
const AUDIT_ARCH: u32 = 0xC000_003E;
#[cfg(target_arch = "aarch64")]
const AUDIT_ARCH: u32 = 0xC000_00B7;
#[cfg(target_arch = "riscv64")]
const AUDIT_ARCH: u32 = 0xC000_00F3;

const LOAD: u16 = 0x20;
const RETURN: u16 = 0x06;
const EQUAL: u16 = 0x15;
const GREATER: u16 = 0x25;
const AT_LEAST: u16 = 0x35;

const CALL_AT: u32 = 0;
const ARCH_AT: u32 = 4;
const ARGS_AT: u32 = 16;

const ALLOW: libc::sock_filter = statement(RETURN, libc::SECCOMP_RET_ALLOW);
const NOTIFY: libc::sock_filter = statement(RETURN, libc::SECCOMP_RET_USER_NOTIF);

const fn statement(code: u16, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt: 0, jf: 0, k }
}

/// A jump of so many instructions if so, and of so many if not.
const fn jump(code: u16, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

/// Compiles rules. Calls of another architecture (32-bit programs) are let through.
fn program(rules: &[Rule]) -> Vec<libc::sock_filter> {
    let mut out =
        vec![statement(LOAD, ARCH_AT), jump(EQUAL, AUDIT_ARCH, 1, 0), ALLOW, statement(LOAD, CALL_AT)];
    for rule in rules {
        let body = match rule.which {
            Which::All => vec![NOTIFY],
            Which::Argument(index, ranges) => {
                // The low half of the 64-bit argument, on machines that keep it first.
                let mut body = vec![statement(LOAD, ARGS_AT + 8 * u32::from(index))];
                for (first, last) in ranges {
                    body.extend([jump(AT_LEAST, *first, 0, 2), jump(GREATER, *last, 1, 0), NOTIFY]);
                }
                body.push(ALLOW);
                body
            }
        };
        out.push(jump(EQUAL, rule.call as u32, 0, body.len() as u8));
        out.extend(body);
    }
    out.push(ALLOW);
    out
}

/// The end of a filter at which the calls arrive.
#[derive(Debug)]
pub struct Listener(OwnedFd);

/// A call that waits for its answer.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// To answer it by.
    pub id: u64,
    /// The calling thread; 0 if it is in a PID namespace that we do not see.
    pub tid: i32,
    /// The call's number.
    pub call: i64,
    /// Its arguments. What they point to may change at any time.
    pub args: [u64; 6],
}

/// What comes of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Its value.
    Value(i64),
    /// Its error.
    Errno(i32),
    /// The kernel carries it out.
    Continue,
}

impl Listener {
    /// Installs a filter for the calling thread and all that it will start. Without `CAP_SYS_ADMIN` in our user namespace, only after
    /// `PR_SET_NO_NEW_PRIVS`.
    ///
    /// # Errors
    /// `EBUSY` if there is a listener for us already: there can be one only; `EACCES` without the capability.
    pub fn install(rules: &[Rule]) -> io::Result<Self> {
        let (program, new) = (program(rules), libc::SECCOMP_FILTER_FLAG_NEW_LISTENER);
        // A caller whose call has been taken is not interrupted by signals (Linux 5.19): it would be made, and carried out, twice.
        match sys::seccomp_listener(&program, new | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV) {
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => sys::seccomp_listener(&program, new),
            other => other,
        }
        .map(Self)
    }

    /// Takes over a listener that came from whom it is for.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Takes the next call; waits for it, also when nobody is left who could make one: then `poll(2)` says POLLHUP.
    ///
    /// # Errors
    /// `ENOENT` if the caller was killed meanwhile; `EINTR`.
    pub fn receive(&self) -> io::Result<Call> {
        let got = sys::seccomp_receive(self.0.as_fd())?;
        Ok(Call { id: got.id, tid: got.pid.cast_signed(), call: got.data.nr.into(), args: got.data.args })
    }

    /// Says whether a call still waits: then what was read about its caller was the caller's.
    pub fn is_waiting(&self, call: &Call) -> bool {
        sys::seccomp_is_valid(self.0.as_fd(), call.id)
    }

    /// Answers a call.
    ///
    /// # Errors
    /// `ENOENT` if the caller was killed meanwhile.
    pub fn answer(&self, call: &Call, answer: Answer) -> io::Result<()> {
        let (val, error, flags) = match answer {
            Answer::Value(value) => (value, 0, 0),
            Answer::Errno(errno) => (0, -errno, 0),
            Answer::Continue => (0, 0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32),
        };
        sys::seccomp_send(self.0.as_fd(), libc::seccomp_notif_resp { id: call.id, val, error, flags })
    }

    /// Gives the caller a descriptor, closed when it executes another program; gives its number there. The call still waits.
    ///
    /// # Errors
    /// `EMFILE` if the caller has too many; `ENOENT` if it was killed meanwhile.
    pub fn give(&self, call: &Call, fd: BorrowedFd<'_>) -> io::Result<i32> {
        sys::seccomp_add_fd(self.0.as_fd(), call.id, fd, None)
    }

    /// Puts a descriptor into the place of one that the caller has. The call still waits.
    ///
    /// # Errors
    /// `ENOENT` if it was killed meanwhile.
    pub fn replace(&self, call: &Call, fd: BorrowedFd<'_>, number: i32) -> io::Result<()> {
        sys::seccomp_add_fd(self.0.as_fd(), call.id, fd, Some(number)).map(drop)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program as the kernel does.
    fn run(program: &[libc::sock_filter], arch: u32, call: i64, args: [u64; 6]) -> u32 {
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let step = program[at];
            at += 1;
            let jump = |is_so: bool| usize::from(if is_so { step.jt } else { step.jf });
            match step.code {
                LOAD => {
                    accumulator = match step.k {
                        CALL_AT => call as u32,
                        ARCH_AT => arch,
                        at => args[(at - ARGS_AT) as usize / 8] as u32,
                    }
                }
                EQUAL => at += jump(accumulator == step.k),
                GREATER => at += jump(accumulator > step.k),
                AT_LEAST => at += jump(accumulator >= step.k),
                RETURN => return step.k,
                code => panic!("{code:#x}"),
            }
        }
    }

    #[test]
    fn calls_are_picked_by_number_and_argument() {
        let rules = [
            Rule { call: 62, which: Which::Argument(0, &[(100, 200), (0x8000_0000, 0x9000_0000)]) },
            Rule { call: 141, which: Which::Argument(1, &[(100, u32::MAX)]) },
            Rule { call: 424, which: Which::All },
        ];
        let program = program(&rules);
        let is_picked = |call, first: u64, second: u64| {
            run(&program, AUDIT_ARCH, call, [first, second, 0, 0, 0, 0]) == libc::SECCOMP_RET_USER_NOTIF
        };

        for (first, expected) in [
            (99, false),
            (100, true),
            (200, true),
            (201, false),
            (0x7fff_ffff, false),
            (0x8000_0000, true),
            (0x9000_0001, false),
            (u64::MAX, false),
            (1 << 32 | 150, true),
        ] {
            assert_eq!(is_picked(62, first, 0), expected, "{first}");
        }
        assert!(is_picked(141, 0, 100) && !is_picked(141, 100, 99));
        assert!(is_picked(424, 0, 0) && !is_picked(63, 150, 150));
        assert_eq!(run(&program, 3, 62, [150; 6]), libc::SECCOMP_RET_ALLOW, "of a 32-bit program");
    }
}
