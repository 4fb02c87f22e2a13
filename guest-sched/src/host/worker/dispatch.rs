//! Who should be on the host's runqueue: brings the policy's picks and what the host does in line.
//!
//! Pure like the policies: host events come in, [`Action`]s go out, and the worker carries them out. The two invariants
//! of a group live here: only tasks that the policy picked stay on the host's runqueue, and with strict
//! handover no next one is resumed before the last one has left it.
//!
//! Host side of a task:
//!
//! ```text
//!            wake, fork                park               out
//!   Asleep ------------> On ---------------------> Leaving ----> Parked
//!      ^                 | ^                          |             |
//!      '----- out -------' '--------- resume ---------+-------------'
//! ```
//!
//! A task *asleep* has blocked by itself and is never parked. *Leaving* was told to park but may still be on the runqueue.

use crate::host::mode::Handover;
use crate::policy::{Fork, Policy, PolicyError, Resched};
use crate::types::{Class, Nanos, Nice, Sleep, TaskId, TaskInfo, TaskParams, Vcpu, Waker};

/// What the worker has to do on the host: resume, then park.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Take the task off the host's runqueue.
    Park(TaskId),
    /// Put it back.
    Resume(TaskId),
}

/// Where a task stands on the host, see the module's drawing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HostState {
    /// Off the runqueue by itself.
    Asleep,
    /// On the runqueue, and meant to be, or about to be told to leave.
    On,
    /// Told to leave.
    Leaving,
    /// Off the runqueue by us.
    Parked,
}

#[derive(Clone, Copy, Debug)]
struct Side {
    state: HostState,
    is_wanted: bool,
}

/// The policy, and the host side of its tasks.
pub struct Dispatch {
    policy: Box<dyn Policy>,
    handover: Handover,
    sides: Vec<Option<Side>>,
    /// Tasks in state `On`, and in state `Leaving`; short lists: about as many as there are vcpus.
    on: Vec<TaskId>,
    leaving: Vec<TaskId>,
    current: Vec<Option<TaskId>>,
    needs_pick: Vec<bool>,
    is_open: bool,
    nr_switches: u64,
    scratch: Vec<Vcpu>,
}

impl Dispatch {
    /// Starts with an empty policy.
    pub fn new(policy: Box<dyn Policy>, handover: Handover) -> Self {
        let vcpus = usize::from(policy.vcpus());
        Self {
            policy,
            handover,
            sides: Vec::new(),
            on: Vec::with_capacity(64),
            leaving: Vec::with_capacity(64),
            current: vec![None; vcpus],
            needs_pick: vec![false; vcpus],
            is_open: true,
            nr_switches: 0,
            scratch: Vec::with_capacity(64),
        }
    }

    /// Gives the policy, to ask it.
    pub fn policy(&self) -> &dyn Policy {
        &*self.policy
    }

    /// Gives a task's host side; `None` for one that is not known.
    pub fn host_state(&self, id: TaskId) -> Option<HostState> {
        self.sides.get(id.index()).copied().flatten().map(|s| s.state)
    }

    /// Tasks on the host's runqueue as far as is known, leaving ones included.
    pub fn nr_on_host(&self) -> usize {
        self.on.len() + self.leaving.len()
    }

    /// Tasks that run and were not told to leave.
    pub fn on(&self) -> &[TaskId] {
        &self.on
    }

    /// Tasks that were told to leave and have not yet.
    pub fn leaving(&self) -> &[TaskId] {
        &self.leaving
    }

    /// How often a vcpu's current has changed.
    pub fn nr_switches(&self) -> u64 {
        self.nr_switches
    }

    /// Whether the policy's picks may run now.
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    fn insert(&mut self, id: TaskId, state: HostState) {
        if self.sides.len() <= id.index() {
            self.sides.resize(id.index() + 1, None);
        }
        self.sides[id.index()] = Some(Side { state, is_wanted: false });
        if state == HostState::On {
            self.on.push(id);
        }
    }

    fn side(&mut self, id: TaskId) -> Result<&mut Side, PolicyError> {
        self.sides.get_mut(id.index()).and_then(Option::as_mut).ok_or(PolicyError::NoSuchTask(id))
    }

    fn set_state(&mut self, id: TaskId, state: HostState) {
        let Some(side) = self.sides.get_mut(id.index()).and_then(Option::as_mut) else { return };
        let old = std::mem::replace(&mut side.state, state);
        if old == state {
            return;
        }
        match old {
            HostState::On => self.on.retain(|&t| t != id),
            HostState::Leaving => self.leaving.retain(|&t| t != id),
            HostState::Asleep | HostState::Parked => {}
        }
        match state {
            HostState::On => self.on.push(id),
            HostState::Leaving => self.leaving.push(id),
            HostState::Asleep | HostState::Parked => {}
        }
    }

    fn note(&mut self, resched: Resched) {
        if let Some(vcpu) = resched.0
            && let Some(flag) = self.needs_pick.get_mut(vcpu.index())
        {
            *flag = true;
        }
    }

    /// Forgets that the task is some vcpu's current, after the policy did.
    fn unseat(&mut self, id: TaskId) {
        for (vcpu, current) in self.current.iter_mut().enumerate() {
            if *current == Some(id) {
                *current = None;
                self.needs_pick[vcpu] = true;
            }
        }
        if let Some(side) = self.sides.get_mut(id.index()).and_then(Option::as_mut) {
            side.is_wanted = false;
        }
    }

    /// Takes in a task that is asleep or runnable on the host.
    ///
    /// # Errors
    /// The policy's.
    pub fn add(
        &mut self,
        id: TaskId,
        params: TaskParams,
        is_runnable: bool,
        now: Nanos,
    ) -> Result<(), PolicyError> {
        self.policy.add(id, params, now)?;
        self.insert(id, if is_runnable { HostState::On } else { HostState::Asleep });
        if is_runnable {
            let resched = self.policy.wake(id, Waker::New, now)?;
            self.note(resched);
        }
        Ok(())
    }

    /// Takes in a child that runs on the host already; `is_parked` if it was born in a parked place.
    ///
    /// # Errors
    /// The policy's.
    pub fn fork(
        &mut self,
        parent: TaskId,
        child: TaskId,
        how: Fork,
        is_parked: bool,
        now: Nanos,
    ) -> Result<(), PolicyError> {
        let resched = self.policy.fork(parent, child, how, now)?;
        self.insert(child, if is_parked { HostState::Parked } else { HostState::On });
        self.note(resched);
        Ok(())
    }

    /// Forgets a task that ended.
    ///
    /// # Errors
    /// The policy's.
    pub fn exit(&mut self, id: TaskId, parent: Option<TaskId>, now: Nanos) -> Result<(), PolicyError> {
        let resched = self.policy.exit(id, parent, now)?;
        self.forget(id, resched);
        Ok(())
    }

    /// Forgets a task that leaves the group.
    ///
    /// # Errors
    /// The policy's.
    pub fn remove(&mut self, id: TaskId, now: Nanos) -> Result<(), PolicyError> {
        let resched = self.policy.remove(id, now)?;
        self.forget(id, resched);
        Ok(())
    }

    fn forget(&mut self, id: TaskId, resched: Resched) {
        self.set_state(id, HostState::Asleep);
        self.unseat(id);
        self.sides[id.index()] = None;
        self.note(resched);
    }

    /// The task became runnable on the host by itself.
    ///
    /// # Errors
    /// The policy's; a task that is on the runqueue already is no error.
    pub fn woke(&mut self, id: TaskId, by: Waker, now: Nanos) -> Result<(), PolicyError> {
        if self.side(id)?.state != HostState::Asleep {
            return Ok(());
        }
        let resched = self.policy.wake(id, by, now)?;
        self.set_state(id, HostState::On);
        self.note(resched);
        Ok(())
    }

    /// The task left the host's runqueue: it was parked, or blocked by itself. `is_free` says whether it was told to leave and is not held
    /// yet.
    ///
    /// # Errors
    /// The policy's.
    pub fn out(
        &mut self,
        id: TaskId,
        how: Sleep,
        now: Nanos,
        is_free: impl FnOnce() -> bool,
    ) -> Result<(), PolicyError> {
        match self.side(id)?.state {
            HostState::Leaving if !is_free() => {
                self.set_state(id, HostState::Parked);
                Ok(())
            }
            HostState::On | HostState::Leaving => {
                let resched = self.policy.block(id, how, now)?;
                self.set_state(id, HostState::Asleep);
                self.unseat(id);
                self.note(resched);
                Ok(())
            }
            HostState::Asleep | HostState::Parked => Ok(()),
        }
    }

    /// The task used CPU time.
    ///
    /// # Errors
    /// The policy's.
    pub fn charge(&mut self, id: TaskId, ran: Nanos, now: Nanos) -> Result<(), PolicyError> {
        let resched = self.policy.charge(id, ran, now)?;
        self.note(resched);
        Ok(())
    }

    /// Sets a task's guest nice.
    ///
    /// # Errors
    /// The policy's.
    pub fn set_nice(&mut self, id: TaskId, nice: Nice, now: Nanos) -> Result<(), PolicyError> {
        let resched = self.policy.set_nice(id, nice, now)?;
        self.note(resched);
        Ok(())
    }

    /// Sets a task's guest class.
    ///
    /// # Errors
    /// The policy's.
    pub fn set_class(&mut self, id: TaskId, class: Class, now: Nanos) -> Result<(), PolicyError> {
        let resched = self.policy.set_class(id, class, now)?;
        self.note(resched);
        Ok(())
    }

    /// Sets the number of vcpus.
    ///
    /// # Errors
    /// The policy's.
    pub fn set_vcpus(&mut self, count: u16, now: Nanos) -> Result<(), PolicyError> {
        self.policy.set_vcpus(count, now)?;
        for id in self.current.iter().flatten() {
            if let Some(side) = self.sides.get_mut(id.index()).and_then(Option::as_mut) {
                side.is_wanted = false;
            }
        }
        self.current = vec![None; usize::from(count)];
        self.needs_pick = vec![true; usize::from(count)];
        Ok(())
    }

    /// Fixes the slice, or gives it back to the policy.
    pub fn set_slice(&mut self, slice: Option<Nanos>) {
        self.policy.set_slice(slice);
    }

    /// Sets the order of handing over.
    pub fn set_handover(&mut self, handover: Handover) {
        self.handover = handover;
    }

    /// Opens or shuts the group: shut, everything that is runnable is parked.
    pub fn set_open(&mut self, is_open: bool) {
        self.is_open = is_open;
    }

    /// Balances the vcpus' runqueues if the policy wants that by now.
    pub fn balance(&mut self, now: Nanos) {
        if self.policy.next_balance().is_some_and(|at| at <= now) {
            let mut vcpus = std::mem::take(&mut self.scratch);
            vcpus.clear();
            self.policy.balance(now, &mut vcpus);
            for vcpu in &vcpus {
                self.note(Resched::on(*vcpu));
            }
            self.scratch = vcpus;
        }
    }

    /// Gives what the policy knows of a task.
    ///
    /// # Errors
    /// The policy's.
    pub fn info(&self, id: TaskId) -> Result<TaskInfo, PolicyError> {
        self.policy.info(id)
    }

    /// Gives a vcpu's current.
    pub fn current(&self, vcpu: Vcpu) -> Option<TaskId> {
        self.current.get(vcpu.index()).copied().flatten()
    }

    /// Gives the vcpus with their currents.
    pub fn currents(&self) -> impl Iterator<Item = (Vcpu, TaskId)> + '_ {
        self.current.iter().enumerate().filter_map(|(v, t)| t.map(|t| (Vcpu(v as u16), t)))
    }

    /// Brings the host in line with the policy: appends what is to be done to `actions`, and takes it as done.
    /// Costs some time for each vcpu, none for each task.
    pub fn reconcile(&mut self, now: Nanos, actions: &mut Vec<Action>) {
        for vcpu in 0..self.current.len() {
            if std::mem::take(&mut self.needs_pick[vcpu]) {
                self.pick(vcpu, now);
            }
        }
        if self.handover == Handover::Overlap {
            self.resume_wanted(usize::MAX, actions);
        }
        let mut i = 0;
        while i < self.on.len() {
            let id = self.on[i];
            if self.is_open && self.sides[id.index()].is_some_and(|s| s.is_wanted) {
                i += 1;
            } else {
                self.set_state(id, HostState::Leaving);
                actions.push(Action::Park(id));
            }
        }
        if self.handover == Handover::Strict {
            self.resume_wanted(self.current.len(), actions);
        }
    }

    fn pick(&mut self, vcpu: usize, now: Nanos) {
        let Ok(next) = self.policy.pick_next(Vcpu(vcpu as u16), now) else { return };
        let old = std::mem::replace(&mut self.current[vcpu], next);
        if old == next {
            return;
        }
        if let Some(old) = old
            && !self.current.contains(&Some(old))
            && let Some(Some(side)) = self.sides.get_mut(old.index())
        {
            side.is_wanted = false;
        }
        if let Some(next) = next {
            // A task that was pulled from another vcpu is current there no more.
            for (other, current) in self.current.iter_mut().enumerate() {
                if other != vcpu && *current == Some(next) {
                    *current = None;
                    self.needs_pick[other] = true;
                }
            }
            if let Some(Some(side)) = self.sides.get_mut(next.index()) {
                side.is_wanted = true;
            }
            self.nr_switches += 1;
        }
    }

    fn resume_wanted(&mut self, places: usize, actions: &mut Vec<Action>) {
        if !self.is_open {
            return;
        }
        for vcpu in 0..self.current.len() {
            let Some(id) = self.current[vcpu] else { continue };
            let Some(side) = self.sides.get(id.index()).copied().flatten() else { continue };
            let may = match side.state {
                HostState::Parked => self.nr_on_host() < places,
                HostState::Leaving => true,
                HostState::On | HostState::Asleep => false,
            };
            if may {
                self.set_state(id, HostState::On);
                actions.push(Action::Resume(id));
            }
        }
    }

    /// Whether a task waits to be resumed until another one has left the host's runqueue.
    pub fn is_waiting_for_leave(&self) -> bool {
        self.is_open
            && self.current.iter().flatten().any(|id| {
                self.sides.get(id.index()).copied().flatten().is_some_and(|s| s.state == HostState::Parked)
            })
    }
}

impl std::fmt::Debug for Dispatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dispatch")
            .field("on", &self.on)
            .field("leaving", &self.leaving)
            .field("current", &self.current)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A host that does what it is told, later: tasks that were told to leave do so when the test says so.
    struct Host {
        dispatch: Dispatch,
        actions: Vec<Action>,
        parked: std::collections::BTreeSet<u32>,
        asleep: std::collections::BTreeSet<u32>,
        leaving: std::collections::BTreeSet<u32>,
        nr_tasks: u32,
        now: Nanos,
    }

    impl Host {
        fn new(handover: Handover, vcpus: u16) -> Self {
            let policy = crate::policy_by_name("guest_o1_scheduler", vcpus).expect("the policy");
            Self {
                dispatch: Dispatch::new(policy, handover),
                actions: Vec::new(),
                parked: Default::default(),
                asleep: Default::default(),
                leaving: Default::default(),
                nr_tasks: 0,
                now: Nanos::ZERO,
            }
        }

        fn add(&mut self) -> TaskId {
            let id = TaskId(self.nr_tasks);
            self.nr_tasks += 1;
            self.dispatch.add(id, TaskParams::default(), true, self.now).expect("a new task");
            id
        }

        fn reconcile(&mut self) {
            self.now += Nanos::from_micros(10);
            self.dispatch.reconcile(self.now, &mut self.actions);
            for action in self.actions.drain(..) {
                match action {
                    Action::Park(id) => {
                        assert!(!self.asleep.contains(&id.0), "a sleeper is not parked");
                        self.leaving.insert(id.0);
                    }
                    Action::Resume(id) => {
                        assert!(
                            self.parked.remove(&id.0) || self.leaving.remove(&id.0),
                            "only a parked task is resumed"
                        );
                    }
                }
            }
        }

        fn leave(&mut self, id: u32) {
            if self.leaving.remove(&id) {
                self.parked.insert(id);
                self.dispatch.out(TaskId(id), Sleep::Interruptible, self.now, || false).expect("known");
            }
        }

        fn everybody_leaves(&mut self) {
            for id in self.leaving.clone() {
                self.leave(id);
            }
        }

        fn runs(&self, id: u32) -> bool {
            !self.parked.contains(&id) && !self.asleep.contains(&id)
        }

        fn nr_runs(&self) -> usize {
            (0..self.nr_tasks).filter(|&id| self.runs(id)).count()
        }
    }

    #[test]
    fn second_task_waits_until_first_has_left_when_strict() {
        let mut host = Host::new(Handover::Strict, 1);
        let (a, b) = (host.add(), host.add());
        host.reconcile();
        host.everybody_leaves();
        host.reconcile();
        assert_eq!(host.dispatch.current(Vcpu(0)), Some(a));

        let _ = host.dispatch.charge(a, Nanos::from_millis(200), host.now);
        host.reconcile();

        assert_eq!(host.dispatch.current(Vcpu(0)), Some(b));
        assert_eq!(host.dispatch.host_state(b), Some(HostState::Parked), "not before the other one has left");
        host.everybody_leaves();
        host.reconcile();
        assert_eq!(host.dispatch.host_state(b), Some(HostState::On));
    }

    #[test]
    fn second_task_is_resumed_first_when_overlapped() {
        let mut host = Host::new(Handover::Overlap, 1);
        let (a, b) = (host.add(), host.add());
        host.reconcile();
        host.everybody_leaves();
        let _ = host.dispatch.charge(a, Nanos::from_millis(200), host.now);

        host.reconcile();

        assert_eq!(host.dispatch.host_state(b), Some(HostState::On));
        assert_eq!(host.dispatch.host_state(a), Some(HostState::Leaving));
    }

    #[test]
    fn shut_group_parks_everybody_and_resumes_when_opened() {
        let mut host = Host::new(Handover::Strict, 2);
        for _ in 0..3 {
            host.add();
        }
        host.reconcile();
        host.dispatch.set_open(false);
        host.reconcile();
        host.everybody_leaves();
        assert_eq!(host.nr_runs(), 0);

        host.dispatch.set_open(true);
        host.reconcile();

        assert_eq!(host.nr_runs(), 2);
    }

    #[test]
    fn cancelled_park_is_a_sleep() {
        let mut host = Host::new(Handover::Strict, 1);
        let a = host.add();
        host.reconcile();
        host.dispatch.set_open(false);
        host.reconcile();

        host.dispatch.out(a, Sleep::Interruptible, host.now, || true).expect("known");

        assert_eq!(host.dispatch.host_state(a), Some(HostState::Asleep));
        assert_eq!(host.dispatch.policy().nr_running(), 0);
    }

    proptest! {
        /// Whatever happens in whatever order: when the dust has settled, as many run as there are places and takers, and
        /// exactly those whom the policy picked.
        #[test]
        fn settled_host_runs_what_the_policy_picked(
            strict: bool,
            vcpus in 1u16..4,
            steps in proptest::collection::vec((0u8..8, 0u32..12), 1..200),
        ) {
            let handover = if strict { Handover::Strict } else { Handover::Overlap };
            let mut host = Host::new(handover, vcpus);
            for (what, task) in steps {
                host.now += Nanos::from_millis(3);
                let known = task < host.nr_tasks;
                let id = TaskId(task);
                match what {
                    0 if host.nr_tasks < 12 => { host.add(); }
                    1 if known && host.runs(task) && !host.leaving.contains(&task) => {
                        host.dispatch.out(id, Sleep::Interruptible, host.now, || false).expect("known");
                        host.asleep.insert(task);
                    }
                    2 if known && host.asleep.remove(&task) => {
                        host.dispatch.woke(id, Waker::Task, host.now).expect("known");
                    }
                    3 if known => { let _ = host.dispatch.charge(id, Nanos::from_millis(60), host.now); }
                    4 => { host.dispatch.set_open(task % 2 == 0); }
                    5 if known => host.leave(task),
                    6 => host.dispatch.balance(host.now),
                    7 if known => { host.dispatch.set_nice(id, Nice::new(task as i32 - 6).expect("in range"), host.now).expect("known"); }
                    _ => {}
                }
                host.reconcile();
                prop_assert!(!strict || host.dispatch.nr_on_host() <= host.nr_runs());
                if let Err(e) = host.dispatch.policy().check_invariants() {
                    prop_assert!(false, "{e}");
                }
            }
            host.dispatch.set_open(true);
            for _ in 0..4 {
                host.reconcile();
                host.everybody_leaves();
            }
            host.reconcile();
            let takers = host.nr_tasks as usize - host.asleep.len();
            prop_assert_eq!(host.nr_runs(), takers.min(usize::from(vcpus)));
            for (_, id) in host.dispatch.currents() {
                prop_assert!(host.runs(id.0));
            }
        }
    }
}
