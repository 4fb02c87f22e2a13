//! Guest tasks: what applications show of what they do inside.
//!
//! ```text
//!   application --socket--> listen     who connects, and may; table files in, events out; who died
//!                              |
//!                           guests     applications, and which guest PID is whose
//!                            |   |
//!                       client   pids  one connection with its table files; numbers that are never given twice
//!                         |
//!                       table          slots read through the files
//! ```
//! What is in a table is the application's claim and nothing more. It is read with `pread`, never mapped: then no fault of its file is ours, no
//! hole in it takes memory of ours, and nothing that it changes meanwhile can do worse than show nonsense. The user comes from the
//! socket, the rest is cut to size and cleaned by [`guest_task::layout::parse`].
//!
//! # Lock order
//! [`Guests`]' state → a client's segments. Tables are read under the latter only.

mod client;
mod guests;
mod listen;
pub(crate) mod pids;
pub mod table;

pub use client::Client;
pub use guests::{App, Found, Guests};
pub use listen::{Listening, listen};
pub use pids::FIRST_PID;

#[cfg(test)]
mod tests;

/// The most segments of one application that are looked at: together 4 190 208 slots.
pub const SEGMENTS_MAX: usize = 10;
/// The most connections of one user other than root.
pub const USER_CLIENTS_MAX: usize = 4_096;
/// The most guest PIDs held by the tasks of one user other than root; tasks beyond are not listed.
pub const USER_PIDS_MAX: usize = 1 << 20;
