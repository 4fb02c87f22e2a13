//! The rules of `guest_fair_scheduler` on one vcpu once more, with plain lists and no thought of speed.

use std::collections::BTreeMap;

use guest_sched::fair::weight::{slice, virtual_time};
use guest_sched::o1::prio::{static_prio, time_slice};
use guest_sched::{
    Class, Fork, Nanos, Nice, Policy, PolicyError, Resched, Sleep, TaskId, TaskInfo, TaskParams, TaskState,
    Vcpu, Waker,
};

const V0: Vcpu = Vcpu(0);
const DAY: u64 = 1 << 19;
const MAX_CREDIT: u64 = 64 * DAY;

#[derive(Clone, Debug)]
struct Task {
    params: TaskParams,
    vtime: u64,
    left: i64,
}

impl Task {
    fn is_rt(&self) -> bool {
        self.params.class.is_realtime()
    }
    fn prio(&self) -> u8 {
        match self.params.class {
            Class::Fifo(rt) | Class::Rr(rt) => 99 - rt.get(),
            _ => static_prio(self.params.nice),
        }
    }
}

/// The model. A real-time current stays in its list, a time-shared one is in none.
pub(crate) struct NaiveFair {
    tasks: BTreeMap<TaskId, Task>,
    realtime: Vec<TaskId>,
    /// Who waits, and for which day, in order of arrival.
    waiting: Vec<(u64, TaskId)>,
    current: Option<TaskId>,
    gives_way: Vec<TaskId>,
    first_day: u64,
    clock: u64,
    contended_since: Nanos,
    charged_at: Nanos,
    slice_0: Nanos,
}

impl NaiveFair {
    pub(crate) fn new() -> Self {
        Self {
            tasks: BTreeMap::new(),
            realtime: Vec::new(),
            waiting: Vec::new(),
            current: None,
            gives_way: Vec::new(),
            first_day: 0,
            clock: 0,
            contended_since: Nanos::ZERO,
            charged_at: Nanos::ZERO,
            slice_0: Nanos::from_millis(6),
        }
    }

    fn get(&self, id: TaskId) -> Result<&Task, PolicyError> {
        self.tasks.get(&id).ok_or(PolicyError::NoSuchTask(id))
    }

    fn task(&mut self, id: TaskId) -> &mut Task {
        self.tasks.get_mut(&id).unwrap()
    }

    fn check_new(&self, id: TaskId) -> Result<(), PolicyError> {
        if id.0 >= TaskId::LIMIT {
            Err(PolicyError::TaskNumber(id))
        } else if self.tasks.contains_key(&id) {
            Err(PolicyError::TaskExists(id))
        } else {
            Ok(())
        }
    }

    fn is_runnable(&self, id: TaskId) -> bool {
        self.current == Some(id)
            || self.realtime.contains(&id)
            || self.waiting.iter().any(|&(_, other)| other == id)
    }

    fn nr(&self) -> usize {
        self.tasks.keys().filter(|&&id| self.is_runnable(id)).count()
    }

    fn slice_of(&self, id: TaskId) -> Nanos {
        let task = &self.tasks[&id];
        if task.is_rt() {
            time_slice(static_prio(task.params.nice))
        } else {
            slice(self.slice_0, task.params.nice)
        }
    }

    fn first_waiting(&self) -> Option<u64> {
        self.waiting.iter().map(|&(day, _)| day).min()
    }

    fn advance_to(&mut self, day: u64) {
        let day = self.first_waiting().map_or(day, |first| day.min(first));
        self.first_day = self.first_day.max(day);
    }

    fn advance_clock(&mut self) {
        let current = self.current.filter(|id| !self.tasks[id].is_rt()).map(|id| self.tasks[&id].vtime);
        let first = self.first_waiting().map(|day| day * DAY);
        let Some(behind) = current.into_iter().chain(first).min() else { return };
        self.clock = self.clock.max(behind);
        self.advance_to(self.clock.saturating_sub(MAX_CREDIT) / DAY);
    }

    fn enqueue(&mut self, id: TaskId) {
        let gives_way = self.gives_way.contains(&id);
        self.gives_way.retain(|&other| other != id);
        if self.tasks[&id].is_rt() {
            self.realtime.push(id);
            return;
        }
        let mut day = (self.tasks[&id].vtime / DAY).clamp(self.first_day, self.first_day + 1023);
        if gives_way {
            day = day.max(self.first_waiting().unwrap_or(0));
        }
        self.waiting.push((day, id));
    }

    fn unqueue(&mut self, id: TaskId) {
        self.realtime.retain(|&other| other != id);
        self.waiting.retain(|&(_, other)| other != id);
    }

    fn activate(&mut self, id: TaskId, now: Nanos) {
        self.enqueue(id);
        if self.nr() == 2 {
            self.contended_since = now;
        }
    }

    fn end_solitude(&mut self, now: Nanos) {
        if let Some(current) = self.current.filter(|id| !self.tasks[id].is_rt())
            && self.nr() == 1
        {
            let alone = now.saturating_sub(self.charged_at);
            let task = self.task(current);
            task.vtime = task.vtime.saturating_add(virtual_time(alone, task.params.nice));
            self.charged_at = now;
            self.advance_clock();
        }
    }

    fn leave(&mut self, id: TaskId) -> Resched {
        self.unqueue(id);
        self.gives_way.retain(|&other| other != id);
        let was_current = self.current == Some(id);
        if was_current {
            self.current = None;
        }
        resched_if(was_current)
    }

    fn preempts(&self, id: TaskId, now: Nanos) -> bool {
        let Some(current) = self.current.map(|id| &self.tasks[&id]) else { return true };
        let task = &self.tasks[&id];
        if task.is_rt() || current.is_rt() {
            // Real-time priorities are below all others.
            return task.prio() < current.prio();
        }
        let margin = virtual_time(Nanos::from_millis(1), task.params.nice);
        let most = Nanos(current.left.max(0) as u64);
        let uncharged = virtual_time(now.saturating_sub(self.charged_at).min(most), current.params.nice);
        task.params.class != Class::Batch
            && task.vtime.saturating_add(margin) < current.vtime.saturating_add(uncharged)
    }
}

fn resched_if(is_needed: bool) -> Resched {
    if is_needed { Resched::on(V0) } else { Resched::NO }
}

impl Policy for NaiveFair {
    fn name(&self) -> &'static str {
        "naive fair"
    }

    fn add(&mut self, id: TaskId, params: TaskParams, _now: Nanos) -> Result<(), PolicyError> {
        self.check_new(id)?;
        self.tasks.insert(id, Task { params, vtime: self.clock, left: 0 });
        Ok(())
    }

    fn fork(
        &mut self,
        parent: TaskId,
        child: TaskId,
        _how: Fork,
        now: Nanos,
    ) -> Result<Resched, PolicyError> {
        self.get(parent)?;
        self.check_new(child)?;
        // The child starts from the parent's virtual time of before.
        let mut task = self.tasks[&parent].clone();
        self.end_solitude(now);
        task.left = 0;
        self.tasks.insert(child, task);
        let slice = self.slice_of(child);
        let clock = self.clock;
        let task = self.task(child);
        task.vtime = task.vtime.max(clock).saturating_add(virtual_time(slice, task.params.nice));
        self.activate(child, now);
        Ok(resched_if(self.preempts(child, now)))
    }

    fn exit(&mut self, id: TaskId, _parent: Option<TaskId>, now: Nanos) -> Result<Resched, PolicyError> {
        self.remove(id, now)
    }

    fn remove(&mut self, id: TaskId, _now: Nanos) -> Result<Resched, PolicyError> {
        self.get(id)?;
        let resched = self.leave(id);
        self.tasks.remove(&id);
        Ok(resched)
    }

    fn wake(&mut self, id: TaskId, by: Waker, now: Nanos) -> Result<Resched, PolicyError> {
        let task = self.get(id)?;
        if self.is_runnable(id) {
            return Err(PolicyError::WrongState(id));
        }
        let is_batch = task.params.class == Class::Batch;
        let credit = if is_batch { 0 } else { (self.slice_0.0 / 2).min(MAX_CREDIT) };
        self.end_solitude(now);
        let least = self.clock.saturating_sub(credit);
        let task = self.task(id);
        task.vtime = task.vtime.max(least);
        task.left = 0;
        self.activate(id, now);
        let is_spared = by == Waker::Sync(V0) && self.current.is_some();
        Ok(resched_if(self.preempts(id, now) && !is_spared))
    }

    fn block(&mut self, id: TaskId, _how: Sleep, _now: Nanos) -> Result<Resched, PolicyError> {
        self.get(id)?;
        if !self.is_runnable(id) {
            return Err(PolicyError::WrongState(id));
        }
        Ok(self.leave(id))
    }

    fn yield_now(&mut self, id: TaskId, _now: Nanos) -> Result<Resched, PolicyError> {
        self.get(id)?;
        if !self.is_runnable(id) {
            return Err(PolicyError::WrongState(id));
        }
        self.task(id).left = 0;
        self.gives_way.push(id);
        let is_current = self.current == Some(id);
        if !is_current || self.tasks[&id].is_rt() {
            self.unqueue(id);
            self.enqueue(id);
        }
        Ok(resched_if(is_current))
    }

    fn charge(&mut self, id: TaskId, ran: Nanos, now: Nanos) -> Result<Resched, PolicyError> {
        self.get(id)?;
        if ran == Nanos::ZERO {
            return Ok(Resched::NO);
        }
        let is_alone = self.nr() <= 1;
        let is_current = self.current == Some(id);
        let slice = self.slice_of(id);
        let counted = if is_alone { ran } else { ran.min(now.saturating_sub(self.contended_since)) };
        let task = self.task(id);
        if !task.is_rt() {
            task.vtime = task.vtime.saturating_add(virtual_time(counted, task.params.nice));
        }
        if matches!(task.params.class, Class::Fifo(_)) {
            return Ok(Resched::NO);
        }
        task.left -= ran.0 as i64;
        let is_over = task.left <= 0;
        let is_rt = task.is_rt();
        if is_over && (is_alone || is_rt) {
            task.left = slice.0 as i64;
        }
        if is_over && is_rt && self.realtime.contains(&id) {
            self.unqueue(id);
            self.realtime.push(id);
        }
        if is_current {
            self.charged_at = now;
            self.advance_clock();
        }
        Ok(resched_if(is_current && is_over && !is_alone))
    }

    fn pick_next(&mut self, vcpu: Vcpu, now: Nanos) -> Result<Option<TaskId>, PolicyError> {
        if vcpu != V0 {
            return Err(PolicyError::NoSuchVcpu(vcpu));
        }
        if let Some(current) = self.current
            && let task = &self.tasks[&current]
            && (!task.is_rt() && task.left > 0 && !self.gives_way.contains(&current))
            && self.realtime.is_empty()
            && self.first_waiting().is_none_or(|first| task.vtime / DAY <= first)
        {
            self.charged_at = now;
            self.advance_clock();
            return Ok(self.current);
        }
        if let Some(prev) = self.current.take()
            && !self.tasks[&prev].is_rt()
        {
            self.enqueue(prev);
        }
        let mut next = self.realtime.iter().copied().min_by_key(|id| self.tasks[id].prio());
        let mut passes = 0;
        while next.is_none() {
            let Some(&(day, id)) = self.waiting.iter().min_by_key(|(day, _)| *day) else { return Ok(None) };
            self.unqueue(id);
            if self.tasks[&id].vtime / DAY <= day || self.waiting.is_empty() || passes == 32 {
                next = Some(id);
            } else {
                passes += 1;
                self.advance_to(day.saturating_sub(64));
                self.enqueue(id);
            }
        }
        let id = next.unwrap();
        let slice = self.slice_of(id);
        let task = self.task(id);
        if task.left <= 0 {
            task.left = slice.0 as i64;
        }
        self.current = next;
        self.charged_at = now;
        self.advance_clock();
        Ok(next)
    }

    fn current(&self, vcpu: Vcpu) -> Option<TaskId> {
        self.current.filter(|_| vcpu == V0)
    }

    fn budget(&self, vcpu: Vcpu) -> Option<Nanos> {
        let task = &self.tasks[&self.current(vcpu)?];
        let is_bounded = !matches!(task.params.class, Class::Fifo(_)) && self.nr() > 1;
        is_bounded.then_some(Nanos(task.left.max(1) as u64))
    }

    fn balance(&mut self, _now: Nanos, _resched: &mut Vec<Vcpu>) {}

    fn next_balance(&self) -> Option<Nanos> {
        None
    }

    fn set_nice(&mut self, id: TaskId, nice: Nice, _now: Nanos) -> Result<Resched, PolicyError> {
        self.get(id)?;
        self.task(id).params.nice = nice;
        Ok(Resched::NO)
    }

    fn set_class(&mut self, id: TaskId, class: Class, now: Nanos) -> Result<Resched, PolicyError> {
        if self.get(id)?.params.class == class {
            return Ok(Resched::NO);
        }
        let (was_runnable, was_current) = (self.is_runnable(id), self.current == Some(id));
        let _ = self.leave(id);
        let clock = self.clock;
        let task = self.task(id);
        task.params.class = class;
        if !was_runnable {
            return Ok(Resched::NO);
        }
        task.vtime = task.vtime.max(clock);
        self.activate(id, now);
        if !was_current {
            return Ok(resched_if(self.preempts(id, now)));
        }
        self.current = Some(id);
        self.charged_at = now;
        if !class.is_realtime() {
            self.unqueue(id);
        }
        Ok(Resched::on(V0))
    }

    fn set_vcpus(&mut self, count: u16, _now: Nanos) -> Result<(), PolicyError> {
        if count == 1 { Ok(()) } else { Err(PolicyError::VcpuCount(count)) }
    }

    fn vcpus(&self) -> u16 {
        1
    }

    fn set_slice(&mut self, slice: Option<Nanos>) {
        let slice = slice.unwrap_or(Nanos::from_millis(6));
        self.slice_0 = slice.clamp(Nanos::from_micros(100), Nanos::from_secs(1_000));
    }

    fn info(&self, id: TaskId) -> Result<TaskInfo, PolicyError> {
        let task = self.get(id)?;
        let state = if self.current == Some(id) {
            TaskState::Running
        } else if self.is_runnable(id) {
            TaskState::Queued
        } else {
            TaskState::Sleeping
        };
        Ok(TaskInfo {
            state,
            vcpu: V0,
            params: task.params,
            static_prio: static_prio(task.params.nice),
            prio: task.prio(),
            bonus: 5,
            sleep_avg: Nanos::ZERO,
            is_interactive: false,
            slice_left: Nanos(task.left.max(0) as u64),
        })
    }

    fn nr_running(&self) -> usize {
        self.nr()
    }

    fn check_invariants(&self) -> Result<(), String> {
        Ok(())
    }
}
