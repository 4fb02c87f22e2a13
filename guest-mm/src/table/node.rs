//! Radix trees of 512-word nodes in the store.
//!
//! Node 0 is the header: magic and version, what must be finished after a crash, the roots of the swap tiers' own tables, and a
//! directory of nodes that hold the roots of the address spaces. A tree has four levels of nine bits.
//!
//! Order of stores: a node is zeroed before it is linked, an entry is cleared before its node is unlinked, and a node is used
//! again only after it was unlinked. How many entries of a node are in use is known to this process alone and counted anew by
//! [`Tables::open`].

use std::sync::atomic::Ordering;

use crate::error::VmError;
use crate::memory::{Memory, NoMemory};
use crate::types::{SpaceId, TierId, Vpn};

const NODE: usize = 512;
const LEVELS: u32 = 4;
const MAGIC: u64 = 0x6d6d_2d74_7365_7567;
const VERSION: u64 = 1;
const TIER_ROOTS: usize = 16;
const DIRECTORY: usize = 32;
/// The first of the words that [`Tables::header`] reads.
const SCRATCH: usize = 2;
const NR_SCRATCH: usize = 8;

/// The trees.
#[derive(Debug)]
pub(crate) struct Tables<M> {
    memory: M,
    /// How many words of each node are in use.
    live: Vec<u16>,
    free: Vec<u32>,
}

impl<M: Memory> Tables<M> {
    /// Makes the header of an empty store, or opens one that has one.
    ///
    /// # Errors
    /// If the store is not ours, damaged, or cannot grow. Cost: one pass over all nodes.
    pub(crate) fn open(memory: M) -> Result<Self, VmError> {
        let mut tables = Self { memory, live: Vec::new(), free: Vec::new() };
        if tables.memory.len() < NODE {
            let missing = NODE - tables.memory.len();
            tables.memory.grow(missing)?;
        }
        let nr_nodes = tables.memory.len() / NODE;
        tables.live = vec![0; nr_nodes];
        match (tables.load(0), tables.load(1)) {
            (0, _) => {
                (1..NODE).for_each(|word| tables.store(word, 0));
                tables.store(1, VERSION);
                tables.store(0, MAGIC);
            }
            (MAGIC, VERSION) => {}
            (MAGIC, _) => return Err(VmError::BadStore("of another version")),
            _ => return Err(VmError::BadStore("no magic number")),
        }
        let mut used = vec![false; nr_nodes];
        used[0] = true;
        for tier in 0..usize::from(TierId::LIMIT) {
            tables.count(tables.load(TIER_ROOTS + tier), LEVELS, &mut used)?;
        }
        for entry in 0..128 {
            let directory = tables.load(DIRECTORY + entry);
            if directory == 0 {
                continue;
            }
            tables.claim(directory, &mut used)?;
            for word in 0..NODE {
                let root = tables.load(directory as usize * NODE + word);
                if root != 0 {
                    tables.live[directory as usize] += 1;
                    tables.count(root, LEVELS, &mut used)?;
                }
            }
        }
        tables.free = (1..nr_nodes as u32).rev().filter(|node| !used[*node as usize]).collect();
        Ok(tables)
    }

    fn claim(&self, node: u64, used: &mut [bool]) -> Result<(), VmError> {
        match usize::try_from(node).ok().and_then(|node| used.get_mut(node)) {
            Some(is_used) if !*is_used => {
                *is_used = true;
                Ok(())
            }
            Some(_) => Err(VmError::BadStore("a node is linked twice")),
            None => Err(VmError::BadStore("a link leads outside")),
        }
    }

    /// Counts the entries of a tree whose root has `level` levels below it, itself included.
    fn count(&mut self, node: u64, level: u32, used: &mut [bool]) -> Result<(), VmError> {
        if node == 0 {
            return Ok(());
        }
        self.claim(node, used)?;
        for word in 0..NODE {
            let entry = self.load(node as usize * NODE + word);
            if entry != 0 {
                self.live[node as usize] += 1;
                if level > 1 {
                    self.count(entry, level - 1, used)?;
                }
            }
        }
        Ok(())
    }

    pub(crate) fn load(&self, word: usize) -> u64 {
        self.memory.word(word).load(Ordering::Acquire)
    }

    /// Stores one word. Release: it comes after every store before it.
    fn store(&self, word: usize, value: u64) {
        self.memory.word(word).store(value, Ordering::Release);
    }

    /// Gives one of the few header words that the core uses for itself, `n < 8`.
    pub(crate) fn header(&self, n: usize) -> u64 {
        self.load(SCRATCH + n.min(NR_SCRATCH - 1))
    }

    pub(crate) fn set_header(&self, n: usize, value: u64) {
        self.store(SCRATCH + n.min(NR_SCRATCH - 1), value);
    }

    /// Gives the word that holds the root of a tier's table.
    pub(crate) const fn tier_root(tier: TierId) -> usize {
        TIER_ROOTS + (tier.0 & 7) as usize
    }

    /// Gives the word that holds the root of an address space; `None` if there is no place for it yet.
    pub(crate) fn space_root(&self, space: SpaceId) -> Option<usize> {
        let directory = self.load(DIRECTORY + usize::from(space.0) / NODE);
        (directory != 0).then(|| directory as usize * NODE + usize::from(space.0) % NODE)
    }

    /// Makes an address space with an empty table; gives the word of its root.
    pub(crate) fn add_space(&mut self, space: SpaceId) -> Result<usize, NoMemory> {
        let entry = DIRECTORY + usize::from(space.0) / NODE;
        if self.load(entry) == 0 {
            let node = self.new_node()?;
            self.store(entry, u64::from(node));
        }
        let directory = self.load(entry) as usize;
        let root = directory * NODE + usize::from(space.0) % NODE;
        let node = self.new_node()?;
        self.store(root, u64::from(node));
        self.live[directory] += 1;
        Ok(root)
    }

    /// Takes an address space away, whose table must be empty.
    pub(crate) fn remove_space(&mut self, space: SpaceId) {
        let Some(root) = self.space_root(space) else { return };
        let node = self.load(root);
        if node != 0 {
            self.store(root, 0);
            self.live[root / NODE] -= 1;
            self.free.push(node as u32);
        }
    }

    /// Gives the next address space at or after `from`.
    pub(crate) fn next_space(&self, from: u16) -> Option<SpaceId> {
        (from..=u16::MAX)
            .map(SpaceId)
            .find(|space| self.space_root(*space).is_some_and(|root| self.load(root) != 0))
    }

    fn new_node(&mut self) -> Result<u32, NoMemory> {
        let node = match self.free.pop() {
            Some(node) => node,
            None => {
                let nr_nodes = self.live.len();
                let grown = (nr_nodes / 4).clamp(8, 1024);
                if self.memory.grow(grown * NODE).is_err() {
                    self.memory.grow(NODE)?;
                }
                let nr_now = self.memory.len() / NODE;
                self.live.resize(nr_now, 0);
                self.free.extend((nr_nodes as u32 + 1..nr_now as u32).rev());
                nr_nodes as u32
            }
        };
        let first = node as usize * NODE;
        (first..first + NODE).filter(|word| self.load(*word) != 0).for_each(|word| self.store(word, 0));
        self.live[node as usize] = 0;
        Ok(node)
    }

    const fn digit(vpn: u64, level: u32) -> usize {
        ((vpn >> (9 * (level - 1))) & 511) as usize
    }

    /// Gives the word of a page's entry, if its node exists. Four dependent loads.
    pub(crate) fn find(&self, root: usize, vpn: Vpn) -> Option<usize> {
        let mut node = self.load(root) as usize;
        for level in (2..=LEVELS).rev() {
            if node == 0 {
                return None;
            }
            node = self.load(node * NODE + Self::digit(vpn.0, level)) as usize;
        }
        (node != 0).then(|| node * NODE + Self::digit(vpn.0, 1))
    }

    /// Gives a page's entry; 0 where there is none.
    pub(crate) fn get(&self, root: usize, vpn: Vpn) -> u64 {
        self.find(root, vpn).map_or(0, |word| self.load(word))
    }

    /// Gives the word of a page's entry, making nodes where there are none. They are not taken away again before an entry in
    /// them was set and cleared.
    pub(crate) fn ensure(&mut self, root: usize, vpn: Vpn) -> Result<usize, NoMemory> {
        let mut parent = root;
        for level in (1..=LEVELS).rev() {
            let mut node = self.load(parent) as usize;
            if node == 0 {
                let new = self.new_node()?;
                self.store(parent, u64::from(new));
                self.live[parent / NODE] += u16::from(parent >= NODE);
                node = new as usize;
            }
            parent = node * NODE + Self::digit(vpn.0, level);
        }
        Ok(parent)
    }

    /// Replaces the entry at a word that `find` or `ensure` gave, by a value that is not 0.
    pub(crate) fn set_at(&mut self, word: usize, value: u64) {
        if self.load(word) == 0 && value != 0 {
            self.live[word / NODE] += 1;
        }
        self.store(word, value);
    }

    /// Sets a page's entry.
    pub(crate) fn set(&mut self, root: usize, vpn: Vpn, value: u64) -> Result<(), NoMemory> {
        if value == 0 {
            self.clear(root, vpn);
            return Ok(());
        }
        let word = self.ensure(root, vpn)?;
        self.set_at(word, value);
        Ok(())
    }

    /// Clears a page's entry and takes away the nodes that became empty, except the topmost.
    pub(crate) fn clear(&mut self, root: usize, vpn: Vpn) {
        let mut path = [0; LEVELS as usize];
        let mut node = self.load(root) as usize;
        for level in (1..=LEVELS).rev() {
            if node == 0 {
                return;
            }
            let word = node * NODE + Self::digit(vpn.0, level);
            path[level as usize - 1] = word;
            node = self.load(word) as usize;
        }
        for (depth, word) in path.into_iter().enumerate() {
            if self.load(word) != 0 {
                self.store(word, 0);
                self.live[word / NODE] -= 1;
                if depth > 0 {
                    self.free.push((path[depth - 1] / NODE) as u32);
                }
            }
            if self.live[word / NODE] > 0 {
                return;
            }
        }
    }

    /// Gives the first entry in use of the pages `from..end`. Cost: four levels, and the unused words of the nodes on the way.
    pub(crate) fn next(&self, root: usize, from: u64, end: u64) -> Option<(Vpn, u64)> {
        self.next_in(self.load(root) as usize, LEVELS, 0, from, end)
    }

    fn next_in(&self, node: usize, level: u32, base: u64, from: u64, end: u64) -> Option<(Vpn, u64)> {
        if node == 0 {
            return None;
        }
        let span = 1_u64 << (9 * (level - 1));
        let first = if from > base { (from - base) / span } else { 0 };
        for digit in first..NODE as u64 {
            let start = base + digit * span;
            if start >= end {
                return None;
            }
            let entry = self.load(node * NODE + digit as usize);
            if entry == 0 {
                continue;
            }
            if level == 1 {
                return Some((Vpn(start), entry));
            }
            if let Some(found) = self.next_in(entry as usize, level - 1, start, from, end) {
                return Some(found);
            }
        }
        None
    }

    /// Gives the store back.
    pub(crate) fn into_memory(self) -> M {
        self.memory
    }
}
