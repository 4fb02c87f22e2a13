//! The settings of a pool.

use crate::error::VmError;
use crate::types::{SlotId, TierId};

/// What a tier stores into.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TierStore {
    /// RAM, compressed: at most this many bytes, in whole pages. Counts inside the limit.
    Compressed {
        /// How large its byte pool may become.
        bytes: u64,
    },
    /// A file of this many pages.
    File {
        /// How many.
        slots: u32,
    },
}

/// A swap tier.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TierConfig {
    /// Its number, which the driver chooses and which stays as long as the tier holds a page.
    pub id: TierId,
    /// What it stores into.
    pub store: TierStore,
}

/// The settings of a pool; all may change while it runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// How many frames there are; `None`: no limit.
    pub limit_pages: Option<u64>,
    /// How many pages may be swapped out, over all tiers; `None`: no limit but the tiers' own.
    pub swap_max_pages: Option<u64>,
    /// The tiers, the one to be filled first at the front.
    pub tiers: Vec<TierConfig>,
    /// How many places the driver's staging area has. More than a quarter of the pool serves no purpose; too few make
    /// each batch small. May grow while running, and shrink when the places above are empty.
    pub staging_pages: u32,
    /// How many pages one fault may bring in, 1..=256.
    pub readahead_max: u32,
    /// How many new, zero pages one write may bring in where pages are filled one after the other, 1..=256.
    pub fill_max: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            limit_pages: None,
            swap_max_pages: None,
            tiers: Vec::new(),
            staging_pages: 256,
            readahead_max: 32,
            fill_max: 16,
        }
    }
}

impl Config {
    /// The most staging places there may be.
    pub const MAX_STAGING: u32 = 1 << 20;
    /// The most pages one fault may bring in.
    pub const MAX_READAHEAD: u32 = 256;

    pub(crate) fn check(&self) -> Result<(), VmError> {
        if self.staging_pages == 0 || self.staging_pages > Self::MAX_STAGING {
            return Err(VmError::BadConfig("staging_pages"));
        }
        if self.readahead_max == 0 || self.readahead_max > Self::MAX_READAHEAD {
            return Err(VmError::BadConfig("readahead_max"));
        }
        if self.fill_max == 0 || self.fill_max > Self::MAX_READAHEAD {
            return Err(VmError::BadConfig("fill_max"));
        }
        let mut seen = [false; TierId::LIMIT as usize];
        for tier in &self.tiers {
            let known = seen.get_mut(tier.id.index()).ok_or(VmError::BadTier(tier.id))?;
            let is_small = match tier.store {
                TierStore::Compressed { bytes } => bytes <= 1 << 36,
                TierStore::File { slots } => slots <= SlotId::LIMIT,
            };
            if *known || !is_small {
                return Err(VmError::BadTier(tier.id));
            }
            *known = true;
        }
        Ok(())
    }
}
