//! What tells of new mappings, forks and execs: the kernel's perf side-band records.
//!
//! They come after the fact: what was touched before a range is registered is found by looking. When records were lost, everything is
//! looked at again.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use host_sys::perf::{RawRecord, Report, Ring, ThreadEvent};

/// Data pages of each CPU's ring: some 5000 records.
const RING_PAGES: usize = 64;

const MMAP: u32 = 1;
const LOST: u32 = 2;
const COMM: u32 = 3;
const FORK: u32 = 7;
const MISC_COMM_EXEC: u16 = 1 << 13;
/// Thread, time, CPU after each record.
const TRAILER: usize = 24;

/// What happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Record {
    /// Private memory of the process was mapped, or its protection changed.
    Mapped {
        /// The process.
        pid: i32,
        /// First address.
        start: u64,
        /// Bytes.
        len: u64,
    },
    /// A process was forked.
    Forked {
        /// The parent.
        parent: i32,
        /// The child.
        child: i32,
    },
    /// A process executed another program.
    Executed {
        /// The process.
        pid: i32,
    },
    /// Records were lost.
    Lost,
}

/// The rings, and the events of the members' threads.
#[derive(Debug)]
pub(crate) struct Sensor {
    rings: Vec<Ring>,
    events: BTreeMap<i32, Vec<ThreadEvent>>,
    buffer: Vec<u8>,
}

impl Sensor {
    /// Opens a ring on each CPU.
    ///
    /// # Errors
    /// `EACCES`, `EPERM` where perf events are not granted.
    pub(crate) fn new() -> io::Result<Self> {
        let mut rings = Vec::new();
        for cpu in 0..nr_cpus() {
            match Ring::new(cpu, RING_PAGES) {
                Err(e) if e.raw_os_error() == Some(libc::ENODEV) => {}
                ring => rings.push(ring?),
            }
        }
        Ok(Self { rings, events: BTreeMap::new(), buffer: Vec::new() })
    }

    /// Gives what becomes readable when there are records.
    pub(crate) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.rings.iter().map(AsFd::as_fd)
    }

    /// Watches all threads of a process, and what they will start.
    ///
    /// # Errors
    /// `ESRCH`; those of `perf_event_open`.
    pub(crate) fn watch(&mut self, pid: i32) -> io::Result<()> {
        let mut events = Vec::new();
        for tid in host_sys::process::threads(pid)? {
            for ring in &self.rings {
                match ThreadEvent::open(Report::Mappings, tid, ring) {
                    Ok(event) => events.push(event),
                    // This thread has ended meanwhile.
                    Err(e) if e.raw_os_error() == Some(libc::ESRCH) => {}
                    Err(e) => return Err(e),
                }
            }
        }
        self.events.insert(pid, events);
        Ok(())
    }

    /// Watches a process no more. What it inherited from its parent's events goes on until those end.
    pub(crate) fn forget(&mut self, pid: i32) {
        self.events.remove(&pid);
    }

    /// Whether records wait. A memory read.
    pub(crate) fn has_records(&self) -> bool {
        self.rings.iter().any(Ring::has_records)
    }

    /// Gives what happened, in the order of time.
    pub(crate) fn drain(&mut self, out: &mut Vec<Record>) {
        let mut records = Vec::new();
        for ring in &self.rings {
            ring.drain(&mut self.buffer, |raw| records.extend(parse(raw)));
        }
        records.sort_by_key(|(time, _)| *time);
        out.extend(records.into_iter().map(|(_, record)| record));
    }
}

fn nr_cpus() -> i32 {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/possible").unwrap_or_default();
    text.trim().rsplit(['-', ',']).next().and_then(|n| n.parse::<i32>().ok()).map_or(1, |last| last + 1)
}

fn parse(raw: RawRecord<'_>) -> Option<(u64, Record)> {
    let body = raw.body;
    let u32_at = |at: usize| Some(u32::from_ne_bytes(body.get(at..at + 4)?.try_into().ok()?));
    let u64_at = |at: usize| Some(u64::from_ne_bytes(body.get(at..at + 8)?.try_into().ok()?));
    let time = u64_at(body.len().checked_sub(TRAILER - 8)?)?;
    let pid = u32_at(0)? as i32;
    let record = match raw.kind {
        MMAP => {
            let name = body.get(32..body.len() - TRAILER)?;
            let is_private =
                [&b"//anon"[..], b"[heap]", b"[stack", b"[anon"].iter().any(|n| name.starts_with(n));
            is_private.then_some(Record::Mapped { pid, start: u64_at(8)?, len: u64_at(16)? })?
        }
        COMM if raw.misc & MISC_COMM_EXEC != 0 => Record::Executed { pid },
        FORK => {
            let parent = u32_at(4)? as i32;
            // A thread has its process's number.
            (pid != parent).then_some(Record::Forked { parent, child: pid })?
        }
        LOST => Record::Lost,
        _ => return None,
    };
    Some((time, record))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(words: &[u64], name: &[u8], time: u64) -> Vec<u8> {
        let mut body: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
        body.extend_from_slice(name);
        body.extend([0, time, 0].iter().flat_map(|w: &u64| w.to_ne_bytes()));
        body
    }

    #[test]
    fn records_are_parsed() {
        let ids = 7 | 7 << 32;
        let anon = body(&[ids, 0x1000, 0x2000, 0], b"//anon\0\0", 5);
        let file = body(&[ids, 0x1000, 0x2000, 0], b"/bin/true\0\0\0\0\0\0\0", 5);
        let fork = body(&[8 | 7 << 32, 8 | 7 << 32, 0], b"", 6);
        let thread = body(&[7 | 7 << 32, 9 | 7 << 32, 0], b"", 6);
        let raw = |kind, misc, body| parse(RawRecord { kind, misc, body });

        let mapped = Record::Mapped { pid: 7, start: 0x1000, len: 0x2000 };
        assert_eq!(raw(MMAP, 0, &anon), Some((5, mapped)));
        assert_eq!(raw(MMAP, 0, &file), None);
        assert_eq!(raw(FORK, 0, &fork), Some((6, Record::Forked { parent: 7, child: 8 })));
        assert_eq!(raw(FORK, 0, &thread), None);
        assert_eq!(raw(COMM, MISC_COMM_EXEC, &fork), Some((6, Record::Executed { pid: 8 })));
        assert_eq!(raw(COMM, 0, &fork), None);
        assert_eq!(raw(MMAP, 0, &[]), None);
        assert_eq!(raw(MMAP, 0, &[0; 30]), None);
    }
}
