//! Eviction: pages leave their address space for the staging area, and the staging area for a tier.

use host_sys::agent::{ARGUMENT_WORDS, CALLS_MAX, Call};
use host_sys::uffd::{IOC_MOVE, move_request};

use super::super::store::{Pages, compress, is_zero};
use super::super::writer::Job;
use super::Worker;
use super::space::{DROP_PAGES, STAGING_PAGES};
use crate::{
    MoveOutcome, Nanos, PAGE_SIZE, Placement, Released, Source, SpaceId, StageId, Target, Victim, Write,
    WriteOutcome, Writeback,
};

/// How many pages leave at once.
pub(super) const BATCH: u64 = 64;
/// Most pages of one write.
const RUN_MAX: usize = 64;
/// How often a page that is in use is tried again.
const TRIES: u32 = 3;
const _: () = assert!(ARGUMENT_WORDS == 5);

/// Pages of a space that are neighbours, before and after.
#[derive(Clone, Copy, Debug)]
struct Run {
    /// Index of the first one in the victims.
    first: usize,
    nr: usize,
    from: u64,
    to: u64,
    tries: u32,
}

impl Run {
    fn halves(self) -> (Self, Self) {
        let nr = self.nr / 2;
        let len = nr as u64 * PAGE_SIZE;
        let second = Self {
            first: self.first + nr,
            nr: self.nr - nr,
            from: self.from + len,
            to: self.to + len,
            tries: 0,
        };
        (Self { nr, tries: 0, ..self }, second)
    }
}

impl Worker {
    /// Frees frames, or waits for those that are being freed; gives whether there is any progress.
    pub(super) fn make_room(&mut self, want: u64, now: Nanos) -> bool {
        let under_way = self.writer.nr_pages();
        if under_way >= want { self.finish_writes(true) } else { self.reclaim(want - under_way, now) }
    }

    /// Begins to free frames; gives whether there is any progress.
    fn reclaim(&mut self, want: u64, now: Nanos) -> bool {
        let mut victims = std::mem::take(&mut self.victims);
        // Pages that cannot leave may be many in a row.
        let mut taken = false;
        for _ in 0..=self.vm.charged() / BATCH {
            self.vm.select(want.clamp(1, BATCH), &mut victims);
            taken = self.take_out(&victims);
            if taken || victims.is_empty() || !self.partings.is_empty() {
                break;
            }
        }
        self.victims = victims;
        // The rescue buffer stays staged, as long as there are frames without it.
        let spare = self.vm.stats().staged.saturating_sub(self.vm.rescue_buffer());
        let written = self.write_out(if taken { spare.min(want.max(BATCH)) } else { want }, now);
        // Nothing more can be begun: what is under way has to end.
        let progress = taken || written || self.finish_writes(true);
        if progress {
            self.comes_round(host_sys::process::now());
            self.counters.stuck_since = None;
        }
        progress
    }

    /// Frees, beside what is being served, as many frames as the core wants to have free.
    pub(super) fn reclaim_ahead(&mut self, now: Nanos) -> bool {
        let wanted = self.vm.reclaim_target().saturating_sub(self.writer.nr_pages());
        wanted == 0 || self.reclaim(wanted, now)
    }

    /// Moves victims, sorted by space and page, out of their address spaces; gives whether any was.
    pub(super) fn take_out(&mut self, victims: &[Victim]) -> bool {
        self.clear_leftovers();
        let mut any = false;
        if !self.partings.is_empty() {
            // A page that only seems to be shared would be lost to one of them.
            victims.iter().for_each(|victim| told(self.vm.moved(victim.frame, MoveOutcome::Busy)));
            return false;
        }
        for of_one in victims.chunk_by(|a, b| a.space == b.space) {
            any |= self.take_out_of(of_one[0].space, of_one);
        }
        any
    }

    fn take_out_of(&mut self, id: SpaceId, victims: &[Victim]) -> bool {
        let journal = &self.journal;
        let Some(inside) = self.spaces.get_mut(&id).and_then(|s| s.ensure_inside(journal)) else {
            for victim in victims {
                told(self.vm.moved(victim.frame, MoveOutcome::Busy));
            }
            return false;
        };
        let mut outcomes = vec![MoveOutcome::Busy; victims.len()];
        let mut runs: Vec<Run> = Vec::new();
        let mut dropped = 0;
        for (i, victim) in victims.iter().enumerate() {
            let to = match victim.stage {
                Some(stage) => {
                    self.stage_space[stage.0 as usize] = Some(id);
                    stage.0
                }
                None if dropped < DROP_PAGES => {
                    dropped += 1;
                    STAGING_PAGES + dropped - 1
                }
                None => continue,
            };
            let (from, to) = (victim.vpn.0 * PAGE_SIZE, inside.stage(to));
            let len = |run: &Run| run.nr as u64 * PAGE_SIZE;
            match runs.last_mut() {
                Some(run)
                    if run.first + run.nr == i && run.from + len(run) == from && run.to + len(run) == to =>
                {
                    run.nr += 1;
                }
                _ => runs.push(Run { first: i, nr: 1, from, to, tries: 0 }),
            }
        }
        while !runs.is_empty() {
            let Some(inside) = self.spaces.get_mut(&id).and_then(|s| s.inside.as_mut()) else { break };
            let rest = runs.split_off(runs.len().min(CALLS_MAX / 2));
            let calls: Vec<_> = runs
                .iter()
                .enumerate()
                .map(|(i, run)| {
                    inside.agent.set_argument(i, move_request(run.to, run.from, run.nr as u64 * PAGE_SIZE));
                    let args = [inside.mover as u64, IOC_MOVE, inside.agent.argument_address(i), 0, 0, 0];
                    Call { number: libc::SYS_ioctl, args }
                })
                .collect();
            if let Err(error) = inside.agent.call(&calls) {
                tracing::debug!(space = id.0, %error, "an agent does not answer");
                self.lost_agents.push(id);
                self.look_for(id, victims, runs.iter().chain(&rest), &mut outcomes);
                break;
            }
            let mut again = Vec::new();
            let mut shared = Vec::new();
            for (i, run) in runs.iter().enumerate() {
                let (returned, moved) = (inside.agent.returned(i), inside.agent.argument_result(i));
                let nr = match returned {
                    0 => run.nr,
                    _ => (moved.max(0) as u64 / PAGE_SIZE) as usize,
                };
                outcomes[run.first..run.first + nr].fill(MoveOutcome::Staged);
                let mut left = Run {
                    first: run.first + nr,
                    nr: run.nr - nr,
                    from: run.from + nr as u64 * PAGE_SIZE,
                    to: run.to + nr as u64 * PAGE_SIZE,
                    tries: if nr > 0 { 0 } else { run.tries + 1 },
                };
                if left.nr == 0 {
                    continue;
                }
                let gives_up = match -returned as i32 {
                    // What stopped it further on, the next try tells.
                    _ if nr > 0 => false,
                    // Not all of them are of one mapping, or it is not one that pages leave.
                    libc::EINVAL if left.nr > 1 => {
                        let (first, second) = left.halves();
                        again.push(first);
                        left = second;
                        false
                    }
                    libc::ENOENT => {
                        outcomes[left.first] = MoveOutcome::Gone;
                        true
                    }
                    // Another address space has it too, or had it: one of our own can be made. Else it is pinned.
                    libc::EBUSY if left.tries < TRIES => {
                        shared.extend((0..left.nr as u64).map(|n| left.from + n * PAGE_SIZE));
                        false
                    }
                    libc::EAGAIN => left.tries >= TRIES,
                    _ => true,
                };
                if gives_up {
                    left = Run {
                        first: left.first + 1,
                        nr: left.nr - 1,
                        from: left.from + PAGE_SIZE,
                        to: left.to + PAGE_SIZE,
                        tries: 0,
                    };
                }
                if left.nr > 0 {
                    again.push(left);
                }
            }
            if let (false, Some(space)) = (shared.is_empty(), self.spaces.get(&id)) {
                space.unshare(&shared);
            }
            runs = rest;
            runs.extend(again);
        }
        if let (true, Some(inside)) = (dropped > 0, self.spaces.get_mut(&id).and_then(|s| s.inside.as_mut()))
        {
            let from = inside.stage(STAGING_PAGES);
            let len = u64::from(dropped) * PAGE_SIZE;
            let _ = inside.agent.call(&[discard(from, len)]);
        }
        let mut any = false;
        for (victim, outcome) in victims.iter().zip(outcomes) {
            any |= outcome != MoveOutcome::Busy;
            told(self.vm.moved(victim.frame, outcome));
        }
        any
    }

    /// Finds out how far an agent has come that did not answer.
    fn look_for<'a>(
        &self,
        id: SpaceId,
        victims: &[Victim],
        runs: impl Iterator<Item = &'a Run>,
        outcomes: &mut [MoveOutcome],
    ) {
        let Some(space) = self.spaces.get(&id) else { return };
        // It must not go on with it later.
        space.kill_agent();
        for run in runs {
            for n in 0..run.nr {
                let offset = n as u64 * PAGE_SIZE;
                let is_needed = victims[run.first + n].stage.is_some();
                if space.is_present(run.from + offset) == Some(false) {
                    let is_staged = !is_needed || space.is_present(run.to + offset) == Some(true);
                    outcomes[run.first + n] = if is_staged { MoveOutcome::Staged } else { MoveOutcome::Gone };
                }
            }
        }
    }

    /// Writes staged pages, so many, to their tiers; gives whether any was, or will be.
    pub(super) fn write_out(&mut self, want: u64, now: Nanos) -> bool {
        let mut writes = std::mem::take(&mut self.writes);
        writes.clear();
        self.vm.unstage_plan(want, now, &mut writes);
        let mut i = 0;
        while i < writes.len() {
            let nr = self.run_length(&writes[i..]);
            self.write_run(&writes[i..i + nr]);
            i += nr;
        }
        let any = !writes.is_empty();
        self.writes = writes;
        let back = self.write_back();
        let ended = self.finish_writes(false);
        let freed = self.take_released();
        any || freed || back || ended
    }

    /// How many of these, from the first on, go to neighbouring places of one file and are staged in one address space.
    fn run_length(&self, writes: &[Write]) -> usize {
        let Target::File { tier, index } = writes[0].target else { return 1 };
        let owner = self.stage_space[writes[0].stage.0 as usize];
        let follows = |(i, w): (usize, &Write)| {
            let is_next = matches!(w.target, Target::File { tier: t, index: n } if t == tier && u64::from(n) == u64::from(index) + i as u64);
            is_next && self.stage_space[w.stage.0 as usize] == owner
        };
        writes.iter().take(RUN_MAX).enumerate().take_while(|&pair| follows(pair)).count()
    }

    /// Reads staged pages of one address space.
    fn read_staged(&self, writes: &[Write], pages: &mut Pages) -> std::io::Result<()> {
        let gone = || std::io::Error::from_raw_os_error(libc::ESRCH);
        let owner = self.stage_space[writes[0].stage.0 as usize];
        let space = owner.and_then(|id| self.spaces.get(&id)).ok_or_else(gone)?;
        let inside = space.inside.as_ref().ok_or_else(gone)?;
        let addresses: Vec<u64> = writes.iter().map(|w| inside.stage(w.stage.0)).collect();
        space.read(&addresses, pages.range_mut(0..writes.len()))
    }

    fn write_run(&mut self, writes: &[Write]) {
        let first = writes[0];
        if first.target == Target::Discard {
            self.written(first.stage, WriteOutcome::Done);
            return;
        }
        let mut pages = self.spare_pages.pop().unwrap_or_else(|| Pages::new(RUN_MAX));
        if let Err(error) = self.read_staged(writes, &mut pages) {
            tracing::debug!(%error, "staged pages cannot be read");
            for write in writes {
                self.written(write.stage, WriteOutcome::Failed);
            }
        } else if writes.len() == 1 && is_zero(pages.page(0)) {
            self.written(first.stage, WriteOutcome::AllZero);
        } else if let Target::File { tier, index } = first.target {
            let stages = writes.iter().map(|w| w.stage).collect();
            match self.store.file(tier).cloned() {
                Ok(file) => {
                    let job = Job { file, index, pages, stages, result: Ok(()) };
                    if let Err(job) = self.writer.start(job) {
                        self.finish_job(Job { result: Err(std::io::ErrorKind::BrokenPipe.into()), ..job });
                    }
                    return;
                }
                Err(_) => stages.into_iter().for_each(|stage| self.written(stage, WriteOutcome::Failed)),
            }
        } else {
            self.compress(first.stage, pages.page(0));
        }
        self.spare_pages.push(pages);
    }

    /// Hears of writes that have ended; waits for one if asked to. Gives whether there was any.
    pub(super) fn finish_writes(&mut self, waits: bool) -> bool {
        let mut any = false;
        while let Some(job) = self.writer.finished(waits && !any) {
            any = true;
            self.finish_job(job);
        }
        if any {
            self.take_released();
        }
        any
    }

    /// Waits for all writes to end.
    pub(super) fn settle_writes(&mut self) {
        while self.writer.nr_under_way() > 0 && self.finish_writes(true) {}
    }

    fn finish_job(&mut self, job: Job) {
        let outcome = match job.result {
            Ok(()) => WriteOutcome::Done,
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT)) => WriteOutcome::NoSpace,
            Err(error) => {
                tracing::warn!(%error, "pages cannot be written to the swap file");
                WriteOutcome::Failed
            }
        };
        for stage in job.stages {
            self.written(stage, outcome);
        }
        self.spare_pages.push(job.pages);
    }

    fn compress(&mut self, stage: StageId, page: &[u8]) {
        let mut bytes = [0u8; 2 * PAGE_SIZE as usize];
        let len = compress(page, &mut bytes).unwrap_or(PAGE_SIZE as usize);
        match self.vm.compressed(stage, len as u32) {
            Ok(Placement::At { tier, offset }) => {
                let outcome = match self.store.write_pool(tier, offset, &bytes[..len]) {
                    Ok(()) => WriteOutcome::Done,
                    Err(_) => WriteOutcome::Failed,
                };
                self.written(stage, outcome);
            }
            Ok(Placement::Elsewhere) => {}
            Err(error) => told(Err(error)),
        }
    }

    fn written(&mut self, stage: StageId, outcome: WriteOutcome) {
        told(self.vm.written(stage, outcome));
    }

    /// Notes that a staging place still holds what nobody needs.
    pub(super) fn leave_behind(&mut self, stage: StageId) {
        if let Some(id) = self.stage_space[stage.0 as usize] {
            self.leftovers.push((id, stage.0));
        }
    }

    /// Moves the oldest pages of a full tier to the next one.
    fn write_back(&mut self) -> bool {
        let mut plan: Vec<Writeback> = Vec::new();
        self.vm.writeback_plan(BATCH as usize, &mut plan);
        let any = !plan.is_empty();
        for item in plan {
            let mut page = Pages::new(1);
            let read = self.store.read(item.source, page.range_mut(0..1));
            let done = read.and_then(|()| self.store.write_file(item.tier, item.index, page.page(0)));
            let outcome = match done {
                Ok(()) => WriteOutcome::Done,
                Err(e) if matches!(e.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT)) => {
                    WriteOutcome::NoSpace
                }
                Err(_) => WriteOutcome::Failed,
            };
            told(self.vm.written_back(item.from, outcome));
        }
        any
    }

    /// Gives memory that the core needs no more back to the host.
    pub(super) fn take_released(&mut self) -> bool {
        let mut released: Vec<Released> = Vec::new();
        self.vm.take_released(&mut released);
        for item in &released {
            match *item {
                Released::Stage(stage) => self.leave_behind(stage),
                Released::Pool { tier, offset, len } => self.store.punch(tier, offset, len),
            }
        }
        self.clear_leftovers();
        !released.is_empty()
    }

    /// Empties staging places that hold what nobody needs.
    pub(super) fn clear_leftovers(&mut self) {
        let mut leftovers = std::mem::take(&mut self.leftovers);
        leftovers.sort_unstable();
        leftovers.dedup();
        for of_one in leftovers.chunk_by(|a, b| a.0 == b.0) {
            let Some(inside) = self.spaces.get_mut(&of_one[0].0).and_then(|s| s.inside.as_mut()) else {
                continue;
            };
            let calls: Vec<Call> = of_one
                .chunk_by(|a, b| a.1 + 1 == b.1)
                .map(|run| discard(inside.stage(run[0].1), run.len() as u64 * PAGE_SIZE))
                .collect();
            for calls in calls.chunks(CALLS_MAX) {
                if inside.agent.call(calls).is_err() {
                    self.lost_agents.push(of_one[0].0);
                    break;
                }
            }
        }
        leftovers.clear();
        self.leftovers = leftovers;
    }

    /// Reads a page from where the core says that it is.
    pub(super) fn read_source(&self, source: Source, page: &mut [u8]) -> std::io::Result<()> {
        match source {
            Source::Stage(stage) => {
                let gone = || std::io::Error::from_raw_os_error(libc::ESRCH);
                let id = self.stage_space[stage.0 as usize].ok_or_else(gone)?;
                let space = self.spaces.get(&id).ok_or_else(gone)?;
                let at = space.inside.as_ref().ok_or_else(gone)?.stage(stage.0);
                space.read(&[at], page)
            }
            source => self.store.read(source, page),
        }
    }
}

/// The core awaits what it is told, or one of us is wrong.
pub(super) fn told(result: Result<(), crate::VmError>) {
    if let Err(error) = result {
        tracing::error!(%error, "the guest VM did not expect an outcome");
        debug_assert!(false, "{error}");
    }
}

fn discard(at: u64, len: u64) -> Call {
    Call { number: libc::SYS_madvise, args: [at, len, libc::MADV_DONTNEED as u64, 0, 0, 0] }
}
