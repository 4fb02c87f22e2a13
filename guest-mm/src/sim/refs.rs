//! Generators of references, and rival replacement policies over them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::sim::entropy::Entropy;

/// A pattern of references.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pattern {
    /// Pages by popularity, the n-th taken in proportion to 1/n.
    Zipf,
    /// The same, and every 20 000 references other pages are the popular ones.
    Shifting,
    /// Pages one after another, once.
    Scan,
    /// The same pages round and round, a quarter more than there are frames.
    Loop,
    /// Each page as likely as any other.
    Uniform,
    /// Zipf, a tenth of the references a scan that goes on in between.
    Mixed,
    /// A hot tenth gets nine of ten references.
    Hot,
}

/// All patterns.
pub const PATTERNS: [Pattern; 7] = [
    Pattern::Zipf,
    Pattern::Shifting,
    Pattern::Scan,
    Pattern::Loop,
    Pattern::Uniform,
    Pattern::Mixed,
    Pattern::Hot,
];

/// Makes `nr` references to pages below `pages`, for a pool of `frames`.
pub fn references(pattern: Pattern, pages: u64, frames: u64, nr: usize, seed: u64) -> Vec<u64> {
    let mut entropy = Entropy::from_seed(seed);
    let weights: Vec<f64> = (1..=pages)
        .scan(0.0, |sum, n| {
            *sum += 1.0 / n as f64;
            Some(*sum)
        })
        .collect();
    let total = weights.last().copied().unwrap_or(1.0);
    // Popularity says nothing about addresses.
    let mut shuffled: Vec<u64> = (0..pages).collect();
    for at in (1..shuffled.len()).rev() {
        shuffled.swap(at, entropy.below(at as u64 + 1) as usize);
    }
    let mut scan = 0;
    (0..nr as u64)
        .map(|at| {
            let mut zipf = |shift: u64| {
                let wanted = entropy.below(1 << 40) as f64 / (1_u64 << 40) as f64 * total;
                let rank = weights.partition_point(|sum| *sum < wanted) as u64;
                shuffled[((rank + shift) % pages) as usize]
            };
            match pattern {
                Pattern::Zipf => zipf(0),
                Pattern::Shifting => zipf(at / 20_000 * (pages / 3)),
                Pattern::Scan => at % pages,
                Pattern::Loop => at % (frames + frames / 4).min(pages),
                Pattern::Uniform => entropy.below(pages),
                Pattern::Mixed if at % 10 == 0 => {
                    scan = (scan + 1) % pages;
                    scan
                }
                Pattern::Mixed => zipf(0),
                Pattern::Hot if entropy.below(10) == 0 => entropy.below(pages),
                Pattern::Hot => shuffled[entropy.below(pages / 10) as usize],
            }
        })
        .collect()
}

/// Counts the references that hit with the least recently used page leaving.
pub fn lru_hits(refs: &[u64], frames: usize) -> usize {
    let mut last = BTreeMap::new();
    let mut order = BTreeSet::new();
    let mut hits = 0;
    for (now, page) in refs.iter().enumerate() {
        if let Some(before) = last.insert(*page, now) {
            hits += usize::from(order.remove(&(before, *page)));
        }
        if order.len() >= frames {
            order.pop_first();
        }
        order.insert((now, *page));
    }
    hits
}

/// Counts the references that hit with CLOCK: first in, first out, with a second chance for those referenced meanwhile. It has the
/// accessed bits that the pool has not.
pub fn clock_hits(refs: &[u64], frames: usize) -> usize {
    let mut place: BTreeMap<u64, usize> = BTreeMap::new();
    let mut table: Vec<(u64, bool)> = Vec::new();
    let (mut hand, mut hits) = (0, 0);
    for page in refs {
        if let Some(at) = place.get(page) {
            table[*at].1 = true;
            hits += 1;
            continue;
        }
        if table.len() < frames {
            place.insert(*page, table.len());
            table.push((*page, false));
            continue;
        }
        while std::mem::take(&mut table[hand].1) {
            hand = (hand + 1) % frames;
        }
        place.remove(&table[hand].0);
        table[hand] = (*page, false);
        place.insert(*page, hand);
        hand = (hand + 1) % frames;
    }
    hits
}

/// Counts the references that hit with the oldest page leaving.
pub fn fifo_hits(refs: &[u64], frames: usize) -> usize {
    let mut present = BTreeSet::new();
    let mut order = VecDeque::new();
    let mut hits = 0;
    for page in refs {
        if present.contains(page) {
            hits += 1;
            continue;
        }
        if order.len() >= frames
            && let Some(oldest) = order.pop_front()
        {
            present.remove(&oldest);
        }
        present.insert(*page);
        order.push_back(*page);
    }
    hits
}

/// Counts the references that hit with the page leaving that is needed last (Belady): nothing can do better.
pub fn opt_hits(refs: &[u64], frames: usize) -> usize {
    let mut next = vec![usize::MAX; refs.len()];
    let mut seen = BTreeMap::new();
    for (at, page) in refs.iter().enumerate().rev() {
        if let Some(later) = seen.insert(*page, at) {
            next[at] = later;
        }
    }
    let mut due: BTreeMap<u64, usize> = BTreeMap::new();
    let mut order = BTreeSet::new();
    let mut hits = 0;
    for (at, page) in refs.iter().enumerate() {
        if let Some(before) = due.insert(*page, next[at]) {
            order.remove(&(before, *page));
            hits += 1;
        } else if order.len() >= frames
            && let Some((_, last)) = order.pop_last()
        {
            due.remove(&last);
        }
        order.insert((next[at], *page));
    }
    hits
}
