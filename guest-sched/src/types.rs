//! The units and names every scheduling policy shares.

use std::fmt;
use std::ops::{Add, AddAssign, Sub, SubAssign};

/// Time in nanoseconds: an instant of the caller's monotonic clock, or a length.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Nanos(pub u64);

impl Nanos {
    /// No time at all.
    pub const ZERO: Self = Self(0);
    /// The largest time: later than anything.
    pub const MAX: Self = Self(u64::MAX);

    /// Makes a time from microseconds.
    pub const fn from_micros(us: u64) -> Self {
        Self(us * 1_000)
    }

    /// Makes a time from milliseconds.
    pub const fn from_millis(ms: u64) -> Self {
        Self(ms * 1_000_000)
    }

    /// Makes a time from seconds.
    pub const fn from_secs(s: u64) -> Self {
        Self(s * 1_000_000_000)
    }

    /// Gives the whole microseconds.
    pub const fn as_micros(self) -> u64 {
        self.0 / 1_000
    }

    /// Gives the seconds as a fraction.
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / 1e9
    }

    /// Subtracts, stopping at zero: clocks of two CPUs may disagree by a little.
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// Adds, stopping at [`Nanos::MAX`].
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Add for Nanos {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}

impl AddAssign for Nanos {
    fn add_assign(&mut self, other: Self) {
        self.0 += other.0;
    }
}

impl Sub for Nanos {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0 - other.0)
    }
}

impl SubAssign for Nanos {
    fn sub_assign(&mut self, other: Self) {
        self.0 -= other.0;
    }
}

impl fmt::Debug for Nanos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}ns", self.0)
    }
}

/// A task as its caller numbers it. Numbers are meant to be small and dense: a policy keeps
/// its tasks in an array indexed by them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TaskId(pub u32);

impl TaskId {
    /// The largest number a task may have, so that a wrong one cannot ask for all memory.
    pub const LIMIT: u32 = 1 << 24;

    /// Gives the number as an array index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A virtual CPU of the group: one place in which one task runs at a time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Vcpu(pub u16);

impl Vcpu {
    /// The most virtual CPUs a group may have.
    pub const LIMIT: u16 = 1024;

    /// Gives the number as an array index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A nice value, -20 (most) to 19 (least).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Nice(i8);

impl Nice {
    /// The most favoured nice value.
    pub const MIN: Self = Self(-20);
    /// The least favoured nice value.
    pub const MAX: Self = Self(19);

    /// Makes a nice value; `None` outside -20..=19.
    pub const fn new(value: i32) -> Option<Self> {
        if value >= -20 && value <= 19 { Some(Self(value as i8)) } else { None }
    }

    /// Gives the number, -20..=19.
    pub const fn get(self) -> i8 {
        self.0
    }
}

/// A real-time priority, 1 (least) to 99 (most).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RtPriority(u8);

impl RtPriority {
    /// Makes a real-time priority; `None` outside 1..=99.
    pub const fn new(value: u32) -> Option<Self> {
        if value >= 1 && value <= 99 { Some(Self(value as u8)) } else { None }
    }

    /// Gives the number, 1..=99.
    pub const fn get(self) -> u8 {
        self.0
    }
}

/// The scheduling class of a task: `SCHED_NORMAL`, `SCHED_BATCH`, `SCHED_FIFO`, `SCHED_RR`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Class {
    /// Time shared, with whatever interactivity the policy knows.
    #[default]
    Normal,
    /// Time shared and known not to be interactive.
    Batch,
    /// Real time: runs until it blocks, yields or a better one wakes.
    Fifo(RtPriority),
    /// Real time with round robin among equals.
    Rr(RtPriority),
}

impl Class {
    /// Says whether the class is a real-time one.
    pub const fn is_realtime(self) -> bool {
        matches!(self, Self::Fifo(_) | Self::Rr(_))
    }
}

/// What is known of a task when it comes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TaskParams {
    /// Its nice value; kept while the class is a real-time one.
    pub nice: Nice,
    /// Its class.
    pub class: Class,
}

/// How a task slept, told when it blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Sleep {
    /// An interruptible wait: a terminal, a socket, a timer.
    #[default]
    Interruptible,
    /// An uninterruptible wait, as for a disk: earns no credit for interactivity.
    Uninterruptible,
    /// A wait that the task itself marks as not interactive (2.6.18: pipes).
    NonInteractive,
}

/// Who woke a task.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Waker {
    /// A task, or a waker that is not known.
    #[default]
    Task,
    /// An interrupt: a device or a timer.
    Interrupt,
    /// Nobody: the task did not sleep, it is runnable as it comes to this policy. It earns no credit.
    New,
    /// A task that is about to sleep itself ("sync" wake-up): no preemption on its own vcpu.
    Sync(Vcpu),
}

/// Where a task stands; what the control tree's `state` shows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TaskState {
    /// Current on a vcpu.
    Running,
    /// Runnable, waiting for a vcpu.
    Queued,
    /// Runnable, slice used up: waits for the others' slices to end (O(1) only).
    Expired,
    /// Blocked.
    Sleeping,
}

/// What a policy knows of a task; what the control tree's `sched` shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TaskInfo {
    /// Where it stands.
    pub state: TaskState,
    /// The vcpu whose runqueue it is on, or was on last.
    pub vcpu: Vcpu,
    /// Its nice value and class.
    pub params: TaskParams,
    /// 100..=139, from nice alone.
    pub static_prio: u8,
    /// 0..=139, what it is queued by.
    pub prio: u8,
    /// 0..=10, from the sleep average; 5 is neutral. Policies without an estimator say 5.
    pub bonus: u8,
    /// The sleep average.
    pub sleep_avg: Nanos,
    /// Whether the policy holds the task to be interactive.
    pub is_interactive: bool,
    /// What is left of the slice, CPU time.
    pub slice_left: Nanos,
}
