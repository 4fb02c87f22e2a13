//! The state machine of one pool.
//!
//! [`fault`](Vm::fault) says what is to be done about a fault, [`installed`](Vm::installed) hears how it went. Frames come back by
//! [`select`](Vm::select) → [`moved`](Vm::moved) → [`unstage_plan`](Vm::unstage_plan) → [`written`](Vm::written). Every change to an
//! entry of a page table is one store, in an order that leaves nothing lost if the process ends between any two.
//!
//! What is charged: every frame that holds a page (a shared one once), staged pages, copies under way, pages of compressed
//! tiers' byte pools, memory given up by the core and not yet by the driver, and unmanaged pages.

mod check;
mod fault;
mod fork;
mod install;
mod mapping;
mod reclaim;
mod recover;
mod slot;
mod stage;
mod state;
mod writeback;
mod writeout;

pub use state::{Restore, Vm};
