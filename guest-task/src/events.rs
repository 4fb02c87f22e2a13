//! What others want of a task, on its way to the application.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, PoisonError};

use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::task::TaskId;

/// What somebody wants.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Action {
    /// A signal. The application does what its name says: `SIGTERM` (15) ends, `SIGSTOP` (19) stops, `SIGCONT` (18) goes on.
    Signal(i32),
    /// Another priority, -20 to 19. Once it is in force the application shows it with [`crate::Task::set_nice`].
    Nice(i8),
}

/// Something wanted of a task.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Event {
    /// Of which.
    pub task: TaskId,
    /// What.
    pub action: Action,
}

/// Events that wait for the application, at most [`QUEUE_MAX`]: beyond, they wait in the socket, and then the daemon refuses more.
#[derive(Debug)]
pub(crate) struct Queue {
    waiting: Mutex<VecDeque<Event>>,
    ready: EventFd,
}

const QUEUE_MAX: usize = 256;

impl Queue {
    pub(crate) fn new() -> io::Result<Self> {
        let ready = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self { waiting: Mutex::default(), ready })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Event>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.lock().len() >= QUEUE_MAX
    }

    pub(crate) fn push(&self, event: Event) {
        let mut waiting = self.lock();
        waiting.push_back(event);
        if waiting.len() == 1 {
            let _ = self.ready.write(1);
        }
    }

    /// Gives the oldest event, and whether there is room again where there was none.
    pub(crate) fn pop(&self) -> (Option<Event>, bool) {
        let mut waiting = self.lock();
        let was_full = waiting.len() == QUEUE_MAX;
        let event = waiting.pop_front();
        if event.is_some() && waiting.is_empty() {
            let _ = self.ready.read();
        }
        (event, was_full)
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_out_in_order_and_the_descriptor_tells() {
        let queue = Queue::new().expect("an eventfd");
        let event = |n: u64| Event { task: TaskId::from_word(n << 32 | 1), action: Action::Signal(n as i32) };

        queue.push(event(1));
        queue.push(event(2));

        assert_eq!(queue.pop().0, Some(event(1)));
        assert_eq!(queue.pop().0, Some(event(2)));
        assert_eq!(queue.pop(), (None, false));
        assert!(queue.ready.read().is_err());
    }
}
