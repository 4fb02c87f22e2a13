//! Ways of taking a task off the host's runqueue and putting it back.

mod freeze;
mod mover;
mod stop;

use std::io;
use std::os::fd::BorrowedFd;

pub use freeze::Freezer;
pub use stop::Stopper;

use crate::types::TaskId;

/// A task as the way of parking sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Target {
    /// Its number.
    pub id: TaskId,
    /// Its process.
    pub pid: i32,
    /// Its thread.
    pub tid: i32,
}

/// What became of something that a way of parking did in the background.
#[derive(Debug)]
pub enum Outcome {
    /// The task can be parked without delay from now on.
    Ready(TaskId),
    /// The task cannot be parked.
    Failed(TaskId, io::Error),
}

/// A way of parking. One that works in the background says what came of it through [`Parker::outcomes`].
pub trait Parker: std::fmt::Debug {
    /// Whether each thread is a task of its own; else a process is one task.
    fn is_per_thread(&self) -> bool;

    /// Takes note of a task that joins.
    fn attach(&mut self, target: Target);

    /// Makes ready for parking the task without delay. Says whether it is ready now; else [`Parker::outcomes`] will.
    fn prepare(&mut self, id: TaskId) -> bool;

    /// Takes note of a task that a member has started: it is where its parent is. Says whether that place is parked.
    fn forked(&mut self, parent: TaskId, child: Target) -> bool;

    /// Waits for what [`Parker::park`] would have to wait for: somebody else on the host who changes cgroups. A task that falls asleep
    /// meanwhile is not to be parked. To be called right before, with a look at the sensor in between.
    fn brace(&mut self, _id: TaskId) {}

    /// Takes the task off the runqueue; one that cannot be parked without delay yet when [`Outcome::Ready`] has come and this is called
    /// again. It is out when the sensor says so, or [`Parker::is_out`].
    ///
    /// # Errors
    /// If that cannot be done; the task goes on running.
    fn park(&mut self, id: TaskId) -> io::Result<()>;

    /// Puts the task back. Says whether it was really held, and is on the runqueue from now on: one that was not yet may have fallen asleep
    /// by itself.
    ///
    /// # Errors
    /// If that cannot be done.
    fn resume(&mut self, id: TaskId) -> io::Result<bool>;

    /// Says whether the task is not held: told to leave the runqueue, it has fallen asleep by itself before that was carried out.
    fn is_free(&self, id: TaskId) -> bool;

    /// Says whether the task is off the runqueue by now; asked when the sensor may have missed it.
    fn is_out(&self, id: TaskId) -> bool;

    /// Says whether the task is where it cannot be parked any more: somebody else has moved it.
    fn is_lost(&self, _id: TaskId) -> bool {
        false
    }

    /// Forgets a task that ended.
    fn exited(&mut self, id: TaskId);

    /// Resumes a task and undoes everything that was done to it.
    fn detach(&mut self, id: TaskId);

    /// A descriptor that becomes readable when [`Parker::outcomes`] has something to say.
    fn notifier(&self) -> Option<BorrowedFd<'_>>;

    /// Gives what came of things done in the background since the last call.
    fn outcomes(&mut self) -> Vec<Outcome>;

    /// Waits until everything done in the background is done. For the end.
    fn settle(&mut self);
}
