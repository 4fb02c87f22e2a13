//! What outlives the daemon: state directories, the workers over them, and how they are found again.

pub mod liveness;
pub mod mount;
mod recover;
mod state;

pub use recover::{RecoverError, Recovered, recover, recover_group};
pub use state::{Meta, StateDir, StateRoot};
