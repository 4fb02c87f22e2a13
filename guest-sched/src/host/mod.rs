//! The driver: one worker process per group lets a [`Policy`](crate::Policy) schedule unmodified host processes.
//!
//! ```text
//!   compartmentd --client::Worker--> socket --+                      +--> park/    take a member off the host's runqueue
//!        |                                    v                      |
//!        '--- table (shared file, read) <-- worker::run (one loop) --+--> sensor/  who blocked, woke, forked, exited
//!                     |                       ^   |                  |
//!                  keeper  --- watches -------'   '--> Policy        '--> envelope the group's weight on the host
//! ```
//!
//! - [`proto`]: what daemon and worker say to each other.
//! - [`table`]: the shared file in which a worker publishes its members, and from which they are resumed when it died.
//! - [`client`]: the daemon's end of a worker.

pub mod cgroup;
pub mod client;
mod envelope;
pub mod keeper;
mod lease;
pub mod mode;
pub mod park;
pub mod proto;
mod recover;
pub mod sensor;
pub mod table;
mod watch;
pub mod worker;

pub use client::{Worker, WorkerError};
pub use mode::{Envelope, Forced, Handover, Mode, Park, Sensor};
pub use proto::{Event, GroupConfig};
pub use recover::{RecoverReport, recover};
pub use table::{GroupStat, Member, Snapshot};
