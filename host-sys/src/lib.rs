//! Thin, safe wrappers of the system calls that the drivers need and no well-kept library has.
//!
//! All `unsafe` code is in `sys`; the modules here give its calls names and types.

pub mod perf;
pub mod process;
pub mod sched;
mod seqpacket;
mod shared_words;
mod sys;

pub use process::{ForkResult, Pidfd, fork_sharing_fds};
pub use seqpacket::{Listener, SeqPacket};
pub use shared_words::SharedWords;
