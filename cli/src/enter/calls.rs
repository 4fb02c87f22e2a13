//! Calls about guest PIDs, answered through the tree with the rights of who made them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use host_sys::seccomp::{Answer, Call, Listener, Rule, Which};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev};
use nix::unistd::{Gid, Pid, Uid, getegid, geteuid, setfsgid, setfsuid};

use super::pidfds::Pidfds;

/// The first guest PID: the kernel's end below it (`PID_MAX_LIMIT`).
const FIRST: u32 = 4_194_304;
/// Guest PIDs, as arguments.
const GUESTS: &[(u32, u32)] = &[(FIRST, i32::MAX as u32)];
/// Guest PIDs, and groups of that number.
const GUESTS_AND_GROUPS: &[(u32, u32)] =
    &[(FIRST, i32::MAX as u32), (i32::MIN as u32 + 1, 0u32.wrapping_sub(FIRST))];

/// How often to look for the end of tasks while somebody has a pidfd.
const LOOK_MS: u16 = 250;

const PRIO_USER: u64 = 2;
const SCHED_OTHER: u32 = 0;
const SIGNAL_MAX: u64 = 64;

/// The calls that are answered here. `pidfd_send_signal` has a descriptor for an argument, which says nothing: it always comes here.
pub(super) fn rules() -> Vec<Rule> {
    let first = [
        libc::SYS_tkill,
        libc::SYS_tgkill,
        libc::SYS_rt_sigqueueinfo,
        libc::SYS_rt_tgsigqueueinfo,
        libc::SYS_pidfd_open,
        libc::SYS_sched_setscheduler,
        libc::SYS_sched_getscheduler,
        libc::SYS_sched_setparam,
        libc::SYS_sched_getparam,
        libc::SYS_sched_setattr,
        libc::SYS_sched_getattr,
        libc::SYS_sched_setaffinity,
        libc::SYS_sched_getaffinity,
        libc::SYS_sched_rr_get_interval,
        libc::SYS_getpgid,
        libc::SYS_getsid,
        libc::SYS_prlimit64,
    ]
    .map(|call| Rule { call, which: Which::Argument(0, GUESTS) });
    let second = [libc::SYS_getpriority, libc::SYS_setpriority, libc::SYS_ioprio_get, libc::SYS_ioprio_set]
        .map(|call| Rule { call, which: Which::Argument(1, GUESTS) });
    let others = [
        Rule { call: libc::SYS_kill, which: Which::Argument(0, GUESTS_AND_GROUPS) },
        Rule { call: libc::SYS_pidfd_send_signal, which: Which::All },
    ];
    [&first[..], &second, &others].concat()
}

/// Answers the calls of one filter.
#[derive(Debug)]
pub(super) struct Server {
    listener: Listener,
    root: PathBuf,
    pidfds: Pidfds,
}

/// An error that the caller gets.
type Errno = i32;

/// The errno that a call would give where the tree gave this one.
fn errno_of(error: &io::Error) -> Errno {
    match error.raw_os_error() {
        // Without a daemon there is no guest task.
        Some(libc::ENOENT | libc::ENOTDIR | libc::ENOTCONN | libc::ECONNABORTED) | None => libc::ESRCH,
        Some(libc::EACCES) => libc::EPERM,
        Some(errno) => errno,
    }
}

impl Server {
    pub(super) fn new(listener: Listener, root: PathBuf) -> Self {
        Self { listener, root, pidfds: Pidfds::default() }
    }

    /// Answers until nobody is left who could call.
    ///
    /// # Errors
    /// Those of `poll`.
    pub(super) fn run(mut self) -> io::Result<()> {
        loop {
            let timeout = if self.pidfds.is_empty() { PollTimeout::NONE } else { LOOK_MS.into() };
            let mut calls = [PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
            match poll(&mut calls, timeout) {
                Ok(_) | Err(nix::Error::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
            let ready = calls[0].revents().unwrap_or(PollFlags::empty());
            if ready.contains(PollFlags::POLLIN) {
                // The caller may have been killed meanwhile.
                if let Ok(call) = self.listener.receive() {
                    let answer = self.answer(&call).unwrap_or_else(Answer::Errno);
                    let _ = self.listener.answer(&call, answer);
                }
            } else if ready.intersects(PollFlags::POLLHUP | PollFlags::POLLERR) {
                return Ok(());
            }
            let root = &self.root;
            self.pidfds.look(|guest| is_there(root, guest));
        }
    }

    fn answer(&mut self, call: &Call) -> Result<Answer, Errno> {
        let [first, second, third, ..] = call.args;
        let guest = (first as i32).unsigned_abs().cast_signed();
        let value = match call.call {
            libc::SYS_kill | libc::SYS_rt_sigqueueinfo | libc::SYS_tkill => {
                self.signal(call, guest, second)?
            }
            // A task has one thread.
            libc::SYS_tgkill | libc::SYS_rt_tgsigqueueinfo if first as u32 != second as u32 => {
                return Err(libc::ESRCH);
            }
            libc::SYS_tgkill | libc::SYS_rt_tgsigqueueinfo => self.signal(call, guest, third)?,
            libc::SYS_pidfd_open => self.open_pidfd(call, guest)?,
            libc::SYS_pidfd_send_signal => match self.whose(call, first as i32) {
                None => return Ok(Answer::Continue),
                Some(guest) => self.signal(call, guest, second)?,
            },
            libc::SYS_getpriority | libc::SYS_setpriority if first & 0xffff_ffff == PRIO_USER => {
                return Ok(Answer::Continue);
            }
            // As the kernel has it: never negative.
            libc::SYS_getpriority => 20 - i64::from(self.nice(second as i32)?),
            libc::SYS_setpriority => self.renice(call, second as i32, third as i32)?,
            libc::SYS_ioprio_get => self.find(second as i32).map(|()| 0)?,
            libc::SYS_ioprio_set => self.find(second as i32).and(Err(libc::EOPNOTSUPP))?,
            libc::SYS_getpgid => self.find(guest).map(|()| guest.into())?,
            libc::SYS_getsid | libc::SYS_sched_getscheduler => self.find(guest).map(|()| 0)?,
            libc::SYS_sched_getparam => self.tell(call, guest, second, &0i32.to_ne_bytes())?,
            libc::SYS_sched_rr_get_interval => self.tell(call, guest, second, &[0; 16])?,
            libc::SYS_sched_setscheduler => self.set_policy(guest, second as u32)?,
            libc::SYS_sched_setparam => self.set_policy(guest, SCHED_OTHER)?,
            libc::SYS_sched_getattr => self.tell_attributes(call, guest, second, third)?,
            libc::SYS_sched_setattr => self.set_attributes(call, guest, second)?,
            libc::SYS_sched_getaffinity => self.tell_affinity(call, guest, second, third)?,
            _ => self.find(guest).and(Err(libc::EOPNOTSUPP))?,
        };
        Ok(Answer::Value(value))
    }

    /// Gives the guest task for which a descriptor stands. Directories of `/proc` are pidfds too: for that of a process the caller gets the host's in
    /// its place, so that the kernel knows it.
    fn whose(&self, call: &Call, fd: i32) -> Option<i32> {
        let name = fs::read_link(format!("/proc/{}/fd/{fd}", call.tid)).ok()?;
        if let Some(guest) = self.pidfds.guest(&name) {
            return Some(guest);
        }
        let proc = self.root.join("proc");
        let in_proc = name.strip_prefix("/proc").or_else(|_| name.strip_prefix(&proc)).ok()?;
        let pid: i32 = in_proc.to_str()?.parse().ok()?;
        // Another mount namespace may have another /proc: that of a container, with other processes.
        let ours = fs::metadata(proc.join(pid.to_string())).ok()?.ino();
        if inode_of(call.tid, fd)? != ours {
            return None;
        }
        if pid >= FIRST.cast_signed() {
            return Some(pid);
        }
        let host = File::open(format!("/proc/{pid}")).ok()?;
        // Should it not work, the kernel says that the descriptor is none.
        let _ = self.listener.replace(call, host.as_fd(), fd);
        None
    }

    fn file(&self, guest: i32, name: &str) -> PathBuf {
        self.root.join("proc").join(guest.to_string()).join(name)
    }

    fn find(&self, guest: i32) -> Result<(), Errno> {
        if is_there(&self.root, guest) { Ok(()) } else { Err(libc::ESRCH) }
    }

    fn read(&self, guest: i32, name: &str) -> Result<String, Errno> {
        fs::read_to_string(self.file(guest, name)).map_err(|e| errno_of(&e))
    }

    /// Writes a value as the caller: the daemon looks at whose request it is.
    fn write(&self, call: &Call, guest: i32, name: &str, value: &str) -> Result<i64, Errno> {
        let caller = Caller::of(call.tid).ok_or(libc::ESRCH)?;
        // What was read about the caller was the caller's.
        if !self.listener.is_waiting(call) {
            return Err(libc::ESRCH);
        }
        let open = || OpenOptions::new().write(true).open(self.file(guest, name));
        caller
            .act(|| open().and_then(|mut file| file.write_all(value.as_bytes())))
            .map(|()| 0)
            .map_err(|e| errno_of(&e))
    }

    fn signal(&self, call: &Call, guest: i32, signal: u64) -> Result<i64, Errno> {
        let signal = signal & 0xffff_ffff;
        if signal > SIGNAL_MAX {
            return Err(libc::EINVAL);
        }
        self.write(call, guest, "signal", &signal.to_string())
    }

    fn nice(&self, guest: i32) -> Result<i32, Errno> {
        self.read(guest, "nice")?.trim().parse().map_err(|_| libc::ESRCH)
    }

    fn renice(&self, call: &Call, guest: i32, nice: i32) -> Result<i64, Errno> {
        self.write(call, guest, "nice", &nice.clamp(-20, 19).to_string())
    }

    fn open_pidfd(&mut self, call: &Call, guest: i32) -> Result<i64, Errno> {
        self.find(guest)?;
        let fd = self.pidfds.open(guest).map_err(|e| e.raw_os_error().unwrap_or(libc::EMFILE))?;
        self.listener
            .give(call, fd.as_fd())
            .map(i64::from)
            .map_err(|e| e.raw_os_error().unwrap_or(libc::EMFILE))
    }

    /// Its application gives a task no other policy than the ordinary one.
    fn set_policy(&self, guest: i32, policy: u32) -> Result<i64, Errno> {
        self.find(guest)?;
        const SCHED_RESET_ON_FORK: u32 = 0x4000_0000;
        if policy & !SCHED_RESET_ON_FORK == SCHED_OTHER { Ok(0) } else { Err(libc::EOPNOTSUPP) }
    }

    fn tell(&self, call: &Call, guest: i32, to: u64, bytes: &[u8]) -> Result<i64, Errno> {
        self.find(guest)?;
        self.put(call, to, bytes).map(|()| 0)
    }

    fn put(&self, call: &Call, to: u64, bytes: &[u8]) -> Result<(), Errno> {
        if !self.listener.is_waiting(call) {
            return Err(libc::ESRCH);
        }
        let remote = RemoteIoVec { base: to as usize, len: bytes.len() };
        match process_vm_writev(Pid::from_raw(call.tid), &[IoSlice::new(bytes)], &[remote]) {
            Ok(n) if n == bytes.len() => Ok(()),
            Ok(_) => Err(libc::EFAULT),
            Err(e) => Err(e as Errno),
        }
    }

    /// `struct sched_attr`: size, policy, flags (64 bits), nice, priority, then three words of 64 bits.
    fn tell_attributes(&self, call: &Call, guest: i32, to: u64, size: u64) -> Result<i64, Errno> {
        const SIZE: usize = 48;
        if (size as usize) < SIZE {
            return Err(libc::EINVAL);
        }
        let mut attributes = [0; SIZE];
        attributes[..4].copy_from_slice(&(SIZE as u32).to_ne_bytes());
        attributes[16..20].copy_from_slice(&self.nice(guest)?.to_ne_bytes());
        self.put(call, to, &attributes).map(|()| 0)
    }

    fn set_attributes(&self, call: &Call, guest: i32, from: u64) -> Result<i64, Errno> {
        let mut head = [0; 20];
        let remote = RemoteIoVec { base: from as usize, len: head.len() };
        let caller = Pid::from_raw(call.tid);
        match process_vm_readv(caller, &mut [IoSliceMut::new(&mut head)], &[remote]) {
            Ok(n) if n == head.len() => {}
            Ok(_) => return Err(libc::EFAULT),
            Err(e) => return Err(e as Errno),
        }
        let word = |at: usize| head[at..at + 4].first_chunk().copied().map_or(0, u32::from_ne_bytes);
        self.set_policy(guest, word(4))?;
        let nice = word(16).cast_signed();
        if nice == self.nice(guest)? { Ok(0) } else { self.renice(call, guest, nice) }
    }

    /// A task may run where its application may.
    fn tell_affinity(&self, call: &Call, guest: i32, len: u64, to: u64) -> Result<i64, Errno> {
        let app = self.read(guest, "application")?.trim().parse().map_err(|_| libc::ESRCH)?;
        let cpus = sched_getaffinity(Pid::from_raw(app)).map_err(|e| e as Errno)?;
        let room = (len as usize).min(CpuSet::count() / 8) & !7;
        let mut mask = vec![0u8; room];
        for cpu in (0..CpuSet::count()).filter(|cpu| cpus.is_set(*cpu).unwrap_or(false)) {
            *mask.get_mut(cpu / 8).ok_or(libc::EINVAL)? |= 1 << (cpu % 8);
        }
        self.put(call, to, &mask).map(|()| room as i64)
    }
}

/// Whether there is such a task. That its directory is found does not say so: the kernel remembers it for a while.
fn is_there(root: &Path, guest: i32) -> bool {
    fs::read(root.join("proc").join(guest.to_string()).join("comm")).is_ok()
}

/// Gives the inode of a thread's descriptor, without a look at the file: whoever serves it might take its time (Linux 5.14).
fn inode_of(tid: i32, fd: i32) -> Option<u64> {
    let info = fs::read_to_string(format!("/proc/{tid}/fdinfo/{fd}")).ok()?;
    info.lines().find_map(|line| line.strip_prefix("ino:")?.trim().parse().ok())
}

/// Whose a call is: the effective ids of the calling thread.
#[derive(Clone, Copy, Debug)]
struct Caller {
    uid: Uid,
    gid: Gid,
}

impl Caller {
    fn of(tid: i32) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{tid}/status")).ok()?;
        let effective = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key))?;
            line.split_whitespace().nth(1)?.parse::<u32>().ok()
        };
        Some(Self { uid: Uid::from_raw(effective("Uid:")?), gid: Gid::from_raw(effective("Gid:")?) })
    }

    /// Does something with files with the caller's ids for that; only the calling thread has them, and only meanwhile.
    fn act<T>(self, what: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let own = Self { uid: geteuid(), gid: getegid() };
        setfsgid(self.gid);
        setfsuid(self.uid);
        // They give what was before, whether or not it has worked.
        let has_become = setfsgid(self.gid) == self.gid && setfsuid(self.uid) == self.uid;
        let done = if has_become { what() } else { Err(nix::Error::EPERM.into()) };
        setfsuid(own.uid);
        setfsgid(own.gid);
        done
    }
}
