//! The daemon of compartments: it serves the control tree, holds the groups and watches over their workers.
//!
//! ```text
//!   kernel --FUSE--> fuse/  --> tree/      what there is, what it is called, what it holds
//!                                  |
//!                               groups/    who is in which group, who may change what; one worker per group
//!                               pools/     what is mem_groups' alone
//!                                  |
//!                               supervise/ what outlives the daemon: state directories, keepers, workers
//! ```
//! Each layer knows only the ones below it; changes come back up as [`notices`].

pub mod args;
mod daemon;
mod daemonize;
pub mod errno;
pub mod fuse;
pub mod groups;
pub mod notices;
mod notify;
pub mod pools;
pub mod supervise;
pub mod tasks;
pub mod tree;

pub use daemon::{main, start_log};
pub use supervise::{RecoverError, Recovered, recover};
