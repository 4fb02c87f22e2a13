//! Page descriptors, the queues they are in, and the rings of those that share a frame.

mod list;
mod table;

pub(crate) use list::Queue;
pub(crate) use table::{Frames, NIL, Phase};
