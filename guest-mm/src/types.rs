//! The units and names of the guest VM.

use std::fmt;

/// How many bytes a page has.
pub const PAGE_SIZE: u64 = 4096;

/// Time in nanoseconds: an instant of the caller's monotonic clock, or a length.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Nanos(pub u64);

/// One address space of the group, as its driver numbers it. Numbers may be sparse.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SpaceId(pub u16);

/// A virtual page number: an address divided by [`PAGE_SIZE`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Vpn(pub u64);

impl Vpn {
    /// One more than the largest number there is: 36 bits, an address space of 48.
    pub const LIMIT: u64 = 1 << 36;
}

/// A page's descriptor, which stands for its frame; the name of everything that is under way with it.
///
/// Given with a [`Load`] or [`Victim`], valid until its outcome is told.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FrameId(pub u32);

/// A place of one page in the driver's staging area, `0..staging_pages`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StageId(pub u32);

/// A swap tier, `0..8`, as its driver numbers it. It keeps its number as long as it holds a page.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TierId(pub u8);

impl TierId {
    /// How many tiers there may be.
    pub const LIMIT: u8 = 8;

    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A swap slot: a tier and the number of a page in it, 28 bits together.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotId(pub u32);

impl SlotId {
    /// How many slots a tier may have: 128 GiB of pages.
    pub const LIMIT: u32 = 1 << 25;

    pub(crate) const fn new(tier: TierId, index: u32) -> Self {
        Self(((tier.0 as u32) << 25) | index)
    }

    /// Gives the tier.
    pub const fn tier(self) -> TierId {
        TierId((self.0 >> 25) as u8)
    }

    /// Gives the number in the tier: in a file, the page at `index * PAGE_SIZE`.
    pub const fn index(self) -> u32 {
        self.0 & (Self::LIMIT - 1)
    }
}

impl fmt::Debug for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SlotId({}:{})", self.tier().0, self.index())
    }
}

/// What a member did that faulted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// It read a page that is not there.
    Read,
    /// It wrote to a page that is not there.
    Write,
    /// It wrote to a page that is there and write-protected.
    WriteProtected,
}

/// Where the driver finds a page's data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// Nowhere: the page is all zeros.
    Zero,
    /// Page `index` of a file tier.
    File {
        /// The tier.
        tier: TierId,
        /// The page of its file.
        index: u32,
    },
    /// `len` compressed bytes at `offset` of a compressed tier's byte pool.
    Pool {
        /// The tier.
        tier: TierId,
        /// Where, in bytes.
        offset: u64,
        /// How many bytes.
        len: u32,
    },
    /// A place of the staging area.
    Stage(StageId),
}

/// A page to be installed; its frame is charged. Its outcome goes to [`Vm::installed`](crate::Vm::installed).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Load {
    /// The page.
    pub vpn: Vpn,
    /// The name to tell the outcome with.
    pub frame: FrameId,
    /// Where its data is.
    pub source: Source,
    /// Whether it must be installed write-protected. It may not be where this is false only in that it costs a
    /// fault more; but a page that had to be and was not loses data.
    pub protect: bool,
}

/// What is to be done about a fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Resolution {
    /// The page is there, or was being written elsewhere: wake the faulter. If the very same fault comes again, look
    /// whether the page is there, and tell [`Vm::lost`](crate::Vm::lost) if not.
    Wake,
    /// Lift the write protection and wake. The page counts as dirty from now on.
    Unprotect,
    /// Lift the write protection and wake: the host copies the page. A frame for the copy is charged.
    Unshare,
    /// Install the zero pages that were put into the buffer.
    Zero {
        /// The faulting page, or the first of several.
        first: Vpn,
        /// How many.
        nr: u32,
    },
    /// Install the pages that were put into the buffer, the faulting one first, the others contiguous to it.
    Load,
    /// Put the page back from the staging area: one entry in the buffer.
    Rescue {
        /// Where it is.
        stage: StageId,
        /// Whether other pages need the data in staging too: it must be copied, not moved.
        copy: bool,
    },
    /// Something is under way with the page: ask again when its outcome was told.
    Wait,
    /// Reclaim this many frames, take what was released, then ask again.
    NeedFrames(u64),
    /// There is no frame and nothing that could be reclaimed.
    OutOfMemory,
}

/// How an installation ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The page is in place, write-protected if it was to be.
    Installed,
    /// A page was there already (`EEXIST`): that one counts, as dirty.
    AlreadyThere,
    /// Nothing was installed; the fault may be asked about again (`EAGAIN`).
    Again,
    /// Nothing was installed: there is no such mapping or process any more (`ENOENT`, `ESRCH`).
    Gone,
}

/// A page to be taken out of its address space. Its outcome goes to [`Vm::moved`](crate::Vm::moved).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Victim {
    /// Its address space.
    pub space: SpaceId,
    /// Its page.
    pub vpn: Vpn,
    /// The name to tell the outcome with.
    pub frame: FrameId,
    /// Whether other address spaces map the same frame: it cannot be moved, only copied and then unmapped.
    pub shared: bool,
    /// Whether its data is in no slot yet.
    pub needs_write: bool,
    /// Where to move it; `None`: it is just to be dropped, its data is in a slot or all zero. It is moved or dropped before any
    /// change of mappings is handed in that was read after it was chosen: something else might be at its address then.
    pub stage: Option<StageId>,
}

/// How the removal of a victim ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MoveOutcome {
    /// It is in its staging place, or dropped if it had none, and no longer in its address space.
    Staged,
    /// It is still in place, as it was (`EBUSY`): pinned, or shared.
    Busy,
    /// There is no such page any more, neither in place nor in staging: the member dropped it.
    Gone,
}

/// Where a staged page goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// Nowhere, its data is in a slot: just tell [`WriteOutcome::Done`].
    Discard,
    /// Page `index` of a file tier.
    File {
        /// The tier.
        tier: TierId,
        /// The page of its file.
        index: u32,
    },
    /// Compress it, then ask [`Vm::compressed`](crate::Vm::compressed) where the bytes go.
    Compress {
        /// The tier.
        tier: TierId,
    },
}

/// A staged page to be written out. Its outcome goes to [`Vm::written`](crate::Vm::written).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Write {
    /// Where it is.
    pub stage: StageId,
    /// Where it goes.
    pub target: Target,
}

/// How writing a page out ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WriteOutcome {
    /// Its data is in its target. Only after this was told may the staging place be emptied: it then is among
    /// [`Vm::take_released`](crate::Vm::take_released).
    Done,
    /// It is all zero: needs no slot. Otherwise as `Done`.
    AllZero,
    /// The tier has no space though it should have (`ENOSPC`, `EDQUOT`). The page stays staged.
    NoSpace,
    /// It could not be written (`EIO`). The page stays staged, the slot is not used again.
    Failed,
}

/// Where compressed bytes go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Placement {
    /// Copy them to `offset` of the tier's byte pool, then tell [`WriteOutcome::Done`].
    At {
        /// The tier.
        tier: TierId,
        /// Where, in bytes.
        offset: u64,
    },
    /// There is no room, or it is not worth it: the page is staged again, the next plan sends it to another tier.
    Elsewhere,
}

/// A page to be moved from one tier to the next. Its outcome goes to [`Vm::written_back`](crate::Vm::written_back).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Writeback {
    /// The name to tell the outcome with.
    pub from: SlotId,
    /// Where its data is.
    pub source: Source,
    /// The file tier it goes to.
    pub tier: TierId,
    /// The page of that tier's file.
    pub index: u32,
}

/// Memory of the driver's that the core no longer needs and that counts until [`Vm::take_released`](crate::Vm::take_released).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Released {
    /// A staging place.
    Stage(StageId),
    /// A range of a compressed tier's byte pool, in whole pages.
    Pool {
        /// The tier.
        tier: TierId,
        /// Where, in bytes.
        offset: u64,
        /// How many bytes.
        len: u64,
    },
}

/// A page that is in its address space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Resident {
    /// The page.
    pub vpn: Vpn,
    /// Whether it was left write-protected.
    pub is_protected: bool,
}
