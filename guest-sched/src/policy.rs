//! The contract between a scheduling policy and whoever drives it.
//!
//! *Events in, decisions out, outcomes back.* The driver tells what happened (a task woke,
//! blocked, forked, exited, ran for so long) and when; the policy answers who should run. A policy
//! reads no clock, does no I/O, starts no thread and draws no random numbers, so that one and
//! the same policy drives host processes, a guest kernel and a simulation.
//!
//! # The life of a task
//!
//! ```text
//!             add, fork                wake                 pick_next
//!   (unknown) ----------> Sleeping ------------> Queued <-----------------> Running
//!       ^                    ^                     |   \                     |  |
//!       |                    |                     |    `-- Expired <-charge-'  |
//!       `-- remove, exit ----+---------------------'                            |
//!            (any state)     `---------------------- block ---------------------'
//! ```
//!
//! `block` is legal for any runnable task, not just a running one: a host process that was told
//! to wait may block before it gets the message.
//!
//! # Who runs
//!
//! [`Policy::pick_next`] makes the task it returns the vcpu's *current*. The previous current,
//! where it is still runnable, stays queued where the policy's rules put it (as in Linux, where the current task
//! stays in its priority array). The driver then brings the host in line with that.
//! The driver calls `pick_next` when an event said [`Resched`], and after current blocked or left.

use crate::types::{Class, Nanos, Nice, Sleep, TaskId, TaskInfo, TaskParams, Vcpu, Waker};

/// Why a policy refused an event. State is unchanged after a refusal.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PolicyError {
    /// The task is not known to the policy.
    #[error("no task {}", .0.0)]
    NoSuchTask(TaskId),
    /// A task with that number exists.
    #[error("task {} exists", .0.0)]
    TaskExists(TaskId),
    /// The number is not below [`TaskId::LIMIT`].
    #[error("task number {} is too large", .0.0)]
    TaskNumber(TaskId),
    /// The vcpu does not exist.
    #[error("no vcpu {}", .0.0)]
    NoSuchVcpu(Vcpu),
    /// The event does not fit the task's state: a wake-up of a runnable task, a block of a sleeping one.
    #[error("task {} is not in a state for that", .0.0)]
    WrongState(TaskId),
    /// The number of vcpus is not in 1..=[`Vcpu::LIMIT`].
    #[error("{0} vcpus are not possible")]
    VcpuCount(u16),
}

/// Whether a vcpu should pick again, and which.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[must_use]
pub struct Resched(pub Option<Vcpu>);

impl Resched {
    /// Nothing to do.
    pub const NO: Self = Self(None);

    /// The vcpu should pick again.
    pub const fn on(vcpu: Vcpu) -> Self {
        Self(Some(vcpu))
    }

    /// Says whether any vcpu should pick again.
    pub const fn is_needed(self) -> bool {
        self.0.is_some()
    }
}

/// What a new task shares with its parent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fork {
    /// A process with an address space of its own: child runs first.
    Process,
    /// A thread, or any child that shares the address space (`CLONE_VM`): goes last.
    Thread,
}

/// A scheduling policy: a set of tasks, one runqueue per vcpu, and the rules between them.
///
/// `wake`, `block`, `charge`, `pick_next` take a time that does not depend on the number of tasks, and do not
/// allocate; `add` and `fork` may allocate. `now` never decreases from call to call by the caller's best effort; a
/// policy tolerates small steps back.
pub trait Policy: Send {
    /// The name in the control tree, like `guest_o1_scheduler`.
    fn name(&self) -> &'static str;

    /// Takes in a task, sleeping. The caller wakes it if it is runnable.
    ///
    /// # Errors
    /// `TaskExists`, `TaskNumber`.
    fn add(&mut self, id: TaskId, params: TaskParams, now: Nanos) -> Result<(), PolicyError>;

    /// Takes in a child of `parent` and queues it by the policy's rules for new tasks. Nice and class come from
    /// the parent.
    ///
    /// # Errors
    /// `NoSuchTask` for the parent, `TaskExists`, `TaskNumber` for the child.
    fn fork(&mut self, parent: TaskId, child: TaskId, how: Fork, now: Nanos) -> Result<Resched, PolicyError>;

    /// Forgets a task that ended; `parent`, if the policy knows it, gets back what the policy's rules say.
    ///
    /// # Errors
    /// `NoSuchTask`.
    fn exit(&mut self, id: TaskId, parent: Option<TaskId>, now: Nanos) -> Result<Resched, PolicyError>;

    /// Forgets a task that goes to another scheduler.
    ///
    /// # Errors
    /// `NoSuchTask`.
    fn remove(&mut self, id: TaskId, now: Nanos) -> Result<Resched, PolicyError>;

    /// A sleeping task became runnable. The answer names a vcpu if that one should pick again (it is idle, or the woken task preempts).
    ///
    /// # Errors
    /// `NoSuchTask`, `WrongState` if it is runnable already.
    fn wake(&mut self, id: TaskId, by: Waker, now: Nanos) -> Result<Resched, PolicyError>;

    /// A runnable task went to sleep. If it was current, its vcpu has no current until `pick_next`.
    /// CPU time not yet told by `charge` is to be charged first.
    ///
    /// # Errors
    /// `NoSuchTask`, `WrongState` if it sleeps already.
    fn block(&mut self, id: TaskId, how: Sleep, now: Nanos) -> Result<Resched, PolicyError>;

    /// The task gave way (`sched_yield`).
    ///
    /// # Errors
    /// `NoSuchTask`, `WrongState` if it sleeps.
    fn yield_now(&mut self, id: TaskId, now: Nanos) -> Result<Resched, PolicyError>;

    /// The task has run for `ran` of CPU time since it was last charged. Normally it is a vcpu's current, but time that a task
    /// got outside its turn (a wake-up or handover window) is charged in the same way: it pays for it.
    ///
    /// # Errors
    /// `NoSuchTask`.
    fn charge(&mut self, id: TaskId, ran: Nanos, now: Nanos) -> Result<Resched, PolicyError>;

    /// Chooses the vcpu's current. `None` if nothing is runnable for it, also after trying to pull work from other vcpus.
    ///
    /// # Errors
    /// `NoSuchVcpu`.
    fn pick_next(&mut self, vcpu: Vcpu, now: Nanos) -> Result<Option<TaskId>, PolicyError>;

    /// Gives the vcpu's current.
    fn current(&self, vcpu: Vcpu) -> Option<TaskId>;

    /// How much CPU time the vcpu's current may use before `charge` can have something to decide. `None`
    /// if there is no current, or it may run for ever (alone on its runqueue with a slice that need not be tracked, or FIFO).
    /// To be asked again after every event: a second runnable task turns `None` into a budget without a [`Resched`].
    fn budget(&self, vcpu: Vcpu) -> Option<Nanos>;

    /// Evens out the vcpus' runqueues. Called at the instant `next_balance` gave; the answer is what `resched` holds: vcpus that
    /// should pick again.
    fn balance(&mut self, now: Nanos, resched: &mut Vec<Vcpu>);

    /// When `balance` wants to be called next; `None` with one vcpu or nothing queued.
    fn next_balance(&self) -> Option<Nanos>;

    /// Changes a task's nice value.
    ///
    /// # Errors
    /// `NoSuchTask`.
    fn set_nice(&mut self, id: TaskId, nice: Nice, now: Nanos) -> Result<Resched, PolicyError>;

    /// Changes a task's class.
    ///
    /// # Errors
    /// `NoSuchTask`.
    fn set_class(&mut self, id: TaskId, class: Class, now: Nanos) -> Result<Resched, PolicyError>;

    /// Sets the number of vcpus. Tasks of a vcpu that goes move to others and are not current any more; all vcpus should pick again.
    ///
    /// # Errors
    /// `VcpuCount`.
    fn set_vcpus(&mut self, count: u16, now: Nanos) -> Result<(), PolicyError>;

    /// Gives the number of vcpus.
    fn vcpus(&self) -> u16;

    /// Fixes the length of a slice at nice 0 in CPU time, other nice values in the policy's own proportion to it; `None` goes
    /// back to the policy's own lengths. Takes effect at each task's next slice.
    fn set_slice(&mut self, slice: Option<Nanos>);

    /// Gives what is known of a task.
    ///
    /// # Errors
    /// `NoSuchTask`.
    fn info(&self, id: TaskId) -> Result<TaskInfo, PolicyError>;

    /// How many tasks are runnable, current ones included.
    fn nr_running(&self) -> usize;

    /// Checks everything that must hold between the policy's tables; for tests and fuzzers. Linear in the number of tasks.
    ///
    /// # Errors
    /// Says in words what does not hold.
    fn check_invariants(&self) -> Result<(), String>;
}
