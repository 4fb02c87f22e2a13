//! The simulated host: pages, staging area, files and byte pools; members that read, write and change mappings; a driver that does
//! what the core says, and fails where it may.

mod driver;
mod host;
mod members;
mod ops;

pub use host::{Trouble, World};
pub use ops::apply_ops;
