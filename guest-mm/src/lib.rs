//! A guest virtual-memory system: frames, page tables, replacement and swap as a pure state machine, and (with the feature
//! `uffd`) a driver that gives unmodified host processes one fixed pool of memory.
//!
//! [`Vm`] is the state machine of one pool: faults, limits and outcomes go in, decisions come out. [`Memory`] is where its page
//! tables live, so that they outlive the process. [`oom_victim`] is the choice of who dies when nothing else helps.

mod clean;
pub mod config;
pub mod error;
mod frames;
pub mod memory;
pub mod oom;
mod readahead;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
pub mod stats;
mod swap;
mod table;
pub mod types;
#[cfg(feature = "uffd")]
pub mod uffd;
pub mod vm;
pub mod watermarks;

pub use config::{Config, TierConfig, TierStore};
pub use error::VmError;
pub use memory::{Memory, NoMemory, VecMemory};
pub use oom::{Candidate, OomChoice, badness, oom_victim};
pub use stats::{SpaceStats, Stats};
pub use types::{
    Access, FrameId, Load, MoveOutcome, Nanos, Outcome, PAGE_SIZE, Placement, Released, Resident, Resolution,
    SlotId, Source, SpaceId, StageId, Target, TierId, Victim, Vpn, Write, WriteOutcome, Writeback,
};
pub use vm::{Restore, Vm};
pub use watermarks::Watermarks;
