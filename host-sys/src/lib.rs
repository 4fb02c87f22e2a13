//! Thin, safe wrappers of the system calls that the drivers need and no well-kept library has.
//!
//! All `unsafe` code is in `sys`; the modules here give its calls names and types.

pub mod agent;
mod dialogue;
mod last_will;
pub mod mounts;
pub mod pagemap;
pub mod perf;
pub mod process;
pub mod reads;
pub mod rights;
pub mod sched;
pub mod seccomp;
mod seqpacket;
mod shared_words;
mod sys;
pub mod tracee;
pub mod uffd;
mod wakeups;

pub use agent::Agent;
pub use dialogue::{Dialogue, DialogueError, Meeting};
pub use last_will::LastWill;
pub use process::{ForkResult, Pidfd, fork_sharing_fds};
pub use seqpacket::{Listener, Received, SeqPacket};
pub use shared_words::SharedWords;
pub use wakeups::{WakeTracepoint, WakeWatch};
