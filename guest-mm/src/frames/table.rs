//! One descriptor per mapped page.
//!
//! Descriptors that stand for the same frame, after a fork, form a ring; what is charged is the ring. A descriptor outlives its
//! entry in the page table while something is under way with it (`is_dead`).

use crate::frames::list::{List, Queue};
use crate::types::{FrameId, SlotId, SpaceId, StageId, Vpn};

/// No descriptor.
pub(crate) const NIL: u32 = u32::MAX;

/// What is under way with a page.
///
/// Free → Loading → Resident → Moving → Staged → Writing → Free; Resident → Dropping → Free; Staged → Rescuing → Resident;
/// Staged → Dropping → Free; Moving → Resident and Writing → Staged where it failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Phase {
    /// The descriptor is unused.
    #[default]
    Free,
    /// The driver installs it.
    Loading,
    /// It is in its address space.
    Resident,
    /// The driver moves it to the staging area.
    Moving,
    /// The driver drops it, from its address space or the staging area: it needs no write.
    Dropping,
    /// It is in the staging area.
    Staged,
    /// The driver puts it back from the staging area.
    Rescuing,
    /// The driver writes it out of the staging area.
    Writing,
}

#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) vpn: Vpn,
    pub(crate) space: SpaceId,
    pub(crate) phase: Phase,
    pub(crate) queue: Queue,
    pub(crate) prev: u32,
    pub(crate) next: u32,
    /// The next of the ring; itself if alone.
    pub(crate) ring: u32,
    /// A slot that holds the same data; this descriptor has one reference to it.
    pub(crate) slot: Option<SlotId>,
    pub(crate) stage: Option<StageId>,
    /// Its entry is gone; it waits for its outcome.
    pub(crate) is_dead: bool,
    /// All zero and write-protected.
    pub(crate) is_zero: bool,
    /// To be installed write-protected.
    pub(crate) protect: bool,
    /// Brought in by read-ahead, no use of it seen yet.
    pub(crate) is_readahead: bool,
    /// Came back soon after it left, or belongs to the protected queue.
    pub(crate) is_hot: bool,
    /// Does not compress.
    pub(crate) is_raw: bool,
    /// A second frame is charged, for the copy being made of it.
    pub(crate) has_copy: bool,
    /// Its page moved to another address while something was under way.
    pub(crate) was_remapped: bool,
    /// The page turned out to be in place while it is being installed.
    pub(crate) was_found: bool,
}

impl Default for Frame {
    fn default() -> Self {
        Self {
            vpn: Vpn(0),
            space: SpaceId(0),
            phase: Phase::Free,
            queue: Queue::None,
            prev: NIL,
            next: NIL,
            ring: NIL,
            slot: None,
            stage: None,
            is_dead: false,
            is_zero: false,
            protect: false,
            is_readahead: false,
            is_hot: false,
            is_raw: false,
            has_copy: false,
            was_remapped: false,
            was_found: false,
        }
    }
}

/// The descriptors and their queues.
#[derive(Debug)]
pub(crate) struct Frames {
    pub(crate) table: Vec<Frame>,
    free: Vec<u32>,
    pub(crate) probation: List,
    pub(crate) protected: List,
    pub(crate) staged: List,
    /// Frames in use: rings, and copies under way.
    pub(crate) charged: u64,
}

impl Frames {
    pub(crate) fn new() -> Self {
        Self {
            table: Vec::new(),
            free: Vec::new(),
            probation: List::new(Queue::Probation),
            protected: List::new(Queue::Protected),
            staged: List::new(Queue::Staged),
            charged: 0,
        }
    }

    /// Makes a descriptor of its own frame, which is charged; `None` if there are 2^28 already.
    pub(crate) fn alloc(&mut self, space: SpaceId, vpn: Vpn, phase: Phase) -> Option<u32> {
        let id = self.alloc_uncharged(space, vpn, phase)?;
        self.charged += 1;
        Some(id)
    }

    fn alloc_uncharged(&mut self, space: SpaceId, vpn: Vpn, phase: Phase) -> Option<u32> {
        let id = match self.free.pop() {
            Some(id) => id,
            None => {
                let id = u32::try_from(self.table.len()).ok().filter(|id| *id < 1 << 28)?;
                self.table.push(Frame::default());
                id
            }
        };
        self.table[id as usize] = Frame { vpn, space, phase, ring: id, ..Frame::default() };
        Some(id)
    }

    /// Makes a descriptor that shares the frame of `of`.
    pub(crate) fn alloc_sharing(&mut self, of: u32, space: SpaceId, vpn: Vpn) -> Option<u32> {
        let phase = self.table[of as usize].phase;
        let id = self.alloc_uncharged(space, vpn, phase)?;
        self.table[id as usize].ring = self.table[of as usize].ring;
        self.table[of as usize].ring = id;
        Some(id)
    }

    pub(crate) fn is_alone(&self, id: u32) -> bool {
        self.table[id as usize].ring == id
    }

    /// Takes a descriptor out of its ring. It then stands for no charged frame, unless it was alone.
    pub(crate) fn leave_ring(&mut self, id: u32) {
        let mut before = id;
        while self.table[before as usize].ring != id {
            before = self.table[before as usize].ring;
        }
        self.table[before as usize].ring = self.table[id as usize].ring;
        self.table[id as usize].ring = id;
    }

    /// Puts a descriptor of a ring on its own, with a frame of its own.
    pub(crate) fn split(&mut self, id: u32) {
        if !self.is_alone(id) {
            self.leave_ring(id);
            self.charged += 1;
        }
    }

    /// Gives up a descriptor and, if it was the last of its ring, the frame.
    pub(crate) fn release(&mut self, id: u32) {
        self.unqueue(id);
        if self.is_alone(id) {
            self.charged -= 1;
        } else {
            self.leave_ring(id);
        }
        if self.table[id as usize].has_copy {
            self.charged -= 1;
        }
        self.table[id as usize] = Frame::default();
        self.free.push(id);
    }

    pub(crate) fn unqueue(&mut self, id: u32) {
        match self.table[id as usize].queue {
            Queue::None => {}
            Queue::Probation => self.probation.remove(&mut self.table, id),
            Queue::Protected => self.protected.remove(&mut self.table, id),
            Queue::Staged => self.staged.remove(&mut self.table, id),
        }
    }

    /// Puts a resident page that is in no queue at the end of the one it belongs to.
    pub(crate) fn enqueue(&mut self, id: u32) {
        let list = if self.table[id as usize].is_hot { &mut self.protected } else { &mut self.probation };
        list.push(&mut self.table, id);
    }

    /// Gives a descriptor in use.
    pub(crate) fn get(&self, id: FrameId) -> Option<&Frame> {
        self.table.get(id.0 as usize).filter(|frame| frame.phase != Phase::Free)
    }
}
