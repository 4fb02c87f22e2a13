//! The control tree as a model: what entries there are, what they are called, what may be done to them.
//!
//! Nothing here knows FUSE. The tree is a set of [`Room`]s: each has a number, its own inodes, and a door (an entry of the tree's
//! top directory). A new part of the tree is a new room.
//!
//! - [`inode`]: room number and node in one 64-bit number.
//! - [`room`]: what a room must be able to do.
//! - [`rooms`]: the rooms there are.
//! - [`names`]: which names groups may have.
//! - [`values`]: what the files hold, parsed and formatted.

pub mod inode;
pub mod names;
pub mod room;
pub mod rooms;
pub mod values;

use std::ffi::OsStr;

pub use inode::Inode;
pub use room::{Attr, Entry, Kind, Opened, Room, Stream, TTL, Urgency, Watched};

use crate::errno::{Refusal, Why};
use crate::groups::Caller;

/// All rooms, by number. Room 0 holds the top directory.
pub struct Tree {
    rooms: Vec<Box<dyn Room>>,
    /// Rooms whose numbers do not follow on.
    others: Vec<(usize, Box<dyn Room>)>,
}

impl Tree {
    /// Makes a tree of rooms, numbered as they come.
    pub fn new(rooms: Vec<Box<dyn Room>>) -> Self {
        Self { rooms, others: Vec::new() }
    }

    /// Adds a room with that number.
    #[must_use]
    pub fn with(mut self, number: usize, room: Box<dyn Room>) -> Self {
        self.others.push((number, room));
        self
    }

    /// Finds the room of an inode.
    ///
    /// # Errors
    /// ENOENT.
    pub fn room(&self, inode: Inode) -> Result<&dyn Room, Refusal> {
        let other = || self.others.iter().find(|(number, _)| *number == inode.room()).map(|(_, room)| room);
        self.rooms
            .get(inode.room())
            .or_else(other)
            .map(|room| &**room)
            .ok_or_else(|| Refusal::new(Why::Missing, "no such entry"))
    }

    /// Moves an entry from one directory to another.
    ///
    /// # Errors
    /// Those of the room; EPERM between rooms.
    pub fn rename(
        &self,
        caller: &Caller,
        from: (Inode, &OsStr),
        to: (Inode, &OsStr),
        is_exchange: bool,
    ) -> Result<(), Refusal> {
        if from.0.room() != to.0.room() {
            if let Some(why) = self.room(from.0)?.apart().or(self.room(to.0)?.apart()) {
                return Err(why);
            }
            return Err(Refusal::new(Why::NotAllowed, "entries do not move between the parts of the tree"));
        }
        if from.1 != to.1 || is_exchange {
            return Err(Refusal::new(Why::NotAllowed, "entries keep their names"));
        }
        self.room(from.0)?.rename(caller, from.0.local(), to.0.local(), from.1)
    }
}

impl std::fmt::Debug for Tree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tree").field("rooms", &self.rooms.len()).finish()
    }
}
