//! A worker after another one that was killed: what the memory files say, and what is really there, put together.

use std::collections::BTreeSet;
use std::os::fd::AsFd;

use host_sys::Pidfd;
use host_sys::process::stat;

use super::super::held::MESSAGES;
use super::super::proto::Event;
use super::evict::told;
use super::members::Kind;
use super::space::Space;
use super::{Token, Worker};
use crate::{MoveOutcome, PAGE_SIZE, SpaceId, StageId, Vpn};

/// All of a process's address space, as far as anything can be mapped in it.
const USER: (u64, u64) = (0x1_0000, 0x7fff_ffff_0000);

impl Worker {
    /// Takes over what an earlier worker left. The members that waited for it fault again.
    pub(super) fn recover(&mut self) {
        self.recover_spaces();
        self.recover_transit();
        for id in self.spaces.keys().copied().collect::<Vec<_>>() {
            self.reconcile(id);
        }
        // What was read from a userfaultfd and perhaps not acted upon.
        let of = SpaceId(self.journal.messages_space() as u16);
        for index in 0..MESSAGES {
            self.on_message(of, index);
        }
        self.faults.clear();
        self.part_unborn();
        // What was moved or unmapped meanwhile is told by now.
        for id in self.spaces.keys().copied().collect::<Vec<_>>() {
            self.reconcile(id);
        }
        self.recover_members();
        for id in self.spaces.keys().copied().collect::<Vec<_>>() {
            self.note_reach(id);
        }
        self.rescan();
        for space in self.spaces.values() {
            let _ = space.uffd.wake(USER.0, USER.1 - USER.0);
        }
        self.tell(Event::Restarted { members: self.members.len() });
    }

    fn recover_spaces(&mut self) {
        let mut known = BTreeSet::new();
        for (index, entry) in self.journal.spaces() {
            let id = SpaceId(index as u16);
            let is_alive = entry.pid == 0 || stat(entry.pid).is_ok_and(|s| s.start_time == entry.start_time);
            let Some(mut space) = Space::recover(id, &entry) else {
                self.journal.clear_space(index);
                continue;
            };
            if !is_alive || !space.is_current() && entry.pid != 0 {
                space.bury();
                self.journal.clear_space(index);
                continue;
            }
            if let Err(error) = self.watch(space.uffd.as_fd(), Token::Space(id)) {
                tracing::error!(pid = entry.pid, %error, "an address space cannot be watched");
            }
            let has_tables = self.vm.spaces().any(|known| known == id);
            if entry.pid == 0 {
                // Without tables, the message of its fork is still to be acted upon.
                if has_tables {
                    self.unborn.push_back((entry.start_time as i32, id));
                }
            } else if !has_tables {
                let _ = self.vm.add_space(id);
            }
            known.insert(id);
            self.spaces.insert(id, space);
        }
        for id in self.vm.spaces().collect::<Vec<_>>() {
            if !known.contains(&id) {
                let _ = self.vm.remove_space(id);
            }
        }
    }

    /// Finds out where each page is that was on its way to the staging area.
    fn recover_transit(&mut self) {
        let mut victims = Vec::new();
        self.vm.in_transit(&mut victims);
        let is_staged = |id: &SpaceId, stage: StageId| {
            let space = self.spaces.get(id)?;
            space.is_present(space.inside.as_ref()?.stage(stage.0))
        };
        // A page that is shared after a fork is in the staging area of one of those who have it, or had it.
        for victim in &victims {
            let Some(stage) = victim.stage else { continue };
            let place = stage.0 as usize;
            if is_staged(&victim.space, stage) == Some(true) {
                self.stage_space[place] = Some(victim.space);
            } else if self.stage_space[place].is_none() {
                self.stage_space[place] =
                    self.spaces.keys().copied().find(|id| is_staged(id, stage) == Some(true));
            }
        }
        for victim in victims {
            let address = victim.vpn.0 * PAGE_SIZE;
            let is_there = self.spaces.get(&victim.space).and_then(|s| s.is_present(address));
            let is_staged = victim.stage.is_some_and(|stage| self.stage_space[stage.0 as usize].is_some());
            let outcome = match is_there {
                Some(true) => MoveOutcome::Busy,
                _ if is_staged => MoveOutcome::Staged,
                _ => MoveOutcome::Gone,
            };
            told(self.vm.moved(victim.frame, outcome));
        }
        // Whatever else is in staging areas is of no use.
        let used: BTreeSet<(SpaceId, u32)> =
            self.stage_space.iter().enumerate().filter_map(|(i, s)| s.map(|id| (id, i as u32))).collect();
        for (id, space) in &self.spaces {
            let Some(inside) = &space.inside else { continue };
            let (start, end) = inside.staging_range();
            let Some(pagemap) = &space.pagemap else { continue };
            let leftovers = &mut self.leftovers;
            let _ = pagemap.present(start, end, |region| {
                let places = (region.start - start) / PAGE_SIZE..(region.end - start) / PAGE_SIZE;
                leftovers.extend(places.map(|n| (*id, n as u32)).filter(|place| !used.contains(place)));
            });
        }
        self.clear_leftovers();
    }

    /// Makes the page tables of a space agree with what is in place.
    fn reconcile(&mut self, id: SpaceId) {
        let Some(space) = self.spaces.get(&id) else { return };
        if space.pid == 0 {
            return;
        }
        let mut present = BTreeSet::new();
        let (Ok(ranges), Some(pagemap)) = (space.ranges(), &space.pagemap) else { return };
        for (start, end) in ranges {
            let vm = &mut self.vm;
            let _ = pagemap.present(start, end, |region| {
                if !region.is_file {
                    for page in region.start / PAGE_SIZE..region.end / PAGE_SIZE {
                        let _ = vm.found(id, Vpn(page), region.is_protected);
                        present.insert(page);
                    }
                }
            });
        }
        let (mut from, mut residents) = (Vpn(0), Vec::new());
        while self.vm.residents(id, from, 1024, &mut residents).is_ok()
            && let Some(last) = residents.last()
        {
            from = Vpn(last.vpn.0 + 1);
            for page in &residents {
                if !present.contains(&page.vpn.0) {
                    let _ = self.vm.lost(id, page.vpn);
                }
            }
        }
    }

    /// Makes members of the spaces' processes, and of those that the table knows beside them.
    fn recover_members(&mut self) {
        let of_spaces: Vec<(i32, u64, SpaceId)> =
            self.spaces.values().filter(|s| s.pid != 0).map(|s| (s.pid, s.start_time, s.id)).collect();
        for (pid, start_time, id) in of_spaces {
            match Pidfd::open(pid) {
                Ok(pidfd) => {
                    let _ = self.add_member(pid, start_time, pidfd, Kind::Managed(id), pid);
                    let _ = self.sensor.watch(pid);
                }
                Err(_) => self.drop_space(id),
            }
        }
        for row in self.table.members() {
            let is_same = stat(row.pid).is_ok_and(|s| s.start_time == row.start_time && !s.is_dead());
            if !is_same || self.members.contains_key(&row.pid) {
                continue;
            }
            let sharing = self.spaces.keys().copied().find(|id| self.shares_space(row.pid, *id));
            let Ok(pidfd) = Pidfd::open(row.pid) else { continue };
            let kind = match sharing {
                Some(id) => Kind::Sharing(id),
                // It executed another program meanwhile, or was not to be had before.
                None => self.manage(row.pid, row.start_time),
            };
            let _ = self.add_member(row.pid, row.start_time, pidfd, kind, row.pid);
            let _ = self.sensor.watch(row.pid);
        }
    }
}
