//! A simulated host for tests and fuzzers.
//!
//! [`World`](world::World) plays the host's memory management, the members and the driver, with failures where they may occur,
//! and checks every page it reads against what was written.

pub mod entropy;
pub mod memory;
pub mod pager;
pub mod refs;
pub mod world;

pub use world::apply_ops;
