//! Whether a page that comes back is worth being kept clean, so that it need not be written again if nobody writes to it.
//!
//! To know that, it comes in write-protected, and its first write is a fault: that costs the writer several times what writing one page
//! more out costs, beside others, while nobody waits. So a region whose pages are mostly written to gets them unprotected, but for one
//! now and then that tells whether this has changed.

use crate::types::Vpn;

/// A region, 2 MiB of neighbouring pages, shares its memory with others that are this many regions away.
const REGIONS: usize = 64;
const REGION_SHIFT: u32 = 9;
/// All of a region's pages are written to.
const ALL: u16 = 1024;
/// Above it pages come in unprotected.
const MOST: u16 = ALL / 4;
/// What one page tells counts for one in so many.
const MEMORY: u16 = 16;
/// One page in so many is protected all the same.
const PROBE: u8 = 16;

/// What part of the pages that came in write-protected were written to, by region.
#[derive(Clone, Debug)]
pub(crate) struct Cleanness {
    dirtied: [u16; REGIONS],
    nr_unprotected: u8,
}

impl Default for Cleanness {
    fn default() -> Self {
        Self { dirtied: [0; REGIONS], nr_unprotected: 0 }
    }
}

impl Cleanness {
    fn region(&mut self, vpn: Vpn) -> &mut u16 {
        &mut self.dirtied[(vpn.0 >> REGION_SHIFT) as usize % REGIONS]
    }

    /// Says whether a page that is read is to come in write-protected.
    pub(crate) fn protects(&mut self, vpn: Vpn) -> bool {
        if *self.region(vpn) <= MOST {
            return true;
        }
        self.nr_unprotected = (self.nr_unprotected + 1) % PROBE;
        self.nr_unprotected == 0
    }

    /// Hears that a protected page was written to.
    pub(crate) fn dirtied(&mut self, vpn: Vpn) {
        let part = self.region(vpn);
        *part += (ALL - *part).div_ceil(MEMORY);
    }

    /// Hears that a protected page leaves as it came.
    pub(crate) fn stayed(&mut self, vpn: Vpn) {
        let part = self.region(vpn);
        *part -= part.div_ceil(MEMORY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Vpn = Vpn(5 << REGION_SHIFT);

    fn after(events: impl Iterator<Item = bool>) -> Cleanness {
        let mut cleanness = Cleanness::default();
        for is_written in events {
            if is_written { cleanness.dirtied(HERE) } else { cleanness.stayed(HERE) }
        }
        cleanness
    }

    #[test]
    fn pages_are_protected_where_few_are_written_to() {
        let mut few = after((0..1000).map(|i| i % 10 == 0));
        assert!((0..100).all(|_| few.protects(HERE)));

        let mut many = after((0..1000).map(|i| i % 2 == 0));
        let nr = (0..160).filter(|_| many.protects(HERE)).count();
        assert_eq!(nr, 160 / usize::from(PROBE), "a few still are, to see a change");
        assert!(many.protects(Vpn(6 << REGION_SHIFT)), "another region is another matter");
    }

    #[test]
    fn change_is_noticed() {
        let mut cleanness = after([true; 100].into_iter().chain([false; 30]));
        assert!(cleanness.protects(HERE));
        (0..30).for_each(|_| cleanness.dirtied(HERE));
        assert!(!cleanness.protects(HERE));
        // Neither bound is passed, however long it goes on.
        (0..10_000).for_each(|_| cleanness.dirtied(HERE));
        (0..10_000).for_each(|_| cleanness.stayed(HERE));
        assert_eq!(cleanness.dirtied, [0; REGIONS]);
    }
}
