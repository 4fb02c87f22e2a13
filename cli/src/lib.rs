//! What people type: the verbs of `compartment`, all of them thin users of the mounted control tree.
//!
//! The binary is a multi-call one: the daemon, the keepers and the gate through which programs are started
//! are the same file, so that `cargo run --release -- demo` needs nothing else.
//!
//! - `multicall`: which program it is this time.
//! - `args`: the command line; `verbs`: one file per verb.
//! - `tree`: the typed client of the control tree.
//! - `embedded`: a daemon for the time of one verb; `gate`: programs moved before their first instruction.
//! - `enter`: shells with guest tasks in their `/proc`.
//! - `uml`: the processes of user-mode-linux instances.
//! - `exit`: exit codes.

mod args;
mod embedded;
mod enter;
mod exit;
mod gate;
mod multicall;
mod output;
mod paths;
mod proxy;
mod signals;
mod tree;
mod uml;
mod verbs;

pub use args::command;
pub use multicall::main;
