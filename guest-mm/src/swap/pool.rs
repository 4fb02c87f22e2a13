//! The byte pool of a compressed tier: gives out extents, so that the driver only copies bytes.
//!
//! Pages of the pool are taken in spans; each span holds objects of one class. Where an object is, is one word that the tier
//! keeps in the store, and all else is made from these words again.

use std::collections::{BTreeMap, BTreeSet};

use crate::swap::classes::{NR_CLASSES, class_of, size_of, span_of};
use crate::types::PAGE_SIZE;

/// Where compressed bytes are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Extent {
    /// The first page of the span.
    pub(crate) page: u32,
    /// Which object of the span.
    pub(crate) nth: u8,
    pub(crate) len: u16,
}

impl Extent {
    /// Gives the word that stands for it; never 0.
    pub(crate) const fn word(self) -> u64 {
        1 | (self.len as u64) << 8 | (self.nth as u64) << 24 | (self.page as u64) << 32
    }

    pub(crate) const fn from_word(word: u64) -> Self {
        Self { page: (word >> 32) as u32, nth: (word >> 24) as u8, len: (word >> 8) as u16 }
    }

    pub(crate) fn offset(self) -> u64 {
        let size = class_of(u32::from(self.len)).map_or(0, size_of);
        u64::from(self.page) * PAGE_SIZE + u64::from(self.nth) * u64::from(size)
    }
}

/// No pool is larger than 64 GiB.
const MAX_PAGES: u32 = 1 << 24;

#[derive(Debug)]
struct Span {
    class: u8,
    /// Which objects are in use.
    used: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Pool {
    limit_pages: u32,
    used_pages: u32,
    stored_bytes: u64,
    spans: BTreeMap<u32, Span>,
    /// The spans of each class that have room.
    partial: [BTreeSet<u32>; NR_CLASSES],
    is_taken: Vec<bool>,
    lowest_free: u32,
}

const fn objects(class: usize) -> u32 {
    let nr = span_of(class) * 4096 / size_of(class);
    if nr > 64 { 64 } else { nr }
}

impl Pool {
    pub(crate) fn new(bytes: u64) -> Self {
        let mut pool = Self::default();
        pool.set_limit(bytes);
        pool
    }

    pub(crate) fn set_limit(&mut self, bytes: u64) {
        self.limit_pages = u32::try_from(bytes / PAGE_SIZE).unwrap_or(u32::MAX);
    }

    pub(crate) const fn used_pages(&self) -> u32 {
        self.used_pages
    }

    pub(crate) const fn limit_pages(&self) -> u32 {
        self.limit_pages
    }

    /// Bytes of the objects, without what is lost around them.
    pub(crate) const fn stored_bytes(&self) -> u64 {
        self.stored_bytes
    }

    /// Gives how many pages storing `len` bytes would add; `None` if it cannot be.
    pub(crate) fn would_add(&self, len: u32) -> Option<u32> {
        let class = class_of(len)?;
        Some(if self.partial[class].is_empty() { span_of(class) } else { 0 })
    }

    /// Takes an extent; `None` if the pool is full or the object too large.
    pub(crate) fn alloc(&mut self, len: u32) -> Option<Extent> {
        let class = class_of(len)?;
        let page = match self.partial[class].first() {
            Some(page) => *page,
            None => self.new_span(class)?,
        };
        let span = self.spans.get_mut(&page)?;
        let nth = (!span.used).trailing_zeros();
        span.used |= 1 << nth;
        if span.used.count_ones() >= objects(class) {
            self.partial[class].remove(&page);
        }
        self.stored_bytes += u64::from(len);
        Some(Extent { page, nth: nth as u8, len: len as u16 })
    }

    fn new_span(&mut self, class: usize) -> Option<u32> {
        let nr = span_of(class);
        if self.used_pages + nr > self.limit_pages {
            return None;
        }
        let is_free = |page: u32| self.is_taken.get(page as usize).is_none_or(|taken| !*taken);
        let last = self.limit_pages - nr;
        let page = (self.lowest_free..=last).find(|page| (*page..page + nr).all(is_free))?;
        if nr == 1 {
            self.lowest_free = page + 1;
        }
        self.take(page, class);
        Some(page)
    }

    fn take(&mut self, page: u32, class: usize) {
        let nr = span_of(class);
        let end = (page + nr) as usize;
        if self.is_taken.len() < end {
            self.is_taken.resize(end, false);
        }
        self.is_taken[page as usize..end].fill(true);
        self.used_pages += nr;
        self.spans.insert(page, Span { class: class as u8, used: 0 });
        self.partial[class].insert(page);
    }

    /// Marks an extent that the store names as in use; `false` if it contradicts another.
    pub(crate) fn recover(&mut self, extent: Extent) -> bool {
        let Some(class) = class_of(u32::from(extent.len)) else { return false };
        if u32::from(extent.nth) >= objects(class) || extent.page >= MAX_PAGES {
            return false;
        }
        if !self.spans.contains_key(&extent.page) {
            let pages = extent.page..extent.page + span_of(class);
            if pages.clone().any(|page| self.is_taken.get(page as usize).is_some_and(|taken| *taken)) {
                return false;
            }
            self.take(extent.page, class);
        }
        match self.spans.get_mut(&extent.page) {
            Some(span) if usize::from(span.class) == class && span.used >> extent.nth & 1 == 0 => {
                span.used |= 1 << extent.nth;
                self.stored_bytes += u64::from(extent.len);
                if span.used.count_ones() >= objects(class) {
                    self.partial[class].remove(&extent.page);
                }
                true
            }
            _ => false,
        }
    }

    /// Gives an extent back; gives the pages (first, how many) that hold nothing now, and are free for others after [`Self::give_up`].
    pub(crate) fn free(&mut self, extent: Extent) -> Option<(u32, u32)> {
        let class = class_of(u32::from(extent.len))?;
        let span = self.spans.get_mut(&extent.page)?;
        debug_assert!(span.used >> extent.nth & 1 == 1);
        span.used &= !(1 << extent.nth);
        let is_empty = span.used == 0;
        self.stored_bytes -= u64::from(extent.len);
        if !is_empty {
            self.partial[class].insert(extent.page);
            return None;
        }
        self.spans.remove(&extent.page);
        self.partial[class].remove(&extent.page);
        let nr = span_of(class);
        self.used_pages -= nr;
        Some((extent.page, nr))
    }

    /// Makes pages free that [`Self::free`] gave.
    pub(crate) fn give_up(&mut self, page: u32, nr: u32) {
        self.is_taken[page as usize..(page + nr) as usize].fill(false);
        self.lowest_free = self.lowest_free.min(page);
    }
}
