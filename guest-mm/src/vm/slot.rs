//! Slots over all tiers: giving out, referring, freeing, and where their data is.

use crate::memory::Memory;
use crate::swap::{Entry, Tier};
use crate::table::Tables;
use crate::types::{SlotId, Source, TierId, Vpn};
use crate::vm::Vm;

/// How many descriptors are looked at for a slot to take.
const MAX_LOOKS: u32 = 256;
/// The longest chain of slots whose data moved on.
const MAX_HOPS: u32 = 16;

impl<M: Memory> Vm<M> {
    pub(crate) fn tier(&self, tier: TierId) -> Option<&Tier> {
        self.tiers.get(tier.index()).and_then(|tier| tier.as_deref())
    }

    pub(crate) fn tier_mut(&mut self, tier: TierId) -> Option<&mut Tier> {
        self.tiers.get_mut(tier.index()).and_then(|tier| tier.as_deref_mut())
    }

    pub(crate) fn slot_entry(&self, slot: SlotId) -> Entry {
        let has_table = self.tier(slot.tier()).is_some_and(|t| t.pool.is_some() || t.nr_forwards > 0);
        if !has_table {
            return Entry::InPlace;
        }
        Entry::from_word(self.tables.get(Tables::<M>::tier_root(slot.tier()), Vpn(u64::from(slot.index()))))
    }

    /// Follows a slot to the one that really holds the data.
    pub(crate) fn final_slot(&self, mut slot: SlotId) -> (SlotId, Entry) {
        for _ in 0..MAX_HOPS {
            match self.slot_entry(slot) {
                Entry::Forward(next) => slot = next,
                entry => return (slot, entry),
            }
        }
        (slot, Entry::InPlace)
    }

    pub(crate) fn source_of(&self, slot: SlotId) -> Source {
        match self.final_slot(slot) {
            (slot, Entry::Extent(extent)) => {
                Source::Pool { tier: slot.tier(), offset: extent.offset(), len: u32::from(extent.len) }
            }
            (slot, _) => Source::File { tier: slot.tier(), index: slot.index() },
        }
    }

    /// How many slots hold pages, each page once.
    pub(crate) fn swap_used(&self) -> u64 {
        self.tiers.iter().flatten().map(|t| u64::from(t.slots.used()) - u64::from(t.nr_forwards)).sum::<u64>()
            - self.writebacks.len() as u64
    }

    /// Gives about how many pages more could be swapped out, those for which only a file will do if `is_raw`.
    pub(crate) fn swap_room(&self, is_raw: bool) -> u64 {
        let tiers: u64 = self
            .tiers
            .iter()
            .flatten()
            .filter(|tier| tier.has_room())
            .map(|tier| match &tier.pool {
                Some(_) if is_raw => 0,
                Some(pool) => u64::from(pool.limit_pages() - pool.used_pages()),
                None => u64::from(tier.slots.nr_free()),
            })
            .sum();
        let allowed = self.config.swap_max_pages.map_or(u64::MAX, |max| max.saturating_sub(self.swap_used()));
        tiers.min(allowed)
    }

    /// Gives a slot of the first tier that takes the page, with one reference.
    pub(crate) fn alloc_slot(&mut self, is_raw: bool) -> Option<SlotId> {
        if self.config.swap_max_pages.is_some_and(|max| self.swap_used() >= max) && !self.steal_slot() {
            return None;
        }
        for at in 0..self.config.tiers.len() {
            let id = self.config.tiers[at].id;
            let Some(tier) = self.tier_mut(id) else { continue };
            if !tier.has_room() || (is_raw && tier.pool.is_some()) {
                continue;
            }
            if let Some(index) = tier.slots.alloc() {
                return Some(SlotId::new(id, index));
            }
        }
        None
    }

    pub(crate) fn get_slot(&mut self, slot: SlotId) {
        if let Some(tier) = self.tier_mut(slot.tier()) {
            tier.slots.get(slot.index());
        }
    }

    /// Gives one reference up. No entry of a page table may still rely on it.
    pub(crate) fn put_slot(&mut self, slot: SlotId) {
        let mut next = Some(slot);
        while let Some(slot) = next.take() {
            let entry = self.slot_entry(slot);
            let Some(tier) = self.tier_mut(slot.tier()) else { return };
            if !tier.slots.put(slot.index()) {
                return;
            }
            tier.is_blocked &= tier.nr_failures >= crate::vm::writeout::MAX_FAILURES;
            let freed = match entry {
                Entry::InPlace => continue,
                Entry::Extent(extent) => {
                    tier.is_cramped = false;
                    tier.pool.as_mut().and_then(|pool| pool.free(extent))
                }
                Entry::Forward(to) => {
                    tier.nr_forwards -= 1;
                    next = Some(to);
                    None
                }
            };
            self.tables.clear(Tables::<M>::tier_root(slot.tier()), Vpn(u64::from(slot.index())));
            if let Some((page, nr)) = freed {
                self.release_pool(slot.tier(), page, nr);
            }
        }
    }

    /// Protects the data of a slot from being moved while it is read.
    pub(crate) fn pin_slot(&mut self, slot: SlotId) {
        if let (last, Entry::Extent(_)) = self.final_slot(slot)
            && let Some(tier) = self.tier_mut(last.tier())
        {
            tier.pin(last.index());
        }
    }

    pub(crate) fn unpin_slot(&mut self, slot: SlotId) {
        if let (last, Entry::Extent(_)) = self.final_slot(slot)
            && let Some(tier) = self.tier_mut(last.tier())
        {
            tier.unpin(last.index());
        }
    }

    /// Takes the slot of a resident clean page, which becomes dirty, so that another page can have one. Cost: at most 256
    /// descriptors are looked at.
    pub(crate) fn steal_slot(&mut self) -> bool {
        if self.nr_clean == 0 {
            return false;
        }
        let nr = self.frames.table.len() as u32;
        for _ in 0..nr.min(MAX_LOOKS) {
            self.steal_hand = if self.steal_hand + 1 >= nr { 0 } else { self.steal_hand + 1 };
            let frame = &self.frames.table[self.steal_hand as usize];
            let (space, vpn) = (frame.space, frame.vpn);
            if frame.phase != crate::frames::Phase::Resident {
                continue;
            }
            let Some(slot) = frame.slot else { continue };
            if self.tier(slot.tier()).is_none_or(|tier| tier.slots.refs(slot.index()) != 1) {
                continue;
            }
            let Ok(pte) = self.entry(space, vpn) else { continue };
            self.set(space, vpn, pte.with_slot(None));
            self.frames.table[self.steal_hand as usize].slot = None;
            self.put_slot(slot);
            self.counters.slots_stolen += 1;
            return true;
        }
        false
    }
}
