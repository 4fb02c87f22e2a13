//! Changes of mappings, and walks over a space's pages.

use crate::error::VmError;
use crate::frames::Phase;
use crate::memory::Memory;
use crate::table::{Pte, State};
use crate::types::{Resident, SpaceId, Vpn};
use crate::vm::{Restore, Vm};

impl<M: Memory> Vm<M> {
    pub(crate) fn check_range(first: Vpn, nr: u64) -> Result<u64, VmError> {
        first.0.checked_add(nr).filter(|end| *end <= Vpn::LIMIT).ok_or(VmError::BadRange(first))
    }

    /// Forgets the pages of a range that was unmapped. Outcomes that are still awaited are to be told as always.
    /// Cost: proportional to the entries in the range.
    ///
    /// # Errors
    /// If there is no such address space, or the range is too long.
    pub fn unmap(&mut self, space: SpaceId, first: Vpn, nr: u64) -> Result<(), VmError> {
        let end = Self::check_range(first, nr)?;
        let root = self.space(space)?.root;
        let mut from = first.0;
        while let Some((vpn, word)) = self.tables.next(root, from, end) {
            self.drop_entry(space, vpn, Pte(word));
            from = vpn.0 + 1;
        }
        Ok(())
    }

    /// Forgets the pages of a range whose contents were dropped (`MADV_DONTNEED`, `MADV_REMOVE`): they read as zero from now on.
    ///
    /// # Errors
    /// As [`unmap`](Vm::unmap).
    pub fn remove(&mut self, space: SpaceId, first: Vpn, nr: u64) -> Result<(), VmError> {
        self.unmap(space, first, nr)
    }

    /// Clears one entry, and then gives up what it held.
    pub(crate) fn drop_entry(&mut self, space: SpaceId, vpn: Vpn, pte: Pte) {
        self.set(space, vpn, Pte::NONE);
        let id = match (pte.state(), pte.frame(), pte.stage()) {
            (_, Some(frame), _) => Some(frame.0),
            (State::Staged, None, Some(stage)) => self.member(stage, space, vpn),
            _ => None,
        };
        let Some(id) = id else {
            if let Some(slot) = pte.slot() {
                self.put_slot(slot);
            }
            return;
        };
        let frame = &mut self.frames.table[id as usize];
        let is_alone = frame.ring == id;
        let may_release = match frame.phase {
            Phase::Resident | Phase::Staged => true,
            Phase::Writing => !is_alone,
            _ => false,
        };
        if !may_release {
            frame.is_dead = true;
            return;
        }
        let (slot, stage) = (frame.slot, frame.stage);
        if let Some(stage) = stage {
            self.pass_stage_on(id, stage);
        }
        self.frames.release(id);
        if let Some(stage) = stage.filter(|_| is_alone) {
            self.give_up_stage(stage);
        }
        if let Some(slot) = slot {
            self.put_slot(slot);
        }
    }

    /// Moves the pages of a range to another (`mremap`); what was mapped there is forgotten first.
    /// Cost: proportional to the entries in both ranges.
    ///
    /// # Errors
    /// If there is no such address space, a range is too long, they overlap, or the store cannot grow: then no page has moved.
    pub fn remap(&mut self, space: SpaceId, from: Vpn, to: Vpn, nr: u64) -> Result<(), VmError> {
        let from_end = Self::check_range(from, nr)?;
        let to_end = Self::check_range(to, nr)?;
        if from.0 < to_end && to.0 < from_end && nr > 0 {
            return Err(VmError::BadRange(from));
        }
        self.unmap(space, to, nr)?;
        let root = self.space(space)?.root;
        let mut at = from.0;
        while let Some((vpn, _)) = self.tables.next(root, at, from_end) {
            self.make_room(space, Vpn(vpn.0 - from.0 + to.0))?;
            at = vpn.0 + 1;
        }
        self.begin_intent(Self::REMAP, [u64::from(space.0), from.0, to.0, nr]);
        let mut at = from.0;
        while let Some((vpn, word)) = self.tables.next(root, at, from_end) {
            let new = Vpn(vpn.0 - from.0 + to.0);
            let pte = Pte(word);
            let member = pte.stage().and_then(|stage| self.member(stage, space, vpn));
            // The node that was there may have gone with the last entry that has left it; it is free for this.
            self.make_room(space, new)?;
            self.set(space, new, pte);
            self.set(space, vpn, Pte::NONE);
            if let Some(id) = pte.frame().map(|frame| frame.0).or(member) {
                let frame = &mut self.frames.table[id as usize];
                frame.vpn = new;
                frame.was_remapped = true;
            }
            at = vpn.0 + 1;
        }
        self.end_intent();
        Ok(())
    }

    /// Puts the resident pages at or after `from` into `out`, at most `max`, in order. Staged ones are not among them.
    ///
    /// # Errors
    /// If there is no such address space.
    pub fn residents(
        &self,
        space: SpaceId,
        from: Vpn,
        max: usize,
        out: &mut Vec<Resident>,
    ) -> Result<(), VmError> {
        out.clear();
        let root = self.space(space)?.root;
        let mut at = from.0;
        while out.len() < max
            && let Some((vpn, word)) = self.tables.next(root, at, Vpn::LIMIT)
        {
            let pte = Pte(word);
            if pte.state() == State::Resident {
                out.push(Resident { vpn, is_protected: pte.is_protected() });
            }
            at = vpn.0 + 1;
        }
        Ok(())
    }

    /// Begins to bring back what is swapped out or staged at or after `from`, at most `max` pages, in order: each page in `out`
    /// awaits [`installed`](Vm::installed), and takes a frame until the driver gives it up by [`unmap`](Vm::unmap) (which leaves
    /// the process's page alone). Stops early where frames run out or something is under way. Gives where to go on; `None`
    /// when nothing is left.
    ///
    /// # Errors
    /// If there is no such address space, or there is something left but no frame for it.
    pub fn swapped_in(
        &mut self,
        space: SpaceId,
        from: Vpn,
        max: usize,
        out: &mut Vec<Restore>,
    ) -> Result<Option<Vpn>, VmError> {
        out.clear();
        let root = self.space(space)?.root;
        let mut at = from.0;
        while let Some((vpn, word)) = self.tables.next(root, at, Vpn::LIMIT) {
            let pte = Pte(word);
            if pte.is_busy() || out.len() >= max {
                return Ok(Some(vpn));
            }
            let load = match pte.state() {
                State::None | State::Resident => None,
                State::Swapped => {
                    if self.nr_free() == 0 {
                        return if out.is_empty() { Err(VmError::NoFrames) } else { Ok(Some(vpn)) };
                    }
                    self.begin_load(space, vpn, pte, false).map(|load| Restore { space, load, copy: false })
                }
                State::Staged => {
                    let id = pte.stage().and_then(|stage| self.member(stage, space, vpn));
                    match id.filter(|id| self.frames.table[*id as usize].phase == Phase::Staged) {
                        Some(id) => match self.begin_rescue(id, false) {
                            Ok((load, _, copy)) => Some(Restore { space, load, copy }),
                            Err(_) if out.is_empty() => return Err(VmError::NoFrames),
                            Err(_) => return Ok(Some(vpn)),
                        },
                        None => return Ok(Some(vpn)),
                    }
                }
            };
            out.extend(load);
            at = vpn.0 + 1;
        }
        Ok(None)
    }
}
