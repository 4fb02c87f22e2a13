//! What an event costs: pick_next, wake, block, charge, with few and many tasks, warm and cold.
//!
//! *Warm*: `n` tasks are runnable, the events are about the same 64 of them. *Cold*: a million tasks are
//! runnable, each event is about another one in random order, so that nothing of it is in a cache.
//!
//! `machine/chase` is what one dependent access to a 64-byte line costs at the same sizes: what a cold event cannot be
//! faster than, and how busy the machine is.
//!
//! `turn` is a charge that ends a slice, and the pick that follows: each pick chooses another task.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion};
use guest_sched::{Nanos, Nice, POLICIES, Policy, Sleep, TaskId, TaskParams, Vcpu, Waker, policy_by_name};

const V0: Vcpu = Vcpu(0);
/// How many tasks the events of a warm run are about.
const WARM: usize = 64;
/// How many events a cold run times in one go.
const COLD: usize = 4_096;
const COLD_TASKS: u32 = 1_000_000;

/// A policy with `n` runnable hogs of all nice values that may be equal neighbours, and a clock.
struct Guest {
    policy: Box<dyn Policy>,
    now: Nanos,
    /// The tasks in the order the events are about them.
    order: Vec<TaskId>,
    at: usize,
    batch: usize,
}

impl Guest {
    fn new(name: &str, n: u32, batch: usize) -> Self {
        let mut policy = policy_by_name(name, 1).expect("a known policy");
        let now = Nanos::from_secs(1);
        let mut order: Vec<_> = (0..n).map(TaskId).collect();
        if batch == COLD {
            shuffle(&mut order);
        }
        for id in &order {
            let nice = Nice::new((id.0 % 7) as i32).unwrap_or_default();
            policy.add(*id, TaskParams { nice, ..TaskParams::default() }, now).expect("a new task");
        }
        for id in &order {
            let _ = policy.wake(*id, Waker::Task, now).expect("a sleeping task");
        }
        if batch == COLD {
            shuffle(&mut order);
        }
        policy.pick_next(V0, now).expect("a vcpu");
        Self { policy, now, order, at: 0, batch }
    }

    /// Gives the tasks the next events are about.
    fn next_batch(&mut self) -> std::ops::Range<usize> {
        let batch = self.batch.min(self.order.len());
        if self.batch == COLD {
            self.at = if self.at + 2 * batch > self.order.len() { 0 } else { self.at + batch };
        }
        self.at..self.at + batch
    }

    /// Blocks and wakes all tasks of a batch; gives the time of the one and of the other.
    fn block_and_wake(&mut self) -> (Duration, Duration, u64) {
        let range = self.next_batch();
        self.now += Nanos(1_000);
        let start = Instant::now();
        for id in &self.order[range.clone()] {
            let _ = black_box(self.policy.block(*id, Sleep::Interruptible, self.now));
        }
        let blocked = start.elapsed();
        self.policy.pick_next(V0, self.now).expect("a vcpu");
        self.now += Nanos(1_000);
        let nr = range.len() as u64;
        let start = Instant::now();
        for id in &self.order[range] {
            let _ = black_box(self.policy.wake(*id, Waker::Task, self.now));
        }
        (blocked, start.elapsed(), nr)
    }

    /// Charges a little to all tasks of a batch.
    fn charge(&mut self) -> (Duration, u64) {
        let range = self.next_batch();
        let nr = range.len() as u64;
        let start = Instant::now();
        for id in &self.order[range] {
            self.now += Nanos(1);
            let _ = black_box(self.policy.charge(*id, Nanos(1), self.now));
        }
        (start.elapsed(), nr)
    }

    /// Lets the current task use up its slice and chooses the next.
    fn turn(&mut self) {
        if let Some(id) = self.policy.current(V0) {
            let ran = self.policy.budget(V0).unwrap_or(Nanos::from_millis(1));
            self.now += ran;
            let _ = black_box(self.policy.charge(id, ran, self.now));
        }
        black_box(self.policy.pick_next(V0, self.now)).expect("a vcpu");
    }
}

/// Shuffles by a fixed rule.
fn shuffle(order: &mut [TaskId]) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for i in (1..order.len()).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        order.swap(i, (state % (i as u64 + 1)) as usize);
    }
}

/// Repeats `run`, which gives the time of a number of events, until there were `iters`; gives the time of
/// `iters` of them.
fn repeat(iters: u64, mut run: impl FnMut() -> (Duration, u64)) -> Duration {
    let (mut total, mut done) = (Duration::ZERO, 0);
    while done < iters {
        let (time, nr) = run();
        total += time;
        done += nr;
    }
    total.mul_f64(iters as f64 / done as f64)
}

fn events(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, n: u32, label: &str, batch: usize) {
    let mut guest = Guest::new(name, n, batch);
    group.bench_function(format!("block/{label}"), |b| {
        b.iter_custom(|iters| {
            repeat(iters, || {
                let (block, _, nr) = guest.block_and_wake();
                (block, nr)
            })
        });
    });
    group.bench_function(format!("wake/{label}"), |b| {
        b.iter_custom(|iters| {
            repeat(iters, || {
                let (_, wake, nr) = guest.block_and_wake();
                (wake, nr)
            })
        });
    });
    group.bench_function(format!("charge/{label}"), |b| {
        b.iter_custom(|iters| repeat(iters, || guest.charge()));
    });
    group.bench_function(format!("pick_next/{label}"), |b| {
        b.iter(|| black_box(guest.policy.pick_next(V0, guest.now)));
    });
    group.bench_function(format!("turn/{label}"), |b| b.iter(|| guest.turn()));
}

/// A line that names the next one.
#[repr(align(64))]
#[derive(Clone)]
struct Line(u32);

/// Follows a ring of `n` lines in random order.
fn chase(criterion: &mut Criterion, n: u32, label: &str) {
    let mut order: Vec<_> = (0..n).map(TaskId).collect();
    shuffle(&mut order);
    let mut lines = vec![Line(0); n as usize];
    for pair in order.windows(2) {
        lines[pair[0].index()] = Line(pair[1].0);
    }
    if let (Some(first), Some(last)) = (order.first(), order.last()) {
        lines[last.index()] = Line(first.0);
    }
    let mut at = 0;
    criterion.bench_function(&format!("machine/chase/{label}"), |b| {
        b.iter(|| {
            at = lines[at as usize].0;
            black_box(at)
        });
    });
}

fn hot_paths(criterion: &mut Criterion) {
    chase(criterion, WARM as u32, "64_warm");
    chase(criterion, COLD_TASKS, "1000000_cold");
    events_of_all(criterion);
}

fn events_of_all(criterion: &mut Criterion) {
    for name in POLICIES {
        let mut group = criterion.benchmark_group(name);
        for n in [10, 1_000, 100_000] {
            events(&mut group, name, n, &format!("{n}_warm"), WARM);
        }
        events(&mut group, name, COLD_TASKS, "1000000_cold", COLD);
        group.finish();
    }
}

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    hot_paths(&mut criterion);
    criterion.final_summary();
}
