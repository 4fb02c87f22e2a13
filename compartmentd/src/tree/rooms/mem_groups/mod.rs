//! `mem-groups/`: the files of groups and of their members.

mod files;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use super::MEM_GROUPS;
use super::groups::{Groups, Shown, files};
use crate::errno::{Refusal, Why};
use crate::groups::{Caller, GroupId, Process};
use crate::pools::watch::{Topic, Watch, Watches};
use crate::pools::{Mem, Pool, Pools};
use crate::tree::room::Opened;
use crate::tree::values::{parse_limit, parse_reclaim, parse_swap_max, parse_tiers};

/// The room.
pub type MemGroups = Groups<MemFiles>;

files! {
    /// A file of a group. The order is part of the inode numbers, of at most 16.
    GroupFile {
        /// The guest VM.
        Vm = "vm", 0o444;
        /// The PID that stands for the group.
        Representative = "representative", 0o444;
        /// The pool's size.
        Max = "memory.max", 0o644;
        /// What it holds.
        Current = "memory.current", 0o444;
        /// How much may be swapped out.
        SwapMax = "memory.swap.max", 0o644;
        /// How much is.
        SwapCurrent = "memory.swap.current", 0o444;
        /// Where to.
        SwapTiers = "memory.swap.tiers", 0o644;
        /// Counters.
        Stat = "memory.stat", 0o444;
        /// How often the limits were met.
        Events = "memory.events", 0o444;
        /// Time lost waiting for memory. Writing sets a trigger.
        Pressure = "memory.pressure", 0o644;
        /// Evicts.
        Reclaim = "memory.reclaim", 0o200;
    }
}

files! {
    /// A file of a process. The order is part of the inode numbers, of at most 16.
    TaskFile {
        /// As in `/proc`.
        Comm = "comm", 0o444;
        /// As in `/proc`.
        Cmdline = "cmdline", 0o444;
        /// Resident bytes; in group 0 the host's.
        Current = "memory.current", 0o444;
        /// Swapped bytes; in group 0 the host's.
        SwapCurrent = "memory.swap.current", 0o444;
        /// Counters.
        Stat = "memory.stat", 0o444;
        /// Ranges that cannot be paged.
        Unmanaged = "unmanaged", 0o444;
    }
}

/// What the files hold.
#[derive(Debug)]
pub struct MemFiles {
    watches: Arc<Watches>,
}

impl MemFiles {
    /// Makes them for the groups of a controller.
    pub fn new(pools: &Pools) -> Self {
        Self { watches: Watches::new(pools.notices().clone()) }
    }
}

impl Shown for MemFiles {
    type Kind = Mem;
    type GroupFile = GroupFile;
    type TaskFile = TaskFile;

    const ROOM: usize = MEM_GROUPS;

    fn read_group(&self, _pools: &Pools, pool: &Pool, file: GroupFile) -> Result<String, Refusal> {
        files::read_group(pool, file)
    }

    fn write_group(
        &self,
        pools: &Pools,
        pool: &Pool,
        caller: &Caller,
        file: GroupFile,
        value: &[u8],
    ) -> Result<(), Refusal> {
        match file {
            GroupFile::Max => pools.set_max(caller, pool, parse_limit(value)?),
            GroupFile::SwapMax => pools.set_swap_max(caller, pool, parse_swap_max(value)?),
            GroupFile::SwapTiers => pools.set_tiers(caller, pool, parse_tiers(value)?),
            GroupFile::Reclaim => pools.reclaim(caller, pool, parse_reclaim(value)?),
            _ => Err(Refusal::new(Why::NotAllowed, "this file cannot be written")),
        }
    }

    fn is_slow_change(&self, _file: Option<GroupFile>) -> bool {
        // Pages are evicted, or read back.
        true
    }

    fn is_slow_read(&self, file: TaskFile) -> bool {
        // The worker is asked, and may be moving pages.
        file == TaskFile::Unmanaged
    }

    fn open_group(&self, pool: &Arc<Pool>, file: GroupFile) -> Opened {
        let topic = match file {
            GroupFile::Pressure => Topic::Pressure,
            GroupFile::Events => Topic::Events,
            _ => return Opened::Value,
        };
        Opened::Watched(Watch::new(&self.watches, pool, topic))
    }

    fn read_task(
        &self,
        pools: &Pools,
        (process, group): (&Process, GroupId),
        file: TaskFile,
    ) -> Result<String, Refusal> {
        files::read_task(pools, process, group, file)
    }
}
