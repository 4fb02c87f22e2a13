//! Fork: the child's table gets copies of the parent's entries.

use crate::error::VmError;
use crate::frames::Phase;
use crate::memory::Memory;
use crate::table::{Pte, State};
use crate::types::{FrameId, SpaceId, Vpn};
use crate::vm::Vm;

impl<M: Memory> Vm<M> {
    /// Adds an address space that is a copy of another one. Slots and frames are shared, frames are charged once; write
    /// faults on a shared page are told as [`Resolution::Unshare`](crate::Resolution::Unshare). The driver write-protects what
    /// is shared on both sides.
    ///
    /// Nothing may be under way with a page of the parent. The driver, having read the event: tells the outcomes of what was done
    /// before, and [`Outcome::Again`](crate::Outcome::Again) of what was not done yet, so that it begins anew for both; calls this;
    /// and only then write-protects what is shared, on both sides: until the entries say so, protection says that a page is clean.
    ///
    /// Cost: proportional to the parent's entries.
    ///
    /// # Errors
    /// If there is no such parent, the child exists, the store cannot grow (then the child is not there), or something is under way
    /// with a page of the parent.
    pub fn fork(&mut self, parent: SpaceId, child: SpaceId) -> Result<(), VmError> {
        let root = self.space(parent)?.root;
        if self.space(child).is_ok() {
            return Err(VmError::SpaceExists(child));
        }
        let mut at = 0;
        while let Some((vpn, word)) = self.tables.next(root, at, Vpn::LIMIT) {
            let member = Pte(word).stage().map(|stage| self.member(stage, parent, vpn));
            let is_resting =
                |id: Option<u32>| id.is_some_and(|id| self.frames.table[id as usize].phase == Phase::Staged);
            if Pte(word).is_busy() || member.is_some_and(|id| !is_resting(id)) {
                return Err(VmError::InTransit(vpn));
            }
            at = vpn.0 + 1;
        }
        self.add_space(child)?;
        at = 0;
        while let Some((vpn, _)) = self.tables.next(root, at, Vpn::LIMIT) {
            if let Err(error) = self.make_room(child, vpn) {
                self.remove_space(child)?;
                return Err(error);
            }
            at = vpn.0 + 1;
        }
        self.begin_intent(Self::FORK, [u64::from(parent.0), u64::from(child.0), 0, 0]);
        at = 0;
        while let Some((vpn, word)) = self.tables.next(root, at, Vpn::LIMIT) {
            self.fork_entry(parent, child, vpn, Pte(word));
            at = vpn.0 + 1;
        }
        self.end_intent();
        Ok(())
    }

    fn fork_entry(&mut self, parent: SpaceId, child: SpaceId, vpn: Vpn, pte: Pte) {
        let of = match (pte.state(), pte.frame(), pte.stage()) {
            (State::Resident, Some(frame), _) => Some(frame.0),
            (State::Staged, _, Some(stage)) => self.member(stage, parent, vpn),
            _ => None,
        };
        let Some(of) = of else {
            if let Some(slot) = pte.slot() {
                self.get_slot(slot);
                self.set(child, vpn, Pte::swapped(slot, pte.stamp().unwrap_or(0)));
            }
            return;
        };
        let Some(id) = self.frames.alloc_sharing(of, child, vpn) else { return };
        let Some(original) = self.frames.table.get(of as usize).cloned() else { return };
        let copy = &mut self.frames.table[id as usize];
        copy.slot = original.slot;
        copy.stage = original.stage;
        copy.is_zero = original.is_zero;
        copy.is_raw = original.is_raw;
        copy.is_hot = original.is_hot;
        if let Some(slot) = original.slot {
            self.get_slot(slot);
        }
        if pte.state() == State::Resident {
            self.set(child, vpn, Pte(pte.0).with_shared(true).with_frame(FrameId(id)));
            self.set(parent, vpn, pte.with_shared(true));
            self.frames.enqueue(id);
        } else {
            self.set(child, vpn, pte);
        }
    }
}
