//! What tells the worker that a member blocked, woke, forked, exited or executed another program.
//!
//! Events of perf, attached to each member and inherited by its threads and children, report into one ring per CPU. Records of
//! different CPUs are put in order by their time stamps.

mod record;
mod tracepoints;

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;

use host_sys::perf::{Report, Ring, ThreadEvent};
use host_sys::{WakeTracepoint, WakeWatch};

pub use record::{Record, What, parse};
pub use tracepoints::{Tracepoint, Tracepoints};

use super::mode;

const RING_PAGES: usize = 64;

/// Lets through only switches by which a task leaves the runqueue: not those by which it is preempted.
const LEFT_RUNQUEUE: &str = "prev_state != 0 && prev_state != 256";

/// The events of one thread and of all that it has started since. Ends when the last holder drops it.
pub type Events = Rc<Vec<ThreadEvent>>;

/// The sensor.
#[derive(Debug)]
pub struct Sensor {
    kind: mode::Sensor,
    /// Tells of wake-ups wherever they happen; where it cannot be had, each thread has an event of its own for that.
    wakeups: Option<WakeWatch>,
    tracepoints: Option<Tracepoints>,
    rings: Vec<Ring>,
    events: HashMap<i32, Events>,
    buf: Vec<u8>,
}

impl Sensor {
    /// Opens the rings of all CPUs on line.
    ///
    /// # Errors
    /// Where the host grants no perf events (for tracepoints: no tracefs, or no right to it).
    pub fn open(kind: mode::Sensor) -> io::Result<Self> {
        let tracepoints = match kind {
            mode::Sensor::Tracepoint => Some(Tracepoints::find()?),
            mode::Sensor::Switch => None,
        };
        let rings: Vec<Ring> =
            online_cpus()?.into_iter().map(|cpu| Ring::new(cpu, RING_PAGES)).collect::<io::Result<_>>()?;
        let wakeups = tracepoints.as_ref().and_then(|tp| watch_wakeups(tp, &rings));
        let mut sensor =
            Self { kind, wakeups, tracepoints, rings, events: HashMap::new(), buf: Vec::with_capacity(256) };
        // Whether events can really be had is known only by opening one.
        let me = std::process::id() as i32;
        drop(sensor.open_events(me)?);
        sensor.buf.clear();
        Ok(sensor)
    }

    /// Which kind it is.
    pub fn kind(&self) -> mode::Sensor {
        self.kind
    }

    fn open_events(&self, tid: i32) -> io::Result<Vec<ThreadEvent>> {
        let mut events = Vec::with_capacity(self.rings.len() * 3);
        for ring in &self.rings {
            let switches = self.kind == mode::Sensor::Switch;
            events.push(ThreadEvent::open(Report::Tasks { switches }, tid, ring)?);
            if let Some(tp) = &self.tracepoints {
                let event = ThreadEvent::open(Report::Tracepoint(tp.switch.id), tid, ring)?;
                event.set_filter(LEFT_RUNQUEUE)?;
                events.push(event);
            }
            if let (Some(tp), None) = (&self.tracepoints, &self.wakeups) {
                // Wake-ups are reported of the member, and by it: those that its CPU's interrupts make while it runs. The worker's
                // timer is one of them, at each slice's end.
                let event = ThreadEvent::open(Report::Tracepoint(tp.wakeup.id), tid, ring)?;
                event.set_filter(&format!("pid != {}", std::process::id()))?;
                events.push(event);
            }
        }
        Ok(events)
    }

    /// Watches a thread, and the threads and processes that it will start.
    ///
    /// # Errors
    /// `ESRCH` if it is gone; `EACCES`, `EPERM`, `EMFILE`.
    pub fn attach(&mut self, tid: i32) -> io::Result<()> {
        let events = self.open_events(tid)?;
        if let Some(wakeups) = &self.wakeups {
            wakeups.add(tid)?;
        }
        self.events.insert(tid, Rc::new(events));
        Ok(())
    }

    /// Takes note that `child` was started by `parent` and is watched by inheritance.
    pub fn inherit(&mut self, parent: i32, child: i32) {
        if let Some(events) = self.events.get(&parent).cloned() {
            self.events.insert(child, events);
        }
        if let Some(wakeups) = &self.wakeups
            && let Err(error) = wakeups.add(child)
        {
            tracing::warn!(child, %error, "the wake-ups of a thread will be noticed late");
        }
    }

    /// Forgets a thread that has ended.
    pub fn exited(&mut self, tid: i32) {
        self.forget(tid);
    }

    fn forget(&mut self, tid: i32) -> Option<Events> {
        if let Some(wakeups) = &self.wakeups {
            wakeups.remove(tid);
        }
        self.events.remove(&tid)
    }

    /// Stops watching a thread that goes on. Others that were watched through the same events get their own.
    pub fn detach(&mut self, tid: i32) {
        let _ = self.detach_all(&[tid]);
    }

    /// As [`Sensor::detach`], for several threads at once. Gives those of the others that go on unwatched, as the host does not let us.
    pub fn detach_all(&mut self, tids: &[i32]) -> Vec<(i32, io::Error)> {
        let gone: Vec<Events> = tids.iter().filter_map(|&tid| self.forget(tid)).collect();
        let all: HashSet<_> = gone.iter().map(Rc::as_ptr).collect();
        let sharers: Vec<i32> =
            self.events.iter().filter(|(_, e)| all.contains(&Rc::as_ptr(e))).map(|(&t, _)| t).collect();
        let again = sharers.into_iter().filter_map(|tid| Some((tid, self.attach(tid).err()?)));
        again.filter(|(_, error)| error.raw_os_error() != Some(libc::ESRCH)).collect()
    }

    /// Whether records wait. A memory read per CPU.
    pub fn has_records(&self) -> bool {
        self.rings.iter().any(Ring::has_records)
    }

    /// Appends the waiting records, oldest first.
    pub fn drain(&mut self, to: &mut Vec<Record>) {
        let start = to.len();
        for ring in &self.rings {
            if ring.has_records() {
                ring.drain(&mut self.buf, |raw| {
                    to.extend(record::parse(raw, ring.cpu(), self.tracepoints.as_ref()))
                });
            }
        }
        to[start..].sort_by_key(|r| r.time);
    }

    /// The descriptors that become readable when records wait.
    pub fn notifiers(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.rings.iter().map(AsFd::as_fd)
    }
}

fn watch_wakeups(tracepoints: &Tracepoints, rings: &[Ring]) -> Option<WakeWatch> {
    let tracepoint = WakeTracepoint {
        id: tracepoints.wakeup.id.try_into().ok()?,
        pid_at: tracepoints.wakeup.field.try_into().ok()?,
    };
    WakeWatch::open(tracepoint, rings)
        .inspect_err(|error| tracing::warn!(%error, "wake-ups are told by each thread's own event, which misses some on newer kernels"))
        .ok()
}

fn online_cpus() -> io::Result<Vec<i32>> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/online")?;
    let mut cpus = Vec::new();
    for range in text.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        if let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) {
            cpus.extend(first..=last);
        }
    }
    if cpus.is_empty() { Err(io::ErrorKind::InvalidData.into()) } else { Ok(cpus) }
}
