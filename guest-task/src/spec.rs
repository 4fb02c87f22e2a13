//! What is told of a task.

use crate::layout::{CMDLINE_BYTES, NAME_BYTES, OWNER_BYTES, TAKES_NICE};
use crate::task::TaskId;

/// What a task is doing. The numbers are part of the table.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
#[repr(u8)]
pub enum TaskState {
    /// It computes.
    #[default]
    Running = 1,
    /// It waits for something that may take for ever.
    Sleeping = 2,
    /// It waits for a disk, a lock, another service: for something that is to come soon.
    Waiting = 3,
    /// It could run and waits for its turn.
    Queued = 4,
    /// It is stopped until it is told to go on.
    Stopped = 5,
}

impl TaskState {
    /// Gives the word for it in the control tree.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Sleeping => "sleeping",
            Self::Waiting => "waiting",
            Self::Queued => "queued",
            Self::Stopped => "stopped",
        }
    }

    /// Finds the state with that word.
    pub fn from_name(word: &str) -> Option<Self> {
        [Self::Running, Self::Sleeping, Self::Waiting, Self::Queued, Self::Stopped]
            .into_iter()
            .find(|state| state.word() == word)
    }

    pub(crate) const fn from_word(word: u64) -> Self {
        match word {
            1 => Self::Running,
            3 => Self::Waiting,
            4 => Self::Queued,
            5 => Self::Stopped,
            _ => Self::Sleeping,
        }
    }
}

/// What a task takes from others. What it does not take is refused to them with EOPNOTSUPP.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Accepts {
    pub(crate) signals: u64,
    pub(crate) nice: bool,
}

impl Accepts {
    /// Nothing.
    pub const NONE: Self = Self { signals: 0, nice: false };
    /// Every signal and another nice.
    pub const ALL: Self = Self { signals: u64::MAX, nice: true };

    /// Adds a signal, 1 to 64; other numbers change nothing.
    #[must_use]
    pub const fn signal(self, number: i32) -> Self {
        if number < 1 || number > 64 {
            return self;
        }
        Self { signals: self.signals | 1 << (number - 1), ..self }
    }

    /// Adds another nice.
    #[must_use]
    pub const fn nice(self) -> Self {
        Self { nice: true, ..self }
    }

    /// Makes it of a mask, bit n-1 for signal n.
    pub const fn from_mask(signals: u64, nice: bool) -> Self {
        Self { signals, nice }
    }
}

/// A task to be published. Texts that are too long are cut between two characters.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct TaskSpec<'a> {
    pub(crate) name: &'a str,
    pub(crate) cmdline: &'a str,
    pub(crate) owner: &'a str,
    pub(crate) state: TaskState,
    pub(crate) parent: Option<TaskId>,
    pub(crate) nice: i8,
    pub(crate) accepts: Accepts,
    pub(crate) start_ns: Option<u64>,
    pub(crate) cpu_ns: u64,
    pub(crate) memory_bytes: u64,
}

impl<'a> TaskSpec<'a> {
    /// Begins with a name of at most 32 bytes.
    pub fn new(name: &'a str) -> Self {
        Self { name, ..Self::default() }
    }

    /// Gives it a command line: one line, or arguments separated by zero bytes; at most 112 bytes.
    #[must_use]
    pub fn cmdline(self, cmdline: &'a str) -> Self {
        Self { cmdline, ..self }
    }

    /// Tells for whom it is done, in at most 32 bytes. It gives nobody any right.
    #[must_use]
    pub fn owner(self, owner: &'a str) -> Self {
        Self { owner, ..self }
    }

    /// Gives it a state; running by default.
    #[must_use]
    pub fn state(self, state: TaskState) -> Self {
        Self { state, ..self }
    }

    /// Puts it below another task; below the application by default.
    #[must_use]
    pub fn parent(self, parent: TaskId) -> Self {
        Self { parent: Some(parent), ..self }
    }

    /// Puts it below a process or guest task that is not this application's own, by its PID. It is only shown so.
    #[must_use]
    pub fn parent_pid(self, pid: i32) -> Self {
        Self { parent: (pid > 0).then(|| TaskId::from_word((pid as u64) << 32)), ..self }
    }

    /// Gives it a priority, -20 to 19; 0 by default.
    #[must_use]
    pub fn nice(self, nice: i8) -> Self {
        Self { nice, ..self }
    }

    /// Says what it takes from others; nothing by default.
    #[must_use]
    pub fn accepts(self, accepts: Accepts) -> Self {
        Self { accepts, ..self }
    }

    /// Says when it began, in nanoseconds of `CLOCK_MONOTONIC`; by default now, to the kernel's tick (4 ms, say).
    #[must_use]
    pub fn start_ns(self, start_ns: u64) -> Self {
        Self { start_ns: Some(start_ns), ..self }
    }

    /// Says how much CPU time it has had, in nanoseconds.
    #[must_use]
    pub fn cpu_time_ns(self, cpu_ns: u64) -> Self {
        Self { cpu_ns, ..self }
    }

    /// Says how much memory it has, in bytes.
    #[must_use]
    pub fn memory_bytes(self, memory_bytes: u64) -> Self {
        Self { memory_bytes, ..self }
    }
}

/// The texts of a task, cut to what the table takes.
#[derive(Clone, Copy)]
pub(crate) struct Texts<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) owner: &'a [u8],
    pub(crate) cmdline: &'a [u8],
}

impl<'a> Texts<'a> {
    #[inline]
    pub(crate) fn new(name: &'a str, owner: &'a str, cmdline: &'a str) -> Self {
        Self {
            name: cut(name, NAME_BYTES),
            owner: cut(owner, OWNER_BYTES),
            cmdline: cut(cmdline, CMDLINE_BYTES),
        }
    }

    /// The word of lengths.
    #[inline]
    pub(crate) const fn lengths(&self, takes_nice: bool) -> u64 {
        let lengths =
            self.name.len() as u64 | (self.owner.len() as u64) << 8 | (self.cmdline.len() as u64) << 16;
        if takes_nice { lengths | TAKES_NICE } else { lengths }
    }
}

#[inline]
fn cut(text: &str, max: usize) -> &[u8] {
    if text.len() <= max { text.as_bytes() } else { &text.as_bytes()[..text.floor_char_boundary(max)] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_too_long_is_cut_between_characters() {
        let text = "x".repeat(31) + "ä";

        assert_eq!(cut(&text, 32), "x".repeat(31).as_bytes());
        assert_eq!(cut("ab", 32), b"ab");
    }

    #[test]
    fn accepts_holds_signals_1_to_64() {
        let accepts = Accepts::NONE.signal(1).signal(64).signal(0).signal(65).signal(-1);

        assert_eq!(accepts.signals, 1 | 1 << 63);
        assert!(!accepts.nice && accepts.nice().nice);
    }

    #[test]
    fn states_read_back_what_was_written() {
        for state in ["running", "sleeping", "waiting", "queued", "stopped"] {
            let found = TaskState::from_name(state).expect("a state");
            assert_eq!((found.word(), TaskState::from_word(found as u64)), (state, found));
        }
    }
}
