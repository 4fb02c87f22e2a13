//! Swap: slots and who refers to them, the byte pools of compressed tiers, and the tiers themselves.

mod classes;
mod pool;
mod slots;
mod tier;

pub(crate) use pool::Pool;
pub(crate) use tier::{Entry, Tier};
