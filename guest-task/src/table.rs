//! The table: segments of slots in sealed files, and which slots are free.
//!
//! Free slots lie in the caches of threads ([`crate::cache`]) and, in batches of [`BATCH`], on one stack for all: taking a batch
//! or giving one back is a single compare-and-swap. When both are empty, slots that were never used come next, for which the table may have
//! to grow by a segment; only that makes system calls and takes a lock.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::layout::{MAGIC, SEGMENTS, SLOT_BYTES, SLOT_WORDS, SLOTS_MAX, locate, segment_slots};
use crate::sys;

/// How many slots go to and from a thread's cache at once.
pub(crate) const BATCH: usize = 32;

/// The words of a slot.
pub(crate) type Slot = [AtomicU64; SLOT_WORDS];

const FILE_NAME: &CStr = c"guest-tasks";

#[derive(Debug)]
struct Segment {
    file: File,
    slots: &'static [Slot],
    /// For each free slot: the next one of its batch, and for the first of a batch, in the upper half, the first of the next batch.
    links: Box<[AtomicU64]>,
}

/// A table; made once, and never taken away.
#[derive(Debug)]
pub(crate) struct Table {
    segments: [OnceLock<Segment>; SEGMENTS],
    grow: Mutex<()>,
    /// The next slot that was never used.
    fresh: AtomicU32,
    /// The first slot of the first batch of free ones, 0 if there is none; in the upper half a count that keeps a compare-and-swap from
    /// taking an old state for the present one.
    free: AtomicU64,
    /// One in the process that made the table, zero in its children.
    guard: &'static AtomicU64,
}

impl Segment {
    fn new(index: usize) -> io::Result<Self> {
        let file = File::from(memfd_create(FILE_NAME, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?);
        let nr_slots = segment_slots(index) as usize;
        file.set_len((nr_slots * SLOT_BYTES) as u64)?;
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
        let (slots, _) = sys::map_forever(&file, nr_slots * SLOT_WORDS)?.as_chunks();
        Ok(Self { file, slots, links: (0..nr_slots).map(|_| AtomicU64::new(0)).collect() })
    }
}

impl Table {
    /// Makes a table of one segment.
    pub(crate) fn new() -> io::Result<Self> {
        let guard = sys::map_wiped_on_fork()?;
        guard.store(1, Ordering::Relaxed);
        let first = Segment::new(0)?;
        first.slots[0][0].store(MAGIC, Ordering::Relaxed);
        let mut segments = [const { OnceLock::new() }; SEGMENTS];
        segments[0] = first.into();
        // Slot 0 is the head; its batch is left out.
        Ok(Self {
            segments,
            grow: Mutex::default(),
            fresh: AtomicU32::new(BATCH as u32),
            free: AtomicU64::new(0),
            guard,
        })
    }

    /// Whether this process is a child of the one that made the table: then nothing may be written.
    #[inline]
    pub(crate) fn is_foreign(&self) -> bool {
        self.guard.load(Ordering::Relaxed) == 0
    }

    /// Gives a slot of a segment that is there.
    #[inline]
    pub(crate) fn slot(&self, slot: u32) -> Option<&'static Slot> {
        let (segment, at) = locate(slot);
        self.segments.get(segment)?.get()?.slots.get(at)
    }

    fn link(&self, slot: u32) -> &AtomicU64 {
        let (segment, at) = locate(slot);
        let segment = self.segments[segment].get().expect("a slot that was given out has its segment");
        &segment.links[at]
    }

    /// Gives the files of the segments there are, from number `from` on.
    pub(crate) fn files(&self, from: usize) -> impl Iterator<Item = (usize, BorrowedFd<'_>)> {
        let segments = self.segments.iter().enumerate().skip(from);
        segments.map_while(|(index, segment)| Some((index, segment.get()?.file.as_fd())))
    }

    /// Takes a batch of free slots into `to`. Gives how many, and whether the table has grown.
    pub(crate) fn take(&self, to: &mut [u32; BATCH]) -> (usize, bool) {
        match self.pop(to) {
            0 => self.take_fresh(to),
            n => (n, false),
        }
    }

    fn pop(&self, to: &mut [u32; BATCH]) -> usize {
        let mut head = self.free.load(Ordering::Acquire);
        loop {
            let first = head as u32;
            if first == 0 {
                return 0;
            }
            // Somebody else may take it and change its link meanwhile: then the count has changed too.
            let next = self.link(first).load(Ordering::Relaxed) >> 32;
            let count = (head >> 32).wrapping_add(1) << 32;
            match self.free.compare_exchange_weak(head, count | next, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => break self.follow(first, to),
                Err(now) => head = now,
            }
        }
    }

    fn follow(&self, first: u32, to: &mut [u32; BATCH]) -> usize {
        let (mut slot, mut n) = (first, 0);
        while slot != 0 && n < BATCH {
            to[n] = slot;
            n += 1;
            slot = self.link(slot).load(Ordering::Relaxed) as u32;
        }
        n
    }

    /// Gives a batch of at most [`BATCH`] slots back.
    pub(crate) fn give(&self, slots: &[u32]) {
        let Some(&first) = slots.first() else { return };
        for pair in slots.windows(2) {
            self.link(pair[0]).store(pair[1].into(), Ordering::Relaxed);
        }
        self.link(slots[slots.len() - 1]).store(0, Ordering::Relaxed);
        let within = self.link(first).load(Ordering::Relaxed) & u64::from(u32::MAX);
        let mut head = self.free.load(Ordering::Relaxed);
        loop {
            self.link(first).store(within | head << 32, Ordering::Relaxed);
            let new = (head >> 32).wrapping_add(1) << 32 | u64::from(first);
            match self.free.compare_exchange_weak(head, new, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    fn take_fresh(&self, to: &mut [u32; BATCH]) -> (usize, bool) {
        let mut start = self.fresh.load(Ordering::Relaxed);
        loop {
            if start >= SLOTS_MAX {
                return (0, false);
            }
            // Segments are whole batches long.
            let (segment, _) = locate(start);
            let has_grown = match self.grow_to(segment) {
                Ok(has_grown) => has_grown,
                Err(_) => return (0, false),
            };
            let end = start + BATCH as u32;
            match self.fresh.compare_exchange(start, end, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => {
                    to.iter_mut().zip(start..end).for_each(|(to, slot)| *to = slot);
                    if let Some(head) = self.slot(0) {
                        head[1].fetch_max(end.into(), Ordering::Relaxed);
                    }
                    return (BATCH, has_grown);
                }
                Err(now) => start = now,
            }
        }
    }

    /// Makes sure that a segment is there.
    fn grow_to(&self, segment: usize) -> io::Result<bool> {
        if self.segments[segment].get().is_some() {
            return Ok(false);
        }
        let _growing = self.grow.lock().unwrap_or_else(PoisonError::into_inner);
        if self.segments[segment].get().is_some() {
            return Ok(true);
        }
        let made = Segment::new(segment)?;
        Ok(self.segments[segment].set(made).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn slots_given_back_are_given_out_again_and_never_twice() {
        let table = Table::new().expect("memory");
        let mut held = HashSet::new();
        let mut batch = [0; BATCH];

        for _ in 0..200 {
            let (n, _) = table.take(&mut batch);
            assert!(batch[..n].iter().all(|slot| *slot != 0 && held.insert(*slot)));
        }
        let all: Vec<u32> = held.iter().copied().collect();
        for part in all.chunks(BATCH) {
            table.give(part);
        }
        let mut again = HashSet::new();
        loop {
            match table.pop(&mut batch) {
                0 => break,
                n => assert!(batch[..n].iter().all(|slot| again.insert(*slot))),
            }
        }
        assert_eq!(again, held);
    }

    #[test]
    fn table_grows_by_segments() {
        let table = Table::new().expect("memory");
        let mut batch = [0; BATCH];

        let grown = (0..4096 / BATCH + 4096).filter(|_| table.take(&mut batch).1).count();

        assert!(grown >= 4, "{grown}");
        assert_eq!(table.files(0).count(), grown + 1);
        assert!(table.slot(SLOTS_MAX - 1).is_none() && table.slot(u32::MAX).is_none());
    }

    #[test]
    fn threads_never_hold_the_same_slot() {
        let table = Table::new().expect("memory");
        let held: Vec<AtomicU32> = (0..1 << 16).map(|_| AtomicU32::new(0)).collect();

        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut batches = Vec::new();
                    for round in 0..20_000 {
                        let mut batch = [0; BATCH];
                        let (n, _) = table.take(&mut batch);
                        for slot in &batch[..n] {
                            assert_eq!(held[*slot as usize].fetch_add(1, Ordering::Relaxed), 0);
                        }
                        batches.push(batch[..n].to_vec());
                        if round % 3 != 0 || batches.len() > 20 {
                            let back = batches.swap_remove(round % batches.len());
                            for slot in &back {
                                held[*slot as usize].fetch_sub(1, Ordering::Relaxed);
                            }
                            table.give(&back);
                        }
                    }
                });
            }
        });
    }
}
