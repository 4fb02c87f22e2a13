//! Forked children: what they have in common with their parents, and which space is whose.
//!
//! The kernel tells of a fork twice: a userfaultfd gives the new address space's, a record of the sensor the child's PID.

use std::collections::BTreeSet;
use std::io;
use std::time::{Duration, Instant};

use host_sys::Pidfd;
use host_sys::process::stat;
use host_sys::uffd::Userfaultfd;

use super::super::proto::Event;
use super::super::table::CAPACITY;
use super::Worker;
use super::members::Kind;
use super::space::Space;
use crate::{PAGE_SIZE, SpaceId, Vpn};

/// How long a change of an address space is waited for at a time.
const CHANGE_PATIENCE: Duration = Duration::from_millis(100);

/// A fork whose pages are not parted yet.
#[derive(Debug)]
pub(super) struct Parting {
    parent: SpaceId,
    child: SpaceId,
    /// What the parent could write to unnoticed when it forked; `None` if only an earlier worker knew.
    open: Option<BTreeSet<Vpn>>,
}

impl Worker {
    /// The address space of a space's process was duplicated; the descriptor is for the child's.
    pub(super) fn on_fork(&mut self, parent: SpaceId, fd: i32) {
        use std::os::fd::AsRawFd;
        // The core copies page tables in which nothing is under way.
        self.settle_writes();
        let Some(space) = self.spaces.get(&parent) else { return };
        let pid = space.pid;
        let known = self.spaces.values().find(|s| s.uffd.as_raw_fd() == fd).map(|s| (s.id, s.pid));
        let (id, added) = match known {
            // An earlier worker was killed in the middle of this.
            Some((id, 0)) => {
                let _ = self.vm.remove_space(id);
                (id, Ok(()))
            }
            Some(_) => return,
            None => {
                let (Some(uffd), Some(id)) = (host_sys::process::take_fd(fd), self.free_space()) else {
                    tracing::error!(fd, "a forked child's memory cannot be had");
                    return;
                };
                // It is in the journal before the page tables are copied; both before the message is done.
                let child = Space::forked(id, Userfaultfd::in_use(uffd), space);
                (id, self.know_space(child))
            }
        };
        let open = self.residents(parent, |page| !page.is_protected);
        if !self.unborn.iter().any(|(_, of)| *of == id) {
            self.unborn.push_back((pid, id));
        }
        if let Err(error) = added.and_then(|()| self.vm.fork(parent, id).map_err(io::Error::other)) {
            tracing::error!(%error, "a forked child's memory is not known");
            return;
        }
        self.note_reach(id);
        self.partings.push(Parting { parent, child: id, open: Some(open) });
    }

    /// Says whether pages of a space can be evicted: those of a child that is still to have an agent cannot.
    pub(super) fn note_reach(&mut self, id: SpaceId) {
        let Some(space) = self.spaces.get(&id) else { return };
        let is_reachable = !space.is_forked || space.inside.is_some() || space.is_closed;
        let _ = self.vm.set_reachable(id, is_reachable);
    }

    /// Begins to give agents to children that have none.
    pub(super) fn enter_forked(&mut self) {
        let journal = &self.journal;
        for space in self.spaces.values_mut().filter(|s| s.inside.is_none() && !s.is_entering()) {
            let _ = space.ensure_inside(journal);
        }
    }

    /// Parts what forks that were told of have left in common. Before, nothing may be evicted.
    pub(super) fn part_forked(&mut self) {
        for parting in std::mem::take(&mut self.partings) {
            if !self.part(&parting) {
                self.partings.push(parting);
            }
        }
    }

    /// Has writes to pages that parent and child both have noticed: from the first one on they are two. Those that were written to since
    /// the fork, while the parent had them writable, are two already. Gives whether that could be done.
    fn part(&mut self, parting: &Parting) -> bool {
        let Some(Ok(ranges)) = self.spaces.get(&parting.parent).map(Space::ranges) else { return true };
        if !self.protect_all(parting.parent, &ranges) || !self.protect_all(parting.child, &ranges) {
            return false;
        }
        let Some(pagemap) = self.spaces.get(&parting.parent).and_then(|s| s.pagemap.as_ref()) else {
            return true;
        };
        for (start, end) in ranges {
            pagemap.own(start, end, |address| {
                let vpn = Vpn(address / PAGE_SIZE);
                if parting.open.as_ref().is_none_or(|open| open.contains(&vpn)) {
                    let _ = self.vm.found(parting.parent, vpn, false);
                }
            });
        }
        true
    }

    /// Has writes to ranges of a space noticed; `false` if the space does not cease to change.
    fn protect_all(&mut self, id: SpaceId, ranges: &[(u64, u64)]) -> bool {
        let started = Instant::now();
        for &(start, end) in ranges {
            loop {
                let Some(space) = self.spaces.get(&id) else { return true };
                match space.uffd.protect(start, end - start, true, false) {
                    // It goes on when what changes has been told.
                    Err(e) if e.raw_os_error() == Some(libc::EAGAIN) => {
                        if started.elapsed() > CHANGE_PATIENCE {
                            return false;
                        }
                        self.on_messages(id);
                        std::thread::yield_now();
                    }
                    _ => break,
                }
            }
        }
        true
    }

    /// Makes sure that what an earlier worker began with the children that are not known yet is done.
    pub(super) fn part_unborn(&mut self) {
        for (pid, child) in self.unborn.clone() {
            let parent = self.spaces.values().find(|s| s.pid == pid).map(|s| s.id);
            self.partings.extend(parent.map(|parent| Parting { parent, child, open: None }));
        }
        self.part_forked();
    }

    /// Gives the pages of a space that are in place as far as the core knows.
    pub(super) fn residents(
        &self,
        id: SpaceId,
        is_wanted: impl Fn(&crate::Resident) -> bool,
    ) -> BTreeSet<Vpn> {
        let (mut from, mut some, mut all) = (Vpn(0), Vec::new(), BTreeSet::new());
        while self.vm.residents(id, from, 1024, &mut some).is_ok()
            && let Some(last) = some.last()
        {
            from = Vpn(last.vpn.0 + 1);
            all.extend(some.iter().filter(|page| is_wanted(page)).map(|page| page.vpn));
        }
        all
    }

    pub(super) fn on_forked(&mut self, parent: i32, child: i32) {
        // Agents are no members; those who start them have ended by now.
        let is_agent = |s: &Space| s.inside.as_ref().is_some_and(|i| i.pid == child);
        if self.members.contains_key(&child) || self.spaces.values().any(is_agent) {
            return;
        }
        let Some((root, parent_kind)) = self.members.get(&parent).map(|m| (m.root, m.kind.clone())) else {
            return;
        };
        let known = Pidfd::open(child).and_then(|pidfd| Ok((pidfd, stat(child)?)));
        let shares = match &parent_kind {
            Kind::Managed(id) | Kind::Sharing(id) => self.shares_space(child, *id),
            Kind::Unmanaged(_) => false,
        };
        let (pidfd, start_time) = match known {
            Ok((pidfd, stat)) if !stat.is_dead() => (pidfd, stat.start_time),
            // It has ended already.
            _ => {
                self.drop_dead();
                return;
            }
        };
        let kind = match parent_kind {
            Kind::Managed(id) | Kind::Sharing(id) if shares => Kind::Sharing(id),
            Kind::Managed(id) | Kind::Sharing(id) => match self.unborn_of(child, id) {
                Some(id) if self.vm.space_stats(id).is_err() => {
                    let _ = pidfd.signal(libc::SIGKILL);
                    self.drop_space(id);
                    let reason = "its parent's page tables could not be copied".into();
                    self.tell(Event::Killed { pid: child, reason });
                    return;
                }
                Some(id) => {
                    if let Some(space) = self.spaces.get_mut(&id) {
                        space.set_process(child, start_time);
                    }
                    // What its parent has moved or unmapped since was not among the parent's ranges.
                    let ranges = self.spaces.get(&id).and_then(|s| s.ranges().ok()).unwrap_or_default();
                    if !self.protect_all(id, &ranges) {
                        tracing::warn!(child, "not every write of a forked child is noticed");
                    }
                    self.find_own_copies(id);
                    if let Some(space) = self.spaces.get(&id) {
                        space.record(&self.journal);
                    }
                    Kind::Managed(id)
                }
                // It executed another program before we looked; that is told next.
                None => Kind::Unmanaged("not seen yet"),
            },
            Kind::Unmanaged(reason) => Kind::Unmanaged(reason),
        };
        if self.members.len() >= CAPACITY {
            self.tell(Event::Escaped { pid: child, reason: "the group is full".into() });
            return;
        }
        if let Err(error) = self.add_member(child, start_time, pidfd, kind, root) {
            tracing::warn!(child, %error, "the end of a forked member will not be noticed");
        }
        self.tell(Event::Forked { parent, child });
    }

    /// Finds which of the spaces of children that were not known yet a child has. Several threads may fork at once, a fork may be given up
    /// after its space was told of, and a child may have executed another program: so neither order nor parent tell.
    fn unborn_of(&mut self, child: i32, parent: SpaceId) -> Option<SpaceId> {
        // Its space was told of first, but perhaps not heard of yet.
        self.on_messages(parent);
        self.drop_dead();
        let started = Instant::now();
        loop {
            let mut changing = None;
            for at in 0..self.unborn.len() {
                let (_, id) = self.unborn[at];
                match self.spaces.get(&id).map(|space| space.is_of(child)) {
                    Some(Ok(true)) => return self.unborn.remove(at).map(|(_, id)| id),
                    Some(Err(_)) => changing = Some(id),
                    _ => {}
                }
            }
            // It cannot be asked before what changes in it has been told.
            self.on_messages(changing.filter(|_| started.elapsed() <= CHANGE_PATIENCE)?);
            std::thread::yield_now();
        }
    }

    /// A child has a copy of what was in place in its parent when it was forked; by the time that was told, the parent's other threads may
    /// have changed such pages, and we may have evicted them. Where the child has a page that ours are not, it is the child's alone.
    fn find_own_copies(&mut self, id: SpaceId) {
        let Some(space) = self.spaces.get(&id) else { return };
        let (Ok(ranges), Some(pagemap)) = (space.ranges(), &space.pagemap) else { return };
        let residents = self.residents(id, |_| true);
        let (mut own, mut written) = (BTreeSet::new(), Vec::new());
        for (start, end) in ranges {
            pagemap.own(start, end, |address| {
                let vpn = Vpn(address / PAGE_SIZE);
                written.extend(residents.contains(&vpn).then_some(vpn));
            });
            let _ = pagemap.present(start, end, |region| {
                if !region.is_file {
                    let pages = (region.start / PAGE_SIZE..region.end / PAGE_SIZE).map(Vpn);
                    own.extend(pages.filter(|vpn| !residents.contains(vpn)));
                }
            });
        }
        for vpn in written {
            let _ = self.vm.found(id, vpn, false);
        }
        for vpn in own {
            let _ = self.vm.unmap(id, vpn, 1);
            if let Err(error) = self.vm.found(id, vpn, false) {
                tracing::warn!(space = id.0, %error, "a page that was found cannot be charged");
            }
        }
    }

    /// Forgets forked children that ended before they were known.
    pub(super) fn drop_dead(&mut self) {
        let spaces = &self.spaces;
        let is_dead = |id: &SpaceId| spaces.get(id).is_none_or(|s| s.uffd.is_dead());
        let dead: Vec<SpaceId> = self.unborn.iter().map(|(_, id)| *id).filter(is_dead).collect();
        self.unborn.retain(|(_, id)| !dead.contains(id));
        for id in dead {
            self.drop_space(id);
        }
    }
}
