//! Faults: what is to be done about one.

use crate::error::VmError;
use crate::frames::{NIL, Phase};
use crate::memory::Memory;
use crate::readahead::GAP;
use crate::table::{Pte, State};
use crate::types::{Access, FrameId, Load, Nanos, Resolution, Source, SpaceId, StageId, Vpn};
use crate::vm::Vm;

/// What reading ahead does with a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ahead {
    Loads,
    /// It needs not be read.
    Passes,
    Stops,
}

/// Gives the number of the page so far above or below; of one below the first page, none that there is.
const fn beside(vpn: Vpn, distance: u64, is_downwards: bool) -> u64 {
    if is_downwards { vpn.0.wrapping_sub(distance) } else { vpn.0 + distance }
}

impl<M: Memory> Vm<M> {
    /// Says what is to be done about a fault; frames are charged here. Pages to be installed are put into `out`, which is emptied
    /// first: each of them awaits [`installed`](Vm::installed).
    ///
    /// Cost: constant, and proportional to the pages read ahead. Allocates only when a page table or the number of frames grows.
    ///
    /// # Errors
    /// If there is no such address space or page, or the store cannot grow.
    pub fn fault(
        &mut self,
        space: SpaceId,
        vpn: Vpn,
        access: Access,
        now: Nanos,
        out: &mut Vec<Load>,
    ) -> Result<Resolution, VmError> {
        let _ = now;
        out.clear();
        let pte = self.entry(space, vpn)?;
        self.counters.pgfault += 1;
        self.space_mut(space)?.pgfault += 1;
        if pte.is_busy() {
            return Ok(Resolution::Wait);
        }
        match pte.state() {
            State::Resident if access == Access::WriteProtected => Ok(self.unprotect(space, vpn, pte)),
            State::Resident => Ok(Resolution::Wake),
            State::Staged => self.rescue(space, vpn, access, pte, out),
            State::None | State::Swapped if access == Access::WriteProtected => Ok(Resolution::Wake),
            State::None => self.fill_zero(space, vpn, access, out),
            State::Swapped => self.load(space, vpn, access, pte, out),
        }
    }

    /// Says whether `n` frames may be taken, or what to do first.
    pub(crate) fn ask_frames(&self, n: u64) -> Result<(), Resolution> {
        let free = self.nr_free();
        let wanted = n.saturating_add(self.marks.reserve);
        if free >= wanted || (free >= n && !self.can_reclaim()) || self.loan >= n {
            Ok(())
        } else if self.can_reclaim() {
            Err(Resolution::NeedFrames(wanted - free))
        } else {
            Err(Resolution::OutOfMemory)
        }
    }

    /// Says whether reclaim could gain a frame, as far as can be told.
    pub fn can_reclaim(&self) -> bool {
        let has_room = self.swap_room(false) > 0;
        self.nr_in_flight > 0
            || self.pending_pages > 0
            || (self.nr_clean > 0 && !self.is_stuck)
            || (has_room && self.nr_queued() > 0 && !self.is_stuck)
            || self.can_unstage()
    }

    /// Says whether a staged page could leave: the first one usually can.
    pub(crate) fn can_unstage(&self) -> bool {
        let (room, raw_room) = (self.swap_room(false), self.swap_room(true));
        let mut at = self.frames.staged.head;
        while at != NIL {
            let frame = &self.frames.table[at as usize];
            if self.ring_is_clean(at) || raw_room > 0 || (room > 0 && !frame.is_raw) {
                return true;
            }
            at = frame.next;
        }
        false
    }

    pub(crate) fn nr_queued(&self) -> u64 {
        u64::from(self.frames.probation.len) + u64::from(self.frames.protected.len)
    }

    fn unprotect(&mut self, space: SpaceId, vpn: Vpn, pte: Pte) -> Resolution {
        let Some(id) = pte.frame().map(|frame| frame.0) else { return Resolution::Wake };
        let is_shared = !self.frames.is_alone(id);
        if is_shared {
            if let Err(answer) = self.ask_frames(1) {
                return answer;
            }
            self.frames.split(id);
        }
        self.set(space, vpn, Pte::resident(FrameId(id)));
        let frame = &mut self.frames.table[id as usize];
        frame.is_zero = false;
        if std::mem::take(&mut frame.is_readahead) {
            self.counters.readahead_hit += 1;
        }
        if let Some(slot) = self.frames.table[id as usize].slot.take() {
            self.put_slot(slot);
            if let Ok(known) = self.space_mut(space) {
                known.cleanness.dirtied(vpn);
            }
        }
        if is_shared { Resolution::Unshare } else { Resolution::Unprotect }
    }

    fn fill_zero(
        &mut self,
        space: SpaceId,
        vpn: Vpn,
        access: Access,
        out: &mut Vec<Load>,
    ) -> Result<Resolution, VmError> {
        if let Err(answer) = self.ask_frames(1) {
            return Ok(answer);
        }
        self.make_room(space, vpn)?;
        let Some(id) = self.frames.alloc(space, vpn, Phase::Loading) else {
            return Ok(Resolution::OutOfMemory);
        };
        let protect = access == Access::Read;
        out.push(self.begin_zero(space, vpn, id, protect));
        if !protect {
            self.fill_ahead(space, vpn, out)?;
        }
        Ok(Resolution::Zero { first: vpn, nr: out.len() as u32 })
    }

    fn begin_zero(&mut self, space: SpaceId, vpn: Vpn, id: u32, protect: bool) -> Load {
        let frame = &mut self.frames.table[id as usize];
        frame.protect = protect;
        frame.is_zero = true;
        self.set(space, vpn, Pte::NONE.busy(FrameId(id)));
        Load { vpn, frame: FrameId(id), source: Source::Zero, protect }
    }

    /// Whoever fills one new page after the other gets some at once, as long as there are frames to spare. Those never written to are all
    /// zero and leave without being written.
    fn fill_ahead(&mut self, space: SpaceId, vpn: Vpn, out: &mut Vec<Load>) -> Result<(), VmError> {
        let max = self.config.fill_max;
        let window = self.space_mut(space)?.fill.window(vpn, max, 0, 0);
        let mut at = vpn.0;
        for _ in 1..window.nr {
            at = if window.is_downwards { at.wrapping_sub(1) } else { at + 1 };
            if at >= Vpn::LIMIT || self.nr_free() <= self.marks.reserve {
                break;
            }
            let pte = self.entry(space, Vpn(at))?;
            if pte.state() != State::None || pte.is_busy() || self.make_room(space, Vpn(at)).is_err() {
                break;
            }
            let Some(id) = self.frames.alloc(space, Vpn(at), Phase::Loading) else { break };
            let load = self.begin_zero(space, Vpn(at), id, false);
            out.push(load);
        }
        self.space_mut(space)?.fill.record(vpn, window, out.len() as u64 - 1);
        Ok(())
    }

    /// Begins to load a swapped page, whose frame must be there.
    pub(crate) fn begin_load(&mut self, space: SpaceId, vpn: Vpn, pte: Pte, protect: bool) -> Option<Load> {
        let slot = pte.slot()?;
        let id = self.frames.alloc(space, vpn, Phase::Loading)?;
        let stamp = pte.stamp().filter(|stamp| *stamp != 0);
        let age = stamp.map_or(u32::MAX, |stamp| self.clock.wrapping_sub(stamp >> 1) & (Pte::MAX_UPPER >> 1));
        let is_hot = self.is_refault(age);
        if is_hot {
            self.counters.refaults += 1;
            self.adapt(stamp.is_some_and(|stamp| stamp & 1 == 1));
        }
        let frame = &mut self.frames.table[id as usize];
        frame.protect = protect;
        frame.slot = Some(slot);
        frame.is_hot = is_hot;
        self.set(space, vpn, Pte::swapped(slot, 0).busy(FrameId(id)));
        self.pin_slot(slot);
        Some(Load { vpn, frame: FrameId(id), source: self.source_of(slot), protect })
    }

    fn load(
        &mut self,
        space: SpaceId,
        vpn: Vpn,
        access: Access,
        pte: Pte,
        out: &mut Vec<Load>,
    ) -> Result<Resolution, VmError> {
        if let Err(answer) = self.ask_frames(1) {
            return Ok(answer);
        }
        let protect = self.space_mut(space)?.cleanness.protects(vpn);
        let Some(first) = self.begin_load(space, vpn, pte, protect && access == Access::Read) else {
            return Ok(Resolution::OutOfMemory);
        };
        out.push(first);
        self.counters.pgmajfault += 1;
        let max = self.config.readahead_max;
        let (below, above) = (self.nr_passed(space, vpn, true), self.nr_passed(space, vpn, false));
        let known = self.space_mut(space)?;
        known.pgmajfault += 1;
        let window = known.readahead.window(vpn, max, below, above);
        self.counters.readahead_hit += u64::from(window.hits);
        let (mut distance, mut far) = (0, 0);
        while (out.len() as u32) < window.nr && distance - far <= GAP {
            distance += 1;
            let at = Vpn(beside(vpn, distance, window.is_downwards));
            match self.read_ahead(space, at, first.source, protect, out) {
                Ahead::Loads => far = distance,
                Ahead::Passes => {}
                Ahead::Stops => break,
            }
        }
        self.space_mut(space)?.readahead.record(vpn, window, far);
        Ok(Resolution::Load)
    }

    /// Counts the neighbours of a page, on one side, that a walk passes without a fault that would have to read.
    fn nr_passed(&self, space: SpaceId, vpn: Vpn, is_downwards: bool) -> u64 {
        let is_passed = |distance: &u64| {
            let at = Vpn(beside(vpn, *distance, is_downwards));
            self.entry(space, at).is_ok_and(|pte| pte.state() != State::Swapped)
        };
        (1..=GAP).take_while(is_passed).count() as u64
    }

    /// Begins to load one page more, if it is swapped as the first one is, and there is a frame to spare.
    fn read_ahead(
        &mut self,
        space: SpaceId,
        vpn: Vpn,
        first: Source,
        protect: bool,
        out: &mut Vec<Load>,
    ) -> Ahead {
        if self.nr_free() <= self.marks.reserve {
            return Ahead::Stops;
        }
        let Ok(pte) = self.entry(space, vpn) else { return Ahead::Stops };
        let (State::Swapped, false, Some(slot)) = (pte.state(), pte.is_busy(), pte.slot()) else {
            return Ahead::Passes;
        };
        // Reads of a file go on side by side, wherever in it they are.
        let is_alike = matches!(
            (first, self.source_of(slot)),
            (Source::File { .. }, Source::File { .. }) | (Source::Pool { .. }, Source::Pool { .. })
        );
        if !is_alike {
            return Ahead::Stops;
        }
        let Some(load) = self.begin_load(space, vpn, pte, protect) else { return Ahead::Stops };
        let frame = &mut self.frames.table[load.frame.0 as usize];
        frame.is_readahead = true;
        self.counters.readahead += 1;
        out.push(load);
        Ahead::Loads
    }

    /// Finds the descriptor of a staged page.
    pub(crate) fn member(&self, stage: StageId, space: SpaceId, vpn: Vpn) -> Option<u32> {
        let head = self.stages.get(stage)?.head;
        let mut at = head;
        while at != NIL {
            let frame = &self.frames.table[at as usize];
            if frame.space == space && frame.vpn == vpn && !frame.is_dead {
                return Some(at);
            }
            at = frame.ring;
            if at == head {
                break;
            }
        }
        None
    }

    fn rescue(
        &mut self,
        space: SpaceId,
        vpn: Vpn,
        access: Access,
        pte: Pte,
        out: &mut Vec<Load>,
    ) -> Result<Resolution, VmError> {
        let Some(id) = pte.stage().and_then(|stage| self.member(stage, space, vpn)) else {
            return Ok(Resolution::Wait);
        };
        if self.frames.table[id as usize].phase != Phase::Staged {
            return Ok(Resolution::Wait);
        }
        if access == Access::WriteProtected {
            return Ok(Resolution::Wake);
        }
        match self.begin_rescue(id, access == Access::Read) {
            Ok((load, stage, copy)) => {
                out.push(load);
                Ok(Resolution::Rescue { stage, copy })
            }
            Err(answer) => Ok(answer),
        }
    }

    /// Begins to put a staged page back. A page that others need in staging too, or that is to stay clean, is copied and needs a
    /// frame for as long as both copies are there.
    pub(crate) fn begin_rescue(
        &mut self,
        id: u32,
        is_read: bool,
    ) -> Result<(Load, StageId, bool), Resolution> {
        let Some(stage) = self.frames.table[id as usize].stage else { return Err(Resolution::Wait) };
        let is_alone = self.frames.is_alone(id);
        let may_copy = self.nr_free() > self.marks.reserve;
        if !is_alone {
            self.ask_frames(1)?;
        }
        let slot = self.frames.table[id as usize].slot;
        let protect = is_read && slot.is_some() && (may_copy || !is_alone);
        let copy = protect || !is_alone;
        let (space, vpn) = (self.frames.table[id as usize].space, self.frames.table[id as usize].vpn);
        if !protect && let Some(slot) = slot {
            self.set(space, vpn, Pte::staged(stage));
            self.frames.table[id as usize].slot = None;
            self.put_slot(slot);
        }
        self.pass_stage_on(id, stage);
        self.stages.at(stage).pins += 1;
        self.frames.charged += u64::from(copy);
        let frame = &mut self.frames.table[id as usize];
        frame.has_copy = copy;
        frame.phase = Phase::Rescuing;
        frame.protect = protect;
        Ok((Load { vpn, frame: FrameId(id), source: Source::Stage(stage), protect }, stage, copy))
    }

    /// Takes a staged page out of the queue; another of its ring stands for the place from now on, if there is one.
    pub(crate) fn pass_stage_on(&mut self, id: u32, stage: StageId) {
        let next = self.frames.table[id as usize].ring;
        let was_queued = self.frames.table[id as usize].queue != crate::frames::Queue::None;
        self.frames.unqueue(id);
        if next == id {
            return;
        }
        self.stages.at(stage).head = next;
        let mut other = next;
        while was_queued && other != id {
            if self.frames.table[other as usize].phase == Phase::Staged {
                self.frames.staged.push_front(&mut self.frames.table, other);
                return;
            }
            other = self.frames.table[other as usize].ring;
        }
    }
}
