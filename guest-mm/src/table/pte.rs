//! One entry of a page table: one word, replaced by one store.
//!
//! ```text
//! 63           36 35            8  7    6    5      4    3     2..0
//! frame or stage  slot             -    busy shared zero clean state
//! ```
//! | state | slot | upper part |
//! |---|---|---|
//! | none | - | busy: the frame being filled with zeros |
//! | resident | clean: holds the same data | the frame |
//! | swapped | holds the data | busy: the frame under way; else when it was evicted |
//! | staged | clean: holds the same data | the place in the staging area |
//!
//! The upper part means nothing to a new worker, except for `staged`; nor does `busy`.
//!
//! Transitions: none → resident (installed, found) → staged (selected) → swapped (written) → resident (installed); staged →
//! resident (rescued, still in place); resident → swapped or none, busy (dropped: clean or zero); any → none (unmapped).

use crate::types::{FrameId, SlotId, StageId};

/// Where a page is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    None,
    Resident,
    Swapped,
    Staged,
}

const STATE: u64 = 7;
const CLEAN: u64 = 1 << 3;
const ZERO: u64 = 1 << 4;
const SHARED: u64 = 1 << 5;
const BUSY: u64 = 1 << 6;
const FIELD: u64 = (1 << 28) - 1;
const SLOT_SHIFT: u32 = 8;
const UPPER_SHIFT: u32 = 36;

/// An entry.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pte(pub(crate) u64);

impl Pte {
    pub(crate) const NONE: Self = Self(0);
    /// The largest frame or stage number.
    pub(crate) const MAX_UPPER: u32 = FIELD as u32;

    const fn upper(self, value: u32) -> Self {
        Self((self.0 & !(FIELD << UPPER_SHIFT)) | ((value as u64 & FIELD) << UPPER_SHIFT))
    }

    const fn slotted(self, slot: SlotId) -> Self {
        Self((self.0 & !(FIELD << SLOT_SHIFT)) | CLEAN | ((slot.0 as u64 & FIELD) << SLOT_SHIFT))
    }

    /// A resident page, dirty.
    pub(crate) const fn resident(frame: FrameId) -> Self {
        Self(1).upper(frame.0)
    }

    /// A page in a slot, evicted at `stamp`.
    pub(crate) const fn swapped(slot: SlotId, stamp: u32) -> Self {
        Self(2).slotted(slot).upper(stamp)
    }

    /// A page in the staging area, or on the way there.
    pub(crate) const fn staged(stage: StageId) -> Self {
        Self(3).upper(stage.0)
    }

    /// The same, with a slot that holds the same data if there is one.
    pub(crate) const fn with_slot(self, slot: Option<SlotId>) -> Self {
        match slot {
            Some(slot) => self.slotted(slot),
            None => Self(self.0 & !CLEAN & !(FIELD << SLOT_SHIFT)),
        }
    }

    /// The same, write-protected and all zero.
    pub(crate) const fn with_zero(self, zero: bool) -> Self {
        Self(if zero { self.0 | ZERO } else { self.0 & !ZERO })
    }

    /// The same, write-protected because others may map the frame.
    pub(crate) const fn with_shared(self, shared: bool) -> Self {
        Self(if shared { self.0 | SHARED } else { self.0 & !SHARED })
    }

    /// The same, in another frame.
    pub(crate) const fn with_frame(self, frame: FrameId) -> Self {
        self.upper(frame.0)
    }

    /// The same, with `frame` under way.
    pub(crate) const fn busy(self, frame: FrameId) -> Self {
        Self(self.upper(frame.0).0 | BUSY)
    }

    pub(crate) const fn state(self) -> State {
        match self.0 & STATE {
            1 => State::Resident,
            2 => State::Swapped,
            3 => State::Staged,
            _ => State::None,
        }
    }

    /// Says whether the word is one that this version writes.
    pub(crate) const fn is_valid(self) -> bool {
        let swapped_has_slot = !matches!(self.state(), State::Swapped) || self.0 & CLEAN != 0;
        self.0 & STATE <= 3 && self.0 & (1 << 7) == 0 && swapped_has_slot
    }

    pub(crate) const fn slot(self) -> Option<SlotId> {
        if self.0 & CLEAN != 0 { Some(SlotId(((self.0 >> SLOT_SHIFT) & FIELD) as u32)) } else { None }
    }

    pub(crate) const fn is_zero(self) -> bool {
        self.0 & ZERO != 0
    }

    pub(crate) const fn is_shared(self) -> bool {
        self.0 & SHARED != 0
    }

    pub(crate) const fn is_busy(self) -> bool {
        self.0 & BUSY != 0
    }

    /// Says whether the page was left write-protected.
    pub(crate) const fn is_protected(self) -> bool {
        self.0 & (CLEAN | ZERO | SHARED) != 0
    }

    const fn upper_part(self) -> u32 {
        (self.0 >> UPPER_SHIFT) as u32
    }

    /// Gives the frame of a resident or busy entry.
    pub(crate) const fn frame(self) -> Option<FrameId> {
        if self.is_busy() || matches!(self.state(), State::Resident) {
            Some(FrameId(self.upper_part()))
        } else {
            None
        }
    }

    pub(crate) const fn stage(self) -> Option<StageId> {
        if matches!(self.state(), State::Staged) { Some(StageId(self.upper_part())) } else { None }
    }

    /// Gives when a swapped page was evicted.
    pub(crate) const fn stamp(self) -> Option<u32> {
        if matches!(self.state(), State::Swapped) && !self.is_busy() { Some(self.upper_part()) } else { None }
    }
}
