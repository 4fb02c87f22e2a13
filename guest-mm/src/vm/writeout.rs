//! Reclaim, second half: staged pages are written out, and their frames become free.

use crate::error::VmError;
use crate::frames::{NIL, Phase};
use crate::memory::Memory;
use crate::swap::Entry;
use crate::table::{Pte, Tables};
use crate::types::{
    FrameId, Nanos, Placement, SlotId, SpaceId, StageId, Target, TierId, Vpn, Write, WriteOutcome,
};
use crate::vm::{Restore, Vm};

/// So many writes to a tier failing one after another block it.
pub(super) const MAX_FAILURES: u32 = 16;

impl<M: Memory> Vm<M> {
    /// Shorter runs of pages are not worth being kept together.
    const MIN_RUN: usize = 8;
    /// One page in so many of a run has to be written anyway.
    const DIRTY_SHARE: usize = 8;

    /// Chooses up to `want` staged pages, the oldest first, and where each is written to; puts them into `out`, which is emptied
    /// first, sorted by space and page, with slots that follow one another in that order. Each awaits [`written`](Vm::written).
    ///
    /// Cost: constant per page, and sorting.
    pub fn unstage_plan(&mut self, want: u64, now: Nanos, out: &mut Vec<Write>) {
        let _ = now;
        out.clear();
        let mut chosen = std::mem::take(&mut self.scratch);
        chosen.clear();
        if self.nr_free() >= 4 {
            for tier in self.tiers.iter_mut().flatten() {
                tier.is_starved = false;
            }
        }
        let (room, raw_room) = (self.swap_room(false), self.swap_room(true));
        let mut at = self.frames.staged.head;
        while at != NIL && (chosen.len() as u64) < want {
            let frame = &self.frames.table[at as usize];
            let is_writable = room > 0 && (!frame.is_raw || raw_room > 0);
            if self.ring_is_staged(at) && (is_writable || self.ring_is_clean(at)) {
                chosen.push((frame.space, frame.vpn, at));
            }
            at = frame.next;
        }
        chosen.sort_unstable();
        for run in chosen.chunk_by(|a, b| a.0 == b.0 && a.1.0 + 1 == b.1.0) {
            self.rejoin(run);
        }
        for (.., id) in &chosen {
            out.extend(self.begin_write(*id));
        }
        self.scratch = chosen;
    }

    /// Says whether all that need a staged page's data wait in staging.
    fn ring_is_staged(&self, id: u32) -> bool {
        let frame = &self.frames.table[id as usize];
        if frame.stage.and_then(|stage| self.stages.get(stage)).is_none_or(|stage| stage.pins > 0) {
            return false;
        }
        let mut at = frame.ring;
        while at != id {
            if self.frames.table[at as usize].phase != Phase::Staged {
                return false;
            }
            at = self.frames.table[at as usize].ring;
        }
        true
    }

    /// Calls `change` for each descriptor of a ring.
    fn for_ring(&mut self, id: u32, mut change: impl FnMut(&mut Self, u32)) {
        let mut at = id;
        loop {
            let next = self.frames.table[at as usize].ring;
            change(self, at);
            if next == id {
                return;
            }
            at = next;
        }
    }

    pub(crate) fn ring_is_clean(&self, id: u32) -> bool {
        let mut at = id;
        loop {
            let frame = &self.frames.table[at as usize];
            if frame.slot.is_none() {
                return false;
            }
            at = frame.ring;
            if at == id {
                return true;
            }
        }
    }

    fn begin_write(&mut self, id: u32) -> Option<Write> {
        let frame = &self.frames.table[id as usize];
        let (stage, is_raw) = (frame.stage?, frame.is_raw);
        if self.ring_is_clean(id) {
            self.for_ring(id, |vm, member| {
                let frame = &mut vm.frames.table[member as usize];
                frame.phase = Phase::Dropping;
                let (space, vpn, slot) = (frame.space, frame.vpn, frame.slot);
                if let Some(slot) = slot {
                    vm.set(space, vpn, Pte::swapped(slot, 0).busy(FrameId(member)));
                }
            });
            self.frames.unqueue(id);
            self.nr_in_flight += 1;
            return Some(Write { stage, target: Target::Discard });
        }
        let slot = self.alloc_slot(is_raw)?;
        self.stages.at(stage).target = Some(slot);
        self.for_ring(id, |vm, member| vm.frames.table[member as usize].phase = Phase::Writing);
        self.frames.unqueue(id);
        self.nr_in_flight += 1;
        let tier = slot.tier();
        let is_compressed = self.tier(tier).is_some_and(|tier| tier.pool.is_some());
        let target = if is_compressed {
            Target::Compress { tier }
        } else {
            Target::File { tier, index: slot.index() }
        };
        Some(Write { stage, target })
    }

    /// Has the clean pages of a run written again with the others, where enough are: one long write costs little more than some short
    /// ones, and slots that follow one another can be read ahead.
    fn rejoin(&mut self, run: &[(SpaceId, Vpn, u32)]) {
        let dirty = run.iter().filter(|(.., id)| self.frames.table[*id as usize].slot.is_none()).count();
        if run.len() < Self::MIN_RUN
            || dirty * Self::DIRTY_SHARE < run.len()
            || self.swap_room(false) < run.len() as u64
        {
            return;
        }
        for &(space, vpn, id) in run {
            let frame = &self.frames.table[id as usize];
            if let (true, Some(slot), Some(stage)) = (self.frames.is_alone(id), frame.slot, frame.stage) {
                self.set(space, vpn, Pte::staged(stage));
                self.frames.table[id as usize].slot = None;
                self.put_slot(slot);
            }
        }
    }

    fn writing(&self, stage: StageId) -> Result<u32, VmError> {
        let place = self.stages.get(stage).ok_or(VmError::BadStage(stage))?;
        match self.frames.table.get(place.head as usize).map(|frame| frame.phase) {
            Some(Phase::Writing | Phase::Dropping) => Ok(place.head),
            _ => Err(VmError::BadStage(stage)),
        }
    }

    /// Hears how many bytes a page compressed to; says where they go. With [`Placement::Elsewhere`] the page is staged again.
    ///
    /// # Errors
    /// If the page is not being written to a compressed tier.
    pub fn compressed(&mut self, stage: StageId, len: u32) -> Result<Placement, VmError> {
        let id = self.writing(stage)?;
        let slot = self.stages.at(stage).target.ok_or(VmError::BadStage(stage))?;
        if self.tier(slot.tier()).is_none_or(|tier| tier.pool.is_none())
            || self.slot_entry(slot) != Entry::InPlace
        {
            return Err(VmError::BadStage(stage));
        }
        let root = Tables::<M>::tier_root(slot.tier());
        let vpn = Vpn(u64::from(slot.index()));
        let free = self.nr_free();
        let extent = self.tables.ensure(root, vpn).ok().and_then(|word| {
            let pool = self.tiers[slot.tier().index()].as_mut()?.pool.as_mut()?;
            let extent = pool
                .would_add(len)
                .filter(|pages| u64::from(*pages) <= free)
                .and_then(|_| pool.alloc(len))?;
            Some((word, extent))
        });
        let Some((word, extent)) = extent else {
            let added = self.tier(slot.tier()).and_then(|t| t.pool.as_ref()?.would_add(len));
            if added.is_none() {
                self.for_ring(id, |vm, member| vm.frames.table[member as usize].is_raw = true);
            } else if let Some(tier) = self.tier_mut(slot.tier()) {
                tier.is_starved |= added.is_some_and(|pages| u64::from(pages) > free);
                tier.is_cramped |= !tier.is_starved;
            }
            self.undo_write(id, stage);
            return Ok(Placement::Elsewhere);
        };
        self.tables.set_at(word, Entry::Extent(extent).word());
        Ok(Placement::At { tier: slot.tier(), offset: extent.offset() })
    }

    /// Hears how writing a page out ended. Constant cost.
    ///
    /// # Errors
    /// If no such outcome is awaited; `Done` for a page that goes to a compressed tier is refused before
    /// [`compressed`](Vm::compressed) gave it a place.
    pub fn written(&mut self, stage: StageId, outcome: WriteOutcome) -> Result<(), VmError> {
        let id = self.writing(stage)?;
        let target = self.stages.at(stage).target;
        match outcome {
            WriteOutcome::Done => {
                if let Some(slot) = target
                    && self.tier(slot.tier()).is_some_and(|tier| tier.pool.is_some())
                    && self.slot_entry(slot) == Entry::InPlace
                {
                    return Err(VmError::BadStage(stage));
                }
                self.finish_write(id, stage, target);
            }
            WriteOutcome::AllZero if target.is_some() => self.finish_zero(id, stage, target),
            WriteOutcome::AllZero => self.finish_write(id, stage, None),
            WriteOutcome::NoSpace | WriteOutcome::Failed => {
                if outcome == WriteOutcome::Failed
                    && let Some(slot) = target
                    && self.slot_entry(slot) == Entry::InPlace
                    && let Some(tier) = self.tier_mut(slot.tier()).filter(|tier| tier.pool.is_none())
                {
                    tier.slots.condemn(slot.index());
                    self.stages.at(stage).target = None;
                }
                self.undo_write(id, stage);
                if let Some(slot) = target {
                    self.count_failure(slot.tier(), outcome);
                }
            }
        }
        Ok(())
    }

    /// Blocks a tier that has no space, or where one write after another failed: until a slot of it becomes free, or for good.
    pub(crate) fn count_failure(&mut self, tier: TierId, outcome: WriteOutcome) {
        if let Some(tier) = self.tier_mut(tier) {
            tier.nr_failures += u32::from(outcome == WriteOutcome::Failed);
            tier.is_blocked |= outcome == WriteOutcome::NoSpace || tier.nr_failures >= MAX_FAILURES;
        }
    }

    fn finish_write(&mut self, id: u32, stage: StageId, target: Option<SlotId>) {
        self.nr_in_flight -= 1;
        if let Some(slot) = target
            && let Some(tier) = self.tier_mut(slot.tier())
        {
            tier.nr_failures = 0;
            if tier.pool.is_some() {
                tier.note_birth(slot.index());
            }
            self.counters.pswpout += 1;
        }
        self.stages.at(stage).target = None;
        let stamp = self.stamp(self.frames.table[id as usize].is_hot);
        self.for_ring(id, |vm, member| {
            let frame = &vm.frames.table[member as usize];
            let (space, vpn, old, is_dead) = (frame.space, frame.vpn, frame.slot, frame.is_dead);
            if !is_dead && let Some(slot) = target.or(old) {
                if target.is_some() {
                    vm.get_slot(slot);
                }
                vm.set(space, vpn, Pte::swapped(slot, stamp));
            }
            if let Some(old) = old.filter(|_| is_dead || target.is_some()) {
                vm.put_slot(old);
            }
        });
        if let Some(slot) = target {
            // The reference that the write itself had.
            self.put_slot(slot);
        }
        self.release_ring(id);
        self.give_up_stage(stage);
    }

    fn finish_zero(&mut self, id: u32, stage: StageId, target: Option<SlotId>) {
        self.nr_in_flight -= 1;
        self.counters.zero_dropped += 1;
        self.stages.at(stage).target = None;
        self.for_ring(id, |vm, member| {
            let frame = &vm.frames.table[member as usize];
            let (space, vpn, old, is_dead) = (frame.space, frame.vpn, frame.slot, frame.is_dead);
            if !is_dead {
                vm.set(space, vpn, Pte::NONE);
            }
            if let Some(old) = old {
                vm.put_slot(old);
            }
        });
        if let Some(slot) = target {
            self.put_slot(slot);
        }
        self.release_ring(id);
        self.give_up_stage(stage);
    }

    fn release_ring(&mut self, id: u32) {
        self.counters.pgsteal += 1;
        while !self.frames.is_alone(id) {
            let other = self.frames.table[id as usize].ring;
            self.frames.release(other);
        }
        self.frames.release(id);
    }

    /// Stages a page again that was not written. A discarded page is simply discarded.
    fn undo_write(&mut self, id: u32, stage: StageId) {
        if self.frames.table[id as usize].phase == Phase::Dropping {
            self.finish_write(id, stage, None);
            return;
        }
        self.nr_in_flight -= 1;
        let target = self.stages.at(stage).target.take();
        if self.frames.table[id as usize].is_dead {
            // Only a page on its own becomes dead while it is written.
            let slot = self.frames.table[id as usize].slot;
            self.frames.release(id);
            self.give_up_stage(stage);
            if let Some(slot) = slot {
                self.put_slot(slot);
            }
        } else {
            self.for_ring(id, |vm, member| vm.frames.table[member as usize].phase = Phase::Staged);
            self.frames.staged.push_front(&mut self.frames.table, id);
        }
        if let Some(slot) = target {
            self.put_slot(slot);
        }
    }

    /// Gives staged pages, at most `max`, that no tier takes, to be put back: each awaits [`installed`](Vm::installed).
    pub fn restore_plan(&mut self, max: usize, out: &mut Vec<Restore>) {
        out.clear();
        let mut at = self.frames.staged.head;
        while at != NIL && out.len() < max {
            let frame = &self.frames.table[at as usize];
            let (id, space) = (at, frame.space);
            at = frame.next;
            if self.swap_room(frame.is_raw) > 0 || !self.ring_is_staged(id) || self.ring_is_clean(id) {
                continue;
            }
            if let Ok((load, _, copy)) = self.begin_rescue(id, false) {
                out.push(Restore { space, load, copy });
            }
        }
    }
}
