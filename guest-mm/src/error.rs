//! What the core refuses.

use thiserror::Error;

use crate::memory::NoMemory;
use crate::types::{FrameId, SlotId, SpaceId, StageId, TierId, Vpn};

/// Why a call was refused. Nothing changed then, unless the call says otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum VmError {
    /// There is no such address space.
    #[error("no address space {}", .0.0)]
    NoSuchSpace(SpaceId),
    /// There is such an address space already.
    #[error("address space {} exists already", .0.0)]
    SpaceExists(SpaceId),
    /// A page number is too large, or a range wraps around or overlaps.
    #[error("bad range of pages at {:#x}", .0.0)]
    BadRange(Vpn),
    /// A frame is not one whose outcome is awaited.
    #[error("frame {} awaits no such outcome", .0.0)]
    BadFrame(FrameId),
    /// A staging place is not one whose outcome is awaited.
    #[error("staging place {} awaits no such outcome", .0.0)]
    BadStage(StageId),
    /// A slot is not one whose outcome is awaited.
    #[error("slot {} of tier {} awaits no such outcome", .0.index(), .0.tier().0)]
    BadSlot(SlotId),
    /// There is no such tier, or one is named twice, or is larger than it may be.
    #[error("bad swap tier {}", .0.0)]
    BadTier(TierId),
    /// A setting is out of its bounds.
    #[error("{0} is out of its bounds")]
    BadConfig(&'static str),
    /// Something is under way with a page; ask again when its outcome was told.
    #[error("page {:#x} is in transit", .0.0)]
    InTransit(Vpn),
    /// There is no frame for what was asked.
    #[error("no free frame")]
    NoFrames,
    /// The page-table store cannot grow.
    #[error(transparent)]
    NoMemory(#[from] NoMemory),
    /// The store is not one of ours, of another version, or damaged.
    #[error("bad page-table store: {0}")]
    BadStore(&'static str),
}
