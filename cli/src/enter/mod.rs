//! A shell in which guest tasks are processes: its `/proc` is the tree's `proc`, and what it asks of a guest PID is answered.
//!
//! ```text
//!   compartment enter          becomes the shell, after it has
//!     |-- supervisor             started this one, which stays on the host, in no terminal's session: it
//!     |                            answers calls about guest PIDs through the tree, as their caller (`calls`), and
//!     |-- a mount namespace        renews what is mounted here when the daemon is another one (`place`)
//!     `-- a seccomp filter       that picks those calls, and no others
//! ```
//! The shell is the process that `enter` was, so that its status, terminal and signals need no help. The supervisor ends with the last process
//! that has the filter; should it be killed, calls about guest PIDs give ENOSYS, and the daemon's next start is not noticed. It serves the
//! shell's children too, whoever they become: there is one listener for all.

mod calls;
mod pidfds;
pub(crate) mod place;
pub(crate) mod supervisor;
