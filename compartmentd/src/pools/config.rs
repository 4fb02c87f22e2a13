//! What may be set of a mem_group.

use guest_mm::uffd::proto::{MemConfig, Tier};

use super::{Mem, Pool, Pools, rights};
use crate::errno::{Refusal, Why};
use crate::groups::{Caller, Group};

/// The smallest pool and the smallest tier, in bytes: less holds not even a program's start.
pub const LIMIT_MIN: u64 = 1 << 20;
/// The most tiers of a group.
pub const TIERS_MAX: usize = 8;

impl Pools {
    /// Sets the pool's size; `None` is no limit. Lowering it evicts before this returns.
    ///
    /// # Errors
    /// EPERM, EBUSY, EINVAL if the compressed tier does not fit into it, and the worker's.
    pub fn set_max(&self, caller: &Caller, pool: &Pool, max: Option<u64>) -> Result<(), Refusal> {
        self.set(caller, pool, |config| {
            config.max = max;
            Ok(())
        })
    }

    /// Sets how much may be swapped out; `None` is no limit but the tiers'.
    ///
    /// # Errors
    /// EPERM, EBUSY, and the worker's.
    pub fn set_swap_max(&self, caller: &Caller, pool: &Pool, max: Option<u64>) -> Result<(), Refusal> {
        self.set(caller, pool, |config| {
            config.swap_max = max;
            Ok(())
        })
    }

    /// Sets where evicted pages go. Directories are looked up, and tried, with the caller's rights: the worker writes with the daemon's.
    ///
    /// # Errors
    /// EPERM, EBUSY, EINVAL if the compressed tier does not fit into the pool, the caller's own errno for a directory, and the worker's.
    pub fn set_tiers(&self, caller: &Caller, pool: &Pool, tiers: Vec<Tier>) -> Result<(), Refusal> {
        self.set(caller, pool, |config| {
            config.tiers = tiers
                .into_iter()
                .map(|tier| match tier {
                    // What is there already was checked for whoever set it.
                    Tier::File { size, dir } if !has_dir(config, &dir) => {
                        Ok(Tier::File { size, dir: rights::check_may_swap_to(caller, &dir)? })
                    }
                    tier => Ok(tier),
                })
                .collect::<Result<_, Refusal>>()?;
            Ok(())
        })
    }

    /// Evicts so many bytes now.
    ///
    /// # Errors
    /// EPERM, EBUSY, EAGAIN if less could be evicted, and the worker's.
    pub fn reclaim(&self, caller: &Caller, pool: &Pool, bytes: u64) -> Result<(), Refusal> {
        self.check_owns(caller, pool.id)?;
        pool.driver()?.reclaim(bytes)?;
        pool.forget_view();
        Ok(())
    }

    fn set(
        &self,
        caller: &Caller,
        pool: &Group<Mem>,
        change: impl FnOnce(&mut MemConfig) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        self.configure(caller, pool, |config| {
            change(config)?;
            check(config)
        })
    }
}

fn has_dir(config: &MemConfig, dir: &std::path::Path) -> bool {
    config.tiers.iter().any(|tier| matches!(tier, Tier::File { dir: known, .. } if known == dir))
}

/// The compressed tier is inside the pool, and must leave room in it.
fn check(config: &MemConfig) -> Result<(), Refusal> {
    let compressed = config.tiers.iter().find_map(|tier| match tier {
        Tier::Lz4 { size } => Some(*size),
        Tier::File { .. } => None,
    });
    match (config.max, compressed) {
        (Some(max), Some(size)) if size >= max => Err(Refusal::new(
            Why::Malformed,
            format!(
                "the compressed tier, {size} bytes, is inside memory.max, {max} bytes, and has to be smaller"
            ),
        )),
        _ => Ok(()),
    }
}
