//! Noticing that pressure or counters change, for whoever waits for that with `poll(2)`.
//!
//! The workers publish; nobody tells. So while anything is waited for, and only then, one thread looks at what was published.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use guest_mm::uffd::table::MemStat;
use parking_lot::Mutex;

use super::Pool;
use crate::errno::{Refusal, Why};
use crate::groups::Caller;
use crate::notices::{Notice, Notices};
use crate::tree::values::{Trigger, parse_trigger};
use crate::tree::{Urgency, Watched};

const LOOK_EVERY: Duration = Duration::from_millis(50);

/// All that is waited for.
#[derive(Debug)]
pub struct Watches {
    notices: Notices,
    list: Mutex<List>,
}

#[derive(Debug, Default)]
struct List {
    watches: Vec<Weak<Watch>>,
    is_looked_at: bool,
}

impl Watches {
    /// Makes an empty list; `notices` gets [`Notice::Streams`] when something has happened.
    pub fn new(notices: Notices) -> Arc<Self> {
        Arc::new(Self { notices, list: Mutex::default() })
    }

    fn add(self: &Arc<Self>, watch: &Arc<Watch>) {
        let mut list = self.list.lock();
        list.watches.push(Arc::downgrade(watch));
        if !list.is_looked_at {
            let this = self.clone();
            let spawned = std::thread::Builder::new().name("watches".into()).spawn(move || this.look());
            list.is_looked_at = spawned.is_ok();
        }
    }

    /// Looks until nothing is waited for any more.
    fn look(&self) {
        loop {
            std::thread::sleep(LOOK_EVERY);
            let watches: Vec<_> = {
                let mut list = self.list.lock();
                list.watches.retain(|watch| watch.strong_count() > 0);
                list.is_looked_at = !list.watches.is_empty();
                if !list.is_looked_at {
                    return;
                }
                list.watches.iter().filter_map(Weak::upgrade).collect()
            };
            let now = Instant::now();
            // Each of them: none is to miss its look because an earlier one has something to tell.
            if watches.iter().filter(|watch| watch.look(now)).count() > 0 {
                self.notices.post(Notice::Streams);
            }
        }
    }
}

/// What a watched file shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Topic {
    /// `memory.pressure`.
    Pressure,
    /// `memory.events`.
    Events,
}

impl Topic {
    fn of(self, stat: &MemStat) -> [u64; 3] {
        match self {
            Self::Pressure => [stat.some.total_usec, stat.full.total_usec, 0],
            Self::Events => [stat.max_events, stat.oom, stat.oom_kill],
        }
    }
}

/// An open file that is waited for.
#[derive(Debug)]
pub struct Watch {
    this: Weak<Self>,
    watches: Arc<Watches>,
    pool: Weak<Pool>,
    topic: Topic,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    is_added: bool,
    /// What the reader has seen.
    seen: [u64; 3],
    trigger: Option<Armed>,
    is_due: bool,
}

#[derive(Debug)]
struct Armed {
    trigger: Trigger,
    /// Total stall at earlier looks, no older than the window.
    samples: VecDeque<(Instant, u64)>,
    fired: Option<Instant>,
}

impl Armed {
    /// Says whether the stall inside the window has reached the threshold, at most once a window.
    fn has_fired(&mut self, now: Instant, stat: &MemStat) -> bool {
        let window = Duration::from_micros(self.trigger.window_usec);
        let total = if self.trigger.is_full { stat.full.total_usec } else { stat.some.total_usec };
        self.samples.push_back((now, total));
        // One sample from before the window stays: the stall since then is what counts.
        while self.samples.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= window) {
            self.samples.pop_front();
        }
        let before = self.samples.front().map_or(total, |(_, total)| *total);
        let is_new = self.fired.is_none_or(|at| now.duration_since(at) >= window);
        let has_fired = is_new && total.saturating_sub(before) >= self.trigger.stall_usec;
        if has_fired {
            self.fired = Some(now);
        }
        has_fired
    }
}

impl Watch {
    /// Makes an open file of a group.
    pub fn new(watches: &Arc<Watches>, pool: &Arc<Pool>, topic: Topic) -> Arc<Self> {
        let seen = pool.driver().map_or([0; 3], |driver| topic.of(&driver.stat()));
        Arc::new_cyclic(|this| Self {
            this: this.clone(),
            watches: watches.clone(),
            pool: Arc::downgrade(pool),
            topic,
            state: Mutex::new(State { seen, ..State::default() }),
        })
    }

    fn stat(&self) -> Option<MemStat> {
        Some(self.pool.upgrade()?.driver().ok()?.stat())
    }

    /// Says whether there is something new to tell.
    fn look(&self, now: Instant) -> bool {
        let Some(stat) = self.stat() else { return false };
        let mut state = self.state.lock();
        if state.is_due {
            return true;
        }
        state.is_due = match &mut state.trigger {
            Some(armed) => armed.has_fired(now, &stat),
            None => state.seen != self.topic.of(&stat),
        };
        state.is_due
    }

    fn begin(&self) {
        let is_added = std::mem::replace(&mut self.state.lock().is_added, true);
        if !is_added && let Some(this) = self.this.upgrade() {
            self.watches.add(&this);
        }
    }
}

impl Watched for Watch {
    fn write(&self, _caller: &Caller, value: &[u8]) -> Result<(), Refusal> {
        if self.topic != Topic::Pressure {
            return Err(Refusal::new(Why::NotAllowed, "this file cannot be written"));
        }
        let trigger = parse_trigger(value)?;
        {
            let mut state = self.state.lock();
            if state.trigger.is_some() {
                return Err(Refusal::new(Why::Busy, "this open file has its trigger already"));
            }
            state.trigger = Some(Armed { trigger, samples: VecDeque::new(), fired: None });
            state.is_due = false;
        }
        self.begin();
        Ok(())
    }

    fn poll(&self) -> Urgency {
        self.begin();
        let mut state = self.state.lock();
        match (&state.trigger, state.is_due) {
            (_, false) => Urgency::None,
            // As the kernel's own: told once.
            (Some(_), true) => {
                state.is_due = false;
                Urgency::Event
            }
            (None, true) => Urgency::Changed,
        }
    }

    fn is_due(&self) -> bool {
        self.state.lock().is_due
    }

    fn was_read(&self) {
        let Some(stat) = self.stat() else { return };
        let mut state = self.state.lock();
        if state.trigger.is_none() {
            state.seen = self.topic.of(&stat);
            state.is_due = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use guest_mm::uffd::table::Stall;

    use super::*;

    fn stalled(total_usec: u64) -> MemStat {
        MemStat { some: Stall { total_usec, ..Stall::default() }, ..MemStat::default() }
    }

    #[test]
    fn trigger_fires_when_the_stall_of_a_window_reaches_its_threshold_and_once_a_window() {
        let trigger = Trigger { is_full: false, stall_usec: 100_000, window_usec: 1_000_000 };
        let mut armed = Armed { trigger, samples: VecDeque::new(), fired: None };
        let start = Instant::now();
        let mut look = |ms, total| armed.has_fired(start + Duration::from_millis(ms), &stalled(total));

        assert!(!look(0, 5_000_000), "what was before does not count");
        assert!(!look(500, 5_099_999));
        assert!(look(900, 5_100_000));
        assert!(!look(1_000, 5_300_000), "once a window");
        assert!(look(1_900, 5_300_000), "the window still holds 200 ms");
        assert!(!look(4_000, 5_300_000));
        assert!(!look(5_000, 5_350_000));
    }
}
