//! Faults and changes of address spaces, as userfaultfds tell them.

use host_sys::reads::{Read, Reader};
use host_sys::uffd::{Install, Message};

use super::super::held::MESSAGES;
use super::super::store::Pages;
use super::Worker;
use super::evict::told;
use crate::{Access, Load, Nanos, Outcome, PAGE_SIZE, Resolution, Restore, Source, SpaceId, Vpn};

/// How often a fault is taken up again in one go; whoever faulted does so again if that was not enough.
const ROUNDS: u32 = 64;

/// A fault that waits for something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Fault {
    pub(super) space: SpaceId,
    pub(super) address: u64,
    pub(super) access: Access,
}

impl Worker {
    /// Acts upon everything that a space tells.
    pub(super) fn on_messages(&mut self, id: SpaceId) {
        loop {
            let Some(space) = self.spaces.get(&id) else { return };
            let nr = match self.journal.read_messages(usize::from(id.0), &space.uffd) {
                Ok(nr) => nr,
                Err(error) => {
                    tracing::debug!(space = id.0, %error, "a userfaultfd cannot be read");
                    return;
                }
            };
            for index in 0..nr {
                self.on_message(id, index);
            }
            if nr < MESSAGES {
                break;
            }
        }
        self.part_forked();
    }

    /// Acts upon one message of the journal.
    pub(super) fn on_message(&mut self, id: SpaceId, index: usize) {
        match Message::decode(self.journal.message(index)) {
            Some(Message::Fault { address, is_write, is_protected }) => {
                // A fault that is lost is told again, once its task is woken; nothing else may be lost.
                self.journal.message_done(index);
                let access = match (is_protected, is_write) {
                    (true, _) => Access::WriteProtected,
                    (false, true) => Access::Write,
                    (false, false) => Access::Read,
                };
                self.faults.push_back(Fault { space: id, address, access });
                return;
            }
            _ if !self.vm.begin_event(self.journal.message_number(index)) => {}
            Some(Message::Fork(fd)) => self.on_fork(id, fd),
            Some(Message::Remap { from, to, len }) => {
                let _ = self.vm.remap(id, page_of(from), page_of(to), len / PAGE_SIZE);
            }
            Some(Message::Remove { start, end }) => {
                let _ = self.vm.remove(id, page_of(start), (end - start) / PAGE_SIZE);
            }
            Some(Message::Unmap { start, end }) => {
                let _ = self.vm.unmap(id, page_of(start), (end - start) / PAGE_SIZE);
            }
            None => {}
        }
        self.vm.end_event();
        self.journal.message_done(index);
    }

    /// Serves the faults that wait.
    pub(super) fn serve_faults(&mut self, now: Nanos) {
        let mut again = Vec::new();
        for _ in 0..self.faults.len() {
            let Some(fault) = self.faults.pop_front() else { break };
            if !self.serve(fault, now) {
                again.push(fault);
            }
        }
        self.faults.extend(again);
    }

    /// Serves a fault; `false` if it has to wait.
    fn serve(&mut self, fault: Fault, now: Nanos) -> bool {
        let Fault { space: id, address, access } = fault;
        let mut access = access;
        for _ in 0..ROUNDS {
            let Some(space) = self.spaces.get_mut(&id) else { return true };
            self.loads.clear();
            let had = self.vm.charged();
            self.vm.lend(space.may_borrow().into());
            let resolution = self.vm.fault(id, page_of(address), access, now, &mut self.loads);
            self.vm.lend(0);
            if self.vm.charged() > had && space.may_borrow() {
                space.has_borrowed();
            }
            let resolution = match resolution {
                Ok(resolution) => resolution,
                Err(error) => {
                    tracing::debug!(space = id.0, address, %error, "a fault cannot be served");
                    let _ = space.uffd.wake(address, PAGE_SIZE);
                    return true;
                }
            };
            match resolution {
                Resolution::Wake => {
                    if access != Access::WriteProtected && space.is_present(address) == Some(false) {
                        // It was there and is not any more.
                        let _ = self.vm.lost(id, page_of(address));
                        continue;
                    }
                    // Lifting it wakes.
                    let is_lifted = access == Access::WriteProtected
                        && space.uffd.protect(address, PAGE_SIZE, false, true).is_ok();
                    if !is_lifted {
                        let _ = space.uffd.wake(address, PAGE_SIZE);
                    }
                    return true;
                }
                Resolution::Unprotect | Resolution::Unshare => {
                    match space.uffd.protect(address, PAGE_SIZE, false, true) {
                        Err(e) if e.raw_os_error() == Some(libc::EAGAIN) => {
                            self.on_messages(id);
                            access = Access::WriteProtected;
                        }
                        Ok(()) => return true,
                        Err(_) => {
                            let _ = space.uffd.wake(address, PAGE_SIZE);
                            return true;
                        }
                    }
                }
                Resolution::Zero { .. } | Resolution::Load => {
                    if self.install(id, address) {
                        return true;
                    }
                }
                Resolution::Rescue { stage, copy } => {
                    let is_served = self.install(id, address);
                    if is_served && !copy && !self.was_gone {
                        self.leave_behind(stage);
                    }
                    if is_served {
                        return true;
                    }
                }
                Resolution::Wait => return false,
                Resolution::NeedFrames(nr) => {
                    self.counters.max_events += 1;
                    if !self.make_room(nr, now) && !self.kill_for_memory("nothing can be evicted") {
                        // Nobody is left to be killed, or the one that was is not gone yet.
                        return false;
                    }
                }
                Resolution::OutOfMemory => {
                    if !self.make_room(1, now)
                        && !self.kill_for_memory("the pool and the swap tiers are full")
                    {
                        return false;
                    }
                }
            }
        }
        false
    }

    /// Puts a page back that nobody waits for.
    pub(super) fn restore(&mut self, restore: Restore) {
        let Restore { space, load, copy } = restore;
        self.loads.clear();
        self.loads.push(load);
        let is_done = self.install(space, load.vpn.0 * PAGE_SIZE);
        if let (true, false, Source::Stage(stage)) = (is_done && !self.was_gone, copy, load.source) {
            self.leave_behind(stage);
        }
    }

    /// Installs the pages of the load buffer, contiguous in whatever order; `false` if the fault has to be asked about again.
    fn install(&mut self, id: SpaceId, address: u64) -> bool {
        self.give_up_strangers(id, address);
        let mut loads = std::mem::take(&mut self.loads);
        loads.sort_unstable_by_key(|l| l.vpn);
        if self.pages.len() < loads.len() {
            self.pages = Pages::new(loads.len());
        }
        self.was_gone = false;
        let started = host_sys::process::now();
        let is_read = self.read_loads(&loads, Nanos(started));
        let mut is_served = false;
        let mut i = 0;
        while i < loads.len() {
            let protect = loads[i].protect;
            let follows = |(n, l): (usize, &Load)| {
                l.protect == protect && l.vpn.0 == loads[i].vpn.0 + n as u64 && is_read[i + n]
            };
            let nr = loads[i..].iter().enumerate().take_while(|&pair| follows(pair)).count();
            if nr == 0 {
                // Its data cannot be had now. The fault waits for it to become readable, and is tried again.
                told(self.vm.installed(loads[i].frame, Outcome::Again));
                i += 1;
                continue;
            }
            is_served |= self.install_run(id, &loads[i..i + nr], i, address);
            i += nr;
        }
        let is_major = loads.iter().any(|l| matches!(l.source, Source::File { .. } | Source::Pool { .. }));
        if is_major {
            self.pressure.stalled(host_sys::process::now().saturating_sub(started) / 1000);
        }
        self.loads = loads;
        if !is_served {
            // The address space may be changing: what is told of that comes first.
            self.on_messages(id);
        }
        is_served
    }

    /// Gives up the pages of the load buffer that are not of the mapping of the one that is needed: what lies beside a mapping may be our
    /// staging area, or have a userfaultfd of the program's own, and the kernel fills whatever has any.
    fn give_up_strangers(&mut self, id: SpaceId, address: u64) {
        if self.loads.len() < 2 {
            return;
        }
        let Some(space) = self.spaces.get(&id) else { return };
        let (start, end) = space.mapping_at(address).unwrap_or((address, address + 1));
        let vm = &mut self.vm;
        self.loads.retain(|load| {
            let is_near = page_of(start) <= load.vpn && load.vpn <= page_of(end - 1);
            if !is_near {
                told(vm.installed(load.frame, Outcome::Gone));
            }
            is_near
        });
    }

    /// Reads the data of loads, sorted by page, into the buffer; gives which were read. While the disk is at it, frames are freed.
    fn read_loads(&mut self, loads: &[Load], now: Nanos) -> Vec<bool> {
        let mut is_read = vec![true; loads.len()];
        let mut pages = std::mem::replace(&mut self.pages, Pages::new(0));
        let mut rest = pages.range_mut(0..loads.len());
        let mut of_files = Vec::new();
        let mut i = 0;
        while i < loads.len() {
            let mut nr = 1;
            let mut result = Ok(());
            if let Source::File { tier, index } = loads[i].source {
                let follows = |(n, l): (usize, &Load)| matches!(l.source, Source::File { tier: t, index: at } if t == tier && u64::from(at) == u64::from(index) + n as u64);
                nr = loads[i..].iter().enumerate().take_while(|&pair| follows(pair)).count();
                let (mine, others) = rest.split_at_mut(nr * PAGE_SIZE as usize);
                rest = others;
                match self.store.file(tier).cloned() {
                    Ok(file) => of_files.push((file, index, mine, i..i + nr)),
                    Err(e) => result = Err(e),
                }
            } else {
                let (mine, others) = rest.split_at_mut(PAGE_SIZE as usize);
                rest = others;
                result = self.read_source(loads[i].source, mine);
            }
            if let Err(error) = result {
                self.counters.read_failed(&error);
                is_read[i..i + nr].fill(false);
            }
            i += nr;
        }
        let mut reads: Vec<Read<'_>> = of_files
            .iter_mut()
            .map(|(file, index, mine, _)| Read::new(file, u64::from(*index) * PAGE_SIZE, mine))
            .collect();
        let wants_frames = self.vm.reclaim_target() > self.writer.nr_pages();
        if wants_frames && !reads.is_empty() {
            let mut reader = std::mem::replace(&mut self.reader, Reader::without_ring());
            reader.read_while(&mut reads, || {
                self.reclaim_ahead(now);
            });
            self.reader = reader;
        } else {
            self.reader.read(&mut reads);
        }
        let results: Vec<_> = reads.into_iter().map(|read| read.result).collect();
        for (result, (.., range)) in results.into_iter().zip(of_files) {
            if let Err(error) = result {
                self.counters.read_failed(&error);
                is_read[range].fill(false);
            }
        }
        self.pages = pages;
        is_read
    }

    /// Installs pages that are neighbours and alike, whose data is in the buffer from `at` on; gives whether whoever waits at `address` goes
    /// on.
    fn install_run(&mut self, id: SpaceId, loads: &[Load], at: usize, address: u64) -> bool {
        let Some(space) = self.spaces.get(&id) else { return false };
        let protect = loads[0].protect;
        let asked = page_of(address);
        let (mut done, mut is_served) = (0, false);
        while done < loads.len() {
            let left = &loads[done..];
            let bytes = self.pages.range(at + done..at + loads.len());
            let start = left[0].vpn.0 * PAGE_SIZE;
            let (nr, outcome) = match space.uffd.copy(start, bytes, protect, true) {
                Ok(Install::Done(len)) if len >= PAGE_SIZE => {
                    ((len / PAGE_SIZE) as usize, Outcome::Installed)
                }
                Ok(Install::Exists) => (1, Outcome::AlreadyThere),
                // Past the end of a mapping the whole request is refused: page by page it is not.
                Ok(Install::Gone) if left.len() > 1 => {
                    match space.uffd.copy(start, &bytes[..PAGE_SIZE as usize], protect, true) {
                        Ok(Install::Done(_)) => (1, Outcome::Installed),
                        Ok(Install::Exists) => (1, Outcome::AlreadyThere),
                        Ok(Install::Changing) => (left.len(), Outcome::Again),
                        _ => (1, Outcome::Gone),
                    }
                }
                Ok(Install::Gone) => (1, Outcome::Gone),
                Ok(Install::Changing | Install::Done(_)) => (left.len(), Outcome::Again),
                Err(error) => {
                    tracing::debug!(space = id.0, start, %error, "a page cannot be installed");
                    (left.len(), Outcome::Again)
                }
            };
            for load in &left[..nr] {
                told(self.vm.installed(load.frame, outcome));
                if load.vpn == asked {
                    is_served = outcome != Outcome::Again;
                    self.was_gone = outcome == Outcome::Gone;
                    // Installing wakes. Else whoever waits looks again at what is there now.
                    if outcome != Outcome::Installed {
                        let _ = space.uffd.wake(address, PAGE_SIZE);
                    }
                }
            }
            done += nr;
        }
        is_served
    }
}

pub(super) fn page_of(address: u64) -> Vpn {
    Vpn(address / PAGE_SIZE)
}
