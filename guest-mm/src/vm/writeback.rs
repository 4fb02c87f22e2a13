//! From tier to tier: a compressed tier that is nearly full sends its oldest slots to the next file, and a tier that is no longer
//! configured all of them.
//!
//! The slot stays, with all that refer to it: its entry in the tier's table then names the slot its data moved to.

use crate::error::VmError;
use crate::memory::Memory;
use crate::swap::Entry;
use crate::table::Tables;
use crate::types::{SlotId, TierId, Vpn, WriteOutcome, Writeback};
use crate::vm::Vm;

impl<M: Memory> Vm<M> {
    /// Chooses up to `max` slots whose data should move to another tier; puts them into `out`, which is emptied first. Each
    /// awaits [`written_back`](Vm::written_back). None while no compressed tier is fuller than seven eighths and none drains.
    pub fn writeback_plan(&mut self, max: usize, out: &mut Vec<Writeback>) {
        out.clear();
        for at in 0..TierId::LIMIT {
            while out.len() < max {
                let Some(from) = self.next_to_move(TierId(at)) else { break };
                let Some(to) = self.alloc_file_slot(from.tier()) else {
                    if let Some(tier) = self.tier_mut(from.tier()).filter(|tier| tier.pool.is_some()) {
                        let birth = tier.births.get(from.index() as usize).copied().unwrap_or(0);
                        tier.order.push_front((from.index(), birth));
                    }
                    break;
                };
                self.get_slot(from);
                self.writebacks.push((from, to));
                let source = self.source_of(from);
                out.push(Writeback { from, source, tier: to.tier(), index: to.index() });
            }
        }
    }

    fn next_to_move(&mut self, id: TierId) -> Option<SlotId> {
        let nr_moving = self.writebacks.iter().filter(|(from, _)| from.tier() == id).count() as u64;
        let tier = self.tiers[id.index()].as_deref_mut()?;
        if let Some(pool) = &tier.pool {
            let is_full =
                u64::from(pool.used_pages()) * 8 > u64::from(pool.limit_pages()) * 7 + nr_moving * 4;
            if !is_full && !tier.is_draining {
                return None;
            }
            while let Some((index, birth)) = tier.order.pop_front() {
                if tier.is_current((index, birth)) && tier.pins(index) == 0 {
                    return Some(SlotId::new(id, index));
                }
                if tier.is_current((index, birth)) {
                    tier.order.push_back((index, birth));
                    return None;
                }
            }
            return None;
        }
        if !tier.is_draining {
            return None;
        }
        let high = tier.slots.high();
        for _ in 0..high {
            let tier = self.tiers[id.index()].as_deref_mut()?;
            let index = tier.cursor;
            tier.cursor = if index + 1 >= high { 0 } else { index + 1 };
            if tier.slots.refs(index) == 0 {
                continue;
            }
            let slot = SlotId::new(id, index);
            let is_moving = self.writebacks.iter().any(|(from, to)| *from == slot || *to == slot);
            if !is_moving && self.slot_entry(slot) == Entry::InPlace {
                return Some(slot);
            }
        }
        None
    }

    /// Gives a slot of the first file tier other than `from`.
    fn alloc_file_slot(&mut self, from: TierId) -> Option<SlotId> {
        let ids = (0..self.config.tiers.len()).map(|at| self.config.tiers[at].id);
        let to = ids
            .filter(|id| *id != from)
            .find(|id| self.tier(*id).is_some_and(|tier| tier.pool.is_none() && tier.has_room()))?;
        let index = self.tier_mut(to)?.slots.alloc()?;
        Some(SlotId::new(to, index))
    }

    /// Hears how moving a slot's data ended.
    ///
    /// # Errors
    /// If no such outcome is awaited.
    pub fn written_back(&mut self, from: SlotId, outcome: WriteOutcome) -> Result<(), VmError> {
        let at = self.writebacks.iter().position(|(slot, _)| *slot == from).ok_or(VmError::BadSlot(from))?;
        let (_, to) = self.writebacks.swap_remove(at);
        let (root, vpn) = (Tables::<M>::tier_root(from.tier()), Vpn(u64::from(from.index())));
        let entry = self.slot_entry(from);
        let is_read = self.tier(from.tier()).is_some_and(|tier| tier.pins(from.index()) > 0);
        let is_done = matches!(outcome, WriteOutcome::Done | WriteOutcome::AllZero)
            && !is_read
            && self.tables.set(root, vpn, Entry::Forward(to).word()).is_ok();
        if is_done {
            self.counters.writeback += 1;
            let Some(tier) = self.tier_mut(from.tier()) else { return Ok(()) };
            tier.nr_forwards += 1;
            tier.is_cramped = false;
            if let Entry::Extent(extent) = entry
                && let Some((page, nr)) = tier.pool.as_mut().and_then(|pool| pool.free(extent))
            {
                self.release_pool(from.tier(), page, nr);
            }
        } else {
            if outcome == WriteOutcome::Failed {
                if let Some(tier) = self.tier_mut(to.tier()) {
                    tier.slots.condemn(to.index());
                }
            } else {
                self.put_slot(to);
            }
            if matches!(outcome, WriteOutcome::NoSpace | WriteOutcome::Failed) {
                self.count_failure(to.tier(), outcome);
            }
            if let Some(tier) = self.tier_mut(from.tier()).filter(|tier| tier.pool.is_some()) {
                let birth = tier.births.get(from.index() as usize).copied().unwrap_or(0);
                tier.order.push_back((from.index(), birth));
            }
        }
        self.put_slot(from);
        Ok(())
    }

    /// Says whether a tier holds no data any more, so that its file or byte pool may go.
    pub fn is_drained(&self, tier: TierId) -> bool {
        self.tier(tier).is_none_or(|tier| tier.slots.used() == tier.nr_forwards)
    }
}
