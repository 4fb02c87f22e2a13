//! The driver: carries out what the core decided.

use crate::sim::world::host::{Done, Page, World, wrong};
use crate::types::{
    Load, MoveOutcome, Nanos, Outcome, Placement, SlotId, Source, SpaceId, Target, Vpn, Write, WriteOutcome,
    Writeback,
};

impl World {
    fn read(&self, source: Source) -> Done<u64> {
        let data = match source {
            Source::Zero => Some(0),
            Source::File { tier, index } => self.files.get(&(tier, index)).copied(),
            Source::Stage(stage) => self.staging.get(&stage.0).copied(),
            Source::Pool { tier, offset, len } => {
                self.pools.get(&(tier, offset)).filter(|(stored, _)| *stored == len).map(|(_, data)| *data)
            }
        };
        match data {
            Some(data) => Ok(data),
            None => wrong(format!("nothing at {source:?}")),
        }
    }

    /// Installs a page, and tells, or leaves that for later.
    pub(super) fn complete_load(&mut self, load: Load) -> Done {
        let outcome = self.install(load)?;
        self.note(|| format!("{load:?}: {outcome:?}"));
        if self.with_failures && self.entropy.one_in(8) {
            self.untold_loads.push((load.frame, outcome));
            return Ok(());
        }
        let result = self.call(|vm| vm.installed(load.frame, outcome))?;
        Self::must(result)
    }

    fn install(&mut self, load: Load) -> Done<Outcome> {
        let Some((space, vpn)) = self.vm.destination(load.frame) else { return Ok(Outcome::Gone) };
        if self.with_failures && self.entropy.one_in(16) {
            return Ok(Outcome::Again);
        }
        if self.host.contains_key(&(space, vpn)) {
            return Ok(Outcome::AlreadyThere);
        }
        let data = self.read(load.source)?;
        let is_protected = load.protect || (self.with_failures && self.entropy.one_in(8));
        let frame = self.new_frame();
        self.host.insert((space, vpn), Page { data, is_protected, frame });
        if let Source::Stage(stage) = load.source
            && self.moved_loads.remove(&load.frame)
        {
            self.staging.remove(&stage.0);
        }
        Ok(Outcome::Installed)
    }

    pub(super) fn tell_loads(&mut self) -> Done {
        while let Some((frame, outcome)) = self.untold_loads.pop() {
            let result = self.call(|vm| vm.installed(frame, outcome))?;
            Self::must(result)?;
        }
        Ok(())
    }

    pub(super) fn tell_moves(&mut self) -> Done {
        while let Some((frame, outcome)) = self.untold_moves.pop() {
            let result = self.call(|vm| vm.moved(frame, outcome))?;
            Self::must(result)?;
        }
        Ok(())
    }

    /// Takes victims out, and tells or leaves that for later.
    pub(super) fn evict(&mut self, want: u64, space: Option<SpaceId>) -> Done {
        self.take_released();
        let mut victims = Vec::new();
        match space {
            Some(space) => {
                let result = self.call(|vm| vm.select_from(space, Vpn(0), want as usize, &mut victims))?;
                Self::must(result)?;
            }
            None => self.call(|vm| vm.select(want, &mut victims))?,
        }
        if !victims.is_sorted_by_key(|victim| (victim.space, victim.vpn)) {
            return wrong("victims are not in order");
        }
        for victim in victims {
            let key = (victim.space, victim.vpn);
            let outcome = match self.host.get(&key).copied() {
                None => MoveOutcome::Gone,
                Some(_) if self.with_failures && self.entropy.one_in(10) => MoveOutcome::Busy,
                Some(page) => {
                    let is_shared = self.host.values().filter(|other| other.frame == page.frame).count() > 1;
                    if is_shared && !victim.shared && victim.stage.is_some() {
                        MoveOutcome::Busy
                    } else {
                        if victim.stage.is_none() && !page.is_protected {
                            return wrong(format!("a page that may be dirty is to be dropped: {victim:?}"));
                        }
                        if let Some(stage) = victim.stage
                            && self.staging.insert(stage.0, page.data).is_some()
                        {
                            return wrong(format!("{stage:?} was in use"));
                        }
                        self.host.remove(&key);
                        MoveOutcome::Staged
                    }
                }
            };
            self.note(|| format!("{victim:?}: {outcome:?}"));
            self.untold_moves.push((victim.frame, outcome));
        }
        if self.with_failures && self.entropy.one_in(8) { Ok(()) } else { self.tell_moves() }
    }

    pub(super) fn plan_writes(&mut self, want: u64) -> Done {
        let mut writes = Vec::new();
        self.call(|vm| vm.unstage_plan(want, Nanos(0), &mut writes))?;
        self.writes.extend(writes);
        Ok(())
    }

    pub(super) fn complete_write(&mut self, write: Write) -> Done {
        let Some(data) = self.staging.get(&write.stage.0).copied() else {
            return wrong(format!("nothing staged for {write:?}"));
        };
        let fails = self.with_failures && self.entropy.one_in(12);
        let outcome = match write.target {
            Target::Discard => WriteOutcome::Done,
            _ if data == 0 && self.entropy.one_in(2) => WriteOutcome::AllZero,
            Target::File { tier, index } if fails => {
                self.poison(SlotId::new(tier, index));
                if self.entropy.one_in(2) { WriteOutcome::Failed } else { WriteOutcome::NoSpace }
            }
            Target::File { tier, index } => {
                self.files.insert((tier, index), data);
                WriteOutcome::Done
            }
            Target::Compress { .. } if fails => WriteOutcome::NoSpace,
            Target::Compress { .. } => {
                let len = 1 + (data.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 52) as u32;
                let result = self.call(|vm| vm.compressed(write.stage, len))?;
                match Self::must(result)? {
                    Placement::Elsewhere => {
                        self.note(|| format!("{write:?}, {len}: elsewhere"));
                        return Ok(());
                    }
                    Placement::At { tier, offset } => {
                        self.pools.insert((tier, offset), (len, data));
                        WriteOutcome::Done
                    }
                }
            }
        };
        self.note(|| format!("{write:?}: {outcome:?}"));
        let result = self.call(|vm| vm.written(write.stage, outcome))?;
        Self::must(result)
    }

    pub(super) fn plan_writebacks(&mut self, max: usize) -> Done {
        let mut plan = Vec::new();
        self.call(|vm| vm.writeback_plan(max, &mut plan))?;
        self.writebacks.extend(plan);
        Ok(())
    }

    pub(super) fn complete_writeback(&mut self, back: Writeback) -> Done {
        let to = SlotId::new(back.tier, back.index);
        let outcome = if self.with_failures && self.entropy.one_in(8) {
            self.poison(to);
            if self.entropy.one_in(2) { WriteOutcome::Failed } else { WriteOutcome::NoSpace }
        } else {
            let data = self.read(back.source)?;
            self.files.insert((back.tier, back.index), data);
            WriteOutcome::Done
        };
        let result = self.call(|vm| vm.written_back(back.from, outcome))?;
        Self::must(result)
    }

    /// Finishes everything that is under way.
    pub(super) fn finish(&mut self) -> Done {
        self.tell_loads()?;
        self.tell_moves()?;
        while let Some(load) = self.loads.pop() {
            self.complete_load(load)?;
        }
        self.tell_loads()?;
        while let Some(write) = self.writes.pop() {
            self.complete_write(write)?;
        }
        while let Some(back) = self.writebacks.pop() {
            self.complete_writeback(back)?;
        }
        self.take_released();
        Ok(())
    }

    /// Gains frames, as far as it goes.
    pub(super) fn reclaim(&mut self, want: u64) -> Done {
        self.tell_moves()?;
        self.evict(want, None)?;
        self.tell_moves()?;
        self.plan_writes(want)?;
        while let Some(write) = self.writes.pop() {
            self.complete_write(write)?;
        }
        self.plan_writebacks(4)?;
        while let Some(back) = self.writebacks.pop() {
            self.complete_writeback(back)?;
        }
        let mut restores = Vec::new();
        self.call(|vm| vm.restore_plan(4, &mut restores))?;
        for restore in restores {
            self.moved_loads.remove(&restore.load.frame);
            if !restore.copy {
                self.moved_loads.insert(restore.load.frame);
            }
            self.complete_load(restore.load)?;
        }
        self.take_released();
        Ok(())
    }
}
