//! One address space: the userfaultfd over it, and the agent inside it as soon as something is to be evicted from it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use host_sys::pagemap::{Pagemap, Vmas};
use host_sys::uffd::Userfaultfd;
use host_sys::{Agent, Pidfd};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;

use super::super::attach::{self, AttachError, Attached};
use super::super::held::{Journal, SpaceEntry};
use super::super::maps::{self, Kind};
use crate::{PAGE_SIZE, SpaceId};

/// The most places of the staging area that the core may use.
pub(super) const STAGING_PAGES: u32 = 512;
/// How long the worker waits for an agent to be made, while others may wait for it.
const ENTER_PATIENCE: Duration = Duration::from_micros(500);
/// So many failures that might pass, and it is not tried again.
const REFUSALS_MAX: u32 = 20;
/// How long an agent may take to die.
const KILL_PATIENCE_MS: u16 = 1000;
/// Most faults of one space that are served above the limit.
const LOANS_MAX: u32 = 16;
/// Further places, for pages that are only to be dropped.
pub(super) const DROP_PAGES: u32 = 128;

/// The agent of an address space and what belongs to it.
#[derive(Debug)]
pub(super) struct Inside {
    pub(super) agent: Agent,
    memory: OwnedFd,
    /// Its PID: it keeps the address space when the member has ended.
    pub(super) pid: i32,
    pub(super) mover: i32,
    pub(super) staging: u64,
    code: u64,
}

/// A thread that takes hold of a process that has its userfaultfd already. Such a process runs into faults that the worker serves, also in
/// the middle of a system call of ours: the kernel writes to memory of the thread's when it goes back to it.
#[derive(Debug)]
struct Entering {
    thread: JoinHandle<()>,
    result: Receiver<Result<Attached, AttachError>>,
}

impl Entering {
    fn start(pid: i32, uffd: &Userfaultfd, old: Vec<(u64, u64)>) -> Result<Self, AttachError> {
        // Lent only: the attachment is of the same descriptor.
        let lent = std::os::fd::AsFd::as_fd(uffd).try_clone_to_owned().map_err(AttachError::inner)?;
        let (give, result) = channel();
        let enter = move || {
            let pages = u64::from(STAGING_PAGES + DROP_PAGES);
            let _ = give.send(attach::attach_again(pid, pages, Userfaultfd::in_use(lent), &old));
        };
        let thread =
            std::thread::Builder::new().name("enter".into()).spawn(enter).map_err(AttachError::inner)?;
        Ok(Self { thread, result })
    }

    /// Gives what came of it, or itself if that is not over yet.
    fn result(self) -> Result<Result<Attached, AttachError>, Self> {
        match self.result.recv_timeout(ENTER_PATIENCE) {
            Ok(result) => {
                let _ = self.thread.join();
                Ok(result)
            }
            Err(RecvTimeoutError::Timeout) => Err(self),
            Err(RecvTimeoutError::Disconnected) => {
                Ok(Err(AttachError::inner(io::ErrorKind::BrokenPipe.into())))
            }
        }
    }
}

/// An address space of a member.
#[derive(Debug)]
pub(super) struct Space {
    pub(super) id: SpaceId,
    /// The process; 0 for a forked child that is not known yet.
    pub(super) pid: i32,
    /// Its start time; the parent's PID for a child that is not known yet.
    pub(super) start_time: u64,
    pub(super) uffd: Userfaultfd,
    pub(super) inside: Option<Inside>,
    pub(super) pagemap: Option<Pagemap>,
    vmas: Option<Vmas>,
    arguments: (u64, u64),
    /// What an agent that was killed has left in it, start and length.
    old: Vec<(u64, u64)>,
    /// It began as the copy of another one.
    pub(super) is_forked: bool,
    /// It is being given an agent.
    entering: Option<Entering>,
    /// It has been given one: what was mapped meanwhile is not registered.
    is_new: bool,
    nr_refusals: u32,
    /// Faults of it that were served above the limit.
    nr_lent: u32,
    /// It refused an agent: nothing can be evicted from it.
    pub(super) is_closed: bool,
}

impl Space {
    /// Takes hold of a process's address space.
    ///
    /// # Errors
    /// [`AttachError`].
    pub(super) fn attach(id: SpaceId, pid: i32, start_time: u64) -> Result<Self, AttachError> {
        let attached = attach::attach(pid, u64::from(STAGING_PAGES + DROP_PAGES))?;
        let Attached { uffd, agent, memory, agent_pid, staging, code, mover } = attached;
        super::favour(agent_pid);
        let inside = Some(Inside { agent, memory, pid: agent_pid, mover, staging, code });
        let mut space = Self {
            id,
            pid,
            start_time,
            uffd,
            inside,
            pagemap: None,
            vmas: None,
            arguments: (0, 0),
            old: Vec::new(),
            is_forked: false,
            entering: None,
            is_new: false,
            nr_refusals: 0,
            nr_lent: 0,
            is_closed: false,
        };
        space.look_up();
        Ok(space)
    }

    /// Takes the address space of a forked child, whose PID is not known yet.
    pub(super) fn forked(id: SpaceId, uffd: Userfaultfd, parent: &Self) -> Self {
        Self {
            id,
            pid: 0,
            start_time: parent.pid.unsigned_abs().into(),
            uffd,
            inside: None,
            pagemap: None,
            vmas: None,
            arguments: parent.arguments,
            is_forked: true,
            old: Vec::new(),
            entering: None,
            is_new: false,
            nr_refusals: 0,
            nr_lent: 0,
            is_closed: false,
        }
    }

    /// Takes over what the journal knows from an earlier worker; `None` if its descriptors are gone.
    pub(super) fn recover(id: SpaceId, entry: &SpaceEntry) -> Option<Self> {
        use std::os::fd::AsFd;
        let uffd = Userfaultfd::in_use(host_sys::process::take_fd(entry.uffd)?);
        let inside = || {
            let memory = host_sys::process::take_fd(entry.memory)?;
            let socket = host_sys::process::take_fd(entry.socket)?;
            let state = entry.code + host_sys::agent::STATE_AT;
            let mut agent = Agent::new(memory.as_fd(), socket, state).ok()?;
            agent.guard(attach::pid_in_own_namespace(entry.pid));
            agent.resync().ok()?;
            let (pid, mover) = (entry.agent_pid, entry.mover);
            Some(Inside { agent, memory, pid, mover, staging: entry.staging, code: entry.code })
        };
        let inside = (entry.socket >= 0).then(inside).flatten();
        let mut space = Self {
            id,
            pid: entry.pid,
            start_time: entry.start_time,
            uffd,
            inside,
            pagemap: None,
            vmas: None,
            arguments: entry.arguments,
            is_forked: entry.is_forked,
            old: Vec::new(),
            entering: None,
            is_new: false,
            nr_refusals: 0,
            nr_lent: 0,
            is_closed: false,
        };
        if space.pid != 0 {
            space.pagemap = Pagemap::open(space.pid).ok();
            space.vmas = Vmas::open(space.pid).ok();
        }
        Some(space)
    }

    /// The process of a forked child is known now.
    pub(super) fn set_process(&mut self, pid: i32, start_time: u64) {
        self.pid = pid;
        self.start_time = start_time;
        self.look_up();
    }

    /// Whether it is the address space of this process, a forked one: what we do through our userfaultfd is to be seen in its page
    /// tables. It is done to the page of its arguments, which is not paged.
    ///
    /// # Errors
    /// `EAGAIN` while it changes.
    pub(super) fn is_of(&self, pid: i32) -> io::Result<bool> {
        let (at, end) = self.arguments;
        let Ok(pagemap) = Pagemap::open(pid) else { return Ok(false) };
        let is_protected = || {
            let mut seen = None;
            let _ = pagemap.present(at, at + PAGE_SIZE, |region| seen = Some(region.is_protected));
            seen
        };
        if at >= end || is_protected() != Some(false) || self.uffd.register(at, PAGE_SIZE, true).is_err() {
            return Ok(false);
        }
        let is_it = self.uffd.protect(at, PAGE_SIZE, true, false).map(|()| is_protected() == Some(true));
        let _ = self.uffd.protect(at, PAGE_SIZE, false, true);
        let _ = self.uffd.unregister(at, PAGE_SIZE);
        match is_it {
            Err(e) if e.raw_os_error() != Some(libc::EAGAIN) => Ok(false),
            is_it => is_it,
        }
    }

    fn look_up(&mut self) {
        self.pagemap = Pagemap::open(self.pid).ok();
        self.vmas = Vmas::open(self.pid).ok();
        self.arguments = maps::arguments(self.pid).unwrap_or(self.arguments);
    }

    /// Gets an agent if there is none yet. While it is being made there is none: the process may have to be served meanwhile.
    pub(super) fn ensure_inside(&mut self, journal: &Journal) -> Option<&mut Inside> {
        if self.inside.is_none() && !self.is_closed && self.pid != 0 {
            match self.try_enter() {
                Ok(Some(inside)) => {
                    self.inside = Some(inside);
                    self.is_new = true;
                    self.record(journal);
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(pid = self.pid, %error, "no agent in an address space");
                    self.nr_refusals += 1;
                    self.is_closed = !error.is_temporary() || self.nr_refusals >= REFUSALS_MAX;
                }
            }
        }
        self.inside.as_mut()
    }

    fn try_enter(&mut self) -> Result<Option<Inside>, AttachError> {
        let entering = match self.entering.take() {
            Some(entering) => entering,
            None => Entering::start(self.pid, &self.uffd, std::mem::take(&mut self.old))?,
        };
        match entering.result() {
            Ok(result) => {
                let Attached { agent, memory, agent_pid, staging, code, mover, .. } = result?;
                super::favour(agent_pid);
                Ok(Some(Inside { agent, memory, pid: agent_pid, mover, staging, code }))
            }
            Err(entering) => {
                self.entering = Some(entering);
                Ok(None)
            }
        }
    }

    /// Whether a fault of it may be served above the limit: until it has its agent, which must not wait for room, none of its pages can leave.
    pub(super) fn may_borrow(&self) -> bool {
        self.is_entering() && self.nr_lent < LOANS_MAX
    }

    /// A fault was.
    pub(super) fn has_borrowed(&mut self) {
        self.nr_lent += 1;
    }

    /// Its agent does not answer: makes sure that it does nothing more.
    pub(super) fn kill_agent(&self) {
        if let Some(inside) = &self.inside
            && is_agent(inside.pid)
            && let Ok(pidfd) = Pidfd::open(inside.pid)
        {
            let _ = pidfd.signal(libc::SIGKILL);
            let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut fds, KILL_PATIENCE_MS);
            reap(inside.pid);
        }
    }

    /// Its agent is gone, and nothing that is needed is in the staging area: it is to get another one.
    pub(super) fn forget_agent(&mut self, journal: &Journal) {
        if let Some(inside) = self.inside.take() {
            let (start, end) = inside.staging_range();
            self.old = vec![(start, end - start), (inside.code, host_sys::agent::MEMORY_BYTES)];
            drop(inside);
            self.record(journal);
        }
    }

    /// Whether it is being given an agent.
    pub(super) fn is_entering(&self) -> bool {
        self.entering.is_some()
    }

    /// Whether it has been given an agent since this was asked last.
    pub(super) fn take_new(&mut self) -> bool {
        std::mem::take(&mut self.is_new)
    }

    /// Waits until nobody is about to give it an agent.
    pub(super) fn stop_entering(&mut self) {
        if let Some(entering) = self.entering.take() {
            let _ = entering.thread.join();
        }
    }

    /// Has the journal know it.
    pub(super) fn record(&self, journal: &Journal) {
        let inside = self.inside.as_ref();
        let entry = SpaceEntry {
            pid: self.pid,
            start_time: self.start_time,
            uffd: self.uffd.as_raw_fd(),
            socket: inside.map_or(-1, |i| std::os::fd::AsFd::as_fd(&i.agent).as_raw_fd()),
            memory: inside.map_or(-1, |i| i.memory.as_raw_fd()),
            agent_pid: inside.map_or(0, |i| i.pid),
            mover: inside.map_or(-1, |i| i.mover),
            staging: inside.map_or(0, |i| i.staging),
            code: inside.map_or(0, |i| i.code),
            arguments: self.arguments,
            is_forked: self.is_forked,
        };
        journal.set_space(usize::from(self.id.0), &entry);
        // A later worker knows of it: pages may be evicted, and must not be missing when nobody is left.
        if let Some(inside) = inside {
            inside.agent.guard(attach::pid_in_own_namespace(self.pid));
        }
    }

    /// Whether the process still has the address space that is ours: it has not executed another program.
    pub(super) fn is_current(&self) -> bool {
        let Some(inside) = &self.inside else { return true };
        maps::read(self.pid)
            .is_ok_and(|all| all.iter().any(|m| m.kind == Kind::Agent && m.start == inside.code))
    }

    /// Gives the ranges that can be paged.
    ///
    /// # Errors
    /// `ESRCH` if the process is gone.
    pub(super) fn ranges(&self) -> io::Result<Vec<(u64, u64)>> {
        let mappings = maps::read(self.pid)?;
        let anonymous = mappings.iter().filter(|m| m.kind == Kind::Anonymous);
        Ok(anonymous.flat_map(|m| self.clip(m.start, m.end)).collect())
    }

    /// Gives the ranges that can be paged of the mappings that have something of a range; `None` if the kernel does not tell.
    pub(super) fn mappings_in(&self, start: u64, end: u64) -> Option<Vec<(u64, u64)>> {
        let vmas = self.vmas.as_ref()?;
        let (mut ranges, mut at) = (Vec::new(), start);
        while at < end {
            let vma = match vmas.at_or_after(at) {
                Ok(vma) => vma,
                Err(e) if e.raw_os_error() == Some(libc::ENOENT) => break,
                Err(_) => return None,
            };
            if vma.is_anonymous && vma.start < end {
                ranges.extend(self.clip(vma.start, vma.end));
            }
            at = vma.end;
        }
        Some(ranges)
    }

    /// Gives the bounds of the mapping that an address is in; `None` if there is none, or the kernel does not tell.
    pub(super) fn mapping_at(&self, address: u64) -> Option<(u64, u64)> {
        let vma = self.vmas.as_ref()?.at_or_after(address).ok()?;
        (vma.start <= address).then_some((vma.start, vma.end))
    }

    /// Leaves out of a range what must not be paged: arguments and environment, and our own staging area.
    pub(super) fn clip(&self, start: u64, end: u64) -> impl Iterator<Item = (u64, u64)> + use<> {
        let staging = self.inside.as_ref().map_or((0, 0), Inside::staging_range);
        let mut ranges = vec![(start, end)];
        for (low, high) in [self.arguments, staging] {
            if low < high {
                ranges = ranges
                    .into_iter()
                    .flat_map(|(start, end)| [(start, end.min(low)), (start.max(high), end)])
                    .filter(|(start, end)| start < end)
                    .collect();
            }
        }
        ranges.into_iter()
    }

    /// Whether all these pages are there; of an address space that has lost its process that cannot be told. One look at all that lies
    /// between them: they are of the staging area, which is small.
    fn are_present(&self, addresses: &[u64]) -> bool {
        let mut sorted = addresses.to_vec();
        sorted.sort_unstable();
        let (Some(pagemap), [first, .., last] | [first @ last]) = (&self.pagemap, &sorted[..]) else {
            return true;
        };
        let mut nr_found = 0;
        let looked = pagemap.present(*first, last + PAGE_SIZE, |region| {
            let before = |end: u64| sorted.partition_point(|at| *at < end);
            nr_found += before(region.end) - before(region.start);
        });
        looked.is_err() || nr_found == sorted.len()
    }

    /// Has pages made the address space's own where another has them too. They stay write-protected if they are.
    pub(super) fn unshare(&self, addresses: &[u64]) {
        // A read of another process's memory pins the page, for which the kernel wants it exclusive.
        for addresses in addresses.chunks(512) {
            let here: Vec<_> = addresses.iter().filter(|at| self.is_present(**at) == Some(true)).collect();
            let remote: Vec<_> = here.iter().map(|at| RemoteIoVec { base: **at as usize, len: 1 }).collect();
            let mut bytes = vec![0; here.len()];
            let _ =
                process_vm_readv(Pid::from_raw(self.pid), &mut [io::IoSliceMut::new(&mut bytes)], &remote);
        }
    }

    /// Whether a page is there, or in the host's own swap.
    pub(super) fn is_present(&self, address: u64) -> Option<bool> {
        let mut present = false;
        let looked = self.pagemap.as_ref()?.present(address, address + PAGE_SIZE, |_| present = true);
        looked.ok().map(|()| present)
    }

    /// Counts the resident pages that are not paged: private ones of files, arguments and environment, and shared memory. What a
    /// forked child has in common with others is counted there.
    pub(super) fn unmanaged(&self) -> Option<u64> {
        let pagemap = self.pagemap.as_ref()?;
        let mut pages = 0;
        for mapping in maps::read(self.pid).ok()? {
            let counts_files = mapping.kind == Kind::Shared;
            let (start, end) = match mapping.kind {
                Kind::FilePrivate => (mapping.start, mapping.end),
                Kind::Shared if !self.is_forked => (mapping.start, mapping.end),
                Kind::Anonymous => (mapping.start.max(self.arguments.0), mapping.end.min(self.arguments.1)),
                _ => continue,
            };
            if start >= end {
                continue;
            }
            let _ = pagemap.present(start, end, |region| {
                if region.is_file == counts_files && !region.is_zero {
                    pages += if self.is_forked {
                        pagemap.exclusive(region.start, region.end)
                    } else {
                        (region.end - region.start) / PAGE_SIZE
                    };
                }
            });
        }
        Some(pages)
    }

    /// Reads pages of the address space at these addresses into `pages`.
    ///
    /// # Errors
    /// Those of `process_vm_readv`; `UnexpectedEof` if one is missing.
    pub(super) fn read(&self, addresses: &[u64], pages: &mut [u8]) -> io::Result<()> {
        // The kernel would have us wait for a missing page, which nobody but us could bring.
        if !self.are_present(addresses) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let remote: Vec<RemoteIoVec> = addresses
            .chunk_by(|a, b| a + PAGE_SIZE == *b)
            .map(|run| RemoteIoVec { base: run[0] as usize, len: run.len() * PAGE_SIZE as usize })
            .collect();
        let len = pages.len();
        let mut read =
            |pid| process_vm_readv(Pid::from_raw(pid), &mut [io::IoSliceMut::new(&mut *pages)], &remote);
        // The agent keeps the address space of a member that has ended; and the member that of an agent that was killed.
        let agent = self.inside.as_ref().map_or(self.pid, |inside| inside.pid);
        let read = match read(agent) {
            Err(nix::Error::ESRCH) => read(self.pid)?,
            read => read?,
        };
        if read == len { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// Gives everything back: ranges are registered no more, the agent ends, its mappings go. All pages must be in place.
    ///
    /// # Errors
    /// Those of the process being gone.
    pub(super) fn release(&mut self) -> Result<(), AttachError> {
        for (start, end) in self.ranges().unwrap_or_default() {
            let _ = self.uffd.unregister(start, end - start);
        }
        match self.inside.take() {
            Some(mut inside) => {
                let staging = inside.staging_range();
                let result = attach::detach(
                    self.pid,
                    &mut inside.agent,
                    (staging.0, staging.1 - staging.0),
                    inside.code,
                );
                reap(inside.pid);
                result
            }
            None => Ok(()),
        }
    }

    /// The member has ended, or runs another program: ends the agent, which keeps the old address space.
    pub(super) fn bury(&mut self) {
        if let Some(inside) = self.inside.take() {
            if let Ok(pidfd) = Pidfd::open(inside.pid)
                && is_agent(inside.pid)
            {
                let _ = pidfd.signal(libc::SIGKILL);
            }
            reap(inside.pid);
        }
    }
}

impl Inside {
    pub(super) fn staging_range(&self) -> (u64, u64) {
        (self.staging, self.staging + u64::from(STAGING_PAGES + DROP_PAGES) * PAGE_SIZE)
    }

    /// Where the agent's code is: no other address space has that mapping.
    pub(super) fn code(&self) -> u64 {
        self.code
    }

    /// Where a place of the staging area is.
    pub(super) fn stage(&self, index: u32) -> u64 {
        self.staging + u64::from(index) * PAGE_SIZE
    }
}

/// Whether a process is an agent, as far as its name tells.
pub(super) fn is_agent(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == attach::AGENT_NAME)
}

/// Takes an agent's exit status, should it have become our child.
fn reap(pid: i32) {
    use nix::sys::wait::{WaitPidFlag, waitpid};
    let _ = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL));
}
