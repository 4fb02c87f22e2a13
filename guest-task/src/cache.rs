//! Each thread's own free slots, so that publishing and retiring touch nothing that another thread writes.

use std::cell::Cell;

use crate::registry::Inner;
use crate::table::BATCH;

const CACHED: usize = 2 * BATCH;

/// Free slots of one registry. A thread that uses several in turn hands the slots of one back when it comes to the next.
struct Cache {
    of: Cell<Option<&'static Inner>>,
    len: Cell<usize>,
    slots: [Cell<u32>; CACHED],
}

thread_local! {
    static CACHE: Cache = const {
        Cache { of: Cell::new(None), len: Cell::new(0), slots: [const { Cell::new(0) }; CACHED] }
    };
}

impl Cache {
    #[inline]
    fn is_of(&self, inner: &'static Inner) -> bool {
        self.of.get().is_some_and(|of| std::ptr::eq(of, inner))
    }

    /// Hands the newest slots back until `keep` are left.
    fn spill(&self, keep: usize) {
        let Some(inner) = self.of.get() else { return };
        while self.len.get() > keep {
            let n = (self.len.get() - keep).min(BATCH);
            let mut batch = [0; BATCH];
            let from = self.len.get() - n;
            batch.iter_mut().zip(&self.slots[from..from + n]).for_each(|(to, slot)| *to = slot.get());
            self.len.set(from);
            inner.give(&batch[..n]);
        }
    }

    #[cold]
    fn refill(&self, inner: &'static Inner) -> Option<u32> {
        if !self.is_of(inner) {
            self.spill(0);
            self.of.set(Some(inner));
        }
        let mut batch = [0; BATCH];
        let n = inner.take(&mut batch);
        // The lowest one on top.
        for (slot, to) in batch[..n].iter().rev().zip(&self.slots) {
            to.set(*slot);
        }
        let left = n.checked_sub(1)?;
        self.len.set(left);
        Some(self.slots[left].get())
    }

    #[cold]
    fn make_room(&self, inner: &'static Inner, slot: u32) {
        if !self.is_of(inner) {
            self.spill(0);
            self.of.set(Some(inner));
        } else {
            self.spill(BATCH);
        }
        self.slots[self.len.get()].set(slot);
        self.len.set(self.len.get() + 1);
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        self.spill(0);
    }
}

/// Takes a free slot; none if the table is full.
#[inline]
pub(crate) fn take(inner: &'static Inner) -> Option<u32> {
    let taken = CACHE.try_with(|cache| match cache.len.get() {
        len if len > 0 && cache.is_of(inner) => {
            cache.len.set(len - 1);
            Some(cache.slots[len - 1].get())
        }
        _ => cache.refill(inner),
    });
    taken.unwrap_or_else(|_| take_without_cache(inner))
}

/// Gives a slot back.
#[inline]
pub(crate) fn give(inner: &'static Inner, slot: u32) {
    let given = CACHE.try_with(|cache| match cache.len.get() {
        len if len < CACHED && cache.is_of(inner) => {
            cache.slots[len].set(slot);
            cache.len.set(len + 1);
        }
        _ => cache.make_room(inner, slot),
    });
    if given.is_err() {
        inner.give(&[slot]);
    }
}

/// While the thread ends, its cache is gone already.
#[cold]
fn take_without_cache(inner: &'static Inner) -> Option<u32> {
    let mut batch = [0; BATCH];
    let n = inner.take(&mut batch);
    let (slot, rest) = batch[..n].split_first()?;
    inner.give(rest);
    Some(*slot)
}
