//! What tells the kinds of groups apart. Both are made, held, moved into, adopted and ended in the same way.

use std::fmt::Debug;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::caller::Caller;
use super::controller::Controller;
use super::driver::Driver;
use super::group::{Group, GroupId};
use super::host::Process;
use super::journal::Journal;
use super::listen::Told;
use crate::errno::{Refusal, Why};
use crate::notices::{Notices, Side};
use crate::supervise::StateRoot;

/// A kind of group: [`Sched`](super::Sched) or [`Mem`](crate::pools::Mem).
pub trait Kind: Sized + Send + Sync + Debug + 'static {
    /// What is set of a group.
    type Config: Clone + PartialEq + Debug + Send + Sync;
    /// What a worker reports.
    type Event: Into<Told> + Send + 'static;
    /// What a worker publishes.
    type View: Members + Send + Sync;
    /// What there is beside groups in its half of the tree.
    type Beside: Send + Sync + 'static;
    /// A worker.
    type Driver: Driver<Self> + ?Sized + 'static;

    /// The half of the tree.
    const SIDE: Side;
    /// The word for a group in messages.
    const NOUN: &'static str;
    /// What guests there are; the first one is that of lasting groups.
    const GUESTS: &'static [&'static str];
    /// The word for a guest in events.
    const GUEST_KEY: &'static str;
    /// Whether a process goes back to where it was if the worker that should have taken it in does not answer. Else it is in no group until that
    /// worker tells: it may be at it still, and two must not have one process's memory.
    const GOES_BACK_UNANSWERED: bool = true;
    /// Whether a group whose workers end again and again is given up. Else that would cost its members their lives.
    const IS_GIVEN_UP: bool = true;
    /// Whether a group can be a member of another one.
    const NESTS: bool = false;

    /// Makes what there is beside groups.
    fn beside(journal: &Arc<Journal>, notices: &Notices, state: &StateRoot) -> Self::Beside;

    /// Reads what was set of the group of a state directory.
    ///
    /// # Errors
    /// If there is nothing, or nonsense.
    fn load(dir: &Path) -> io::Result<Self::Config>;

    /// Gives the group's name.
    fn name(config: &Self::Config) -> &str;

    /// Makes what is set of a new group.
    fn config(template: &Self::Config, name: &str, guest: &str) -> Self::Config;

    /// Has the groups' workers be looked at soon: somebody wants to run, or has come.
    fn look(_controller: &Controller<Self>) {}

    /// Takes account of what a process has used, before it leaves or after it has joined.
    fn settle(_controller: &Controller<Self>, _group: &Group<Self>, _process: &Process) {}

    /// Moves a group, which `process` stands for, into another one.
    ///
    /// # Errors
    /// Any; then nothing has changed.
    fn move_representative(
        _controller: &Controller<Self>,
        _caller: &Caller,
        _inner: &Arc<Group<Self>>,
        _process: &Process,
        _to: GroupId,
    ) -> Result<(), Refusal> {
        Err(Refusal::new(Why::Unsupported, "groups of this kind do not nest"))
    }

    /// Takes a group out of the one it is nested in.
    ///
    /// # Errors
    /// Any.
    fn take_out(_controller: &Controller<Self>, _group: &Group<Self>) -> Result<(), Refusal> {
        Ok(())
    }

    /// Takes a group that ends out of its outer one, and moves the groups nested in it there. Gives the outer one.
    fn unlink(_controller: &Controller<Self>, _group: &Arc<Group<Self>>) -> Option<Arc<Group<Self>>> {
        None
    }

    /// Links a group anew with those it is nested with, after its worker was started again.
    fn relink(_controller: &Controller<Self>, _group: &Arc<Group<Self>>) {}

    /// Nests a group that was taken over into the one named, where it had the number `pid`.
    fn nest_again(_controller: &Controller<Self>, _group: &Arc<Group<Self>>, _outer: &str, _pid: i32) {}
}

/// The members of a group as its worker publishes them.
pub trait Members {
    /// Lists each process with its start time.
    fn members(&self) -> Vec<(i32, u64)>;

    /// Gives the start time of a process that is a member.
    fn start_time(&self, pid: i32) -> Option<u64>;
}
