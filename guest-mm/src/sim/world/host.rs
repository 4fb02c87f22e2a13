//! What there is, and how the core is called.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use crate::config::{Config, TierConfig, TierStore};
use crate::error::VmError;
use crate::sim::entropy::Entropy;
use crate::sim::memory::{Control, CutMemory};
use crate::types::{FrameId, Load, MoveOutcome, Outcome, SlotId, SpaceId, TierId, Vpn, Write, Writeback};
use crate::vm::Vm;

/// A page that is in place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Page {
    pub(super) data: u64,
    pub(super) is_protected: bool,
    /// Pages with the same number share a frame.
    pub(super) frame: u64,
}

/// A change of mappings that was read and not yet applied.
#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
    Unmap { space: SpaceId, first: Vpn, nr: u64 },
    Remap { space: SpaceId, from: Vpn, to: Vpn, nr: u64 },
    Fork { parent: SpaceId, child: SpaceId },
    Exit { space: SpaceId },
}

/// Why an operation ended early.
#[derive(Debug)]
pub enum Trouble {
    /// The worker ended inside a call.
    Cut,
    /// Something is wrong with the core.
    Wrong(String),
}

impl From<String> for Trouble {
    fn from(what: String) -> Self {
        Self::Wrong(what)
    }
}

pub(super) type Done<T = ()> = Result<T, Trouble>;

pub(super) fn wrong<T>(what: impl Into<String>) -> Done<T> {
    Err(Trouble::Wrong(what.into()))
}

/// The simulated host with one pool.
#[derive(Debug)]
pub struct World {
    pub(super) vm: Vm<CutMemory>,
    pub(super) control: Rc<Control>,
    pub(super) entropy: Entropy,
    pub(super) config: Config,
    pub(super) host: BTreeMap<(SpaceId, Vpn), Page>,
    pub(super) next_frame: u64,
    /// What each member should read; where nothing is noted, zero.
    pub(super) expected: BTreeMap<(SpaceId, Vpn), u64>,
    pub(super) next_data: u64,
    pub(super) spaces: Vec<SpaceId>,
    pub(super) staging: BTreeMap<u32, u64>,
    pub(super) files: BTreeMap<(TierId, u32), u64>,
    pub(super) pools: BTreeMap<(TierId, u64), (u32, u64)>,
    pub(super) loads: Vec<Load>,
    /// Loads that move a page out of staging rather than copy it.
    pub(super) moved_loads: BTreeSet<FrameId>,
    /// Installed, but not told.
    pub(super) untold_loads: Vec<(FrameId, Outcome)>,
    pub(super) untold_moves: Vec<(FrameId, MoveOutcome)>,
    pub(super) writes: Vec<Write>,
    pub(super) writebacks: Vec<Writeback>,
    pub(super) event: Option<(u64, Event)>,
    pub(super) next_event: u64,
    pub(super) unmanaged: u64,
    /// Above the limit the pool may be by so much: from what was found, not from what the core did.
    pub(super) allowed_excess: u64,
    /// How many times a member got no frame.
    pub nr_oom: u64,
    /// How many times a worker was cut off.
    pub nr_cuts: u64,
    /// What was done, if `with_log`.
    pub log: Vec<String>,
    /// Whether to keep a log.
    pub with_log: bool,
    /// Whether failures are injected.
    pub with_failures: bool,
    /// Whether workers are cut off.
    pub with_cuts: bool,
}

impl World {
    /// Makes a world with one member, and settings chosen by `entropy`.
    ///
    /// # Errors
    /// If the core refuses them.
    pub fn new(mut entropy: Entropy) -> Result<Self, Trouble> {
        let config = Self::choose_config(&mut entropy);
        let control = Rc::new(Control::default());
        let vm = Vm::new(CutMemory::new(Rc::clone(&control)), config.clone()).map_err(|e| e.to_string())?;
        let mut world = Self {
            vm,
            control,
            entropy,
            config,
            host: BTreeMap::new(),
            next_frame: 0,
            expected: BTreeMap::new(),
            next_data: 0,
            spaces: vec![SpaceId(1)],
            staging: BTreeMap::new(),
            files: BTreeMap::new(),
            pools: BTreeMap::new(),
            loads: Vec::new(),
            moved_loads: BTreeSet::new(),
            untold_loads: Vec::new(),
            untold_moves: Vec::new(),
            writes: Vec::new(),
            writebacks: Vec::new(),
            event: None,
            next_event: 1,
            unmanaged: 0,
            allowed_excess: 0,
            nr_oom: 0,
            nr_cuts: 0,
            log: Vec::new(),
            with_log: false,
            with_failures: true,
            with_cuts: true,
        };
        world.vm.add_space(SpaceId(1)).map_err(|e| e.to_string())?;
        Ok(world)
    }

    pub(super) fn choose_config(entropy: &mut Entropy) -> Config {
        let limit = [16, 8, 4, 24, 40, 64, 100, 2][entropy.below(8) as usize];
        let file =
            TierConfig { id: TierId(3), store: TierStore::File { slots: 64 + entropy.below(300) as u32 } };
        let other = TierConfig { id: TierId(7), store: TierStore::File { slots: 700 } };
        let pool = TierConfig {
            id: TierId(0),
            store: TierStore::Compressed { bytes: 4096 * (1 + entropy.below(20)) },
        };
        let tiers = match entropy.below(6) {
            0 => vec![other],
            1 => vec![pool, other],
            2 => vec![pool, file, other],
            3 => vec![file],
            4 => vec![pool],
            _ => vec![file, other],
        };
        Config {
            limit_pages: (!entropy.one_in(16)).then_some(limit),
            swap_max_pages: entropy.one_in(4).then(|| 8 + entropy.below(80)),
            tiers,
            staging_pages: 1 + entropy.below(16) as u32,
            readahead_max: 1 + entropy.below(16) as u32,
            fill_max: 1 + entropy.below(16) as u32,
        }
    }

    /// Calls the core. If the worker is cut off meanwhile, what the call gave is lost.
    pub(super) fn call<T>(&mut self, call: impl FnOnce(&mut Vm<CutMemory>) -> T) -> Done<T> {
        let before = self.vm.excess();
        let result = call(&mut self.vm);
        if self.control.is_cut() {
            return Err(Trouble::Cut);
        }
        let excess = self.vm.excess();
        if excess > before && excess > self.allowed_excess.saturating_add(Vm::<CutMemory>::COPIES_ABOVE_LIMIT)
        {
            return wrong(format!("{excess} frames above the limit, {before} before the call"));
        }
        self.allowed_excess = self.allowed_excess.min(excess);
        Ok(result)
    }

    /// Calls the core with what may put it above its limit.
    pub(super) fn call_exceeding<T>(&mut self, call: impl FnOnce(&mut Vm<CutMemory>) -> T) -> Done<T> {
        let saved = std::mem::replace(&mut self.allowed_excess, u64::MAX);
        let result = self.call(call);
        if result.is_err() {
            self.allowed_excess = saved;
        }
        self.allowed_excess = self.vm.excess();
        result
    }

    pub(super) fn must<T>(result: Result<T, VmError>) -> Done<T> {
        result.map_err(|error| Trouble::Wrong(format!("refused: {error}")))
    }

    pub(super) fn note(&mut self, what: impl FnOnce() -> String) {
        if self.with_log {
            self.log.push(what());
        }
    }

    pub(super) fn new_frame(&mut self) -> u64 {
        self.next_frame += 1;
        self.next_frame
    }

    /// How many frames are really in use.
    pub(super) fn nr_physical(&self) -> u64 {
        let mut frames: Vec<u64> = self.host.values().map(|page| page.frame).collect();
        frames.sort_unstable();
        frames.dedup();
        (frames.len() + self.staging.len()) as u64
    }

    /// Checks the core, and that it charges what there is.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<(), Trouble> {
        self.vm.check_invariants()?;
        let stats = self.vm.stats();
        let charged = self.vm.charged() - self.unmanaged - stats.pool;
        if self.nr_physical() > charged {
            return wrong(format!("{} frames in use, {charged} charged", self.nr_physical()));
        }
        Ok(())
    }

    /// Starts a new worker on what the one before left.
    pub(super) fn recover(&mut self) -> Done {
        let Some(words) = self.control.take_snapshot() else { return wrong("no snapshot") };
        self.nr_cuts += 1;
        self.note(|| "recover".to_owned());
        if self.entropy.one_in(4) {
            self.control.cut_after(self.entropy.below(2000));
        }
        self.loads.clear();
        self.moved_loads.clear();
        self.untold_loads.clear();
        self.untold_moves.clear();
        self.writes.clear();
        self.writebacks.clear();
        self.control.is_full.set(false);
        let memory = CutMemory::from_words(words, Rc::clone(&self.control));
        self.vm = Self::must(Vm::recover(memory, self.config.clone()))?;
        self.vm.charge_unmanaged(self.unmanaged);
        self.allowed_excess = u64::MAX;
        let mut victims = Vec::new();
        self.vm.in_transit(&mut victims);
        let mut kept = BTreeMap::new();
        for victim in victims {
            let Some(stage) = victim.stage else { return wrong("recovered without a stage") };
            let in_place = self.host.contains_key(&(victim.space, victim.vpn));
            let outcome = match (in_place, self.staging.get(&stage.0)) {
                (true, _) => MoveOutcome::Busy,
                (false, Some(data)) => {
                    kept.insert(stage.0, *data);
                    MoveOutcome::Staged
                }
                (false, None) => MoveOutcome::Gone,
            };
            Self::must(self.vm.moved(victim.frame, outcome))?;
        }
        self.staging = kept;
        self.reconcile()?;
        if let Some((number, event)) = self.event {
            if self.vm.begin_event(number) {
                self.apply(event)?;
                self.vm.end_event();
            } else {
                self.after_event(event);
            }
            self.event = None;
            self.reconcile()?;
        }
        if self.control.is_cut() {
            return Err(Trouble::Cut);
        }
        self.take_released();
        self.allowed_excess = self.vm.excess();
        self.check()
    }

    fn reconcile(&mut self) -> Done {
        for space in self.vm.spaces().collect::<Vec<_>>() {
            let pages: Vec<(Vpn, bool)> = self
                .host
                .range((space, Vpn(0))..=(space, Vpn(Vpn::LIMIT)))
                .map(|((_, vpn), page)| (*vpn, page.is_protected))
                .collect();
            for (vpn, is_protected) in pages {
                Self::must(self.vm.found(space, vpn, is_protected))?;
            }
            let mut residents = Vec::new();
            Self::must(self.vm.residents(space, Vpn(0), usize::MAX, &mut residents))?;
            for page in residents {
                if !self.host.contains_key(&(space, page.vpn)) {
                    Self::must(self.vm.lost(space, page.vpn))?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn take_released(&mut self) {
        let mut released = Vec::new();
        self.vm.take_released(&mut released);
        for what in released {
            match what {
                crate::Released::Stage(stage) => {
                    self.staging.remove(&stage.0);
                }
                crate::Released::Pool { tier, offset, len } => {
                    let stale: Vec<_> =
                        self.pools.range((tier, offset)..(tier, offset + len)).map(|(key, _)| *key).collect();
                    for key in stale {
                        self.pools.remove(&key);
                    }
                }
            }
        }
    }

    pub(super) fn poison(&mut self, slot: SlotId) {
        self.files.insert((slot.tier(), slot.index()), u64::MAX);
    }
}
