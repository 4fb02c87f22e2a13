//! Groups: who is in which, who may change what, and the changes themselves.
//!
//! - [`Kind`]: sched_groups ([`Sched`]) or mem_groups ([`Mem`](crate::pools::Mem)); all else is the same for both.
//! - [`Controller`]: all groups of a kind; every change goes through it.
//! - [`Group`]: one of them.
//! - [`Caller`]: who asks, and what they may do.
//! - [`Driver`], [`Launcher`]: a group's worker as the controller needs it; the real one and, for tests, a fake.
//! - [`Host`]: the processes of the host; likewise.
//! - [`Journal`]: `events` and `error_log`.
//! - [`rules`]: who is put where by itself.
//!
//! # Lock order
//! `nesting` → a group's `phase` → a group's `tuning` → a group's `setup`, `driver`, `cache` → `tables` → the journal's. Calls to
//! a worker, which may take long, are made under `nesting`, `phase` (read) and `tuning` only: nothing that reading the tree
//! needs waits for a worker. A move holds a reservation of its PID all the while ([`reserve`]).

mod accounts;
pub mod caller;
mod config;
mod controller;
mod create;
mod dissolve;
pub mod driver;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
mod group;
pub mod host;
pub mod host_view;
pub mod journal;
mod kind;
mod ledger;
mod listen;
mod moves;
mod nest;
pub mod reserve;
pub mod rules;
mod sched;
mod tables;
mod task;
#[cfg(test)]
pub(crate) mod tests;

pub use accounts::Accounts;
pub use caller::Caller;
pub use controller::{Controller, Owns, Setup};
pub use driver::{Driver, Launched, Launcher, SchedDriver};
pub use group::{Group, GroupId, Holder};
pub use host::{Creds, Host, Process};
pub use journal::Journal;
pub use kind::{Kind, Members};
pub use listen::Told;
pub use sched::{Sched, SchedBeside};
pub use task::{TaskView, View};

/// The most groups there may be, beside group 0: each takes two processes.
pub const GROUPS_MAX: usize = 1_000;
