//! Reclaim, first half: which pages leave their address spaces, and how that went.

use crate::error::VmError;
use crate::frames::{NIL, Phase};
use crate::memory::Memory;
use crate::table::{Pte, State};
use crate::types::{FrameId, MoveOutcome, SpaceId, Victim, Vpn};
use crate::vm::Vm;

impl<M: Memory> Vm<M> {
    /// Where all frames are taken by pages that several spaces share, the first copies that leave are above the limit: else none could.
    pub const COPIES_ABOVE_LIMIT: u64 = 16;

    /// Gives how many frames the background evictor should gain now: none, or what is missing to the high mark once there were
    /// fewer than the low one, and what is in use above the limit.
    pub fn reclaim_target(&mut self) -> u64 {
        let free = self.nr_free();
        if free < self.marks.low {
            self.is_reclaiming = true;
        } else if free >= self.marks.high {
            self.is_reclaiming = false;
        }
        let missing = if self.is_reclaiming { self.marks.high.saturating_sub(free) } else { 0 };
        missing + self.excess()
    }

    /// How many staged pages are kept for being rescued, where the staging area is large enough.
    pub fn rescue_buffer(&self) -> u64 {
        let resident = self.frames.charged;
        (resident / 8).min(u64::from(self.stages.limit()) * 3 / 4)
    }

    /// Chooses pages that leave their address spaces, so that `want` frames can be gained and the rescue buffer stays filled;
    /// puts them into `out`, which is emptied first, sorted by space and page. They count as staged from now on; each awaits
    /// [`moved`](Vm::moved). Fewer, or none, where the staging area is full: then [`unstage_plan`](Vm::unstage_plan) comes first.
    ///
    /// Cost: constant per victim, and per page passed over because it cannot leave now; sorting.
    pub fn select(&mut self, want: u64, out: &mut Vec<Victim>) {
        out.clear();
        let buffer = self.rescue_buffer().saturating_sub(u64::from(self.frames.staged.len));
        let want = want.saturating_add(buffer.min(want.max(64)));
        let nr = self.nr_queued();
        for _ in 0..nr {
            if out.len() as u64 >= want {
                break;
            }
            let Some(id) = self.candidate() else { break };
            self.counters.pgscan += 1;
            if let Some(victim) = self.take_victim(id) {
                out.push(victim);
            } else {
                self.frames.unqueue(id);
                self.frames.enqueue(id);
                if self.stages.nr_free() == 0 && self.nr_clean == 0 {
                    break;
                }
            }
        }
        if out.is_empty() && want > 0 && self.nr_in_flight == 0 && !self.can_unstage() {
            self.is_stuck = true;
        }
        out.sort_unstable_by_key(|victim| (victim.space, victim.vpn));
    }

    /// Chooses pages of one address space, from `from` on; as [`select`](Vm::select), at most `want`. Gives where to go on, `None`
    /// at the end.
    ///
    /// # Errors
    /// If there is no such address space.
    pub fn select_from(
        &mut self,
        space: SpaceId,
        from: Vpn,
        want: usize,
        out: &mut Vec<Victim>,
    ) -> Result<Option<Vpn>, VmError> {
        out.clear();
        let root = self.space(space)?.root;
        let mut at = from.0;
        while let Some((vpn, word)) = self.tables.next(root, at, Vpn::LIMIT) {
            if out.len() >= want {
                return Ok(Some(vpn));
            }
            let pte = Pte(word);
            if let (State::Resident, false, Some(frame)) = (pte.state(), pte.is_busy(), pte.frame()) {
                out.extend(self.take_victim(frame.0));
            }
            at = vpn.0 + 1;
        }
        Ok(None)
    }

    /// Says whether a page that was away for `age` evictions belongs to the working set.
    pub(crate) fn is_refault(&self, age: u32) -> bool {
        u64::from(age) <= self.frames.charged
    }

    fn candidate(&self) -> Option<u32> {
        let probation = &self.frames.probation;
        let protected = &self.frames.protected;
        let is_over = u64::from(protected.len) * 1024 > self.nr_queued() * u64::from(self.protected_share);
        let first = if is_over || probation.head == NIL { protected.head } else { probation.head };
        (first != NIL).then_some(first)
    }

    /// Whether all the spaces that a frame is in are reachable.
    fn is_reachable(&self, id: u32) -> bool {
        if self.nr_unreachable == 0 {
            return true;
        }
        let is_in_reachable =
            |id: u32| self.space(self.frames.table[id as usize].space).is_ok_and(|space| space.is_reachable);
        let mut at = id;
        loop {
            if !is_in_reachable(at) {
                return false;
            }
            at = self.frames.table[at as usize].ring;
            if at == id {
                return true;
            }
        }
    }

    /// Begins to take a page out of its address space, if it can leave now.
    fn take_victim(&mut self, id: u32) -> Option<Victim> {
        if !self.is_reachable(id) {
            return None;
        }
        let frame = &self.frames.table[id as usize];
        let (space, vpn, slot, is_zero, is_raw) =
            (frame.space, frame.vpn, frame.slot, frame.is_zero, frame.is_raw);
        // After a recovery only the entry knows that others may map the frame.
        let shared = !self.frames.is_alone(id) || self.entry(space, vpn).is_ok_and(Pte::is_shared);
        let needs_write = slot.is_none() && !is_zero;
        let promised = self.nr_in_flight + u64::from(self.frames.staged.len);
        if needs_write && self.swap_room(is_raw) <= promised {
            // Clean pages may hold the slots that are missing.
            let is_full = self.config.swap_max_pages.is_some_and(|max| self.swap_used() >= max);
            if !(is_full && self.steal_slot() && self.swap_room(is_raw) > promised) {
                return None;
            }
        }
        let must_stage = needs_write;
        let may_stage = !is_zero && !shared;
        let copy = shared && must_stage;
        if copy && self.nr_free() == 0 && self.nr_in_flight >= Self::COPIES_ABOVE_LIMIT {
            return None;
        }
        let stage = if must_stage || may_stage { self.stages.alloc(id) } else { None };
        if must_stage && stage.is_none() {
            return None;
        }
        let entry = match (stage, slot) {
            (Some(stage), slot) => Pte::staged(stage).with_slot(slot).with_shared(shared),
            (None, Some(slot)) => Pte::swapped(slot, 0).busy(FrameId(id)),
            (None, None) => Pte::NONE.busy(FrameId(id)),
        };
        if let (Some(_), Ok(known)) = (slot, self.space_mut(space)) {
            known.cleanness.stayed(vpn);
        }
        self.set(space, vpn, entry);
        self.frames.unqueue(id);
        if copy {
            self.frames.charged += 1;
        }
        let frame = &mut self.frames.table[id as usize];
        frame.phase = if stage.is_some() { Phase::Moving } else { Phase::Dropping };
        frame.stage = stage;
        frame.has_copy = copy;
        frame.was_remapped = false;
        self.nr_in_flight += 1;
        Some(Victim { space, vpn, frame: FrameId(id), shared, needs_write, stage })
    }

    /// Gives the pages whose removal was under way when the worker before this one ended: for each, the driver looks where the
    /// page is, and tells [`moved`](Vm::moved).
    pub fn in_transit(&self, out: &mut Vec<Victim>) {
        out.clear();
        for (id, frame) in self.frames.table.iter().enumerate() {
            if frame.phase == Phase::Moving {
                out.push(Victim {
                    space: frame.space,
                    vpn: frame.vpn,
                    frame: FrameId(id as u32),
                    shared: false,
                    needs_write: frame.slot.is_none(),
                    stage: frame.stage,
                });
            }
        }
        out.sort_unstable_by_key(|victim| (victim.space, victim.vpn));
    }

    /// Hears how the removal of a victim ended. Constant cost.
    ///
    /// # Errors
    /// If no such outcome is awaited.
    pub fn moved(&mut self, frame: FrameId, outcome: MoveOutcome) -> Result<(), VmError> {
        let id = frame.0;
        let known = self.frames.get(frame).ok_or(VmError::BadFrame(frame))?;
        let outcome =
            if known.was_remapped && outcome == MoveOutcome::Gone { MoveOutcome::Busy } else { outcome };
        match (known.phase, known.is_dead) {
            (Phase::Moving, true) => {
                self.nr_in_flight -= 1;
                self.forget_move(id, outcome);
            }
            (Phase::Moving, false) => {
                self.nr_in_flight -= 1;
                self.finish_move(id, outcome);
            }
            (Phase::Dropping, is_dead) if known.stage.is_none() => {
                self.nr_in_flight -= 1;
                self.finish_drop(id, is_dead, outcome);
            }
            _ => return Err(VmError::BadFrame(frame)),
        }
        Ok(())
    }

    fn forget_move(&mut self, id: u32, outcome: MoveOutcome) {
        let (slot, stage) = (self.frames.table[id as usize].slot, self.frames.table[id as usize].stage);
        let others_need_it = !self.frames.is_alone(id) && !self.frames.table[id as usize].has_copy;
        if let Some(stage) = stage
            && others_need_it
        {
            self.pass_stage_on(id, stage);
        }
        self.frames.release(id);
        if let Some(stage) = stage.filter(|_| !others_need_it) {
            if outcome == MoveOutcome::Staged { self.give_up_stage(stage) } else { self.stages.free(stage) }
        }
        if let Some(slot) = slot {
            self.put_slot(slot);
        }
    }

    fn finish_move(&mut self, id: u32, outcome: MoveOutcome) {
        let frame = &self.frames.table[id as usize];
        let (space, vpn, slot, stage, copy) =
            (frame.space, frame.vpn, frame.slot, frame.stage, frame.has_copy);
        let Some(stage) = stage else { return };
        match outcome {
            MoveOutcome::Staged => {
                if copy {
                    self.frames.table[id as usize].has_copy = false;
                    if self.frames.is_alone(id) {
                        self.frames.charged -= 1;
                    } else {
                        self.frames.leave_ring(id);
                    }
                }
                self.frames.table[id as usize].phase = Phase::Staged;
                self.queue_staged(id, false);
            }
            MoveOutcome::Busy => {
                let is_shared = copy || !self.frames.is_alone(id);
                self.leave_move(id, stage);
                let entry = Pte::resident(FrameId(id)).with_slot(slot).with_shared(is_shared);
                self.set(space, vpn, entry);
                self.frames.table[id as usize].phase = Phase::Resident;
                self.put_aside(id);
            }
            MoveOutcome::Gone => {
                self.set(space, vpn, Pte::NONE);
                self.leave_move(id, stage);
                self.frames.release(id);
                if let Some(slot) = slot {
                    self.put_slot(slot);
                }
            }
        }
    }

    /// Queues a page that cannot leave now at the end of the other queue: pages that never can must not be all that is ever tried.
    fn put_aside(&mut self, id: u32) {
        let frame = &mut self.frames.table[id as usize];
        frame.is_hot = !frame.is_hot;
        self.frames.enqueue(id);
    }

    /// Gives the staging place of a page up that did not get there.
    fn leave_move(&mut self, id: u32, stage: crate::StageId) {
        let frame = &mut self.frames.table[id as usize];
        frame.stage = None;
        if std::mem::take(&mut frame.has_copy) {
            self.frames.charged -= 1;
            self.stages.free(stage);
        } else if self.frames.is_alone(id) {
            self.stages.free(stage);
        } else {
            // Recovered: others may have been staged here, this one is in place.
            self.pass_stage_on(id, stage);
            self.frames.split(id);
        }
    }

    fn finish_drop(&mut self, id: u32, is_dead: bool, outcome: MoveOutcome) {
        let frame = &mut self.frames.table[id as usize];
        let (space, vpn, slot, is_zero) = (frame.space, frame.vpn, frame.slot, frame.is_zero);
        let was_hot = frame.is_hot;
        if is_dead {
            self.frames.release(id);
            if let Some(slot) = slot {
                self.put_slot(slot);
            }
            return;
        }
        match outcome {
            MoveOutcome::Staged => {
                let entry = slot.map_or(Pte::NONE, |slot| Pte::swapped(slot, self.stamp(was_hot)));
                self.set(space, vpn, entry);
                self.count_steal(id);
                self.frames.release(id);
            }
            MoveOutcome::Busy => {
                frame.phase = Phase::Resident;
                let is_shared = !self.frames.is_alone(id);
                let entry = Pte::resident(FrameId(id)).with_slot(slot).with_zero(is_zero);
                self.set(space, vpn, entry.with_shared(is_shared));
                self.put_aside(id);
            }
            MoveOutcome::Gone => {
                self.set(space, vpn, Pte::NONE);
                self.frames.release(id);
                if let Some(slot) = slot {
                    self.put_slot(slot);
                }
            }
        }
    }

    pub(crate) fn count_steal(&mut self, id: u32) {
        if self.frames.is_alone(id) {
            self.counters.pgsteal += 1;
        }
    }

    /// Gives the stamp of one eviction more.
    pub(crate) fn stamp(&mut self, was_hot: bool) -> u32 {
        self.clock = (self.clock + 1) & (Pte::MAX_UPPER >> 1);
        self.clock << 1 | u32::from(was_hot)
    }

    /// Moves the border between the queues towards the one whose page came back too soon.
    pub(crate) fn adapt(&mut self, was_hot: bool) {
        let step = (2048 / self.nr_queued().max(1)).clamp(1, 16) as u32;
        self.protected_share = if was_hot {
            (self.protected_share + step).min(992)
        } else {
            self.protected_share.saturating_sub(step).max(256)
        };
    }
}
