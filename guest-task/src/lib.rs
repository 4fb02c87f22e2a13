//! Shows what an application does inside as tasks of the host: requests, jobs, guest processes. They appear in the control tree of
//! compartments, in `compartment ps` and `top`, and are reached by `compartment kill`.
//!
//! ```no_run
//! use guest_task::{Accepts, Action, Options, Registry, TaskSpec, TaskState};
//!
//! let registry = Registry::connect(Options::default())?;
//! let mut task = registry.publish(
//!     TaskSpec::new("GET /index").cmdline("GET /index HTTP/1.1").owner("10.0.0.7").accepts(Accepts::NONE.signal(15)),
//! );
//! task.set_cpu_time_ns(120_000);
//! task.set_state(TaskState::Waiting);
//! while let Some(event) = registry.next_event() {
//!     if event.task == task.id() && event.action == Action::Signal(15) {
//!         // Cancel the request.
//!     }
//! }
//! drop(task); // It is no longer shown.
//! # Ok::<(), guest_task::ConnectError>(())
//! ```
//!
//! - [`Registry`]: the table of an application, and its connection to the daemon. A daemon need not be there: as soon as one is, it is
//!   handed the table. No call waits for it.
//! - [`Task`]: one line in the table, for as long as the value lives. Publishing, changing and retiring make no system call, allocate
//!   nothing and take no lock.
//! - [`Event`]: a signal or another priority that somebody on the host wants a task to have. A task names beforehand what it takes
//!   ([`Accepts`]); everything else is refused to whoever asks, without asking the application.
//!
//! After `fork` the child's copies of registry and tasks do nothing: the table is the parent's. A child that wants to show tasks connects by itself.
//!
//! [`layout`] and [`wire`] are the two halves of the protocol; only the daemon needs them.
//!
//! # Lock order
//! `grow` (table) and `queue` (events) are never held together.

mod cache;
mod cpu_time;
mod events;
pub mod layout;
mod link;
mod place;
mod registry;
mod spec;
mod sys;
mod table;
mod task;
#[cfg(feature = "tower")]
pub mod tower;
#[cfg(feature = "tracing")]
pub mod tracing;
pub mod wire;

pub use cpu_time::thread_cpu_time_ns;
pub use events::{Action, Event};
pub use place::{SOCKET_VARIABLE, SYSTEM_SOCKET, socket_beside};
pub use registry::{ConnectError, Options, Registry, Status};
pub use spec::{Accepts, TaskSpec, TaskState};
pub use task::{Task, TaskId};
