//! Inode numbers: 4 bits of room, 60 bits that mean something to that room alone.
//!
//! They are computed, not handed out: nothing is kept for an entry that somebody has looked at, and nothing grows.

/// The number of an entry. The top directory is 1, as FUSE has it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Inode(pub u64);

const LOCAL_BITS: u32 = 60;

impl Inode {
    /// The top directory.
    pub const ROOT: Self = Self(1);

    /// Puts an inode together. Only the low 60 bits of `local` count.
    pub const fn new(room: usize, local: u64) -> Self {
        Self((room as u64) << LOCAL_BITS | local & ((1 << LOCAL_BITS) - 1))
    }

    /// Gives the room's number, 0..=15.
    pub const fn room(self) -> usize {
        (self.0 >> LOCAL_BITS) as usize
    }

    /// Gives what means something to the room.
    pub const fn local(self) -> u64 {
        self.0 & ((1 << LOCAL_BITS) - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inode_taken_apart_is_what_it_was_made_of() {
        let inode = Inode::new(15, (1 << 60) - 1);

        assert_eq!((inode.room(), inode.local()), (15, (1 << 60) - 1));
        assert_eq!(Inode::new(0, 1), Inode::ROOT);
    }
}
