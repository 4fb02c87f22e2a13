//! A priority array: 140 first-in first-out lists and a bitmap of those that are not empty.
//!
//! The lists run through the tasks themselves: whoever owns the tasks gives the array a slice of something
//! [`Linked`]. All operations take constant time and touch at most three tasks.

use super::{Linked, NIL};
use crate::o1::prio::MAX_PRIO;

const LEVELS: usize = MAX_PRIO as usize;
const WORDS: usize = LEVELS.div_ceil(64);

/// The two ends of one list.
#[derive(Clone, Copy, Debug)]
struct Ends {
    head: u32,
    tail: u32,
}

/// 140 lists by priority. Lower is better.
#[derive(Clone, Debug)]
pub(crate) struct PrioArray {
    bitmap: [u64; WORDS],
    nr: u32,
    levels: [Ends; LEVELS],
}

impl PrioArray {
    /// Makes an array without tasks.
    pub(crate) const fn new() -> Self {
        Self { bitmap: [0; WORDS], nr: 0, levels: [Ends { head: NIL, tail: NIL }; LEVELS] }
    }

    /// Gives the number of tasks.
    pub(crate) const fn len(&self) -> usize {
        self.nr as usize
    }

    /// Says whether there is no task.
    pub(crate) const fn is_empty(&self) -> bool {
        self.nr == 0
    }

    /// Gives the best priority that has a task, at or after `from`.
    pub(crate) fn first_level(&self, from: u8) -> Option<u8> {
        let mut word = from as usize / 64;
        let mut bits = self.bitmap.get(word)? & (u64::MAX << (from % 64));
        while bits == 0 {
            word += 1;
            bits = *self.bitmap.get(word)?;
        }
        Some((word * 64) as u8 + bits.trailing_zeros() as u8)
    }

    /// Gives the task whose turn it is: head of the best list.
    pub(crate) fn first(&self) -> Option<u32> {
        self.first_level(0).map(|level| self.levels[level as usize].head)
    }

    /// Gives the tail of a list, or [`NIL`].
    pub(crate) fn tail(&self, level: u8) -> u32 {
        self.levels[level as usize].tail
    }

    /// Says whether a list has one task and no more.
    pub(crate) fn is_single(&self, level: u8) -> bool {
        let ends = self.levels[level as usize];
        ends.head == ends.tail && ends.head != NIL
    }

    /// Puts a task last in a list.
    pub(crate) fn push_back<T: Linked>(&mut self, tasks: &mut [T], index: u32, level: u8) {
        let ends = &mut self.levels[level as usize];
        let tail = ends.tail;
        ends.tail = index;
        if tail == NIL {
            ends.head = index;
            self.bitmap[level as usize / 64] |= 1 << (level % 64);
        } else {
            tasks[tail as usize].set_next(index);
        }
        let task = &mut tasks[index as usize];
        task.set_prev(tail);
        task.set_next(NIL);
        self.nr += 1;
    }

    /// Puts a task just before another one of the same list.
    pub(crate) fn insert_before<T: Linked>(&mut self, tasks: &mut [T], index: u32, before: u32, level: u8) {
        let prev = tasks[before as usize].prev();
        tasks[before as usize].set_prev(index);
        if prev == NIL {
            self.levels[level as usize].head = index;
        } else {
            tasks[prev as usize].set_next(index);
        }
        let task = &mut tasks[index as usize];
        task.set_prev(prev);
        task.set_next(before);
        self.nr += 1;
    }

    /// Takes a task out of its list.
    pub(crate) fn remove<T: Linked>(&mut self, tasks: &mut [T], index: u32, level: u8) {
        let (prev, next) = (tasks[index as usize].prev(), tasks[index as usize].next());
        let ends = &mut self.levels[level as usize];
        if prev == NIL {
            ends.head = next;
        } else {
            tasks[prev as usize].set_next(next);
        }
        if next == NIL {
            ends.tail = prev;
        } else {
            tasks[next as usize].set_prev(prev);
        }
        if ends.head == NIL {
            self.bitmap[level as usize / 64] &= !(1 << (level % 64));
        }
        self.nr -= 1;
    }

    /// Moves a task to the tail of its list.
    pub(crate) fn requeue<T: Linked>(&mut self, tasks: &mut [T], index: u32, level: u8) {
        if self.levels[level as usize].tail != index {
            self.remove(tasks, index, level);
            self.push_back(tasks, index, level);
        }
    }

    /// Calls `visit` with each task and its level, best first; checks links, count and bitmap on the way.
    ///
    /// # Errors
    /// Says what does not hold.
    pub(crate) fn check<T: Linked>(
        &self,
        tasks: &[T],
        mut visit: impl FnMut(u32, u8) -> Result<(), String>,
    ) -> Result<(), String> {
        let mut seen = 0;
        for level in 0..MAX_PRIO {
            let ends = self.levels[level as usize];
            let is_set = self.bitmap[level as usize / 64] >> (level % 64) & 1 == 1;
            if is_set != (ends.head != NIL) || (ends.head == NIL) != (ends.tail == NIL) {
                return Err(format!("level {level}: bitmap and list disagree"));
            }
            let (mut prev, mut at) = (NIL, ends.head);
            while at != NIL {
                let task = tasks.get(at as usize).ok_or_else(|| format!("level {level}: no task {at}"))?;
                if task.prev() != prev {
                    return Err(format!("task {at}: link back is wrong"));
                }
                visit(at, level)?;
                seen += 1;
                if seen > self.nr {
                    return Err(format!("level {level}: more tasks than the count of {}", self.nr));
                }
                (prev, at) = (at, task.next());
            }
            if ends.tail != prev {
                return Err(format!("level {level}: tail is not last"));
            }
        }
        if seen == self.nr { Ok(()) } else { Err(format!("{seen} tasks in lists, count says {}", self.nr)) }
    }
}
