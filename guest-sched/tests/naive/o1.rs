//! The rules of `guest_o1_scheduler` on one vcpu once more, with plain lists and no thought of speed.

use std::collections::BTreeMap;

use guest_sched::{
    Class, Fork, Nanos, Nice, Policy, PolicyError, Resched, Sleep, TaskId, TaskInfo, TaskParams, TaskState,
    Vcpu, Waker,
};

const MS: i64 = 1_000_000;
const V0: Vcpu = Vcpu(0);

#[derive(Clone, Copy, PartialEq, Debug)]
enum Mark {
    Normal,
    NonInteractive,
    Interactive,
    Interrupted,
}

#[derive(Clone, Debug)]
struct Task {
    nice: i64,
    class: Class,
    prio: usize,
    sleep_avg: i64,
    unsettled: i64,
    left: i64,
    mark: Mark,
    stamp: i64,
    is_first_slice: bool,
}

impl Task {
    fn static_prio(&self) -> i64 {
        120 + self.nice
    }
    fn bonus(&self) -> i64 {
        self.sleep_avg / (100 * MS)
    }
    fn wanted_prio(&self) -> usize {
        match self.class {
            Class::Fifo(rt) | Class::Rr(rt) => 99 - usize::from(rt.get()),
            _ => (self.static_prio() - self.bonus() + 5).clamp(100, 139) as usize,
        }
    }
    fn delta(&self) -> i64 {
        (self.nice + 20) * 10 / 40 - 5 + 2
    }
    fn is_interactive(&self) -> bool {
        !self.class.is_realtime() && self.prio as i64 <= self.static_prio() - self.delta()
    }
    fn ceiling(&self) -> i64 {
        (5 + self.delta() + 1) * 100 * MS - MS
    }
    fn credit(&mut self, sleep: i64) {
        if self.class != Class::Normal || sleep == 0 {
            return;
        }
        if sleep > self.ceiling() && self.sleep_avg < self.ceiling() {
            self.sleep_avg = self.ceiling().min(1000 * MS);
            self.mark = Mark::NonInteractive;
            return;
        }
        let most =
            if self.mark == Mark::NonInteractive { self.ceiling().max(self.sleep_avg) } else { i64::MAX };
        self.sleep_avg = (self.sleep_avg + sleep).min(most).min(1000 * MS);
    }
    /// Within a slice as the kernel does it, beyond that one bonus step after the other.
    fn pay(&mut self, mut run: i64, slice: i64) {
        if run <= slice {
            self.sleep_avg = (self.sleep_avg - run / self.bonus().max(1)).max(0);
            return;
        }
        while run > 0 && self.sleep_avg > 0 {
            let step = (self.sleep_avg - 1) / (100 * MS);
            let price = step.max(1);
            let whole = self.sleep_avg - step * 100 * MS;
            let taken = if run >= whole * price { whole } else { (run + price - 1) / price };
            self.sleep_avg -= taken;
            run -= taken * price;
        }
    }
}

/// The model.
pub(crate) struct NaiveO1 {
    tasks: BTreeMap<TaskId, Task>,
    active: Vec<TaskId>,
    expired: Vec<TaskId>,
    current: Option<TaskId>,
    expired_since: Option<i64>,
    best_expired: i64,
    contended_since: i64,
    slice_0: i64,
}

impl NaiveO1 {
    pub(crate) fn new() -> Self {
        Self {
            tasks: BTreeMap::new(),
            active: Vec::new(),
            expired: Vec::new(),
            current: None,
            expired_since: None,
            best_expired: 140,
            contended_since: 0,
            slice_0: 100 * MS,
        }
    }

    fn slice(&self, nice: i64) -> i64 {
        let at_100_ms = if nice < 0 { 20 * (20 - nice) } else { (5 * (20 - nice)).max(5) } * MS;
        (i128::from(at_100_ms) * i128::from(self.slice_0) / i128::from(100 * MS)) as i64
    }

    fn slice_of(&self, id: TaskId) -> i64 {
        self.slice(self.tasks[&id].nice)
    }

    fn get(&self, id: TaskId) -> Result<&Task, PolicyError> {
        self.tasks.get(&id).ok_or(PolicyError::NoSuchTask(id))
    }

    fn task(&mut self, id: TaskId) -> &mut Task {
        self.tasks.get_mut(&id).unwrap()
    }

    fn is_runnable(&self, id: TaskId) -> bool {
        self.active.contains(&id) || self.expired.contains(&id)
    }

    fn nr(&self) -> usize {
        self.active.len() + self.expired.len()
    }

    fn settle(&mut self, id: TaskId) {
        let slice = self.slice_of(id);
        let task = self.task(id);
        let run = std::mem::take(&mut task.unsettled);
        task.pay(run, slice);
    }

    fn unqueue(&mut self, id: TaskId) {
        self.active.retain(|&other| other != id);
        self.expired.retain(|&other| other != id);
    }

    /// Both arrays are kept in order of arrival; a list is what has one priority.
    fn enqueue(&mut self, id: TaskId, is_active: bool) {
        if is_active { self.active.push(id) } else { self.expired.push(id) }
    }

    fn activate(&mut self, id: TaskId, now: i64) {
        let is_batch = self.tasks[&id].class == Class::Batch;
        self.enqueue(id, !is_batch);
        if self.nr() == 2 {
            self.contended_since = now;
        }
    }

    fn preempts(&self, id: TaskId) -> bool {
        self.current.is_none_or(|current| self.tasks[&id].prio < self.tasks[&current].prio)
    }

    fn resched_if(&self, is_needed: bool) -> Resched {
        if is_needed { Resched::on(V0) } else { Resched::NO }
    }

    fn expire(&mut self, id: TaskId, now: i64) {
        let slice = self.slice_of(id);
        let is_rt = self.tasks[&id].class.is_realtime();
        self.unqueue(id);
        let task = self.task(id);
        task.left += slice;
        task.is_first_slice = false;
        if is_rt {
            self.enqueue(id, true);
            return;
        }
        if task.unsettled > slice {
            let run = task.unsettled - slice;
            task.unsettled = slice;
            task.pay(run, slice);
        }
        task.prio = task.wanted_prio();
        let (static_prio, is_interactive) = (task.static_prio(), task.is_interactive());
        let since = *self.expired_since.get_or_insert(now);
        let nr = self.nr() as i64 + 1;
        let starving = static_prio > self.best_expired || now - since > 1000 * MS * nr;
        if is_interactive && !starving {
            self.enqueue(id, true);
        } else {
            self.enqueue(id, false);
            self.best_expired = self.best_expired.min(static_prio);
        }
    }

    fn granule_end(&self, id: TaskId) -> Option<i64> {
        let task = &self.tasks[&id];
        let granule = (10 * MS) << (9 - task.bonus().min(9));
        let slice = self.slice_of(id);
        let mut boundary = slice;
        while boundary < task.left {
            boundary += granule;
        }
        while boundary >= task.left {
            boundary -= granule;
        }
        (task.is_interactive() && boundary >= granule).then_some(boundary)
    }

    fn leave(&mut self, id: TaskId) -> Resched {
        self.unqueue(id);
        let was_current = self.current == Some(id);
        if was_current {
            self.current = None;
        }
        self.resched_if(was_current)
    }

    fn first_active(&self) -> Option<TaskId> {
        // The first of the best priority: min_by_key keeps the earliest of equals.
        self.active.iter().copied().min_by_key(|id| self.tasks[id].prio)
    }
}

impl Policy for NaiveO1 {
    fn name(&self) -> &'static str {
        "naive o1"
    }

    fn add(&mut self, id: TaskId, params: TaskParams, now: Nanos) -> Result<(), PolicyError> {
        if id.0 >= TaskId::LIMIT {
            return Err(PolicyError::TaskNumber(id));
        }
        if self.tasks.contains_key(&id) {
            return Err(PolicyError::TaskExists(id));
        }
        let nice = i64::from(params.nice.get());
        let mut task = Task {
            nice,
            class: params.class,
            prio: 0,
            sleep_avg: 0,
            unsettled: 0,
            left: self.slice(nice),
            mark: Mark::Normal,
            stamp: now.0 as i64,
            is_first_slice: false,
        };
        task.prio = task.wanted_prio();
        self.tasks.insert(id, task);
        Ok(())
    }

    fn fork(&mut self, parent: TaskId, child: TaskId, how: Fork, now: Nanos) -> Result<Resched, PolicyError> {
        self.get(parent)?;
        if child.0 >= TaskId::LIMIT {
            return Err(PolicyError::TaskNumber(child));
        }
        if self.tasks.contains_key(&child) {
            return Err(PolicyError::TaskExists(child));
        }
        let now = now.0 as i64;
        let is_sliced = self.active.contains(&parent) && !matches!(self.tasks[&parent].class, Class::Fifo(_));
        let tick = self.slice_0 / 100;
        let task = self.task(parent);
        let left = task.left;
        let expires = left <= tick && is_sliced;
        task.left = if left > tick {
            left / 2
        } else if is_sliced {
            left.min(0)
        } else {
            left.min(1)
        };
        let mut new = task.clone();
        new.left = if left > tick { (left + 1) / 2 } else { left.max(1) };
        new.unsettled = 0;
        new.mark = Mark::Normal;
        new.stamp = now;
        new.is_first_slice = true;
        new.sleep_avg = new.bonus() * 95 / 100 * 100 * MS;
        new.prio = new.wanted_prio();
        self.tasks.insert(child, new);
        if expires {
            self.expire(parent, now);
        }
        let mut is_needed = false;
        if how == Fork::Process && self.is_runnable(parent) {
            let prio = self.tasks[&parent].prio;
            self.task(child).prio = prio;
            let array = if self.active.contains(&parent) { &mut self.active } else { &mut self.expired };
            let at = array.iter().position(|&other| other == parent).unwrap();
            array.insert(at, child);
            if self.nr() == 2 {
                self.contended_since = now;
            }
            is_needed |= self.current == Some(parent);
        } else {
            self.activate(child, now);
        }
        is_needed |= self.preempts(child) || (expires && self.current == Some(parent));
        let task = self.task(parent);
        task.sleep_avg = task.bonus() * 100 * MS;
        Ok(self.resched_if(is_needed))
    }

    fn exit(&mut self, id: TaskId, parent: Option<TaskId>, now: Nanos) -> Result<Resched, PolicyError> {
        self.get(id)?;
        if let Some(parent) = parent.filter(|parent| *parent != id && self.tasks.contains_key(parent)) {
            self.settle(id);
            let child = self.tasks[&id].clone();
            let full = self.slice_of(id);
            let task = self.task(parent);
            if child.is_first_slice {
                task.left = (task.left + child.left.max(0)).min(full);
            }
            if child.sleep_avg < task.sleep_avg {
                task.sleep_avg = task.sleep_avg / 4 * 3 + child.sleep_avg / 4;
            }
        }
        self.remove(id, now)
    }

    fn remove(&mut self, id: TaskId, _now: Nanos) -> Result<Resched, PolicyError> {
        self.get(id)?;
        let resched = self.leave(id);
        self.tasks.remove(&id);
        Ok(resched)
    }

    fn wake(&mut self, id: TaskId, by: Waker, now: Nanos) -> Result<Resched, PolicyError> {
        self.get(id)?;
        if self.is_runnable(id) {
            return Err(PolicyError::WrongState(id));
        }
        let now = now.0 as i64;
        let task = self.task(id);
        if !task.class.is_realtime() {
            task.credit(now - task.stamp);
            task.prio = task.wanted_prio();
        }
        if task.mark == Mark::Normal {
            task.mark = if by == Waker::Interrupt { Mark::Interrupted } else { Mark::Interactive };
        }
        task.stamp = now;
        self.activate(id, now);
        let is_spared = by == Waker::Sync(V0) && self.current.is_some();
        Ok(self.resched_if(self.preempts(id) && !is_spared))
    }

    fn block(&mut self, id: TaskId, how: Sleep, now: Nanos) -> Result<Resched, PolicyError> {
        self.get(id)?;
        if !self.is_runnable(id) {
            return Err(PolicyError::WrongState(id));
        }
        self.settle(id);
        let task = self.task(id);
        task.stamp = now.0 as i64;
        task.mark = if how == Sleep::Interruptible { Mark::Normal } else { Mark::NonInteractive };
        Ok(self.leave(id))
    }

    fn yield_now(&mut self, id: TaskId, _now: Nanos) -> Result<Resched, PolicyError> {
        self.get(id)?;
        if !self.is_runnable(id) {
            return Err(PolicyError::WrongState(id));
        }
        self.unqueue(id);
        self.enqueue(id, self.tasks[&id].class.is_realtime());
        Ok(self.resched_if(self.current == Some(id)))
    }

    fn charge(&mut self, id: TaskId, ran: Nanos, now: Nanos) -> Result<Resched, PolicyError> {
        self.get(id)?;
        let (ran, now) = (ran.0 as i64, now.0 as i64);
        if ran == 0 {
            return Ok(Resched::NO);
        }
        let slice = self.slice_of(id);
        let is_current = self.current == Some(id);
        self.task(id).unsettled += ran;
        if !is_current {
            self.settle(id);
        }
        if matches!(self.tasks[&id].class, Class::Fifo(_)) {
            return Ok(Resched::NO);
        }
        let is_active = self.active.contains(&id);
        let granule_end = self.granule_end(id);
        let task = self.task(id);
        let before = task.left;
        task.left -= ran;
        if task.left > 0 {
            let left = task.left;
            if is_current && is_active && granule_end.is_some_and(|end| left <= end) {
                self.unqueue(id);
                self.enqueue(id, true);
                return Ok(Resched::on(V0));
            }
            return Ok(self.resched_if(is_current && !is_active));
        }
        let overrun = -task.left;
        let old_debt = (-before).max(0);
        let new_debt = overrun - old_debt;
        let owed = if self.nr() <= 1 {
            overrun % slice
        } else {
            let contended = new_debt.min(now - self.contended_since);
            old_debt + contended + (new_debt - contended) % slice
        };
        self.task(id).left = -owed;
        if is_active {
            self.expire(id, now);
        } else if !self.is_runnable(id) {
            let task = self.task(id);
            task.left += slice;
            task.is_first_slice = false;
        }
        Ok(self.resched_if(is_current))
    }

    fn pick_next(&mut self, vcpu: Vcpu, now: Nanos) -> Result<Option<TaskId>, PolicyError> {
        if vcpu != V0 {
            return Err(PolicyError::NoSuchVcpu(vcpu));
        }
        let now = now.0 as i64;
        let prev = self.current;
        if let Some(prev) = prev {
            self.settle(prev);
            self.task(prev).stamp = now;
        }
        let mut passes = 0;
        let next = loop {
            if self.active.is_empty() {
                self.expired_since = None;
                if self.expired.is_empty() {
                    self.current = None;
                    return Ok(None);
                }
                std::mem::swap(&mut self.active, &mut self.expired);
                self.best_expired = 140;
            }
            let next = self.first_active().unwrap();
            let task = &self.tasks[&next];
            let may_run = task.left > 0 || matches!(task.class, Class::Fifo(_));
            if may_run || self.nr() == 1 || passes == 32 {
                break next;
            }
            passes += 1;
            self.expire(next, now);
        };
        let task = self.task(next);
        let waited = now - task.stamp;
        let before = task.prio;
        if !task.class.is_realtime() && matches!(task.mark, Mark::Interactive | Mark::Interrupted) {
            task.credit(if task.mark == Mark::Interrupted { waited } else { waited * 30 / 100 });
            task.prio = task.wanted_prio();
        }
        task.mark = Mark::Normal;
        if prev != Some(next) {
            task.stamp = now;
        }
        if task.prio != before {
            let is_active = self.active.contains(&next);
            self.unqueue(next);
            self.enqueue(next, is_active);
        }
        self.current = Some(next);
        Ok(self.current)
    }

    fn current(&self, vcpu: Vcpu) -> Option<TaskId> {
        self.current.filter(|_| vcpu == V0)
    }

    fn budget(&self, vcpu: Vcpu) -> Option<Nanos> {
        let id = self.current(vcpu)?;
        let task = &self.tasks[&id];
        if matches!(task.class, Class::Fifo(_)) || self.nr() == 1 {
            return None;
        }
        if task.left <= 0 {
            return Some(Nanos((self.slice_of(id) / 16) as u64));
        }
        let has_peer = self.active.iter().any(|other| *other != id && self.tasks[other].prio == task.prio);
        let end = self.granule_end(id).filter(|_| has_peer && self.active.contains(&id));
        Some(Nanos((task.left - end.unwrap_or(0)) as u64))
    }

    fn balance(&mut self, _now: Nanos, _resched: &mut Vec<Vcpu>) {}

    fn next_balance(&self) -> Option<Nanos> {
        None
    }

    fn set_nice(&mut self, id: TaskId, nice: Nice, _now: Nanos) -> Result<Resched, PolicyError> {
        self.get(id)?;
        let task = self.task(id);
        task.nice = i64::from(nice.get());
        if task.class.is_realtime() {
            return Ok(Resched::NO);
        }
        let before = task.prio;
        task.prio = task.wanted_prio();
        let after = task.prio;
        if !self.is_runnable(id) {
            return Ok(Resched::NO);
        }
        let is_active = self.active.contains(&id);
        self.unqueue(id);
        self.enqueue(id, is_active);
        Ok(self.resched_if(after < before || (after > before && self.current == Some(id))))
    }

    fn set_class(&mut self, id: TaskId, class: Class, now: Nanos) -> Result<Resched, PolicyError> {
        if self.get(id)?.class == class {
            return Ok(Resched::NO);
        }
        let was_runnable = self.is_runnable(id);
        self.unqueue(id);
        let task = self.task(id);
        let before = task.prio;
        task.class = class;
        if class == Class::Batch {
            task.sleep_avg = 0;
        }
        task.prio = task.wanted_prio();
        let after = task.prio;
        if !was_runnable {
            return Ok(Resched::NO);
        }
        self.activate(id, now.0 as i64);
        let is_current = self.current == Some(id);
        Ok(self.resched_if(if is_current { after > before } else { self.preempts(id) }))
    }

    fn set_vcpus(&mut self, count: u16, _now: Nanos) -> Result<(), PolicyError> {
        if count == 1 { Ok(()) } else { Err(PolicyError::VcpuCount(count)) }
    }

    fn vcpus(&self) -> u16 {
        1
    }

    fn set_slice(&mut self, slice: Option<Nanos>) {
        let slice = slice.map_or(100 * MS, |slice| slice.0 as i64);
        self.slice_0 = slice.clamp(MS / 10, 1_000_000 * MS);
    }

    fn info(&self, id: TaskId) -> Result<TaskInfo, PolicyError> {
        let task = self.get(id)?;
        let state = if self.current == Some(id) {
            TaskState::Running
        } else if self.active.contains(&id) {
            TaskState::Queued
        } else if self.expired.contains(&id) {
            TaskState::Expired
        } else {
            TaskState::Sleeping
        };
        Ok(TaskInfo {
            state,
            vcpu: V0,
            params: TaskParams { nice: Nice::new(task.nice as i32).unwrap(), class: task.class },
            static_prio: task.static_prio() as u8,
            prio: task.prio as u8,
            bonus: task.bonus() as u8,
            sleep_avg: Nanos(task.sleep_avg as u64),
            is_interactive: task.is_interactive(),
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
