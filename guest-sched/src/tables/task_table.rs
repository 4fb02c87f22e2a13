//! Tasks by number.

use std::ops::{Index, IndexMut};

use crate::policy::PolicyError;
use crate::types::TaskId;

/// No task.
pub(crate) const NIL: u32 = u32::MAX;

/// Something that can hang in one list.
pub(crate) trait Linked {
    /// Gives the neighbour towards the tail, or [`NIL`].
    fn next(&self) -> u32;
    /// Gives the neighbour towards the head, or [`NIL`].
    fn prev(&self) -> u32;
    /// Sets the neighbour towards the tail.
    fn set_next(&mut self, next: u32);
    /// Sets the neighbour towards the head.
    fn set_prev(&mut self, prev: u32);
}

/// What a policy keeps of a task.
pub(crate) trait Slot: Clone + Linked {
    /// A slot without a task.
    const ABSENT: Self;
    /// Says whether there is no task in the slot.
    fn is_absent(&self) -> bool;
}

/// An array of slots indexed by task number. It grows to the largest number used and does not shrink.
#[derive(Clone, Debug, Default)]
pub(crate) struct TaskTable<T> {
    slots: Vec<T>,
}

impl<T: Slot> TaskTable<T> {
    /// Makes a table without tasks.
    pub(crate) const fn new() -> Self {
        Self { slots: Vec::new() }
    }

    /// Gives a task's index, if there is such a task.
    ///
    /// # Errors
    /// `NoSuchTask`.
    pub(crate) fn find(&self, id: TaskId) -> Result<u32, PolicyError> {
        match self.slots.get(id.index()) {
            Some(slot) if !slot.is_absent() => Ok(id.0),
            _ => Err(PolicyError::NoSuchTask(id)),
        }
    }

    /// Says whether a new task may have this number.
    ///
    /// # Errors
    /// `TaskExists`, `TaskNumber`.
    pub(crate) fn check_free(&self, id: TaskId) -> Result<(), PolicyError> {
        if id.0 >= TaskId::LIMIT {
            Err(PolicyError::TaskNumber(id))
        } else if self.find(id).is_ok() {
            Err(PolicyError::TaskExists(id))
        } else {
            Ok(())
        }
    }

    /// Fills a free slot. May allocate.
    pub(crate) fn insert(&mut self, id: TaskId, task: T) {
        if id.index() >= self.slots.len() {
            self.slots.resize(id.index() + 1, T::ABSENT);
        }
        self.slots[id.index()] = task;
    }

    /// Frees a slot.
    pub(crate) fn free(&mut self, index: u32) {
        self[index] = T::ABSENT;
    }

    /// Gives a slot; `None` for [`NIL`].
    pub(crate) fn get(&self, index: u32) -> Option<&T> {
        self.slots.get(index as usize)
    }

    /// Gives the slots, free ones included.
    pub(crate) fn slots(&self) -> &[T] {
        &self.slots
    }

    /// Gives the slots, free ones included.
    pub(crate) fn slots_mut(&mut self) -> &mut [T] {
        &mut self.slots
    }
}

impl<T> Index<u32> for TaskTable<T> {
    type Output = T;
    fn index(&self, index: u32) -> &T {
        &self.slots[index as usize]
    }
}

impl<T> IndexMut<u32> for TaskTable<T> {
    fn index_mut(&mut self, index: u32) -> &mut T {
        &mut self.slots[index as usize]
    }
}
