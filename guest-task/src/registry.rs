//! The application's end: a table, and a thread that keeps a daemon informed of it.

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::events::{Event, Queue};
use crate::link;
use crate::spec::TaskSpec;
use crate::table::{BATCH, Table};
use crate::task::Task;

type Callback = Box<dyn Fn(Event) + Send + Sync>;

/// How to connect.
#[derive(Default)]
pub struct Options {
    pub(crate) socket: Option<PathBuf>,
    pub(crate) on_event: Option<Callback>,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl Options {
    /// Names the daemon's socket. By default it is the one that `COMPARTMENTS_SOCKET` names, else `compartments.sock` in
    /// `XDG_RUNTIME_DIR` (not for root), else `/run/compartments.sock`.
    #[must_use]
    pub fn socket(self, path: impl Into<PathBuf>) -> Self {
        Self { socket: Some(path.into()), ..self }
    }

    /// Has events handled by this function, on the registry's own thread, instead of [`Registry::next_event`]. While it runs, further events
    /// wait.
    #[must_use]
    pub fn on_event(self, handle: impl Fn(Event) + Send + Sync + 'static) -> Self {
        Self { on_event: Some(Box::new(handle)), ..self }
    }
}

/// Why there is no registry: the system did not give memory, descriptors or a thread. That no daemon is there is no reason.
#[derive(Debug)]
pub struct ConnectError {
    what: &'static str,
    source: io::Error,
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}: {}", self.what, self.source)
    }
}

impl std::error::Error for ConnectError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// How it stands with the daemon.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Status {
    /// None answers; it will be connected to when one does.
    Absent,
    /// It shows the tasks.
    Connected,
    /// It does not want this application, with its reason; another one may.
    Refused(String),
}

/// What registry, tasks and thread share. Never taken away, for a task may be dropped at any time by any thread.
pub(crate) struct Inner {
    pub(crate) table: Table,
    pub(crate) queue: Queue,
    pub(crate) wake: EventFd,
    status: Mutex<(Status, bool)>,
    changed: Condvar,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("status", &self.lock().0).finish_non_exhaustive()
    }
}

impl Inner {
    fn lock(&self) -> std::sync::MutexGuard<'_, (Status, bool)> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_status(&self, status: Status) {
        self.lock().0 = status;
        self.changed.notify_all();
    }

    /// Whether the registry is gone and the thread has to end.
    pub(crate) fn is_closed(&self) -> bool {
        self.lock().1
    }

    /// Takes free slots from the table, and has the daemon told if that has grown.
    pub(crate) fn take(&self, batch: &mut [u32; BATCH]) -> usize {
        let (n, has_grown) = self.table.take(batch);
        if has_grown {
            let _ = self.wake.write(1);
        }
        n
    }

    pub(crate) fn give(&self, slots: &[u32]) {
        if !self.table.is_foreign() {
            self.table.give(slots);
        }
    }
}

/// An application's tasks, as one table and one connection. Clones are the same registry; with the last one the connection ends, and the tasks are
/// no longer shown. The table's memory is kept until the process ends: make one, not many.
#[derive(Clone, Debug)]
pub struct Registry {
    inner: &'static Inner,
    _life: Arc<Life>,
}

#[derive(Debug)]
struct Life(&'static Inner);

impl Drop for Life {
    fn drop(&mut self) {
        // A child's copy says nothing about the parent's, and has no thread.
        if !self.0.table.is_foreign() {
            self.0.lock().1 = true;
            let _ = self.0.wake.write(1);
        }
    }
}

impl Registry {
    /// Makes a table, and has a thread connect to the daemon, now and whenever another one is there.
    ///
    /// # Errors
    /// [`ConnectError`]. That there is no daemon is none.
    pub fn connect(options: Options) -> Result<Self, ConnectError> {
        let failed = |what| move |source| ConnectError { what, source };
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let inner: &'static Inner = Box::leak(Box::new(Inner {
            table: Table::new().map_err(failed("make the table of tasks"))?,
            queue: Queue::new().map_err(failed("make an eventfd"))?,
            wake: EventFd::from_flags(flags).map_err(|e| failed("make an eventfd")(e.into()))?,
            status: Mutex::new((Status::Absent, false)),
            changed: Condvar::new(),
        }));
        link::start(inner, options).map_err(failed("start a thread"))?;
        Ok(Self { inner, _life: Arc::new(Life(inner)) })
    }

    /// Publishes a task. It does not fail: where the table is full (16 773 120 tasks, or no memory or descriptor for the next segment), or in a child after `fork`, the task is just not shown.
    #[inline]
    pub fn publish(&self, spec: TaskSpec<'_>) -> Task {
        Task::publish(self.inner, &spec)
    }

    /// Gives the next event, if there is one. Never waits.
    pub fn next_event(&self) -> Option<Event> {
        if self.inner.table.is_foreign() {
            return None;
        }
        loop {
            let (event, has_room_again) = self.inner.queue.pop();
            if has_room_again {
                let _ = self.inner.wake.write(1);
            }
            let event = event?;
            // The task may have ended while the event waited.
            if link::is_live(self.inner, event.task) {
                return Some(event);
            }
        }
    }

    /// Gives a descriptor that can be read while events wait; for `poll`, `epoll` and the like. Only [`Registry::next_event`] reads it.
    pub fn event_fd(&self) -> BorrowedFd<'_> {
        self.inner.queue.fd()
    }

    /// Tells how it stands with the daemon.
    pub fn status(&self) -> Status {
        self.inner.lock().0.clone()
    }

    /// Waits until the daemon has answered, at most that long, and tells how it stands.
    pub fn wait_answer(&self, at_most: Duration) -> Status {
        let deadline = Instant::now() + at_most;
        let mut status = self.inner.lock();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if status.0 != Status::Absent || left.is_zero() {
                return status.0.clone();
            }
            let waited = self.inner.changed.wait_timeout(status, left);
            status = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
