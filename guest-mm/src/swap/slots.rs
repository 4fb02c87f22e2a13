//! The swap map of one tier: how often each slot is referred to, and which is given out next.
//!
//! As in Linux 2.6.18's swapfile.c: slots are given out one after another inside a cluster of 256; a new cluster is one that is
//! wholly free as long as there is one, then the first free slot is taken. Slots above the highest ever used cost nothing.

/// How many slots a cluster has.
const CLUSTER: u32 = 256;
/// The count of a slot that must not be used.
const BAD: u32 = u32::MAX;

#[derive(Debug, Default)]
pub(crate) struct SlotMap {
    refs: Vec<u32>,
    /// How many slots of each cluster are in use.
    in_cluster: Vec<u16>,
    limit: u32,
    used: u32,
    bad: u32,
    /// Where the next slot is looked for.
    next: u32,
    /// No cluster below is wholly free.
    lowest_free_cluster: u32,
    /// No slot below is free.
    lowest_free: u32,
}

impl SlotMap {
    pub(crate) fn new(limit: u32) -> Self {
        Self { limit, ..Self::default() }
    }

    pub(crate) fn set_limit(&mut self, limit: u32) {
        self.limit = limit;
    }

    pub(crate) const fn used(&self) -> u32 {
        self.used
    }

    pub(crate) const fn nr_free(&self) -> u32 {
        self.limit.saturating_sub(self.used + self.bad)
    }

    /// One more than the highest slot ever used.
    pub(crate) fn high(&self) -> u32 {
        self.refs.len() as u32
    }

    pub(crate) fn refs(&self, index: u32) -> u32 {
        self.refs.get(index as usize).copied().filter(|refs| *refs != BAD).unwrap_or(0)
    }

    fn is_free(&self, index: u32) -> bool {
        self.refs.get(index as usize).is_none_or(|refs| *refs == 0)
    }

    fn grow_to(&mut self, index: u32) {
        if index >= self.high() {
            self.refs.resize(index as usize + 1, 0);
            self.in_cluster.resize((index / CLUSTER) as usize + 1, 0);
        }
    }

    /// Gives a free slot, with one reference. Cost: constant, but for the search for a new cluster.
    pub(crate) fn alloc(&mut self) -> Option<u32> {
        if self.nr_free() == 0 {
            return None;
        }
        let index = self.find()?;
        self.grow_to(index);
        self.refs[index as usize] = 1;
        self.in_cluster[(index / CLUSTER) as usize] += 1;
        self.used += 1;
        self.next = index + 1;
        Some(index)
    }

    fn find(&mut self) -> Option<u32> {
        if !self.next.is_multiple_of(CLUSTER) {
            let end = (self.next / CLUSTER + 1) * CLUSTER;
            if let Some(index) = (self.next..end.min(self.limit)).find(|i| self.is_free(*i)) {
                return Some(index);
            }
        }
        let nr_clusters = self.limit.div_ceil(CLUSTER);
        let is_empty = |c: &u32| self.in_cluster.get(*c as usize).is_none_or(|nr| *nr == 0);
        if let Some(cluster) = (self.lowest_free_cluster..nr_clusters).find(is_empty) {
            self.lowest_free_cluster = cluster + 1;
            return Some(cluster * CLUSTER);
        }
        self.lowest_free_cluster = nr_clusters;
        let index = (self.lowest_free..self.limit).find(|i| self.is_free(*i))?;
        self.lowest_free = index + 1;
        Some(index)
    }

    /// Adds a reference to a slot in use, or makes a slot used that a page table names.
    pub(crate) fn get(&mut self, index: u32) {
        self.grow_to(index);
        match &mut self.refs[index as usize] {
            refs if *refs == BAD => {}
            refs if *refs == 0 => {
                *refs = 1;
                self.used += 1;
                self.in_cluster[(index / CLUSTER) as usize] += 1;
            }
            refs => *refs += 1,
        }
    }

    /// Gives a reference up; says whether it was the last.
    pub(crate) fn put(&mut self, index: u32) -> bool {
        let Some(refs) = self.refs.get_mut(index as usize).filter(|refs| **refs != BAD && **refs > 0) else {
            debug_assert!(false, "slot {index} has no reference");
            return false;
        };
        *refs -= 1;
        if *refs > 0 {
            return false;
        }
        self.used -= 1;
        let cluster = index / CLUSTER;
        self.in_cluster[cluster as usize] -= 1;
        if self.in_cluster[cluster as usize] == 0 {
            self.lowest_free_cluster = self.lowest_free_cluster.min(cluster);
        }
        self.lowest_free = self.lowest_free.min(index);
        true
    }

    /// Takes a slot in use with one reference out of use for good.
    pub(crate) fn condemn(&mut self, index: u32) {
        if self.put(index) {
            self.refs[index as usize] = BAD;
            self.in_cluster[(index / CLUSTER) as usize] += 1;
            self.bad += 1;
        }
    }
}
