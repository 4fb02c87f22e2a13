//! What the pool counts.

use crate::types::SpaceId;

/// Counters since the start, and what is where now. Pages, where nothing else is said.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Frames in use by pages, staged ones and copies under way included.
    pub anon: u64,
    /// Pages of compressed tiers' byte pools.
    pub pool: u64,
    /// Unmanaged pages that count.
    pub unmanaged: u64,
    /// Frames free; with no limit, [`u64::MAX`].
    pub nr_free: u64,
    /// Pages in the staging area, or on the way there or from there.
    pub staged: u64,
    /// Slots in use, whether their page is resident too or not.
    pub swapped: u64,
    /// Pages stored compressed.
    pub zswapped: u64,
    /// Bytes they take, without what is lost around them.
    pub compressed_bytes: u64,
    /// Faults asked about; those asked about again count again.
    pub pgfault: u64,
    /// Faults that needed a page from a tier.
    pub pgmajfault: u64,
    /// Victims looked at.
    pub pgscan: u64,
    /// Frames gained from them.
    pub pgsteal: u64,
    /// Pages read from a tier.
    pub pswpin: u64,
    /// Pages written to a tier.
    pub pswpout: u64,
    /// Pages moved from one tier to another.
    pub writeback: u64,
    /// Pages put back from the staging area.
    pub rescued: u64,
    /// Pages read ahead.
    pub readahead: u64,
    /// Of these, those known to have been used.
    pub readahead_hit: u64,
    /// Pages read that had left not long before.
    pub refaults: u64,
    /// Pages found all zero when they were to be written.
    pub zero_dropped: u64,
    /// Clean pages whose slot was given up because swap was full.
    pub slots_stolen: u64,
}

/// What one address space has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SpaceStats {
    /// Which.
    pub space: SpaceId,
    /// Pages it has in frames, shared and staged ones included.
    pub resident: u64,
    /// Of these, those in the staging area.
    pub staged: u64,
    /// Pages it has in slots only.
    pub swapped: u64,
    /// Its faults.
    pub pgfault: u64,
    /// Its faults that needed a page from a tier.
    pub pgmajfault: u64,
}
