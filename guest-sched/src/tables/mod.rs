//! The tables the policies are built of: tasks by number, lists by priority, the set of idle vcpus.

mod idle_set;
mod prio_array;
mod task_table;

pub(crate) use idle_set::IdleSet;
pub(crate) use prio_array::PrioArray;
pub(crate) use task_table::{Linked, NIL, Slot, TaskTable};
