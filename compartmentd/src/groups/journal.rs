//! `events` and `error_log`: lines of escaped `key=value` words, in rings that forget the oldest.
//!
//! A line is seen by root, and by the users it is about.

use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;

use super::caller::Caller;
use crate::errno::Refusal;
use crate::notices::{Notice, Notices};
use crate::tree::Stream;
use crate::tree::values::escape;

const EVENTS_MAX: usize = 4_096;
const ERRORS_MAX: usize = 512;
/// Events that come by the thousand: not for the daemon's own log.
const PER_OPERATION: [&str; 6] = ["forked", "exited", "executed", "moved", "registered", "unregistered"];
/// How much of a refused value is kept.
const VALUE_SHOWN: usize = 128;

#[derive(Debug)]
struct Line {
    uids: [u32; 2],
    text: String,
}

impl Line {
    fn is_for(&self, uid: u32) -> bool {
        uid == 0 || self.uids.contains(&uid)
    }
}

#[derive(Debug, Default)]
struct Ring {
    lines: VecDeque<Line>,
    /// Number of the line after the newest.
    next: u64,
}

impl Ring {
    fn push(&mut self, line: Line, max: usize) {
        if self.lines.len() == max {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
        self.next += 1;
    }

    /// Lines from number `from` on, with their numbers.
    fn since(&self, from: u64) -> impl Iterator<Item = (u64, &Line)> {
        let first = self.next - self.lines.len() as u64;
        let skip = from.saturating_sub(first) as usize;
        self.lines.iter().enumerate().skip(skip).map(move |(i, line)| (first + i as u64, line))
    }

    fn first(&self) -> u64 {
        self.next - self.lines.len() as u64
    }
}

/// The two logs of the tree.
#[derive(Debug)]
pub struct Journal {
    events: Mutex<Ring>,
    errors: Mutex<Ring>,
    notices: Notices,
}

/// A refused operation.
#[derive(Clone, Copy, Debug)]
pub struct Refused<'a> {
    /// Whose line it is.
    pub uid: u32,
    /// The process that asked.
    pub pid: i32,
    /// `write`, `rename`, `mkdir`, ….
    pub op: &'a str,
    /// The entry, from the top of the tree.
    pub path: &'a str,
    /// What was written, or where it should have been moved.
    pub value: &'a [u8],
    /// What the caller was answered.
    pub errno: i32,
    /// Why, in words.
    pub reason: &'a str,
}

fn line_start() -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    format!("time={}.{:06}", now.as_secs(), now.subsec_micros())
}

impl Journal {
    /// Makes empty logs.
    pub fn new(notices: Notices) -> Self {
        Self { events: Mutex::default(), errors: Mutex::default(), notices }
    }

    /// Adds an event that is about things of these users.
    pub fn event(&self, uids: [u32; 2], event: &str, words: &[(&str, &dyn std::fmt::Display)]) {
        let mut text = line_start();
        let _ = write!(text, " event={}", escape(event.as_bytes()));
        for (key, value) in words {
            let _ = write!(text, " {key}={}", escape(value.to_string().as_bytes()));
        }
        if PER_OPERATION.contains(&event) {
            tracing::debug!(target: "compartmentd::events", "{text}");
        } else {
            tracing::info!(target: "compartmentd::events", "{text}");
        }
        text.push('\n');
        self.events.lock().push(Line { uids, text }, EVENTS_MAX);
        self.notices.post(Notice::Streams);
    }

    /// Adds a refused operation.
    pub fn refused(&self, refused: &Refused<'_>) {
        let Refused { uid, pid, op, path, value, errno, reason } = *refused;
        let shown = &value[..value.len().min(VALUE_SHOWN)];
        let text = format!(
            "{} pid={pid} op={op} path={} value={} errno={:?} reason={}\n",
            line_start(),
            escape(path.as_bytes()),
            escape(shown.trim_ascii_end()),
            nix::errno::Errno::from_raw(errno),
            escape(reason.as_bytes()),
        );
        tracing::debug!(target: "compartmentd::errors", "{}", text.trim_end());
        self.errors.lock().push(Line { uids: [uid; 2], text }, ERRORS_MAX);
    }

    /// Gives the part of `error_log` that a user may see.
    pub fn errors_for(&self, uid: u32) -> String {
        let errors = self.errors.lock();
        errors.since(0).filter(|(_, line)| line.is_for(uid)).map(|(_, line)| line.text.as_str()).collect()
    }

    /// Opens `events` for a user, from now on.
    pub fn open_events(self: &Arc<Self>, uid: u32) -> Arc<dyn Stream> {
        let next = Mutex::new(self.events.lock().next);
        Arc::new(Reader { journal: self.clone(), uid, next })
    }
}

/// An open `events`.
struct Reader {
    journal: Arc<Journal>,
    uid: u32,
    next: Mutex<u64>,
}

impl Stream for Reader {
    fn read(&self, _caller: &Caller, max: usize) -> Result<Option<Vec<u8>>, Refusal> {
        let mut next = self.next.lock();
        let ring = self.journal.events.lock();
        let mut out = Vec::new();
        if ring.first() > *next {
            out = format!("{} event=lost lines={}\n", line_start(), ring.first() - *next).into_bytes();
        }
        for (number, line) in ring.since(*next) {
            if line.is_for(self.uid) {
                // Whole lines; a line longer than the reader's buffer is cut, or it could never go on.
                if !out.is_empty() && out.len() + line.text.len() > max {
                    break;
                }
                out.extend_from_slice(line.text.as_bytes());
                out.truncate(max);
            }
            *next = number + 1;
        }
        *next = (*next).max(ring.first());
        Ok((!out.is_empty()).then_some(out))
    }

    fn is_ready(&self) -> bool {
        let next = *self.next.lock();
        let ring = self.journal.events.lock();
        ring.first() > next || ring.since(next).any(|(_, line)| line.is_for(self.uid))
    }

    fn close(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journal() -> Arc<Journal> {
        Arc::new(Journal::new(Notices::new().0))
    }

    fn read(stream: &dyn Stream) -> Option<String> {
        stream
            .read(&Caller::DAEMON, 4096)
            .expect("a read")
            .map(|bytes| String::from_utf8(bytes).expect("text"))
    }

    #[test]
    fn events_are_seen_from_open_on_by_whom_they_are_about() {
        let journal = journal();
        journal.event([1000, 1000], "early", &[]);
        let (root, alice, bob) =
            (journal.open_events(0), journal.open_events(1000), journal.open_events(1001));

        journal.event([1000, 0], "moved", &[("pid", &7), ("to", &"a b")]);

        assert!(root.is_ready() && alice.is_ready() && !bob.is_ready());
        assert!(read(&*alice).expect("a line").ends_with(" event=moved pid=7 to=a\\x20b\n"));
        assert_eq!(read(&*alice), None);
        assert_eq!(read(&*bob), None);
        assert!(read(&*root).is_some());
    }

    #[test]
    fn events_lost_are_counted() {
        let journal = journal();
        let root = journal.open_events(0);

        for _ in 0..EVENTS_MAX + 3 {
            journal.event([0, 0], "x", &[]);
        }

        assert!(read(&*root).expect("lines").contains("event=lost lines=3"));
    }

    #[test]
    fn error_log_has_the_reason_and_is_seen_by_its_user() {
        let journal = journal();
        journal.refused(&Refused {
            uid: 1000,
            pid: 5,
            op: "write",
            path: "sched-groups/a/7/nice",
            value: b"x y\n",
            errno: libc::EINVAL,
            reason: "a nice value is -20 to 19",
        });

        let text = journal.errors_for(1000);
        assert!(
            text.contains(
                " pid=5 op=write path=sched-groups/a/7/nice value=x\\x20y errno=EINVAL reason=a\\x20nice"
            ),
            "{text}"
        );
        assert_eq!(journal.errors_for(1001), "");
        assert_eq!(journal.errors_for(0), text);
    }
}
