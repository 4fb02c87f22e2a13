//! Queues of descriptors, linked through them.

use crate::frames::table::{Frame, NIL};

/// Which queue a descriptor is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Queue {
    /// In none.
    #[default]
    None,
    /// Resident, came in lately.
    Probation,
    /// Resident, came back soon after it left.
    Protected,
    /// In the staging area.
    Staged,
}

/// One queue: oldest at the head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct List {
    pub(crate) queue: Queue,
    pub(crate) head: u32,
    pub(crate) tail: u32,
    pub(crate) len: u32,
}

impl List {
    pub(crate) const fn new(queue: Queue) -> Self {
        Self { queue, head: NIL, tail: NIL, len: 0 }
    }

    /// Puts a descriptor that is in no queue at the end.
    pub(crate) fn push(&mut self, table: &mut [Frame], id: u32) {
        let frame = &mut table[id as usize];
        debug_assert_eq!(frame.queue, Queue::None);
        frame.queue = self.queue;
        frame.prev = self.tail;
        frame.next = NIL;
        match self.tail {
            NIL => self.head = id,
            tail => table[tail as usize].next = id,
        }
        self.tail = id;
        self.len += 1;
    }

    /// Puts a descriptor that is in no queue at the head.
    pub(crate) fn push_front(&mut self, table: &mut [Frame], id: u32) {
        let frame = &mut table[id as usize];
        debug_assert_eq!(frame.queue, Queue::None);
        frame.queue = self.queue;
        frame.prev = NIL;
        frame.next = self.head;
        match self.head {
            NIL => self.tail = id,
            head => table[head as usize].prev = id,
        }
        self.head = id;
        self.len += 1;
    }

    /// Takes out a descriptor that is in this queue.
    pub(crate) fn remove(&mut self, table: &mut [Frame], id: u32) {
        let Frame { prev, next, queue, .. } = table[id as usize];
        debug_assert_eq!(queue, self.queue);
        match prev {
            NIL => self.head = next,
            prev => table[prev as usize].next = next,
        }
        match next {
            NIL => self.tail = prev,
            next => table[next as usize].prev = prev,
        }
        let frame = &mut table[id as usize];
        frame.queue = Queue::None;
        frame.prev = NIL;
        frame.next = NIL;
        self.len -= 1;
    }
}
