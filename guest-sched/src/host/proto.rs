//! What the daemon and a worker say to each other: one JSON object per `SOCK_SEQPACKET` message.
//!
//! JSON, because a daemon must understand the workers of the version before it when it adopts them.

use serde::{Deserialize, Serialize};

use super::mode::Forced;

/// The file in a group's state directory on which its worker listens.
pub const SOCKET: &str = "worker.sock";
/// The file in a group's state directory that holds the [`GroupConfig`].
pub const CONFIG: &str = "config.json";
/// The largest message.
pub const MESSAGE_MAX: usize = 32 * 1024;

/// CPU time allowed per period: `cpu.max`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CpuMax {
    /// Microseconds of CPU time; `None` is no limit.
    pub quota_us: Option<u64>,
    /// Microseconds of wall time.
    pub period_us: u64,
}

impl Default for CpuMax {
    fn default() -> Self {
        Self { quota_us: None, period_us: 100_000 }
    }
}

/// What is set of a group; kept in its state directory, so that a new worker or daemon finds it again.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct GroupConfig {
    /// The group's name in the control tree.
    pub name: String,
    /// The policy, like `guest_o1_scheduler`.
    pub policy: String,
    /// How many members may be runnable on the host at once.
    pub vcpus: u16,
    /// A fixed slice in microseconds, `None` for the policy's own.
    pub slice_us: Option<u64>,
    /// The group's weight on the host, as a nice value.
    pub nice: i8,
    /// The group's cap.
    pub cpu_max: CpuMax,
    /// Parts of the driver that are not to be probed for.
    pub forced: Forced,
}

impl Default for GroupConfig {
    fn default() -> Self {
        Self {
            name: String::new(),
            policy: "guest_o1_scheduler".into(),
            vcpus: 1,
            slice_us: None,
            nice: 0,
            cpu_max: CpuMax::default(),
            forced: Forced::default(),
        }
    }
}

/// A member's guest class as it is written: `normal`, `batch`, `fifo N`, `rr N`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GuestClass {
    /// `SCHED_NORMAL`.
    Normal,
    /// `SCHED_BATCH`.
    Batch,
    /// `SCHED_FIFO` with priority 1..=99.
    Fifo(u8),
    /// `SCHED_RR` with priority 1..=99.
    Rr(u8),
}

/// Asked by the daemon.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Take in a process with all its threads. `start_time` (clock ticks after boot, field 22 of `/proc/PID/stat`) ties the
    /// number to the process that was meant.
    Join {
        /// The process.
        pid: i32,
        /// Its start time.
        start_time: u64,
    },
    /// Let a process go, everything restored.
    Leave {
        /// The process.
        pid: i32,
    },
    /// Set a member's guest nice.
    SetNice {
        /// The process.
        pid: i32,
        /// -20..=19.
        nice: i8,
    },
    /// Set a member's guest class.
    SetClass {
        /// The process.
        pid: i32,
        /// The class.
        class: GuestClass,
    },
    /// Replace what is set of the group. Name and forced parts do not change; the policy only while the group is empty.
    Configure(GroupConfig),
    /// Bring the table up to date now.
    Sync,
    /// Let every member go and end; the keeper ends too.
    Dissolve,
    /// Take in the group of another worker as one task, which the representative's PID stands for. A socket to that worker
    /// comes with the message.
    Nest {
        /// The representative.
        pid: i32,
    },
    /// Be scheduled by another worker through the socket that comes with the message; without one, be free again.
    Gate {
        /// Whether a socket comes with the message.
        has_link: bool,
    },
}

/// Answered or reported by a worker.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// The request was carried out.
    Done,
    /// The request was refused, and nothing has changed.
    Refused {
        /// The errno that the caller shall see.
        errno: i32,
        /// Why, in words.
        reason: String,
    },
    /// Something happened.
    Event(Event),
}

/// Something that happened in a group, told to the daemon as it happens.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Event {
    /// A member forked a process, which is a member now.
    Forked {
        /// The parent process.
        parent: i32,
        /// The child process.
        child: i32,
    },
    /// A member process ended.
    Exited {
        /// The process.
        pid: i32,
    },
    /// A member executed another program.
    Executed {
        /// The process.
        pid: i32,
    },
    /// A child could not be taken in (the group is full, or the host refused); it runs free of the group.
    Escaped {
        /// The process.
        pid: i32,
        /// Why, in words.
        reason: String,
    },
    /// The worker started again after its predecessor died; all of its members were resumed meanwhile.
    Restarted {
        /// How many members were found again.
        members: usize,
    },
    /// Somebody wants to run after nobody did for a second or longer.
    Busy,
    /// The driver's parts changed, or a part works less well than it could.
    Degraded {
        /// What and why, in words.
        reason: String,
    },
}
