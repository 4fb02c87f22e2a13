//! Carrying on after a worker's end: everything that is not in the store is made from it.

use crate::config::{Config, TierConfig, TierStore};
use crate::error::VmError;
use crate::frames::{NIL, Phase};
use crate::memory::Memory;
use crate::swap::{Entry, Tier};
use crate::table::{Pte, State, Tables};
use crate::types::{FrameId, SlotId, SpaceId, TierId, Vpn};
use crate::vm::Vm;

impl<M: Memory> Vm<M> {
    /// Header words, as [`Tables::header`] numbers them.
    const INTENT: usize = 0;
    pub(crate) const CURSOR: usize = 5;
    pub(crate) const REMAP: u64 = 1;
    pub(crate) const FORK: u64 = 2;

    /// Notes a change of several stores before its first, so that [`recover`](Vm::recover) completes it.
    pub(crate) fn begin_intent(&mut self, kind: u64, words: [u64; 4]) {
        for (n, word) in words.into_iter().enumerate() {
            self.tables.set_header(Self::INTENT + 1 + n, word);
        }
        let event = self.event.map_or(0, |number| number << 8);
        self.tables.set_header(Self::INTENT, event | kind);
    }

    pub(crate) fn end_intent(&mut self) {
        if let Some(number) = self.event {
            self.tables.set_header(Self::CURSOR, number);
        }
        self.tables.set_header(Self::INTENT, 0);
    }

    /// Opens a store that a worker before this one left at any point, and makes everything else anew.
    ///
    /// Then the driver, before it serves any fault: looks for each page of [`in_transit`](Vm::in_transit) where it is and tells
    /// [`moved`](Vm::moved); looks which pages of each space are in place, and tells [`found`](Vm::found) of each of them and
    /// [`lost`](Vm::lost) of each of [`residents`](Vm::residents) that is not. Frames shared after a fork are charged once for each
    /// space from now on: only the worker that saw the fork knew.
    ///
    /// Cost: one pass over all entries.
    ///
    /// # Errors
    /// If a setting is out of its bounds, or the store is not ours or damaged.
    pub fn recover(memory: M, config: Config) -> Result<Self, VmError> {
        let mut vm = Self::open(memory, config)?;
        vm.complete_intent()?;
        let mut next = vm.tables.next_space(0);
        while let Some(space) = next {
            let root = vm.tables.space_root(space).ok_or(VmError::BadStore("a space has no root"))?;
            vm.know_space(space, root);
            vm.recover_space(space, root)?;
            next = space.0.checked_add(1).and_then(|from| vm.tables.next_space(from));
        }
        vm.forget_stale_entries();
        Ok(vm)
    }

    fn complete_intent(&mut self) -> Result<(), VmError> {
        let intent = self.tables.header(Self::INTENT);
        let [a, b, c, nr] = [1, 2, 3, 4].map(|n| self.tables.header(Self::INTENT + n));
        match intent & 0xff {
            0 => return Ok(()),
            Self::REMAP => {
                let root = self.tables.space_root(SpaceId(a as u16));
                let root = root.ok_or(VmError::BadStore("a move in no space"))?;
                let end = Self::check_range(Vpn(b), nr).map_err(|_| VmError::BadStore("a bad move"))?;
                let to_end = Self::check_range(Vpn(c), nr).map_err(|_| VmError::BadStore("a bad move"))?;
                if b < to_end && c < end {
                    return Err(VmError::BadStore("a move onto itself"));
                }
                while let Some((vpn, word)) = self.tables.next(root, b, end) {
                    self.tables.set(root, Vpn(vpn.0 - b + c), word)?;
                    self.tables.clear(root, vpn);
                }
            }
            Self::FORK => {
                let roots = [a, b].map(|space| self.tables.space_root(SpaceId(space as u16)));
                let [Some(parent), Some(child)] = roots else {
                    return Err(VmError::BadStore("a fork of no space"));
                };
                let mut at = 0;
                while let Some((vpn, word)) = self.tables.next(parent, at, Vpn::LIMIT) {
                    at = vpn.0 + 1;
                    let pte = Pte(word);
                    let is_resident = pte.state() == State::Resident;
                    if pte.state() != State::None && self.tables.get(child, vpn) == 0 {
                        self.tables.set(child, vpn, pte.with_shared(is_resident).0)?;
                    }
                    if is_resident {
                        self.tables.set(parent, vpn, pte.with_shared(true).0)?;
                    }
                }
            }
            _ => return Err(VmError::BadStore("an unknown change")),
        }
        self.event = Some(intent >> 8).filter(|number| *number > 0);
        self.end_intent();
        self.event = None;
        Ok(())
    }

    fn recover_space(&mut self, space: SpaceId, root: usize) -> Result<(), VmError> {
        let mut at = 0;
        while let Some((vpn, word)) = self.tables.next(root, at, Vpn::LIMIT) {
            at = vpn.0 + 1;
            let pte = Pte(word);
            if !pte.is_valid() {
                return Err(VmError::BadStore("an entry makes no sense"));
            }
            if let Some(slot) = pte.slot() {
                self.recover_slot(slot, 0)?;
            }
            // The counts start from nothing, and to set an entry is to exchange it.
            self.count(space, pte, 1);
            let new = match pte.state() {
                State::None => Pte::NONE,
                State::Swapped => Pte::swapped(pte.slot().unwrap_or(SlotId(0)), 0),
                State::Resident => {
                    let id = self.frames.alloc(space, vpn, Phase::Resident);
                    let id = id.ok_or(VmError::BadStore("too many pages"))?;
                    let frame = &mut self.frames.table[id as usize];
                    frame.slot = pte.slot();
                    frame.is_zero = pte.is_zero();
                    self.frames.enqueue(id);
                    pte.with_frame(FrameId(id))
                }
                State::Staged => {
                    self.recover_staged(space, vpn, pte)?;
                    pte
                }
            };
            self.set(space, vpn, new);
        }
        Ok(())
    }

    fn recover_staged(&mut self, space: SpaceId, vpn: Vpn, pte: Pte) -> Result<(), VmError> {
        let stage = pte.stage().filter(|stage| stage.0 < Config::MAX_STAGING);
        let stage = stage.ok_or(VmError::BadStore("a staging place out of bounds"))?;
        let head = self.stages.get(stage).map(|place| place.head).filter(|head| *head != NIL);
        let id = match head {
            Some(head) => self.frames.alloc_sharing(head, space, vpn),
            None => self.frames.alloc(space, vpn, Phase::Moving),
        };
        let id = id.ok_or(VmError::BadStore("too many pages"))?;
        if head.is_none() {
            self.stages.claim(stage, id);
        }
        let frame = &mut self.frames.table[id as usize];
        frame.stage = Some(stage);
        frame.slot = pte.slot();
        self.nr_in_flight += 1;
        Ok(())
    }

    /// Counts a reference to a slot, and at the first one what the slot itself needs.
    fn recover_slot(&mut self, slot: SlotId, depth: u32) -> Result<(), VmError> {
        let id = slot.tier();
        if id.0 >= TierId::LIMIT || depth > 16 {
            return Err(VmError::BadStore("a slot of no tier"));
        }
        let word = self.tables.get(Tables::<M>::tier_root(id), Vpn(u64::from(slot.index())));
        let entry = Entry::from_word(word);
        if self.tiers[id.index()].is_none() {
            let store = match entry {
                Entry::Extent(_) => TierStore::Compressed { bytes: 0 },
                _ => TierStore::File { slots: 0 },
            };
            let mut tier = Tier::new(TierConfig { id, store });
            tier.is_draining = true;
            self.tiers[id.index()] = Some(Box::new(tier));
        }
        let Some(tier) = self.tier_mut(id) else { return Ok(()) };
        let is_first = tier.slots.refs(slot.index()) == 0;
        tier.slots.get(slot.index());
        if !is_first {
            return Ok(());
        }
        match entry {
            Entry::InPlace if tier.pool.is_some() => Err(VmError::BadStore("a compressed slot has no data")),
            Entry::InPlace => Ok(()),
            Entry::Extent(extent) => {
                tier.note_birth(slot.index());
                let is_good = tier.pool.get_or_insert_with(|| crate::swap::Pool::new(0)).recover(extent);
                if is_good { Ok(()) } else { Err(VmError::BadStore("compressed slots overlap")) }
            }
            Entry::Forward(to) => {
                tier.nr_forwards += 1;
                self.recover_slot(to, depth + 1)
            }
        }
    }

    /// Clears what the tiers' tables say about slots that nothing refers to.
    fn forget_stale_entries(&mut self) {
        for id in (0..TierId::LIMIT).map(TierId) {
            let root = Tables::<M>::tier_root(id);
            let mut at = 0;
            while let Some((vpn, _)) = self.tables.next(root, at, Vpn::LIMIT) {
                at = vpn.0 + 1;
                if self.tier(id).is_none_or(|tier| tier.slots.refs(vpn.0 as u32) == 0) {
                    self.tables.clear(root, vpn);
                }
            }
        }
    }
}
