//! Members: processes that come, fork, execute, leave and end.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use host_sys::Pidfd;
use host_sys::process::{stat, thread_group, tracer};

use super::super::attach::AttachError;
use super::super::held::SPACES_MAX;
use super::super::proto::Event;
use super::super::sensor::Record;
use super::super::table::CAPACITY;
use super::evict::BATCH;
use super::space::Space;
use super::{Token, Worker};
use crate::{Nanos, PAGE_SIZE, SpaceId, Vpn};

/// How a member's memory is had.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// We page it.
    Managed(SpaceId),
    /// It shares the address space of another member, as between `vfork` and `exec`.
    Sharing(SpaceId),
    /// We do not page it, for this reason; it counts.
    Unmanaged(&'static str),
}

/// A member.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) start_time: u64,
    pub(super) pidfd: Pidfd,
    pub(super) kind: Kind,
    /// The member whose perf events it has inherited.
    pub(super) root: i32,
    /// Resident pages that cannot be paged.
    pub(super) unmanaged: u64,
}

/// How long an agent that is being made is waited for at a time.
const AGENT_WAIT: Duration = Duration::from_micros(200);

/// Why a request is refused.
pub(super) type Refused = (i32, String);

pub(super) fn refused<T>(errno: i32, reason: impl Into<String>) -> Result<T, Refused> {
    Err((errno, reason.into()))
}

fn gone(_: io::Error) -> Refused {
    (libc::ESRCH, "the process is gone".into())
}

impl Worker {
    /// Takes in a process.
    pub(super) fn join(&mut self, pid: i32, start_time: u64, now: u64) -> Result<(), Refused> {
        if let Some(member) = self.members.get(&pid) {
            if member.start_time == start_time {
                return Ok(());
            }
            self.on_exit(pid);
        }
        let pidfd = Pidfd::open(pid).map_err(gone)?;
        let stat = stat(pid).map_err(gone)?;
        if stat.start_time != start_time || stat.is_exiting() {
            return refused(libc::ESRCH, "the process that was meant is gone");
        }
        if stat.is_kernel_thread() {
            return refused(libc::EOPNOTSUPP, "a kernel thread");
        }
        if tracer(pid).map_err(gone)? != 0 {
            return refused(libc::EOPNOTSUPP, "the process is under a tracer");
        }
        if self.members.len() >= CAPACITY {
            return refused(libc::ENOSPC, "the group is full");
        }
        if is_privileged(pid) {
            return refused(libc::EPERM, "a set-user-ID program, or one that must not be dumped");
        }
        self.sensor.watch(pid).map_err(|e| {
            let errno = e.raw_os_error().unwrap_or(libc::EIO);
            (errno, format!("the process cannot be watched: {e}"))
        })?;
        let kind = match self.take_in(pid, start_time) {
            Ok(id) => Kind::Managed(id),
            Err(error) => {
                self.sensor.forget(pid);
                return Err((error.errno(), error.to_string()));
            }
        };
        if let Err(error) = self.add_member(pid, start_time, pidfd, kind, pid) {
            self.on_exit(pid);
            return Err((error.raw_os_error().unwrap_or(libc::EIO), error.to_string()));
        }
        self.drain_excess(now);
        Ok(())
    }

    pub(super) fn add_member(
        &mut self,
        pid: i32,
        start_time: u64,
        pidfd: Pidfd,
        kind: Kind,
        root: i32,
    ) -> io::Result<()> {
        let watched = self.watch(pidfd.as_fd(), Token::Process(pid));
        self.members.insert(pid, Member { start_time, pidfd, kind, root, unmanaged: 0 });
        watched
    }

    /// Takes hold of a process's address space, with everything that is in it.
    pub(super) fn take_in(&mut self, pid: i32, start_time: u64) -> Result<SpaceId, AttachError> {
        let id = self.free_space().ok_or_else(AttachError::full)?;
        let space = Space::attach(id, pid, start_time)?;
        self.add_space(space).map_err(AttachError::inner)?;
        if let Err(error) = self.register_all(id) {
            tracing::debug!(pid, %error, "not all of a new member's memory is registered");
        }
        Ok(id)
    }

    /// Has everybody know a space.
    pub(super) fn add_space(&mut self, space: Space) -> io::Result<()> {
        let id = space.id;
        self.vm.add_space(id).map_err(io::Error::other)?;
        self.know_space(space)
    }

    pub(super) fn know_space(&mut self, space: Space) -> io::Result<()> {
        let id = space.id;
        self.watch(space.uffd.as_fd(), Token::Space(id))?;
        space.record(&self.journal);
        self.spaces.insert(id, space);
        Ok(())
    }

    pub(super) fn free_space(&self) -> Option<SpaceId> {
        (1..SPACES_MAX as u16).map(SpaceId).find(|id| !self.spaces.contains_key(id))
    }

    /// Registers what can be paged of a space, and charges what is there.
    pub(super) fn register_all(&mut self, id: SpaceId) -> io::Result<()> {
        let Some(space) = self.spaces.get(&id) else { return Ok(()) };
        // Its staging area is not known yet, and not to be taken for the program's. All is registered when it is.
        if space.is_entering() {
            return Ok(());
        }
        for (start, end) in space.ranges()? {
            self.register(id, start, end);
        }
        Ok(())
    }

    /// Registers a range; gives whether it could be.
    pub(super) fn register(&mut self, id: SpaceId, start: u64, end: u64) -> bool {
        let Some(space) = self.spaces.get(&id) else { return true };
        if let Err(error) = space.uffd.register(start, end - start, true) {
            tracing::debug!(space = id.0, start, end, %error, "a range is not registered");
            return false;
        }
        let (vm, mut result) = (&mut self.vm, Ok(()));
        let scanned = space.pagemap.as_ref().map(|pagemap| {
            pagemap.present(start, end, |region| {
                if region.is_file {
                    return;
                }
                for page in region.start / PAGE_SIZE..region.end / PAGE_SIZE {
                    if result.is_ok() {
                        result = vm.found(id, Vpn(page), region.is_protected);
                    }
                }
            })
        });
        if let Err(error) = result {
            tracing::warn!(space = id.0, %error, "a page that was found cannot be charged");
        }
        scanned.is_some_and(|s| s.is_ok())
    }

    /// Acts upon what the sensor tells.
    pub(super) fn on_records(&mut self, now: u64) {
        if !self.sensor.has_records() {
            return;
        }
        self.active_at = now;
        let mut records = std::mem::take(&mut self.records);
        self.sensor.drain(&mut records);
        for record in records.drain(..) {
            match record {
                Record::Mapped { pid, start, len } => self.on_mapped(pid, start, start + len),
                Record::Forked { parent, child } => self.on_forked(parent, child),
                Record::Executed { pid } => self.on_executed(pid),
                Record::Lost => {
                    self.counters.lost_records += 1;
                    self.rescan();
                }
            }
        }
        self.records = records;
    }

    fn on_mapped(&mut self, pid: i32, start: u64, end: u64) {
        let id = match self.members.get(&pid).map(|m| &m.kind) {
            Some(Kind::Managed(id) | Kind::Sharing(id)) => *id,
            _ => return,
        };
        let Some(space) = self.spaces.get(&id) else { return };
        if space.is_entering() {
            return;
        }
        // Whole mappings as they are now, or one that the program made in one go would be two for a moment.
        let Some(parts) = space.mappings_in(start, end) else {
            let _ = self.register_all(id);
            return;
        };
        if !parts.into_iter().all(|(start, end)| self.register(id, start, end)) {
            // It has changed since.
            let _ = self.register_all(id);
        }
    }

    /// Whether a process has the address space of a member: it has the agent's mapping, which forked children have not.
    pub(super) fn shares_space(&self, pid: i32, id: SpaceId) -> bool {
        let Some(code) = self.spaces.get(&id).and_then(|s| s.inside.as_ref()).map(|i| i.code()) else {
            return false;
        };
        super::super::maps::read(pid)
            .is_ok_and(|all| all.iter().any(|m| m.kind == super::super::maps::Kind::Agent && m.start == code))
    }

    fn on_executed(&mut self, pid: i32) {
        let Some(member) = self.members.get(&pid) else { return };
        let start_time = member.start_time;
        let old = member.kind.clone();
        if let Kind::Managed(id) = old {
            if self.spaces.get(&id).is_some_and(|s| s.inside.is_some() && s.is_current()) {
                // What is told was before what we have.
                return;
            }
            self.leave_space(pid, id);
        }
        let kind = self.manage(pid, start_time);
        if let Some(member) = self.members.get_mut(&pid) {
            member.kind = kind;
        }
        self.tell(Event::Executed { pid });
    }

    /// Takes hold of a member's address space, if that is possible.
    pub(super) fn manage(&mut self, pid: i32, start_time: u64) -> Kind {
        if is_privileged(pid) {
            self.tell(Event::Escaped { pid, reason: "a set-user-ID program is not paged; it counts".into() });
            return Kind::Unmanaged("setuid");
        }
        match self.take_in(pid, start_time) {
            Ok(id) => Kind::Managed(id),
            Err(error) if error.is_gone() => Kind::Unmanaged("gone"),
            Err(error) => {
                self.tell(Event::Escaped { pid, reason: error.to_string() });
                Kind::Unmanaged("refused")
            }
        }
    }

    /// A process has its address space no more. Another that shares it keeps it.
    fn leave_space(&mut self, pid: i32, id: SpaceId) {
        let heir =
            self.members.iter().find(|(p, m)| **p != pid && m.kind == Kind::Sharing(id)).map(|(p, _)| *p);
        match heir {
            Some(heir) => {
                if let (Some(member), Some(space)) = (self.members.get_mut(&heir), self.spaces.get_mut(&id)) {
                    member.kind = Kind::Managed(id);
                    space.set_process(heir, member.start_time);
                    space.record(&self.journal);
                }
            }
            None => self.drop_space(id),
        }
    }

    /// An address space is gone.
    pub(super) fn drop_space(&mut self, id: SpaceId) {
        let _ = self.vm.remove_space(id);
        // Its staging area, which its agent keeps until now, may have pages that forked children have too.
        if self.spaces.values().any(|s| s.id != id && s.is_forked) && self.stage_space.contains(&Some(id)) {
            self.empty_staging(id);
        }
        if let Some(mut space) = self.spaces.remove(&id) {
            space.bury();
            self.journal.clear_space(usize::from(id.0));
        }
        self.leftovers.retain(|(of, _)| *of != id);
        for stage in self.stage_space.iter_mut().filter(|s| **s == Some(id)) {
            *stage = None;
        }
        self.faults.retain(|f| f.space != id);
        self.take_released();
    }

    /// A process has ended.
    pub(super) fn on_exit(&mut self, pid: i32) {
        let Some(member) = self.members.remove(&pid) else { return };
        if let Kind::Managed(id) = member.kind {
            self.leave_space(pid, id);
        }
        self.forget_root(pid);
        self.counters.is_stuck = false;
        self.tell(Event::Exited { pid });
    }

    /// Nobody needs a process's perf events any more, but those who have inherited them.
    fn forget_root(&mut self, pid: i32) {
        if !self.members.values().any(|m| m.root == pid) {
            self.sensor.forget(pid);
        }
    }

    /// Looks at everything again: what the sensor may have missed.
    pub(super) fn rescan(&mut self) {
        let ids: Vec<SpaceId> = self.spaces.keys().copied().collect();
        let born: Vec<(i32, i32)> = self
            .members
            .keys()
            .flat_map(|pid| children(*pid).into_iter().map(|child| (*pid, child)))
            .collect();
        for (pid, child) in born {
            self.on_forked(pid, child);
        }
        for id in ids {
            let Some(space) = self.spaces.get(&id) else { continue };
            if space.pid != 0 && !space.is_current() {
                let pid = space.pid;
                self.on_executed(pid);
            } else {
                let _ = self.register_all(id);
            }
        }
    }

    /// Agents that do not answer any more, killed by somebody, are replaced.
    pub(super) fn replace_agents(&mut self) {
        let mut lost = std::mem::take(&mut self.lost_agents);
        lost.sort_unstable();
        lost.dedup();
        for id in lost {
            let Some(space) = self.spaces.get(&id).filter(|s| s.inside.is_some() && !s.is_closed) else {
                continue;
            };
            tracing::warn!(pid = space.pid, "an agent is gone");
            space.kill_agent();
            let is_empty = self.empty_staging(id);
            let Some(space) = self.spaces.get_mut(&id) else { continue };
            if is_empty {
                space.forget_agent(&self.journal);
                let _ = space.ensure_inside(&self.journal);
            } else {
                // What is staged can be read, but nothing more can be evicted.
                space.is_closed = true;
            }
        }
    }

    /// Has everything that a space's staging area holds written to a tier; gives whether nothing is left that is needed.
    fn empty_staging(&mut self, id: SpaceId) -> bool {
        let now = Nanos(host_sys::process::now());
        while self.vm.stats().staged > 0 && self.write_out(BATCH, now) {}
        self.settle_writes();
        let is_empty = self.vm.stats().staged == 0;
        if is_empty {
            self.leftovers.retain(|(of, _)| *of != id);
            for stage in self.stage_space.iter_mut().filter(|s| **s == Some(id)) {
                *stage = None;
            }
        }
        is_empty
    }

    /// Evicts until the group is inside its pool, serving faults meanwhile.
    pub(super) fn drain_excess(&mut self, now: u64) {
        while self.vm.excess() > 0 {
            if !self.make_room(self.vm.excess(), Nanos(now)) {
                self.stuck(self.vm.excess());
                if self.vm.nr_unreachable() == 0 {
                    return;
                }
                // There is more to be evicted when children that have just been forked have their agents.
                self.on_records(now);
                self.enter_forked();
                self.finish_entering();
                std::thread::sleep(AGENT_WAIT);
            }
            let ids: Vec<SpaceId> = self.spaces.keys().copied().collect();
            for id in ids {
                self.on_messages(id);
            }
            self.serve_faults(Nanos(now));
        }
    }
}

/// Whether a process runs with rights that its user has not got by itself, or must not be looked into.
fn is_privileged(pid: i32) -> bool {
    let Ok(text) = std::fs::read_to_string(format!("/proc/{pid}/status")) else { return false };
    let ids = |key: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(key)).unwrap_or("");
        line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let differs = |ids: &[String]| ids.iter().any(|id| id != &ids[0]);
    let (uid, gid) = (ids("Uid:"), ids("Gid:"));
    if differs(&uid) || differs(&gid) {
        return true;
    }
    // The kernel gives what must not be dumped to root.
    let owner = std::fs::metadata(format!("/proc/{pid}")).map(|m| std::os::unix::fs::MetadataExt::uid(&m));
    owner.is_ok_and(|owner| owner == 0 && uid.first().is_some_and(|uid| uid != "0"))
}

fn children(pid: i32) -> Vec<i32> {
    let tids = host_sys::process::threads(pid).unwrap_or_default();
    let lists = tids
        .iter()
        .filter_map(|tid| std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|p| p.parse().ok()).collect::<Vec<i32>>())
        .filter(|child| thread_group(*child).is_ok_and(|tgid| tgid == *child))
        .collect()
}
