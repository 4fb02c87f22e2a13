//! A swap tier: its slots, and where the data of a slot is that is not simply at the slot's own place in the tier's file.
//!
//! Such a slot has an entry in the tier's own radix table in the store: the extent of a compressed slot, or another slot to
//! which its data was moved. So moving data between tiers changes one word, whoever refers to the slot.

use std::collections::VecDeque;

use crate::config::{TierConfig, TierStore};
use crate::swap::pool::{Extent, Pool};
use crate::swap::slots::SlotMap;
use crate::types::{SlotId, TierId};

/// What the table of a tier says about a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Entry {
    /// Nothing: the data of a file's slot is at its own place.
    InPlace,
    /// The data is in the byte pool.
    Extent(Extent),
    /// The data is in another slot, which is referred to by this one alone.
    Forward(SlotId),
}

impl Entry {
    pub(crate) const fn word(self) -> u64 {
        match self {
            Self::InPlace => 0,
            Self::Extent(extent) => extent.word(),
            Self::Forward(slot) => 2 | (slot.0 as u64) << 8,
        }
    }

    pub(crate) const fn from_word(word: u64) -> Self {
        match word & 3 {
            1 => Self::Extent(Extent::from_word(word)),
            2 => Self::Forward(SlotId((word >> 8) as u32 & ((1 << 28) - 1))),
            _ => Self::InPlace,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Tier {
    pub(crate) id: TierId,
    pub(crate) slots: SlotMap,
    /// The byte pool of a compressed tier.
    pub(crate) pool: Option<Pool>,
    /// No longer configured: takes nothing more.
    pub(crate) is_draining: bool,
    /// Its byte pool had no room, though it is not full: until something in it is freed.
    pub(crate) is_cramped: bool,
    /// Its byte pool had no frame to grow by.
    pub(crate) is_starved: bool,
    /// Had no space, or failed too often.
    pub(crate) is_blocked: bool,
    pub(crate) nr_forwards: u32,
    pub(crate) nr_failures: u32,
    /// Compressed slots, the oldest first; some may be free or given out anew since (the number tells).
    pub(crate) order: VecDeque<(u32, u32)>,
    /// How often a slot was given out, as far as `order` needs it.
    pub(crate) births: Vec<u32>,
    /// How many loads are reading a slot, and whether it is being written back.
    pub(crate) pins: Vec<u16>,
    /// Where looking for slots to drain goes on.
    pub(crate) cursor: u32,
}

impl Tier {
    pub(crate) fn new(config: TierConfig) -> Self {
        let (slots, pool) = match config.store {
            TierStore::Compressed { bytes } => (SlotMap::new(SlotId::LIMIT), Some(Pool::new(bytes))),
            TierStore::File { slots } => (SlotMap::new(slots), None),
        };
        Self {
            id: config.id,
            slots,
            pool,
            is_draining: false,
            is_cramped: false,
            is_starved: false,
            is_blocked: false,
            nr_forwards: 0,
            nr_failures: 0,
            order: VecDeque::new(),
            births: Vec::new(),
            pins: Vec::new(),
            cursor: 0,
        }
    }

    /// Applies a new size. The kind of a tier that holds slots cannot change: `false`.
    pub(crate) fn configure(&mut self, config: TierConfig) -> bool {
        match (config.store, &mut self.pool) {
            (TierStore::Compressed { bytes }, Some(pool)) => pool.set_limit(bytes),
            (TierStore::File { slots }, None) => self.slots.set_limit(slots),
            _ if self.slots.used() == 0 => *self = Self::new(config),
            _ => return false,
        }
        self.is_draining = false;
        self.is_blocked = false;
        self.is_cramped = false;
        self.is_starved = false;
        self.nr_failures = 0;
        true
    }

    /// Says whether a page may be sent here.
    pub(crate) fn has_room(&self) -> bool {
        !self.is_draining
            && !self.is_blocked
            && !self.is_cramped
            && !self.is_starved
            && self.slots.nr_free() > 0
            && self.pool.as_ref().is_none_or(|pool| pool.used_pages() < pool.limit_pages())
    }

    /// Remembers a slot as the newest, for writing back the oldest first.
    pub(crate) fn note_birth(&mut self, index: u32) {
        if self.births.len() <= index as usize {
            self.births.resize(index as usize + 1, 0);
        }
        let birth = &mut self.births[index as usize];
        *birth = birth.wrapping_add(1);
        self.order.push_back((index, *birth));
    }

    pub(crate) fn is_current(&self, (index, birth): (u32, u32)) -> bool {
        self.slots.refs(index) > 0 && self.births.get(index as usize) == Some(&birth)
    }

    pub(crate) fn pins(&self, index: u32) -> u16 {
        self.pins.get(index as usize).copied().unwrap_or(0)
    }

    pub(crate) fn pin(&mut self, index: u32) {
        if self.pins.len() <= index as usize {
            self.pins.resize(index as usize + 1, 0);
        }
        self.pins[index as usize] = self.pins[index as usize].saturating_add(1);
    }

    pub(crate) fn unpin(&mut self, index: u32) {
        if let Some(pins) = self.pins.get_mut(index as usize) {
            *pins = pins.saturating_sub(1);
        }
    }
}
