//! Taking hold of an address space: a userfaultfd over it, a staging area and an agent inside it; and letting go of it again.
//!
//! A thread of the process is stopped for a few system calls (see [`host_sys::tracee`]). What the process may not open itself
//! (`/dev/userfaultfd`, the agent's memory file) is handed to it through a socket pair of its own, one end of which we take. So no
//! privilege is needed in the process, and none is gained: it keeps none of these descriptors.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use host_sys::tracee::Tracee;
use host_sys::uffd::{IOC_NEW, Userfaultfd};
use host_sys::{Agent, Pidfd, agent};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use super::maps::{self, Kind};

/// How an address space cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AttachError {
    /// The process was not stopped, or did not do what it was told.
    #[error("cannot {what}: {source}")]
    Os {
        /// What was tried.
        what: &'static str,
        /// The cause.
        source: io::Error,
    },
}

impl AttachError {
    /// The errno that whoever asked shall see.
    pub(crate) fn errno(&self) -> i32 {
        let Self::Os { what, source } = self;
        match source.raw_os_error().unwrap_or(libc::EIO) {
            libc::ENOENT => libc::ESRCH,
            libc::EPERM | libc::EACCES if *what == STOP => libc::EOPNOTSUPP,
            libc::ENOSYS | libc::EINVAL => libc::EOPNOTSUPP,
            errno => errno,
        }
    }

    /// There is no number left for another address space.
    pub(crate) fn full() -> Self {
        failed("take another address space")(io::Error::from_raw_os_error(libc::ENOSPC))
    }

    /// The rest of the worker refuses it.
    pub(crate) fn inner(source: io::Error) -> Self {
        failed("keep an address space")(source)
    }

    /// Whether it may be better soon: the process could not be stopped, or did not go on, in time.
    pub(crate) fn is_temporary(&self) -> bool {
        matches!(self.errno(), libc::EAGAIN | libc::ETIMEDOUT)
    }

    /// Whether the process ended meanwhile.
    pub(crate) fn is_gone(&self) -> bool {
        self.errno() == libc::ESRCH
    }
}

/// What the agent is called in `ps`.
pub(crate) const AGENT_NAME: &str = "comp-mm";
const STOP: &str = "stop the process (has it a tracer already?)";

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> AttachError {
    move |source| AttachError::Os { what, source }
}

/// What we have of an address space.
#[derive(Debug)]
pub(crate) struct Attached {
    /// Over its memory. Nothing is registered yet.
    pub(crate) uffd: Userfaultfd,
    /// Our end of the agent.
    pub(crate) agent: Agent,
    /// The agent's memory file, for a later worker.
    pub(crate) memory: OwnedFd,
    /// The agent's PID, in our namespace.
    pub(crate) agent_pid: i32,
    /// Where the staging area is.
    pub(crate) staging: u64,
    /// Where the agent's code is; its state follows.
    pub(crate) code: u64,
    /// The agent's descriptor of the userfaultfd over the staging area.
    pub(crate) mover: i32,
}

const NONE: u64 = u64::MAX;
const PAGE: u64 = 4096;
/// Where in the staging area, still empty, arguments are put: descriptors, message header, vector, byte, control data.
const PAIR_AT: u64 = 0;
const HEADER_AT: u64 = 64;
const VECTOR_AT: u64 = 128;
const BYTE_AT: u64 = 192;
const CONTROL_AT: u64 = 256;
const CONTROL_LEN: u64 = 64;

/// Takes hold of the address space of `pid`; `staging_pages` is the size of the staging area.
///
/// # Errors
/// [`AttachError`]; then the process is as it was.
pub(crate) fn attach(pid: i32, staging_pages: u64) -> Result<Attached, AttachError> {
    let tracee = Tracee::stop(pid, runnable_thread(pid)).map_err(failed(STOP))?;
    attach_stopped(tracee, pid, staging_pages, None)
}

/// As [`attach`], for a process that has its userfaultfd already: a forked child, or one whose agent was killed, which has left the mappings
/// `old` (start and length). Somebody else must serve its faults meanwhile.
///
/// # Errors
/// [`AttachError`]; then the process is as it was.
pub(crate) fn attach_again(
    pid: i32,
    staging_pages: u64,
    uffd: Userfaultfd,
    old: &[(u64, u64)],
) -> Result<Attached, AttachError> {
    let mut tracee = Tracee::stop(pid, runnable_thread(pid)).map_err(failed(STOP))?;
    for &(at, len) in old {
        tracee.syscall(libc::SYS_munmap, [at, len, 0, 0, 0, 0]).map_err(failed("unmap an agent"))?;
    }
    attach_stopped(tracee, pid, staging_pages, Some(uffd))
}

fn attach_stopped(
    mut tracee: Tracee,
    pid: i32,
    staging_pages: u64,
    forked: Option<Userfaultfd>,
) -> Result<Attached, AttachError> {
    let mut made = Made::default();
    set_up(&mut tracee, pid, staging_pages, &mut made, forked).inspect_err(|_| made.undo(&mut tracee))
}

/// What was made in the process, to be undone if the rest fails.
#[derive(Debug, Default)]
struct Made {
    mappings: Vec<(u64, u64)>,
    fds: Vec<u64>,
}

impl Made {
    fn undo(&self, tracee: &mut Tracee) {
        self.close(tracee);
        for &(at, len) in &self.mappings {
            let _ = tracee.syscall(libc::SYS_munmap, [at, len, 0, 0, 0, 0]);
        }
    }

    fn close(&self, tracee: &mut Tracee) {
        for &fd in &self.fds {
            let _ = tracee.syscall(libc::SYS_close, [fd, 0, 0, 0, 0, 0]);
        }
    }
}

fn set_up(
    tracee: &mut Tracee,
    pid: i32,
    staging_pages: u64,
    made: &mut Made,
    forked: Option<Userfaultfd>,
) -> Result<Attached, AttachError> {
    let pidfd = Pidfd::open(pid).map_err(failed("open the process"))?;
    let staging_len = staging_pages * PAGE;
    let mut map = |tracee: &mut Tracee, len: u64, prot: i32, flags: i32, fd: u64, offset: u64| {
        let at = tracee.syscall(libc::SYS_mmap, [0, len, prot as u64, flags as u64, fd, offset])?;
        made.mappings.push((at, len));
        // Children get their own.
        tracee.syscall(libc::SYS_madvise, [at, len, libc::MADV_DONTFORK as u64, 0, 0, 0])?;
        io::Result::Ok(at)
    };
    let rw = libc::PROT_READ | libc::PROT_WRITE;
    let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let staging = map(tracee, staging_len, rw, anonymous, NONE, 0).map_err(failed("map a staging area"))?;
    let _ = tracee.syscall(libc::SYS_madvise, [staging, staging_len, libc::MADV_NOHUGEPAGE as u64, 0, 0, 0]);

    // A socket pair, one end for us.
    let kind = (libc::SOCK_STREAM | libc::SOCK_CLOEXEC) as u64;
    tracee
        .syscall(libc::SYS_socketpair, [libc::AF_UNIX as u64, kind, 0, staging + PAIR_AT, 0, 0])
        .map_err(failed("make a socket pair"))?;
    let memory_of = ProcessMemory::open(pid).map_err(failed("open the process's memory"))?;
    let pair = memory_of.read_words::<1>(staging + PAIR_AT).map_err(failed("read the process's memory"))?[0];
    let (ours, theirs) = (pair & 0xFFFF_FFFF, pair >> 32);
    made.fds.extend([ours, theirs]);
    let socket = pidfd.copy_fd(ours as i32).map_err(failed("take an end of the socket pair"))?;
    // Only we have it from now on, or an agent that has it too would never hear of our end.
    let _ = tracee.syscall(libc::SYS_close, [ours, 0, 0, 0, 0, 0]);
    made.fds.retain(|fd| *fd != ours);

    // What it cannot open itself is sent to it.
    let memory = Agent::memory().map_err(failed("make the agent's memory"))?;
    let device = Userfaultfd::open_device().map_err(failed("open /dev/userfaultfd"))?;
    let mut fds = vec![memory.as_raw_fd(), device.as_raw_fd()];
    fds.extend(forked.as_ref().map(|uffd| uffd.as_raw_fd()));
    sendmsg::<()>(
        socket.as_raw_fd(),
        &[IoSlice::new(b"x")],
        &[ControlMessage::ScmRights(&fds)],
        MsgFlags::MSG_NOSIGNAL,
        None,
    )
    .map_err(|e| failed("send descriptors")(e.into()))?;
    let header = [0, 0, staging + VECTOR_AT, 1, staging + CONTROL_AT, CONTROL_LEN, 0];
    memory_of
        .write_words(staging + HEADER_AT, &header)
        .and_then(|()| memory_of.write_words(staging + VECTOR_AT, &[staging + BYTE_AT, 1]))
        .map_err(failed("write the process's memory"))?;
    tracee
        .syscall(libc::SYS_recvmsg, [theirs, staging + HEADER_AT, libc::MSG_CMSG_CLOEXEC as u64, 0, 0, 0])
        .map_err(failed("receive descriptors"))?;
    // The control message: length, level and type, two or three descriptors.
    let control =
        memory_of.read_words::<4>(staging + CONTROL_AT).map_err(failed("read the process's memory"))?;
    if control[0] != 16 + 4 * fds.len() as u64 {
        return Err(failed("receive descriptors")(io::Error::from_raw_os_error(libc::EMFILE)));
    }
    let (memory_fd, device_fd) = (control[2] & 0xFFFF_FFFF, control[2] >> 32);
    made.fds.extend([memory_fd, device_fd]);

    let new_uffd = |tracee: &mut Tracee, made: &mut Made| {
        let flags = (libc::O_CLOEXEC | libc::O_NONBLOCK) as u64;
        let fd = tracee.syscall(libc::SYS_ioctl, [device_fd, IOC_NEW, flags, 0, 0, 0])?;
        made.fds.push(fd);
        io::Result::Ok((fd, pidfd.copy_fd(fd as i32)?))
    };
    // The agent keeps one too: missing pages must not read as zeros before it has killed its member.
    let (kept, uffd) = match forked {
        Some(uffd) => {
            let there = control[3] & 0xFFFF_FFFF;
            made.fds.push(there);
            (there, uffd)
        }
        None => {
            let (there, fd) = new_uffd(tracee, made).map_err(failed("make a userfaultfd"))?;
            (there, Userfaultfd::with_events(fd).map_err(failed("get events of an address space"))?)
        }
    };
    let (mover, fd) = new_uffd(tracee, made).map_err(failed("make a userfaultfd"))?;
    let over_staging = Userfaultfd::for_moves(fd).map_err(failed("move pages (Linux 6.8 or later can)"))?;
    // Empty it: pages are moved to missing places only.
    tracee
        .syscall(libc::SYS_madvise, [staging, staging_len, libc::MADV_DONTNEED as u64, 0, 0, 0])
        .and_then(|_| over_staging.register(staging, staging_len, false))
        .map_err(failed("register the staging area"))?;

    let map =
        |tracee: &mut Tracee, made: &mut Made, at: u64, len: u64, prot: i32, flags: i32, offset: u64| {
            let at =
                tracee.syscall(libc::SYS_mmap, [at, len, prot as u64, flags as u64, memory_fd, offset])?;
            made.mappings.push((at, len));
            io::Result::Ok(at)
        };
    let what = failed("map the agent");
    let code = (|| {
        let shared = libc::MAP_SHARED;
        let code = map(tracee, made, 0, agent::MEMORY_BYTES, rw, shared, 0)?;
        // The code over its first page: the mapping of it as data is no more.
        map(tracee, made, code, PAGE, libc::PROT_READ | libc::PROT_EXEC, shared | libc::MAP_FIXED, 0)?;
        let fork = libc::MADV_DONTFORK as u64;
        tracee.syscall(libc::SYS_madvise, [code, agent::MEMORY_BYTES, fork, 0, 0, 0])?;
        io::Result::Ok(code)
    })()
    .map_err(what)?;

    let state = code + agent::STATE_AT;
    let mut agent = Agent::new(memory.as_fd(), socket, state).map_err(failed("map the agent's memory"))?;
    agent.prepare(theirs as i32);
    let flags = (libc::CLONE_VM | libc::CLONE_UNTRACED) as u64;
    let stack = code + agent::MEMORY_BYTES - 64;
    let what = "start the agent";
    let starter =
        tracee.run(code, state, libc::SYS_clone, [flags, stack, 0, 0, 0, 0]).map_err(failed(what))?;
    // The one in between ends at once.
    tracee.syscall(libc::SYS_wait4, [starter, 0, libc::__WALL as u64, 0, 0, 0]).map_err(failed(what))?;
    let agent_pid = match agent.pid() {
        error @ ..=0 => return Err(failed(what)(io::Error::from_raw_os_error(-error))),
        there => pid_in_our_namespace(pid, there, code),
    };
    made.close(tracee);
    made.fds.clear();
    settle(&mut agent, [theirs, mover, kept]).map_err(failed("talk to the agent"))?;
    Ok(Attached { uffd, agent, memory, agent_pid, staging, code, mover: mover as i32 })
}

/// Has the agent leave the member's session, so that nothing meant for the member's process group reaches it, and close what is not
/// its own.
fn settle(agent: &mut Agent, mut own: [u64; 3]) -> io::Result<()> {
    own.sort_unstable();
    let mut name = [0; 8];
    name[..AGENT_NAME.len()].copy_from_slice(AGENT_NAME.as_bytes());
    let name = u64::from_ne_bytes(name);
    agent.set_argument(0, [name, 0, 0, 0, 0]);
    let set_name = [libc::PR_SET_NAME as u64, agent.argument_address(0), 0, 0, 0, 0];
    let mut calls = vec![
        agent::Call { number: libc::SYS_setsid, args: [0; 6] },
        agent::Call { number: libc::SYS_prctl, args: set_name },
    ];
    let mut from = 0;
    for end in own.into_iter().chain([1 << 32]) {
        if end > from {
            let args = [from, end - 1, 0, 0, 0, 0];
            calls.push(agent::Call { number: libc::SYS_close_range, args });
        }
        from = end + 1;
    }
    agent.call(&calls)
}

/// Lets go of an address space whose pages are all back and whose ranges are registered no more: the agent ends, its mappings go.
///
/// # Errors
/// [`AttachError`]; then the mappings stay, which does no harm.
pub(crate) fn detach(pid: i32, agent: &mut Agent, staging: (u64, u64), code: u64) -> Result<(), AttachError> {
    let exit = agent::Call { number: libc::SYS_exit_group, args: [0; 6] };
    agent.start(&[exit]).map_err(failed("end the agent"))?;
    let mut tracee = Tracee::stop(pid, runnable_thread(pid)).map_err(failed(STOP))?;
    for (at, len) in [staging, (code, agent::MEMORY_BYTES)] {
        tracee.syscall(libc::SYS_munmap, [at, len, 0, 0, 0, 0]).map_err(failed("unmap the agent"))?;
    }
    Ok(())
}

/// Gives a thread that will stop soon: one that neither has ended nor sleeps uninterruptibly.
fn runnable_thread(pid: i32) -> i32 {
    let threads = host_sys::process::threads(pid).unwrap_or_default();
    let is_good = |&tid: &i32| {
        host_sys::process::thread_stat(pid, tid).is_ok_and(|s| !s.is_exiting() && s.state != b'D')
    };
    threads.iter().copied().find(is_good).unwrap_or(pid)
}

/// The last of the `NSpid:` numbers: what the process calls itself.
pub(crate) fn pid_in_own_namespace(pid: i32) -> i32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("NSpid:"));
    line.and_then(|l| l.split_whitespace().last()?.parse().ok()).unwrap_or(pid)
}

/// Finds an agent, by its number in the namespace of its member, in ours.
fn pid_in_our_namespace(member: i32, there: i32, code: u64) -> i32 {
    if pid_in_own_namespace(member) == member {
        return there;
    }
    let is_it = |pid: &i32| {
        pid_in_own_namespace(*pid) == there
            && maps::read(*pid).is_ok_and(|all| all.iter().any(|m| m.kind == Kind::Agent && m.start == code))
    };
    let all = std::fs::read_dir("/proc").into_iter().flatten();
    all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).find(is_it).unwrap_or(0)
}

/// `/proc/PID/mem`.
struct ProcessMemory(std::fs::File);

impl ProcessMemory {
    fn open(pid: i32) -> io::Result<Self> {
        Ok(Self(std::fs::File::options().read(true).write(true).open(format!("/proc/{pid}/mem"))?))
    }

    fn read_words<const N: usize>(&self, at: u64) -> io::Result<[u64; N]> {
        let mut bytes = vec![0; N * 8];
        std::os::unix::fs::FileExt::read_exact_at(&self.0, &mut bytes, at)?;
        let mut words = [0; N];
        for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = chunk.try_into().map_or(0, u64::from_ne_bytes);
        }
        Ok(words)
    }

    fn write_words(&self, at: u64, words: &[u64]) -> io::Result<()> {
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
        std::os::unix::fs::FileExt::write_all_at(&self.0, &bytes, at)
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    fn sleeper() -> Child {
        let child = Command::new("sleep").arg("1").stdout(Stdio::null()).spawn().expect("sleep");
        let pid = child.id() as i32;
        while !std::fs::read_to_string(format!("/proc/{pid}/wchan")).is_ok_and(|w| w.contains("nanosleep")) {
            std::thread::yield_now();
        }
        child
    }

    fn traces(pid: i32) -> usize {
        maps::read(pid).expect("alive").iter().filter(|m| m.kind == Kind::Agent).count()
    }

    #[test]
    fn attached_process_has_an_agent_and_detached_one_no_trace() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let mut child = sleeper();
        let pid = child.id() as i32;
        let before = maps::read(pid).expect("alive").len();
        let fds = || std::fs::read_dir(format!("/proc/{pid}/fd")).expect("alive").count();
        let open = fds();

        let mut attached = attach(pid, 64).expect("our child");
        assert_eq!(fds(), open, "nothing is left open in the process");
        assert_eq!(traces(pid), 2);
        let agent = attached.agent_pid;
        attached.agent.call(&[agent::Call { number: libc::SYS_getpid, args: [0; 6] }]).expect("answers");
        assert_eq!(attached.agent.returned(0), i64::from(agent));
        let kept = std::fs::read_dir(format!("/proc/{agent}/fd")).expect("alive").count();
        assert_eq!(kept, 3, "its socket and two userfaultfds");

        detach(pid, &mut attached.agent, (attached.staging, 64 * PAGE), attached.code).expect("detached");
        assert_eq!(traces(pid), 0);
        assert_eq!(maps::read(pid).expect("alive").len(), before);
        assert!(child.wait().expect("a child").success());
    }

    #[test]
    fn member_dies_with_the_last_holder_of_its_agent() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let mut child = sleeper();

        let attached = attach(child.id() as i32, 64).expect("our child");
        attached.agent.guard(child.id() as i32);
        drop(attached);

        let status = child.wait().expect("a child");
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(libc::SIGKILL));
    }
}
