//! The simplest driver: everything succeeds at once, nothing is stored. For hit ratios and benchmarks.

use crate::config::Config;
use crate::error::VmError;
use crate::memory::VecMemory;
use crate::types::{
    Access, Load, MoveOutcome, Nanos, Outcome, Released, Resolution, SpaceId, Victim, Vpn, Write,
    WriteOutcome,
};
use crate::vm::Vm;

/// One address space under a pool.
#[derive(Debug)]
pub struct Pager {
    /// The core.
    pub vm: Vm<VecMemory>,
    space: SpaceId,
    /// Which pages are in place, and which of them are write-protected.
    in_place: Vec<(bool, bool)>,
    loads: Vec<Load>,
    victims: Vec<Victim>,
    writes: Vec<Write>,
    released: Vec<Released>,
    /// References that needed no I/O because the page was staged.
    pub rescues: u64,
    /// References that needed I/O.
    pub majors: u64,
    /// References to pages never touched before.
    pub firsts: u64,
}

impl Pager {
    /// Makes a pool for `pages` pages.
    ///
    /// # Errors
    /// If the settings are refused.
    pub fn new(config: Config, pages: usize) -> Result<Self, VmError> {
        let mut vm = Vm::new(VecMemory::new(), config)?;
        let space = SpaceId(0);
        vm.add_space(space)?;
        Ok(Self {
            vm,
            space,
            in_place: vec![(false, false); pages],
            loads: Vec::with_capacity(256),
            victims: Vec::with_capacity(4096),
            writes: Vec::with_capacity(4096),
            released: Vec::with_capacity(4096),
            rescues: 0,
            majors: 0,
            firsts: 0,
        })
    }

    /// Says whether a reference goes through without a fault.
    pub fn is_in_place(&self, page: u64, is_write: bool) -> bool {
        let (there, is_protected) = self.in_place[page as usize];
        there && !(is_write && is_protected)
    }

    /// References a page.
    ///
    /// # Errors
    /// If the core refuses, or has no frame.
    pub fn reference(&mut self, page: u64, is_write: bool) -> Result<(), VmError> {
        for _ in 0..100 {
            if self.is_in_place(page, is_write) {
                return Ok(());
            }
            let access = match (self.in_place[page as usize].0, is_write) {
                (true, _) => Access::WriteProtected,
                (false, true) => Access::Write,
                (false, false) => Access::Read,
            };
            match self.vm.fault(self.space, Vpn(page), access, Nanos(0), &mut self.loads)? {
                Resolution::Unprotect | Resolution::Unshare => self.in_place[page as usize].1 = false,
                Resolution::Zero { .. } => {
                    self.firsts += 1;
                    self.install()?;
                }
                Resolution::Load => {
                    self.majors += 1;
                    self.install()?;
                }
                Resolution::Rescue { .. } => {
                    self.rescues += 1;
                    self.install()?;
                }
                Resolution::NeedFrames(n) => self.reclaim(n)?,
                Resolution::Wake | Resolution::Wait | Resolution::OutOfMemory => {
                    return Err(VmError::NoFrames);
                }
            }
            let target = self.vm.reclaim_target();
            if target > 0 {
                self.reclaim(target)?;
            }
        }
        Err(VmError::NoFrames)
    }

    fn install(&mut self) -> Result<(), VmError> {
        for at in 0..self.loads.len() {
            let load = self.loads[at];
            self.in_place[load.vpn.0 as usize] = (true, load.protect);
            self.vm.installed(load.frame, Outcome::Installed)?;
        }
        Ok(())
    }

    /// Gains frames, as far as one round goes.
    ///
    /// # Errors
    /// If the core refuses an outcome.
    pub fn reclaim(&mut self, want: u64) -> Result<(), VmError> {
        self.vm.select(want, &mut self.victims);
        for at in 0..self.victims.len() {
            let victim = self.victims[at];
            self.in_place[victim.vpn.0 as usize] = (false, false);
            self.vm.moved(victim.frame, MoveOutcome::Staged)?;
        }
        self.vm.unstage_plan(want, Nanos(0), &mut self.writes);
        for at in 0..self.writes.len() {
            self.vm.written(self.writes[at].stage, WriteOutcome::Done)?;
        }
        self.released.clear();
        self.vm.take_released(&mut self.released);
        Ok(())
    }
}
