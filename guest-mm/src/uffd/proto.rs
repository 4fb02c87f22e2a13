//! What the daemon and a memory worker say to each other: one JSON object per `SOCK_SEQPACKET` message.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The file in a group's state directory on which its worker listens.
pub const SOCKET: &str = "worker.sock";
/// The file in a group's state directory that holds the [`MemConfig`].
pub const CONFIG: &str = "config.json";
/// The largest message.
pub const MESSAGE_MAX: usize = 64 * 1024;

/// A place where evicted pages go.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Tier {
    /// Compressed in memory, inside the group's limit. Written `lz4:SIZE`.
    Lz4 {
        /// Bytes of compressed data that it may hold.
        size: u64,
    },
    /// An unlinked file, mode 0600, in a directory. Written `file:SIZE:DIR`.
    File {
        /// Bytes that it may hold.
        size: u64,
        /// The directory, which exists.
        dir: PathBuf,
    },
}

/// What is set of a group; kept in its state directory, so that a new worker or daemon finds it again.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct MemConfig {
    /// The group's name in the control tree.
    pub name: String,
    /// The guest VM, `guest_vm`.
    pub vm: String,
    /// The pool's size in bytes; `None` is no limit.
    pub max: Option<u64>,
    /// Uncompressed bytes that may be swapped out over all tiers; `None` is no limit but the tiers'.
    pub swap_max: Option<u64>,
    /// Where evicted pages go, in order.
    pub tiers: Vec<Tier>,
}

impl Default for MemConfig {
    fn default() -> Self {
        Self {
            name: String::new(),
            vm: "guest_vm".into(),
            max: None,
            swap_max: None,
            tiers: vec![Tier::File { size: 4 << 30, dir: PathBuf::from("/var/tmp") }],
        }
    }
}

/// Asked by the daemon.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Take in a process with its address space. `start_time` as in `/proc/PID/stat` ties the number to the process that was meant.
    Join {
        /// The process.
        pid: i32,
        /// Its start time.
        start_time: u64,
    },
    /// Let a process go: everything is brought back to the host's memory first.
    Leave {
        /// The process.
        pid: i32,
    },
    /// Replace what is set of the group; the name does not change.
    Configure(MemConfig),
    /// Evict so many bytes now. Refused with EAGAIN where less can be evicted (that is evicted).
    Reclaim {
        /// How much.
        bytes: u64,
    },
    /// Give the ranges of a member that cannot be paged: answered with [`Message::Unmanaged`].
    Unmanaged {
        /// The process.
        pid: i32,
    },
    /// Bring the table up to date now.
    Sync,
    /// Let every member go and end; the keeper ends too.
    Dissolve,
}

/// A range of a member that cannot be paged.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UnmanagedRange {
    /// First address.
    pub start: u64,
    /// First address after it.
    pub end: u64,
    /// Resident bytes in it that count.
    pub resident: u64,
    /// Why, in one word: `file-private`, `locked`, `shared`, `special`, `setuid`.
    pub reason: String,
}

/// Answered or reported by a worker.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// The request was carried out.
    Done,
    /// The answer to [`Request::Unmanaged`].
    Unmanaged(Vec<UnmanagedRange>),
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
    /// A process could not be taken in, or went on without being managed.
    Escaped {
        /// The process.
        pid: i32,
        /// Why, in words.
        reason: String,
    },
    /// The pool is full and nothing can be evicted: a member was killed.
    OomKill {
        /// The process.
        pid: i32,
        /// Its resident bytes.
        resident: u64,
        /// Why nothing could be evicted, in words.
        reason: String,
    },
    /// A member was killed because its memory could not be kept right.
    Killed {
        /// The process.
        pid: i32,
        /// Why, in words.
        reason: String,
    },
    /// The worker started again after its predecessor died.
    Restarted {
        /// How many members were found again.
        members: usize,
    },
    /// A part works less well than it could.
    Degraded {
        /// What and why, in words.
        reason: String,
    },
}
