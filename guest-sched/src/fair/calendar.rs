//! A queue ordered by virtual time in constant time: a calendar.
//!
//! Virtual time is cut into days of [`DAY`]; a ring of [`DAYS`] first-in first-out lists holds what is due
//! on each of the coming days, and a bitmap of two levels finds the first day that has something. A tree or
//! heap would order exactly, but in logarithmic time and through many cold cache lines. Within a day tasks
//! take turns as they came; since a day is a small part of a slice and the virtual times themselves are
//! exact, that does not add up.
//!
//! A task that is due beyond the ring's end waits at the end; whoever takes it out puts it back for its
//! real day. Nothing is ever due before the ring's start: it is due on the first day then.

use crate::tables::{Linked, NIL};

/// How long a day is, as a power of two: 0.52 ms of virtual time.
const DAY_SHIFT: u32 = 19;
/// How long a day is in virtual time.
pub(super) const DAY: u64 = 1 << DAY_SHIFT;
/// How many days the ring has: 0.54 s of virtual time.
pub(super) const DAYS: u64 = 1024;

const WORDS: usize = DAYS as usize / 64;

/// Gives the day of a virtual time.
pub(super) const fn day_of(vtime: u64) -> u64 {
    vtime >> DAY_SHIFT
}

/// Gives the virtual time at which a day starts.
pub(super) const fn start_of(day: u64) -> u64 {
    day << DAY_SHIFT
}

/// The two ends of one day's list.
#[derive(Clone, Copy, Debug)]
struct Ends {
    head: u32,
    tail: u32,
}

/// The ring of days.
#[derive(Clone, Debug)]
pub(super) struct Calendar {
    /// The first day of the ring.
    first_day: u64,
    /// Which words of `bitmap` are not zero.
    summary: u16,
    bitmap: [u64; WORDS],
    nr: u32,
    days: [Ends; DAYS as usize],
}

impl Calendar {
    pub(super) const fn new() -> Self {
        Self {
            first_day: 0,
            summary: 0,
            bitmap: [0; WORDS],
            nr: 0,
            days: [Ends { head: NIL, tail: NIL }; DAYS as usize],
        }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.nr == 0
    }

    pub(super) const fn len(&self) -> usize {
        self.nr as usize
    }

    /// Moves the ring's start to a day; not back, and not past a day that has something.
    pub(super) fn advance_to(&mut self, day: u64) {
        let limit = self.first().map_or(day, |first| day.min(first));
        self.first_day = self.first_day.max(limit);
    }

    /// Gives the first day that has something.
    pub(super) fn first(&self) -> Option<u64> {
        if self.summary == 0 {
            return None;
        }
        let start = (self.first_day % DAYS) as usize;
        let (word, bit) = (start / 64, start % 64);
        let here = self.bitmap[word] & (u64::MAX << bit);
        let position = if here != 0 {
            word * 64 + here.trailing_zeros() as usize
        } else {
            // The words after this one, then those before, and this one's lower bits last.
            let turn = (word as u32 + 1) % 16;
            let next = (self.summary.rotate_right(turn).trailing_zeros() + turn) as usize % 16;
            let bits = if next == word { self.bitmap[word] & !(u64::MAX << bit) } else { self.bitmap[next] };
            next * 64 + bits.trailing_zeros() as usize
        };
        Some(self.first_day + (position + DAYS as usize - start) as u64 % DAYS)
    }

    /// Gives the task whose turn it is on a day.
    pub(super) fn head(&self, day: u64) -> u32 {
        self.days[(day % DAYS) as usize].head
    }

    /// Gives the day on which something due on `day` is kept.
    pub(super) fn clamp(&self, day: u64) -> u64 {
        day.clamp(self.first_day, self.first_day.saturating_add(DAYS - 1))
    }

    /// Puts a task last on a day, which [`Self::clamp`] gave. Gives the number to take it out by.
    pub(super) fn push_back<T: Linked>(&mut self, tasks: &mut [T], index: u32, day: u64) -> u16 {
        let position = (day % DAYS) as usize;
        let ends = &mut self.days[position];
        let tail = ends.tail;
        ends.tail = index;
        if tail == NIL {
            ends.head = index;
            self.bitmap[position / 64] |= 1 << (position % 64);
            self.summary |= 1 << (position / 64);
        } else {
            tasks[tail as usize].set_next(index);
        }
        let task = &mut tasks[index as usize];
        task.set_prev(tail);
        task.set_next(NIL);
        self.nr += 1;
        position as u16
    }

    /// Takes a task out.
    pub(super) fn remove<T: Linked>(&mut self, tasks: &mut [T], index: u32, position: u16) {
        let position = usize::from(position);
        let (prev, next) = (tasks[index as usize].prev(), tasks[index as usize].next());
        let ends = &mut self.days[position];
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
            self.bitmap[position / 64] &= !(1 << (position % 64));
            if self.bitmap[position / 64] == 0 {
                self.summary &= !(1 << (position / 64));
            }
        }
        self.nr -= 1;
    }

    /// Calls `visit` with each task, its position and its day; checks links, count and bitmaps on the way.
    ///
    /// # Errors
    /// Says what does not hold.
    pub(super) fn check<T: Linked>(
        &self,
        tasks: &[T],
        mut visit: impl FnMut(u32, u16, u64) -> Result<(), String>,
    ) -> Result<(), String> {
        let mut seen = 0;
        for (position, ends) in self.days.iter().enumerate() {
            let is_set = self.bitmap[position / 64] >> (position % 64) & 1 == 1;
            if is_set != (ends.head != NIL) || (ends.head == NIL) != (ends.tail == NIL) {
                return Err(format!("day {position}: bitmap and list disagree"));
            }
            let offset = (position as u64 + DAYS - self.first_day % DAYS) % DAYS;
            let (mut prev, mut at) = (NIL, ends.head);
            while at != NIL {
                let task = tasks.get(at as usize).ok_or_else(|| format!("day {position}: no task {at}"))?;
                if task.prev() != prev {
                    return Err(format!("task {at}: link back is wrong"));
                }
                visit(at, position as u16, self.first_day + offset)?;
                seen += 1;
                if seen > self.nr {
                    return Err(format!("day {position}: more tasks than the count of {}", self.nr));
                }
                (prev, at) = (at, task.next());
            }
            if ends.tail != prev {
                return Err(format!("day {position}: tail is not last"));
            }
        }
        let summary = (0..WORDS).filter(|&word| self.bitmap[word] != 0).fold(0, |sum, word| sum | 1 << word);
        if summary != self.summary {
            return Err("summary of the bitmap is wrong".to_owned());
        }
        if seen == self.nr { Ok(()) } else { Err(format!("{seen} tasks in lists, count says {}", self.nr)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone)]
    struct Link(u32, u32);

    impl Linked for Link {
        fn next(&self) -> u32 {
            self.0
        }
        fn prev(&self) -> u32 {
            self.1
        }
        fn set_next(&mut self, next: u32) {
            self.0 = next;
        }
        fn set_prev(&mut self, prev: u32) {
            self.1 = prev;
        }
    }

    #[test]
    fn first_finds_every_day_from_every_start() {
        let mut tasks = vec![Link(NIL, NIL); 2];
        for start in (0..2 * DAYS).step_by(37) {
            for offset in (0..DAYS).step_by(13) {
                let mut calendar = Calendar::new();
                calendar.advance_to(start);
                let position = calendar.push_back(&mut tasks, 0, calendar.clamp(start + offset));
                assert_eq!(calendar.first(), Some(start + offset));
                let later = calendar.clamp(start + offset + 5);
                let second = calendar.push_back(&mut tasks, 1, later);
                assert_eq!(calendar.first(), Some(start + offset));
                calendar.remove(&mut tasks, 0, position);
                assert_eq!(calendar.first(), Some(later));
                calendar.remove(&mut tasks, 1, second);
                assert_eq!(calendar.first(), None);
            }
        }
    }

    #[test]
    fn start_does_not_pass_what_is_due() {
        let mut tasks = vec![Link(NIL, NIL); 1];
        let mut calendar = Calendar::new();
        calendar.push_back(&mut tasks, 0, 3);
        calendar.advance_to(900);
        assert_eq!(calendar.clamp(0), 3);
        assert_eq!(calendar.clamp(u64::MAX), 3 + DAYS - 1);
    }
}
