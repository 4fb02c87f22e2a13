//! What a pool is made of; its settings, spaces and counters.

use crate::clean::Cleanness;
use crate::config::Config;
use crate::error::VmError;
use crate::frames::Frames;
use crate::memory::Memory;
use crate::readahead::Readahead;
use crate::stats::{SpaceStats, Stats};
use crate::swap::Tier;
use crate::table::{Pte, State, Tables};
use crate::types::{Load, Released, SlotId, SpaceId, TierId, Vpn};
use crate::vm::stage::Stages;
use crate::watermarks::Watermarks;

/// A staged page to be put back though nobody asked for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Restore {
    /// Its address space.
    pub space: SpaceId,
    /// What to install; the staging place is to be moved from, unless `copy`.
    pub load: Load,
    /// As in [`Resolution::Rescue`](crate::Resolution::Rescue).
    pub copy: bool,
}

#[derive(Debug)]
pub(crate) struct Space {
    /// The word that holds the root of its table.
    pub(crate) root: usize,
    pub(crate) resident: u64,
    pub(crate) staged: u64,
    pub(crate) swapped: u64,
    pub(crate) pgfault: u64,
    pub(crate) pgmajfault: u64,
    pub(crate) readahead: Readahead,
    pub(crate) cleanness: Cleanness,
    /// The same for new pages.
    pub(crate) fill: Readahead,
    /// Its pages can be taken out.
    pub(crate) is_reachable: bool,
}

/// The guest VM of one pool of frames.
#[derive(Debug)]
pub struct Vm<M: Memory> {
    pub(crate) tables: Tables<M>,
    pub(crate) spaces: Vec<Option<Box<Space>>>,
    pub(crate) frames: Frames,
    pub(crate) stages: Stages,
    pub(crate) tiers: [Option<Box<Tier>>; TierId::LIMIT as usize],
    pub(crate) config: Config,
    pub(crate) marks: Watermarks,
    pub(crate) unmanaged: u64,
    /// What the driver has to give up; counts until it is taken.
    pub(crate) released: Vec<Released>,
    pub(crate) pending_pages: u64,
    /// Evictions so far, modulo 2^27: stamps of swapped entries, whose lowest bit says whether the page left from protected.
    pub(crate) clock: u32,
    /// What part of the resident pages may be protected, in 1/1024.
    pub(crate) protected_share: u32,
    /// Whether the background evictor has started and not yet stopped.
    pub(crate) is_reclaiming: bool,
    /// Resident pages that need no write.
    pub(crate) nr_clean: u64,
    /// Pages in phases Moving, Dropping and Writing.
    pub(crate) nr_in_flight: u64,
    /// Whether looking for victims found none, and nothing has changed since.
    pub(crate) is_stuck: bool,
    /// Frames that may be taken above the limit.
    pub(crate) loan: u64,
    /// Spaces that are not reachable.
    pub(crate) nr_unreachable: u32,
    pub(crate) writebacks: Vec<(SlotId, SlotId)>,
    /// Where looking for clean pages to take the slot from goes on.
    pub(crate) steal_hand: u32,
    pub(crate) event: Option<u64>,
    pub(crate) scratch: Vec<(SpaceId, Vpn, u32)>,
    pub(crate) counters: Stats,
}

impl<M: Memory> Vm<M> {
    /// Makes a pool with no address spaces in an empty store. In a store that has some, see [`Vm::recover`].
    ///
    /// # Errors
    /// If a setting is out of its bounds, or the store is not empty or cannot grow.
    pub fn new(memory: M, config: Config) -> Result<Self, VmError> {
        let vm = Self::open(memory, config)?;
        if vm.tables.next_space(0).is_some() { Err(VmError::BadStore("not empty")) } else { Ok(vm) }
    }

    pub(crate) fn open(memory: M, config: Config) -> Result<Self, VmError> {
        config.check()?;
        let mut vm = Self {
            tables: Tables::open(memory)?,
            spaces: Vec::new(),
            frames: Frames::new(),
            stages: Stages::new(),
            tiers: Default::default(),
            config: Config::default(),
            marks: Watermarks::default(),
            unmanaged: 0,
            released: Vec::new(),
            pending_pages: 0,
            clock: 0,
            protected_share: 768,
            is_reclaiming: false,
            nr_clean: 0,
            nr_in_flight: 0,
            is_stuck: false,
            loan: 0,
            nr_unreachable: 0,
            writebacks: Vec::new(),
            steal_hand: 0,
            event: None,
            scratch: Vec::new(),
            counters: Stats::default(),
        };
        vm.configure(config)?;
        Ok(vm)
    }

    /// Applies new settings. A lower limit shows as [`excess`](Vm::excess); a tier that is no longer named takes nothing more and
    /// is emptied by [`writeback_plan`](Vm::writeback_plan) and faults; a smaller one takes nothing until it fits.
    /// Every tier that was blocked by failures is tried again.
    ///
    /// # Errors
    /// If a setting is out of its bounds, or a tier that holds pages is to become one of the other kind, or places of the staging
    /// area that are in use would go.
    pub fn configure(&mut self, config: Config) -> Result<(), VmError> {
        config.check()?;
        for new in &config.tiers {
            let is_compressed = matches!(new.store, crate::TierStore::Compressed { .. });
            if let Some(tier) = &self.tiers[new.id.index()]
                && tier.slots.used() > 0
                && tier.pool.is_some() != is_compressed
            {
                return Err(VmError::BadTier(new.id));
            }
        }
        self.stages.resize(config.staging_pages)?;
        for tier in self.tiers.iter_mut().flatten() {
            tier.is_draining = !config.tiers.iter().any(|new| new.id == tier.id);
        }
        for new in &config.tiers {
            match &mut self.tiers[new.id.index()] {
                Some(tier) => {
                    tier.configure(*new);
                }
                none => *none = Some(Box::new(Tier::new(*new))),
            }
        }
        let has_compressed = self.tiers.iter().flatten().any(|tier| tier.pool.is_some());
        self.marks =
            config.limit_pages.map_or(Watermarks::default(), |limit| Watermarks::new(limit, has_compressed));
        self.config = config;
        self.is_stuck = false;
        Ok(())
    }

    /// Gives the settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Gives the watermarks that follow from the limit.
    pub fn watermarks(&self) -> Watermarks {
        self.marks
    }

    /// Adds an address space with no pages.
    ///
    /// # Errors
    /// If there is one of this number, or the store cannot grow.
    pub fn add_space(&mut self, space: SpaceId) -> Result<(), VmError> {
        if self.space(space).is_ok() {
            return Err(VmError::SpaceExists(space));
        }
        let root = self.tables.add_space(space)?;
        self.know_space(space, root);
        Ok(())
    }

    pub(crate) fn know_space(&mut self, space: SpaceId, root: usize) {
        let at = usize::from(space.0);
        if self.spaces.len() <= at {
            self.spaces.resize_with(at + 1, || None);
        }
        self.spaces[at] = Some(Box::new(Space {
            root,
            resident: 0,
            staged: 0,
            swapped: 0,
            pgfault: 0,
            pgmajfault: 0,
            readahead: Readahead::default(),
            cleanness: Cleanness::default(),
            fill: Readahead::default(),
            is_reachable: true,
        }));
    }

    /// Lets the faults that follow take so many frames above the limit each, until this is set to 0 again: for those who must go on
    /// before anything can be evicted.
    pub const fn lend(&mut self, frames: u64) {
        self.loan = frames;
    }

    /// Says whether pages can be taken out of an address space, as they can of a new one. Where they cannot, those that it shares
    /// stay where they are in the others too: a copy that leaves one of them would free no frame, and come back into one more.
    ///
    /// # Errors
    /// If there is no such address space.
    pub fn set_reachable(&mut self, space: SpaceId, is_reachable: bool) -> Result<(), VmError> {
        let was = std::mem::replace(&mut self.space_mut(space)?.is_reachable, is_reachable);
        self.nr_unreachable = self.nr_unreachable + u32::from(was) - u32::from(is_reachable);
        self.is_stuck &= self.nr_unreachable > 0;
        Ok(())
    }

    /// Gives how many address spaces are not reachable.
    pub const fn nr_unreachable(&self) -> u32 {
        self.nr_unreachable
    }

    /// Takes an address space away with all its pages. Outcomes that are still awaited are to be told as always.
    /// Cost: proportional to its entries.
    ///
    /// # Errors
    /// If there is none of this number.
    pub fn remove_space(&mut self, space: SpaceId) -> Result<(), VmError> {
        self.unmap(space, Vpn(0), Vpn::LIMIT)?;
        self.set_reachable(space, true)?;
        self.tables.remove_space(space);
        self.spaces[usize::from(space.0)] = None;
        Ok(())
    }

    pub(crate) fn space(&self, space: SpaceId) -> Result<&Space, VmError> {
        self.spaces
            .get(usize::from(space.0))
            .and_then(|space| space.as_deref())
            .ok_or(VmError::NoSuchSpace(space))
    }

    pub(crate) fn space_mut(&mut self, space: SpaceId) -> Result<&mut Space, VmError> {
        self.spaces
            .get_mut(usize::from(space.0))
            .and_then(|space| space.as_deref_mut())
            .ok_or(VmError::NoSuchSpace(space))
    }

    /// Gives the numbers of the address spaces, in order.
    pub fn spaces(&self) -> impl Iterator<Item = SpaceId> {
        self.spaces.iter().enumerate().filter(|(_, s)| s.is_some()).map(|(at, _)| SpaceId(at as u16))
    }

    pub(crate) fn entry(&self, space: SpaceId, vpn: Vpn) -> Result<Pte, VmError> {
        if vpn.0 >= Vpn::LIMIT {
            return Err(VmError::BadRange(vpn));
        }
        Ok(Pte(self.tables.get(self.space(space)?.root, vpn)))
    }

    /// Makes sure that the entry of a page can be set.
    pub(crate) fn make_room(&mut self, space: SpaceId, vpn: Vpn) -> Result<(), VmError> {
        let root = self.space(space)?.root;
        self.tables.ensure(root, vpn)?;
        Ok(())
    }

    /// Replaces an entry whose nodes exist, by one store; keeps the counts.
    pub(crate) fn set(&mut self, space: SpaceId, vpn: Vpn, new: Pte) {
        let Some(known) = self.spaces.get(usize::from(space.0)).and_then(|s| s.as_deref()) else {
            debug_assert!(false, "no space {space:?}");
            return;
        };
        let found = self.tables.find(known.root, vpn);
        let old = found.map_or(Pte::NONE, |word| Pte(self.tables.load(word)));
        let root = known.root;
        self.count(space, old, -1);
        self.count(space, new, 1);
        self.is_stuck = false;
        match found {
            Some(word) if new != Pte::NONE => self.tables.set_at(word, new.0),
            Some(_) => self.tables.clear(root, vpn),
            None => debug_assert!(new == Pte::NONE, "no node for {vpn:?}"),
        }
    }

    /// Counts an entry, by `delta` = 1 or -1.
    pub(crate) fn count(&mut self, space: SpaceId, pte: Pte, delta: i64) {
        let Some(known) = self.spaces.get_mut(usize::from(space.0)).and_then(|s| s.as_deref_mut()) else {
            return;
        };
        match pte.state() {
            State::None => {}
            State::Resident => {
                known.resident = known.resident.wrapping_add_signed(delta);
                if pte.slot().is_some() || pte.is_zero() {
                    self.nr_clean = self.nr_clean.wrapping_add_signed(delta);
                }
            }
            State::Staged => known.staged = known.staged.wrapping_add_signed(delta),
            State::Swapped => known.swapped = known.swapped.wrapping_add_signed(delta),
        }
    }

    /// Sets how many unmanaged pages count inside the limit. They may exceed it: see [`excess`](Vm::excess).
    pub fn charge_unmanaged(&mut self, pages: u64) {
        self.unmanaged = pages;
    }

    /// Gives how many frames are in use, everything included.
    pub fn charged(&self) -> u64 {
        let pools: u64 = self
            .tiers
            .iter()
            .flatten()
            .filter_map(|t| t.pool.as_ref())
            .map(|p| u64::from(p.used_pages()))
            .sum();
        (self.frames.charged + pools + self.pending_pages).saturating_add(self.unmanaged)
    }

    /// Gives how many frames are in use above the limit.
    pub fn excess(&self) -> u64 {
        self.config.limit_pages.map_or(0, |limit| self.charged().saturating_sub(limit))
    }

    /// Gives how many frames are free; with no limit, [`u64::MAX`].
    pub fn nr_free(&self) -> u64 {
        self.config.limit_pages.map_or(u64::MAX, |limit| limit.saturating_sub(self.charged()))
    }

    /// Takes what the core has given up: the driver drops it before it installs, moves or compresses anything more. Until then it
    /// counts, and is not given out again.
    pub fn take_released(&mut self, out: &mut Vec<Released>) {
        for released in self.released.drain(..) {
            match released {
                Released::Stage(stage) => self.stages.free(stage),
                Released::Pool { tier, offset, len } => {
                    let pool = self.tiers[tier.index()].as_mut().and_then(|tier| tier.pool.as_mut());
                    if let Some(pool) = pool {
                        pool.give_up((offset / crate::PAGE_SIZE) as u32, (len / crate::PAGE_SIZE) as u32);
                    }
                }
            }
            out.push(released);
        }
        self.pending_pages = 0;
    }

    pub(crate) fn release_pool(&mut self, tier: TierId, page: u32, nr: u32) {
        self.pending_pages += u64::from(nr);
        self.released.push(Released::Pool {
            tier,
            offset: u64::from(page) * crate::PAGE_SIZE,
            len: u64::from(nr) * crate::PAGE_SIZE,
        });
    }

    /// Says whether the change with this number was applied already, by a worker before this one; if not, it begins.
    ///
    /// Changes that cannot be applied twice ([`fork`](Vm::fork), [`remap`](Vm::remap)) come from a journal that outlives the
    /// worker; numbers rise. Between this and [`end_event`](Vm::end_event), such a change and the note that it was applied
    /// become lasting together.
    pub fn begin_event(&mut self, number: u64) -> bool {
        let is_new = number > self.last_event();
        self.event = is_new.then_some(number);
        is_new
    }

    /// Notes that the change begun last is applied.
    pub fn end_event(&mut self) {
        if let Some(number) = self.event.take() {
            self.tables.set_header(Self::CURSOR, number);
        }
    }

    /// Gives the number of the last change that was applied, 0 if none was.
    pub fn last_event(&self) -> u64 {
        self.tables.header(Self::CURSOR)
    }

    /// Gives the counters and what is where.
    pub fn stats(&self) -> Stats {
        let tiers = || self.tiers.iter().flatten();
        let pools = || tiers().filter_map(|tier| tier.pool.as_ref().map(|pool| (tier, pool)));
        Stats {
            anon: self.frames.charged,
            pool: pools().map(|(_, pool)| u64::from(pool.used_pages())).sum(),
            unmanaged: self.unmanaged,
            nr_free: self.nr_free(),
            staged: self.spaces.iter().flatten().map(|space| space.staged).sum(),
            swapped: self.swap_used(),
            zswapped: pools().map(|(t, _)| u64::from(t.slots.used()) - u64::from(t.nr_forwards)).sum(),
            compressed_bytes: pools().map(|(_, pool)| pool.stored_bytes()).sum(),
            ..self.counters
        }
    }

    /// Gives what one address space has.
    ///
    /// # Errors
    /// If there is none of this number.
    pub fn space_stats(&self, space: SpaceId) -> Result<SpaceStats, VmError> {
        let known = self.space(space)?;
        Ok(SpaceStats {
            space,
            resident: known.resident + known.staged,
            staged: known.staged,
            swapped: known.swapped,
            pgfault: known.pgfault,
            pgmajfault: known.pgmajfault,
        })
    }

    /// Gives the store back; everything that is not in it is lost.
    pub fn into_memory(self) -> M {
        self.tables.into_memory()
    }
}
