//! Open files.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fuser::{Errno, PollNotifier, ReplyData};
use parking_lot::{Condvar, Mutex};

use crate::errno::Refusal;
use crate::groups::Caller;
use crate::tree::Stream;

/// How often waiting reads are answered with EINTR.
pub(super) const TICK: Duration = Duration::from_millis(200);

/// An open file.
pub(super) enum Handle {
    /// A value: what the reader gets until it begins at the start again.
    Value(Mutex<Arc<[u8]>>),
    /// A stream.
    Stream(StreamHandle),
}

pub(super) struct StreamHandle {
    pub(super) stream: Arc<dyn Stream>,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    readers: Vec<Reader>,
    poll: Option<PollNotifier>,
}

pub(super) struct Reader {
    pub(super) caller: Caller,
    pub(super) max: usize,
    pub(super) reply: ReplyData,
}

/// All open files, by number.
#[derive(Default)]
pub(super) struct Handles {
    open: Mutex<HashMap<u64, Arc<Handle>>>,
    last: AtomicU64,
    nr_waiting: Mutex<usize>,
    somebody_waits: Condvar,
}

pub(super) fn errno(number: i32) -> Errno {
    Errno::from_i32(number)
}

impl StreamHandle {
    pub(super) fn new(stream: Arc<dyn Stream>) -> Self {
        Self { stream, waiting: Mutex::default() }
    }

    /// Remembers whom to tell when there is something to read.
    pub(super) fn set_poll(&self, poll: PollNotifier) {
        self.waiting.lock().poll = Some(poll);
    }
}

impl Handles {
    pub(super) fn add(&self, handle: Handle) -> u64 {
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        self.open.lock().insert(number, Arc::new(handle));
        number
    }

    pub(super) fn get(&self, number: u64) -> Option<Arc<Handle>> {
        self.open.lock().get(&number).cloned()
    }

    pub(super) fn remove(&self, number: u64) -> Option<Arc<Handle>> {
        self.open.lock().remove(&number)
    }

    /// Answers a read of a stream now or, if it has to wait, later. Gives the refusal that was answered.
    pub(super) fn read(
        &self,
        handle: &StreamHandle,
        reader: Reader,
        is_nonblocking: bool,
    ) -> Option<Refusal> {
        // Under the lock, so that what comes between the look and the wait is not missed.
        let mut waiting = handle.waiting.lock();
        match handle.stream.read(&reader.caller, reader.max) {
            Ok(Some(bytes)) => reader.reply.data(&bytes),
            Ok(None) if is_nonblocking => reader.reply.error(Errno::EAGAIN),
            Ok(None) => {
                waiting.readers.push(reader);
                drop(waiting);
                *self.nr_waiting.lock() += 1;
                self.somebody_waits.notify_one();
            }
            Err(why) => {
                reader.reply.error(errno(why.errno()));
                return Some(why);
            }
        }
        None
    }

    fn all(&self) -> Vec<Arc<Handle>> {
        self.open.lock().values().cloned().collect()
    }

    /// Answers waiting readers for whom there is something now, and tells who polls.
    pub(super) fn wake(&self) {
        for handle in self.all() {
            let Handle::Stream(handle) = &*handle else { continue };
            let mut waiting = handle.waiting.lock();
            if !handle.stream.is_ready() {
                continue;
            }
            if let Some(poll) = waiting.poll.take()
                && let Err(error) = poll.notify()
            {
                tracing::debug!(%error, "a poller could not be told");
            }
            while let Some(reader) = waiting.readers.pop() {
                match handle.stream.read(&reader.caller, reader.max) {
                    Ok(None) => {
                        waiting.readers.push(reader);
                        break;
                    }
                    Ok(Some(bytes)) => reader.reply.data(&bytes),
                    Err(why) => reader.reply.error(errno(why.errno())),
                }
                self.forget_waiting(1);
            }
        }
    }

    fn forget_waiting(&self, nr: usize) {
        let mut nr_waiting = self.nr_waiting.lock();
        *nr_waiting = nr_waiting.saturating_sub(nr);
    }

    /// Answers every waiting read with EINTR.
    pub(super) fn interrupt(&self) {
        for handle in self.all() {
            let Handle::Stream(handle) = &*handle else { continue };
            let readers = std::mem::take(&mut handle.waiting.lock().readers);
            self.forget_waiting(readers.len());
            for reader in readers {
                reader.reply.error(Errno::EINTR);
            }
        }
    }

    /// Interrupts what waits, five times a second, and sleeps while nothing does.
    pub(super) fn tick_forever(&self) {
        loop {
            {
                let mut nr_waiting = self.nr_waiting.lock();
                while *nr_waiting == 0 {
                    self.somebody_waits.wait(&mut nr_waiting);
                }
            }
            std::thread::sleep(TICK);
            self.interrupt();
        }
    }
}
