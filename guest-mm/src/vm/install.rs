//! Outcomes of installing pages, and what the sensors find.

use crate::error::VmError;
use crate::frames::{NIL, Phase, Queue};
use crate::memory::Memory;
use crate::table::{Pte, State};
use crate::types::{FrameId, Outcome, Released, SpaceId, StageId, Vpn};
use crate::vm::Vm;

impl<M: Memory> Vm<M> {
    /// Hears how the installation of a page ended. Constant cost.
    ///
    /// # Errors
    /// If no such outcome is awaited.
    pub fn installed(&mut self, frame: FrameId, outcome: Outcome) -> Result<(), VmError> {
        let id = frame.0;
        let known = self.frames.get(frame).ok_or(VmError::BadFrame(frame))?;
        let (phase, is_dead, was_found) = (known.phase, known.is_dead, known.was_found);
        match (phase, is_dead, outcome) {
            (Phase::Loading, true, _) => self.forget_load(id),
            (Phase::Loading, false, Outcome::Installed | Outcome::AlreadyThere) => {
                self.finish_load(id, outcome == Outcome::Installed);
            }
            (Phase::Loading, false, _) if was_found => self.finish_load(id, false),
            (Phase::Loading, false, Outcome::Again | Outcome::Gone) => self.undo_load(id),
            (Phase::Rescuing, true, _) => self.forget_rescue(id),
            (Phase::Rescuing, false, Outcome::Installed | Outcome::AlreadyThere) => {
                self.finish_rescue(id, outcome == Outcome::Installed);
            }
            (Phase::Rescuing, false, Outcome::Again | Outcome::Gone) => self.undo_rescue(id),
            _ => return Err(VmError::BadFrame(frame)),
        }
        Ok(())
    }

    /// Gives where a page that is under way is to be installed now: the member may have moved its mapping, or dropped it (`None`:
    /// nothing is installed, and the outcome is told as [`Outcome::Gone`]).
    ///
    /// The driver asks right before it installs, having handed in all changes of mappings that it has read: the kernel refuses to
    /// install (`EAGAIN`) while there are some that it has not.
    pub fn destination(&self, frame: FrameId) -> Option<(SpaceId, Vpn)> {
        let known = self.frames.get(frame).filter(|known| !known.is_dead)?;
        matches!(known.phase, Phase::Loading | Phase::Rescuing).then_some((known.space, known.vpn))
    }

    fn unpin_frame(&mut self, id: u32) {
        if let Some(slot) = self.frames.table[id as usize].slot {
            self.unpin_slot(slot);
        }
    }

    fn forget_load(&mut self, id: u32) {
        self.unpin_frame(id);
        let slot = self.frames.table[id as usize].slot;
        self.frames.release(id);
        if let Some(slot) = slot {
            self.put_slot(slot);
        }
    }

    fn finish_load(&mut self, id: u32, is_ours: bool) {
        self.unpin_frame(id);
        let frame = &mut self.frames.table[id as usize];
        let (space, vpn, slot) = (frame.space, frame.vpn, frame.slot);
        frame.phase = Phase::Resident;
        let protect = frame.protect && is_ours;
        let is_zero = frame.is_zero && protect;
        frame.is_zero = is_zero;
        frame.protect = false;
        let kept = slot.filter(|_| protect);
        frame.slot = kept;
        self.set(space, vpn, Pte::resident(FrameId(id)).with_slot(kept).with_zero(is_zero));
        if slot.is_some() {
            self.counters.pswpin += u64::from(is_ours);
        }
        if let Some(slot) = slot.filter(|_| !protect) {
            self.put_slot(slot);
        }
        self.frames.enqueue(id);
    }

    fn undo_load(&mut self, id: u32) {
        self.unpin_frame(id);
        let frame = &self.frames.table[id as usize];
        let (space, vpn) = (frame.space, frame.vpn);
        let back = frame.slot.map_or(Pte::NONE, |slot| Pte::swapped(slot, self.clock << 1));
        self.set(space, vpn, back);
        self.frames.release(id);
    }

    /// Gives a rescued page's hold on its staging place up.
    fn leave_stage(&mut self, id: u32) {
        let Some(stage) = self.frames.table[id as usize].stage.take() else { return };
        let was_copied = std::mem::take(&mut self.frames.table[id as usize].has_copy);
        self.stages.at(stage).pins -= 1;
        if !self.frames.is_alone(id) {
            // The others stay; the frame that was charged for the copy is this page's own now.
            if self.stages.at(stage).head == id {
                self.stages.at(stage).head = self.frames.table[id as usize].ring;
            }
            self.frames.leave_ring(id);
            if !was_copied {
                self.frames.charged += 1;
            }
            return;
        }
        if was_copied {
            self.frames.charged -= 1;
            self.give_up_stage(stage);
        } else {
            self.stages.free(stage);
        }
    }

    /// Leaves it to the driver to drop what is in a staging place.
    pub(crate) fn give_up_stage(&mut self, stage: StageId) {
        self.stages.at(stage).head = NIL;
        self.pending_pages += 1;
        self.released.push(Released::Stage(stage));
    }

    fn finish_rescue(&mut self, id: u32, is_ours: bool) {
        let frame = &self.frames.table[id as usize];
        let (space, vpn, slot) = (frame.space, frame.vpn, frame.slot);
        let kept = slot.filter(|_| frame.protect && is_ours);
        self.set(space, vpn, Pte::resident(FrameId(id)).with_slot(kept));
        if !is_ours && !self.frames.table[id as usize].has_copy {
            // Nothing was moved out of staging.
            self.frames.table[id as usize].has_copy = true;
            self.frames.charged += 1;
        }
        self.leave_stage(id);
        let frame = &mut self.frames.table[id as usize];
        frame.phase = Phase::Resident;
        frame.protect = false;
        frame.slot = kept;
        frame.is_hot = true;
        self.frames.enqueue(id);
        self.counters.rescued += 1;
        if let Some(slot) = slot.filter(|_| kept.is_none()) {
            self.put_slot(slot);
        }
    }

    fn forget_rescue(&mut self, id: u32) {
        let slot = self.frames.table[id as usize].slot.take();
        if !self.frames.table[id as usize].has_copy {
            // It may or may not have been moved: let the driver drop it.
            self.frames.table[id as usize].has_copy = true;
            self.frames.charged += 1;
        }
        self.leave_stage(id);
        self.frames.release(id);
        if let Some(slot) = slot {
            self.put_slot(slot);
        }
    }

    fn undo_rescue(&mut self, id: u32) {
        let frame = &mut self.frames.table[id as usize];
        let Some(stage) = frame.stage else { return };
        frame.phase = Phase::Staged;
        frame.protect = false;
        if std::mem::take(&mut frame.has_copy) {
            self.frames.charged -= 1;
        }
        self.stages.at(stage).pins -= 1;
        self.queue_staged(id, true);
    }

    /// Queues a staged page, unless one of its ring is queued for all.
    pub(crate) fn queue_staged(&mut self, id: u32, at_front: bool) {
        let mut at = id;
        loop {
            if self.frames.table[at as usize].queue == Queue::Staged {
                return;
            }
            at = self.frames.table[at as usize].ring;
            if at == id {
                break;
            }
        }
        if at_front {
            self.frames.staged.push_front(&mut self.frames.table, id);
        } else {
            self.frames.staged.push(&mut self.frames.table, id);
        }
    }

    /// Hears of a page that is in place without having been installed: moved in, touched before its mapping was registered, or
    /// found after a recovery. It is charged, above the limit if need be (see [`excess`](Vm::excess)). Told again, it changes
    /// nothing; a page that turns out not to be write-protected becomes dirty. What is under way is left alone.
    ///
    /// # Errors
    /// If there is no such address space or page, or the store cannot grow.
    pub fn found(&mut self, space: SpaceId, vpn: Vpn, write_protected: bool) -> Result<(), VmError> {
        let pte = self.entry(space, vpn)?;
        if pte.is_busy() {
            if let Some(id) = pte.frame() {
                self.frames.table[id.0 as usize].was_found = true;
            }
            return Ok(());
        }
        match pte.state() {
            State::Staged => {}
            State::Resident => {
                if !write_protected && pte.is_protected() {
                    self.dirty(space, vpn, pte);
                }
            }
            State::None | State::Swapped => {
                self.make_room(space, vpn)?;
                let id = self
                    .frames
                    .alloc(space, vpn, Phase::Resident)
                    .ok_or(VmError::NoMemory(crate::NoMemory))?;
                let kept = pte.slot().filter(|_| write_protected);
                self.frames.table[id as usize].slot = kept;
                self.set(space, vpn, Pte::resident(FrameId(id)).with_slot(kept));
                if let Some(slot) = pte.slot().filter(|_| !write_protected) {
                    self.put_slot(slot);
                }
                self.frames.enqueue(id);
            }
        }
        Ok(())
    }

    fn dirty(&mut self, space: SpaceId, vpn: Vpn, pte: Pte) {
        let Some(id) = pte.frame().map(|frame| frame.0) else { return };
        self.frames.split(id);
        self.set(space, vpn, Pte::resident(FrameId(id)));
        let frame = &mut self.frames.table[id as usize];
        frame.is_zero = false;
        if let Some(slot) = frame.slot.take() {
            self.put_slot(slot);
        }
    }

    /// Hears that a page which should be in place is not: the member dropped it, and what told us so was lost. It is forgotten.
    /// Says whether there was such a page.
    ///
    /// # Errors
    /// If there is no such address space or page.
    pub fn lost(&mut self, space: SpaceId, vpn: Vpn) -> Result<bool, VmError> {
        let pte = self.entry(space, vpn)?;
        let is_there = pte.state() == State::Resident;
        if is_there {
            self.drop_entry(space, vpn, pte);
        }
        Ok(is_there)
    }
}
