//! One published task.

use std::sync::atomic::{Ordering, fence};

use crate::cache;
use crate::layout::{
    ACCEPTS, CMDLINE, CPU, ID, LENGTHS, MEMORY, NAME, NICE, OWNER, PARENT, SEQ, START, STATE, TAKES_NICE,
};
use crate::registry::Inner;
use crate::spec::{Accepts, TaskSpec, TaskState, Texts};
use crate::table::Slot;

/// Names a task of this process for as long as it lives, and no later one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct TaskId {
    slot: u32,
    birth: u32,
}

impl TaskId {
    /// Makes it of one word: the slot in the lower half, and how often that was used in the upper.
    pub const fn from_word(word: u64) -> Self {
        Self { slot: word as u32, birth: (word >> 32) as u32 }
    }

    /// Gives it as one word, never 0 for a task that is shown.
    pub const fn word(self) -> u64 {
        (self.birth as u64) << 32 | self.slot as u64
    }

    /// Gives the slot.
    pub const fn slot(self) -> u32 {
        self.slot
    }

    /// Gives the lower half of how often the slot was used: see the identity word in [`crate::layout`].
    pub const fn birth(self) -> u32 {
        self.birth
    }

    /// Says whether an identity word of its slot is this task's.
    pub const fn is(self, id: u64) -> bool {
        id & 1 == 1 && (id >> 1) as u32 == self.birth
    }
}

/// A task that is shown until this value is dropped. It may be sent to another thread, and is changed by one at a time where several words
/// belong together; single values may be set by all at once.
#[derive(Debug)]
pub struct Task {
    shown: Option<Shown>,
    accepts: Accepts,
}

#[derive(Clone, Copy, Debug)]
struct Shown {
    inner: &'static Inner,
    slot: &'static Slot,
    id: TaskId,
}

impl Task {
    #[inline]
    pub(crate) fn publish(inner: &'static Inner, spec: &TaskSpec<'_>) -> Self {
        let shown = if inner.table.is_foreign() { None } else { Shown::new(inner, spec) };
        Self { shown, accepts: spec.accepts }
    }

    /// Gives its name in events and for children; that of no task if it is not shown.
    #[inline]
    pub fn id(&self) -> TaskId {
        self.shown.map_or(TaskId { slot: 0, birth: 0 }, |shown| shown.id)
    }

    /// Says whether there was room for it in the table, and this is the process that made it.
    pub fn is_shown(&self) -> bool {
        self.mine().is_some()
    }

    /// Its slot, if it may be written: not in a child after `fork`.
    #[inline]
    fn mine(&self) -> Option<&Shown> {
        self.shown.as_ref().filter(|shown| !shown.inner.table.is_foreign())
    }

    #[inline]
    fn set(&self, at: usize, value: u64) {
        if let Some(shown) = self.mine() {
            shown.slot[at].store(value, Ordering::Relaxed);
        }
    }

    /// Says what it is doing.
    #[inline]
    pub fn set_state(&self, state: TaskState) {
        self.set(STATE, state as u64);
    }

    /// Says how much CPU time it has had, in nanoseconds.
    #[inline]
    pub fn set_cpu_time_ns(&self, cpu_ns: u64) {
        self.set(CPU, cpu_ns);
    }

    /// Adds to the CPU time that it has had.
    #[inline]
    pub fn add_cpu_time_ns(&self, cpu_ns: u64) {
        if let Some(shown) = self.mine() {
            shown.slot[CPU].fetch_add(cpu_ns, Ordering::Relaxed);
        }
    }

    /// Says how much memory it has, in bytes.
    #[inline]
    pub fn set_memory_bytes(&self, memory_bytes: u64) {
        self.set(MEMORY, memory_bytes);
    }

    /// Adds to the memory that it has.
    #[inline]
    pub fn add_memory_bytes(&self, memory_bytes: u64) {
        if let Some(shown) = self.mine() {
            shown.slot[MEMORY].fetch_add(memory_bytes, Ordering::Relaxed);
        }
    }

    /// Says which priority it has, -20 to 19.
    #[inline]
    pub fn set_nice(&self, nice: i8) {
        self.set(NICE, i64::from(nice).cast_unsigned());
    }

    /// Changes its texts.
    pub fn set_texts(&mut self, name: &str, owner: &str, cmdline: &str) {
        let takes_nice = self.accepts.nice;
        if let Some(shown) = self.mine() {
            shown.begin();
            shown.write_texts(&Texts::new(name, owner, cmdline), takes_nice);
            shown.end();
        }
    }

    /// Puts it below another task.
    pub fn set_parent(&mut self, parent: TaskId) {
        if let Some(shown) = self.mine() {
            shown.begin();
            shown.slot[PARENT].store(parent.word(), Ordering::Relaxed);
            shown.end();
        }
    }

    /// Changes what it takes from others.
    pub fn set_accepts(&mut self, accepts: Accepts) {
        self.accepts = accepts;
        if let Some(shown) = self.mine() {
            shown.begin();
            let lengths = shown.slot[LENGTHS].load(Ordering::Relaxed) & !TAKES_NICE;
            let flag = if accepts.nice { TAKES_NICE } else { 0 };
            shown.slot[LENGTHS].store(lengths | flag, Ordering::Relaxed);
            shown.slot[ACCEPTS].store(accepts.signals, Ordering::Relaxed);
            shown.end();
        }
    }
}

impl Drop for Task {
    #[inline]
    fn drop(&mut self) {
        if let Some(shown) = self.mine() {
            let id = shown.slot[ID].load(Ordering::Relaxed);
            shown.slot[ID].store(id & !1, Ordering::Release);
            cache::give(shown.inner, shown.id.slot);
        }
    }
}

impl Shown {
    #[inline]
    fn new(inner: &'static Inner, spec: &TaskSpec<'_>) -> Option<Self> {
        let number = cache::take(inner)?;
        let slot = inner.table.slot(number)?;
        let birth = (slot[ID].load(Ordering::Relaxed) >> 1) + 1;
        let shown = Self { inner, slot, id: TaskId { slot: number, birth: birth as u32 } };
        let start_ns = spec.start_ns.unwrap_or_else(now_ns);
        shown.begin();
        let words = [
            (STATE, spec.state as u64),
            (NICE, i64::from(spec.nice).cast_unsigned()),
            (ACCEPTS, spec.accepts.signals),
            (START, start_ns),
            (CPU, spec.cpu_ns),
            (MEMORY, spec.memory_bytes),
            (PARENT, spec.parent.map_or(0, TaskId::word)),
            (ID, birth << 1 | 1),
        ];
        for (at, value) in words {
            slot[at].store(value, Ordering::Relaxed);
        }
        shown.write_texts(&Texts::new(spec.name, spec.owner, spec.cmdline), spec.accepts.nice);
        shown.end();
        Some(shown)
    }

    /// From here to [`Shown::end`] readers know that what they see may be half of this and half of that.
    #[inline]
    fn begin(&self) {
        let seq = self.slot[SEQ].load(Ordering::Relaxed);
        self.slot[SEQ].store(seq.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
    }

    #[inline]
    fn end(&self) {
        let seq = self.slot[SEQ].load(Ordering::Relaxed);
        self.slot[SEQ].store(seq.wrapping_add(1), Ordering::Release);
    }

    #[inline]
    fn write_texts(&self, texts: &Texts<'_>, takes_nice: bool) {
        self.slot[LENGTHS].store(texts.lengths(takes_nice), Ordering::Relaxed);
        self.write_text(NAME, texts.name);
        self.write_text(OWNER, texts.owner);
        self.write_text(CMDLINE, texts.cmdline);
    }

    /// Writes as many words as the text has; what a former task left behind it is not looked at.
    #[inline]
    fn write_text(&self, at: usize, text: &[u8]) {
        let (chunks, rest) = text.as_chunks::<8>();
        let words = &self.slot[at..];
        for (word, chunk) in words.iter().zip(chunks) {
            word.store(u64::from_ne_bytes(*chunk), Ordering::Relaxed);
        }
        if !rest.is_empty() {
            let mut last = [0; 8];
            for (to, byte) in last.iter_mut().zip(rest) {
                *to = *byte;
            }
            words[chunks.len()].store(u64::from_ne_bytes(last), Ordering::Relaxed);
        }
    }
}

/// The time to the kernel's tick: a fifth of what the exact one costs.
#[inline]
fn now_ns() -> u64 {
    let clock = nix::time::ClockId::CLOCK_MONOTONIC_COARSE;
    nix::time::clock_gettime(clock)
        .map_or(0, |now| now.tv_sec().cast_unsigned() * 1_000_000_000 + now.tv_nsec().cast_unsigned())
}
