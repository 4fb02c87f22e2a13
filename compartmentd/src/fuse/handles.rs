//! Open files.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fuser::{Errno, PollNotifier, ReplyData};
use parking_lot::{Condvar, Mutex};

use crate::errno::Refusal;
use crate::groups::Caller;
use crate::tree::{Stream, Watched};

/// How often the readers of waiting reads are looked at.
pub(super) const TICK: Duration = Duration::from_millis(200);

/// An open file.
pub(super) enum Handle {
    /// A value: what the reader gets until it begins at the start again.
    Value(Mutex<Arc<[u8]>>),
    /// A stream.
    Stream(StreamHandle),
    /// A value that may be waited for.
    Watched(WatchedHandle),
    /// A value open for writing whose cutting means something.
    Cut(Cut),
}

/// A value that is open for writing, and may be cut and not written.
pub(super) struct Cut {
    inode: u64,
    opener: Caller,
    is_cut: Mutex<bool>,
}

impl Cut {
    pub(super) fn new(inode: u64, opener: Caller) -> Self {
        Self { inode, opener, is_cut: Mutex::new(false) }
    }

    /// Something is written: cutting was only the first half of that.
    pub(super) fn written(&self) {
        *self.is_cut.lock() = false;
    }

    /// Gives who has opened it, if it was cut and not written.
    pub(super) fn is_left_cut(&self) -> Option<&Caller> {
        self.is_cut.lock().then_some(&self.opener)
    }
}

pub(super) struct StreamHandle {
    pub(super) stream: Arc<dyn Stream>,
    waiting: Mutex<Waiting>,
}

/// A value that may be waited for.
pub(super) struct WatchedHandle {
    /// As of a plain value.
    pub(super) kept: Mutex<Arc<[u8]>>,
    pub(super) watched: Arc<dyn Watched>,
    poll: Mutex<Option<PollNotifier>>,
}

impl WatchedHandle {
    pub(super) fn new(watched: Arc<dyn Watched>) -> Self {
        Self { kept: Mutex::new(Arc::from([])), watched, poll: Mutex::default() }
    }

    /// Remembers whom to tell when something happens.
    pub(super) fn set_poll(&self, poll: PollNotifier) {
        *self.poll.lock() = Some(poll);
    }

    fn wake(&self) {
        if self.watched.is_due()
            && let Some(poll) = self.poll.lock().take()
        {
            notify(poll);
        }
    }
}

fn notify(poll: PollNotifier) {
    if let Err(error) = poll.notify() {
        tracing::debug!(%error, "a poller could not be told");
    }
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

    /// Counts the bytes of values that are held for their readers.
    pub(super) fn held_bytes(&self) -> usize {
        let open: Vec<Arc<Handle>> = self.open.lock().values().cloned().collect();
        let held = open.iter().map(|handle| match &**handle {
            Handle::Value(kept) => kept.lock().len(),
            Handle::Watched(handle) => handle.kept.lock().len(),
            Handle::Stream(_) | Handle::Cut(_) => 0,
        });
        held.sum()
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

    /// The caller cuts a file. Says whether it has just opened it for writing; the kernel does not tell which open file it is.
    pub(super) fn cut(&self, inode: u64, caller: &Caller) -> bool {
        let mut is_open = false;
        for handle in self.all() {
            if let Handle::Cut(cut) = &*handle
                && (cut.inode, cut.opener.tid) == (inode, caller.tid)
            {
                *cut.is_cut.lock() = true;
                is_open = true;
            }
        }
        is_open
    }

    fn all(&self) -> Vec<Arc<Handle>> {
        self.open.lock().values().cloned().collect()
    }

    /// Answers waiting readers for whom there is something now, and tells who polls.
    pub(super) fn wake(&self) {
        for handle in self.all() {
            let handle = match &*handle {
                Handle::Stream(handle) => handle,
                Handle::Watched(handle) => {
                    handle.wake();
                    continue;
                }
                Handle::Value(_) | Handle::Cut(_) => continue,
            };
            let mut waiting = handle.waiting.lock();
            if !handle.stream.is_ready() {
                continue;
            }
            if let Some(poll) = waiting.poll.take() {
                notify(poll);
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

    /// Answers those waiting reads with EINTR whose reader has a signal to see to. The kernel tells us of signals, but the library does not
    /// pass that on.
    fn interrupt(&self) {
        for handle in self.all() {
            let Handle::Stream(handle) = &*handle else { continue };
            let mut waiting = handle.waiting.lock();
            let (interrupted, others): (Vec<_>, Vec<_>) = std::mem::take(&mut waiting.readers)
                .into_iter()
                .partition(|reader| has_signal(reader.caller.tid));
            waiting.readers = others;
            drop(waiting);
            self.forget_waiting(interrupted.len());
            for reader in interrupted {
                reader.reply.error(Errno::EINTR);
            }
        }
    }

    /// Looks five times a second whether somebody who waits is to be interrupted, and sleeps while nobody waits.
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

/// Whether a thread has a pending signal that it does not block, or has ended.
fn has_signal(tid: i32) -> bool {
    let Ok(status) = std::fs::read_to_string(format!("/proc/{tid}/status")) else { return true };
    is_signalled(&status)
}

fn is_signalled(status: &str) -> bool {
    let mask = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
    };
    match (mask("SigPnd:"), mask("ShdPnd:"), mask("SigBlk:")) {
        (Some(own), Some(shared), Some(blocked)) => (own | shared) & !blocked != 0,
        // Then rather once too often.
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_signals_that_are_not_blocked_interrupt() {
        let status = |own, shared, blocked| {
            format!("Name:\tcat\nSigPnd:\t{own:016x}\nShdPnd:\t{shared:016x}\nSigBlk:\t{blocked:016x}\n")
        };

        assert!(!is_signalled(&status(0, 0, 0)));
        assert!(is_signalled(&status(0x100, 0, 0)));
        assert!(is_signalled(&status(0, 0x4000, 2)));
        assert!(!is_signalled(&status(0, 2, 2)));
        assert!(is_signalled("Name:\tcat\n"));
    }
}
