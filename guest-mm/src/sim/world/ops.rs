//! Sequences of operations.

use crate::sim::entropy::Entropy;
use crate::sim::world::host::{Done, Trouble, World};
use crate::types::{SpaceId, Vpn};

/// Where pages are: neighbours, both sides of a node's end, far away, and the last ones.
const REGIONS: [u64; 4] = [0, 500, 1 << 27, Vpn::LIMIT - 40];

impl World {
    fn choose_space(&mut self) -> SpaceId {
        let at = self.entropy.below(self.spaces.len() as u64);
        self.spaces[at as usize]
    }

    fn choose_vpn(&mut self) -> Vpn {
        let at = self.entropy.below(160);
        Vpn(REGIONS[(at / 40) as usize] + at % 40)
    }

    fn choose_range(&mut self) -> (Vpn, u64) {
        let first = self.choose_vpn();
        (first, (1 + self.entropy.below(24)).min(Vpn::LIMIT - first.0))
    }

    fn new_data(&mut self) -> u64 {
        self.next_data += 1;
        if self.entropy.one_in(6) { 0 } else { self.next_data }
    }

    /// Does one operation.
    ///
    /// # Errors
    /// What is wrong with the core.
    pub fn step(&mut self) -> Result<(), Trouble> {
        if self.with_cuts && self.entropy.one_in(24) {
            self.control.cut_after(self.entropy.below(400));
        }
        match self.one_operation() {
            Err(Trouble::Cut) => self.recover_for_good()?,
            other => other?,
        }
        self.check()
    }

    fn recover_for_good(&mut self) -> Done {
        loop {
            match self.recover() {
                Err(Trouble::Cut) => {}
                other => return other,
            }
        }
    }

    fn one_operation(&mut self) -> Done {
        let space = self.choose_space();
        let operation = self.entropy.below(26);
        self.note(|| format!("operation {operation} in {space:?}"));
        match operation {
            0..=4 => {
                let vpn = self.choose_vpn();
                self.touch(space, vpn, None)
            }
            5..=9 => {
                let (vpn, data) = (self.choose_vpn(), self.new_data());
                self.touch(space, vpn, Some(data))
            }
            10..=11 => {
                let (first, nr) = self.choose_range();
                (0..nr).try_for_each(|i| self.touch(space, Vpn(first.0 + i), None))
            }
            12 => {
                let (first, nr) = self.choose_range();
                (0..nr).try_for_each(|i| {
                    let data = self.new_data();
                    self.touch(space, Vpn(first.0 + i), Some(data))
                })
            }
            13..=14 => {
                let (vpn, is_write) = (self.choose_vpn(), self.entropy.one_in(2));
                self.touch_later(space, vpn, is_write)
            }
            15 => {
                let want = self.entropy.below(12);
                self.evict(want, None)
            }
            16 => {
                let want = self.entropy.below(12);
                self.plan_writes(want)
            }
            17 => {
                let want = 1 + self.entropy.below(12);
                self.reclaim(want)
            }
            18 => self.one_outcome(),
            19 => {
                let (first, nr) = self.choose_range();
                self.unmap(space, first, nr)
            }
            20 => {
                let (from, nr) = self.choose_range();
                let to = self.choose_vpn();
                self.remap(space, from, to, nr.min(Vpn::LIMIT - to.0))
            }
            21 => {
                let child = SpaceId([2, 3, 511, 512, 600, 65_535][self.entropy.below(6) as usize]);
                self.fork(space, child)
            }
            22 if self.entropy.one_in(2) => self.exit(space),
            22 => self.evict(8, Some(space)),
            23 => {
                let (vpn, data) = (self.choose_vpn(), self.new_data());
                self.touch_unseen(space, vpn, data)
            }
            24 => self.change_settings(),
            _ => {
                let nr = self.entropy.below(6) as usize;
                self.plan_writebacks(nr)
            }
        }
    }

    fn one_outcome(&mut self) -> Done {
        if let Some(load) = self.loads.pop() {
            self.complete_load(load)?;
        }
        if let Some(write) = self.writes.pop() {
            self.complete_write(write)?;
        }
        if let Some(back) = self.writebacks.pop() {
            self.complete_writeback(back)?;
        }
        self.tell_loads()?;
        self.tell_moves()
    }

    fn change_settings(&mut self) -> Done {
        if self.entropy.one_in(2) {
            let pages = self.entropy.below(6);
            self.unmanaged = pages;
            return self.call_exceeding(|vm| vm.charge_unmanaged(pages));
        }
        let config = Self::choose_config(&mut self.entropy);
        let result = self.call_exceeding(|vm| vm.configure(config.clone()))?;
        if result.is_ok() {
            self.config = config;
        }
        Ok(())
    }

    /// Reads every page of every member, having finished what is under way.
    ///
    /// # Errors
    /// What is wrong with the core.
    pub fn finale(&mut self) -> Result<(), Trouble> {
        self.with_failures = false;
        self.with_cuts = false;
        if self.control.is_cut() {
            self.recover_for_good()?;
        }
        self.control.cut_after(u64::MAX);
        self.finish()?;
        self.unmanaged = 0;
        self.vm.charge_unmanaged(0);
        self.config.limit_pages = None;
        Self::must(self.vm.configure(self.config.clone()))?;
        self.finish()?;
        let all: Vec<_> = self.expected.keys().copied().collect();
        for (space, vpn) in all {
            self.touch(space, vpn, None)?;
        }
        if self.nr_oom > 0 && self.config.limit_pages.is_none() {
            self.nr_oom = 0;
        }
        for space in self.spaces.clone() {
            Self::must(self.vm.remove_space(space))?;
            self.host.retain(|(other, _), _| *other != space);
        }
        self.finish()?;
        let stats = self.vm.stats();
        if stats.anon != 0 || stats.swapped != 0 || stats.pool != 0 || self.vm.charged() != 0 {
            return Err(Trouble::Wrong(format!("left at the end: {stats:?}")));
        }
        self.check()
    }
}

/// Makes a world and does what the bytes say, then reads everything back.
///
/// # Panics
/// If something is wrong with the core.
pub fn apply_ops(bytes: &[u8]) {
    let run = || -> Result<(), Trouble> {
        let mut world = World::new(Entropy::from_bytes(bytes))?;
        while !world.entropy.is_used_up() {
            world.step()?;
        }
        world.finale()
    };
    if let Err(trouble) = run() {
        panic!("{trouble:?}");
    }
}
