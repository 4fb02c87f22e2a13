//! The known weak spots of the O(1) scheduler as repeatable experiments on one vcpu.
//!
//! Names and shapes are those of the programs that showed them between 2002 and 2007; here they last a
//! minute or two of virtual time. Each takes a policy by name and gives what it measured, in the order of
//! its columns.

use super::rng::Rng;
use super::world::{Behaviour, Step, World};
use crate::registry::policy_by_name;
use crate::types::{Nanos, Nice, Sleep, TaskId, TaskParams};

/// How late the simulated driver notices the end of a budget at most.
const LATENESS: Nanos = Nanos::from_micros(50);
const MINUTE: Nanos = Nanos::from_secs(60);

/// One measured value.
#[derive(Clone, PartialEq, Debug)]
pub struct Measured {
    /// What it is.
    pub what: &'static str,
    /// How much: a share in per cent, a time in ms, or a ratio, as `what` says.
    pub value: f64,
}

/// An experiment.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// What happens in it.
    pub shape: &'static str,
    run: fn(&str) -> Vec<Measured>,
}

impl Scenario {
    /// Runs it with a policy; nothing is measured if there is no policy of that name.
    pub fn run(&self, policy: &str) -> Vec<Measured> {
        (self.run)(policy)
    }
}

/// All experiments.
pub const SCENARIOS: [Scenario; 11] = [
    Scenario { name: "fiftyp", shape: "10 tasks run 7 ms and sleep 7 ms; 1 hog", run: fiftyp },
    Scenario {
        name: "thud",
        shape: "4 tasks sleep 10 s, burn 3 s; 1 hog, 1 task that runs 1 ms in 20",
        run: thud,
    },
    Scenario { name: "chew", shape: "5 hogs; gaps seen by one", run: chew },
    Scenario { name: "massive_intr", shape: "20 tasks run 8 ms and sleep 1 ms; 1 hog", run: massive_intr },
    Scenario {
        name: "tick dodging",
        shape: "runs 0.9 of each ms, asleep when a tick would come; 1 hog",
        run: dodging,
    },
    Scenario {
        name: "signal ping",
        shape: "child signals parent without end; parent counts",
        run: signal_ping,
    },
    Scenario {
        name: "irman",
        shape: "ring of 8 tasks passes a token through pipes, 200 us of work each; 1 hog",
        run: irman,
    },
    Scenario { name: "nice 0 : 19", shape: "2 hogs", run: nice_0_19 },
    Scenario { name: "nice -1 : 0", shape: "2 hogs", run: nice_minus_1_0 },
    Scenario { name: "starvation", shape: "2 tasks run 20 ms and sleep 10 ms; 1 hog", run: starvation },
    Scenario { name: "fork", shape: "makes a child each 5 ms that burns 20 ms and ends; 1 hog", run: forks },
];

fn world(policy: &str) -> Option<World> {
    Some(World::new(policy_by_name(policy, 1)?, 1, LATENESS))
}

fn params(nice: i32) -> TaskParams {
    TaskParams { nice: Nice::new(nice).unwrap_or_default(), ..TaskParams::default() }
}

fn hog(_: &mut Rng) -> Step {
    Step::Run(Nanos::from_secs(1))
}

/// Runs and sleeps in turn, each length around its mean: exact ones would beat with the slices.
fn sleeper(run: Nanos, sleep: Nanos) -> impl Behaviour {
    let mut runs = false;
    move |rng: &mut Rng| {
        runs = !runs;
        if runs { Step::Run(rng.around(run)) } else { Step::Sleep(rng.around(sleep), Sleep::Interruptible) }
    }
}

fn share(world: &World, id: TaskId, length: Nanos) -> Measured {
    Measured {
        what: "hog's share, %",
        value: 100.0 * world.record(id).cpu.as_secs_f64() / length.as_secs_f64(),
    }
}

fn millis(what: &'static str, time: Nanos) -> Measured {
    Measured { what, value: time.as_secs_f64() * 1e3 }
}

fn longest(world: &World, id: TaskId) -> Measured {
    millis("hog's longest wait, ms", world.record(id).longest_wait)
}

/// Runs a hog beside others; measures what the hog gets.
fn beside_hog(policy: &str, length: Nanos, others: impl FnOnce(&mut World)) -> Vec<Measured> {
    let Some(mut world) = world(policy) else { return Vec::new() };
    let Ok(hog) = world.spawn(params(0), hog) else { return Vec::new() };
    others(&mut world);
    world.run_for(length);
    vec![share(&world, hog, length), longest(&world, hog)]
}

fn fiftyp(policy: &str) -> Vec<Measured> {
    beside_hog(policy, MINUTE, |world| {
        for _ in 0..10 {
            let _ = world.spawn(params(0), sleeper(Nanos::from_millis(7), Nanos::from_millis(7)));
        }
    })
}

fn thud(policy: &str) -> Vec<Measured> {
    let Some(mut world) = world(policy) else { return Vec::new() };
    let light = world.spawn(params(0), sleeper(Nanos::from_millis(1), Nanos::from_millis(19)));
    let hog = world.spawn(params(0), hog);
    for _ in 0..4 {
        let mut sleeps = false;
        let _ = world.spawn(params(0), move |_: &mut Rng| {
            sleeps = !sleeps;
            if sleeps {
                Step::Sleep(Nanos::from_secs(10), Sleep::Interruptible)
            } else {
                Step::Run(Nanos::from_secs(3))
            }
        });
    }
    let (Ok(light), Ok(hog)) = (light, hog) else { return Vec::new() };
    world.run_for(Nanos(2 * MINUTE.0));
    vec![longest(&world, hog), millis("light task's p99 latency, ms", world.record(light).latency_p99())]
}

fn chew(policy: &str) -> Vec<Measured> {
    let Some(mut world) = world(policy) else { return Vec::new() };
    let first = world.spawn(params(0), hog);
    for _ in 0..4 {
        let _ = world.spawn(params(0), hog);
    }
    let Ok(first) = first else { return Vec::new() };
    world.run_for(MINUTE);
    vec![share(&world, first, MINUTE), longest(&world, first)]
}

fn massive_intr(policy: &str) -> Vec<Measured> {
    beside_hog(policy, MINUTE, |world| {
        for _ in 0..20 {
            let _ = world.spawn(params(0), sleeper(Nanos::from_millis(8), Nanos::from_millis(1)));
        }
    })
}

fn dodging(policy: &str) -> Vec<Measured> {
    beside_hog(policy, MINUTE, |world| {
        let mut runs = false;
        let _ = world.spawn(params(0), move |_: &mut Rng| {
            runs = !runs;
            if runs {
                Step::Run(Nanos::from_micros(900))
            } else {
                Step::Sleep(Nanos::from_micros(100), Sleep::Interruptible)
            }
        });
    })
}

fn signal_ping(policy: &str) -> Vec<Measured> {
    let Some(mut world) = world(policy) else { return Vec::new() };
    let mut handles = true;
    let parent = world.spawn(params(0), move |_: &mut Rng| {
        handles = !handles;
        if handles { Step::Run(Nanos::from_micros(2)) } else { Step::Wait(Sleep::Interruptible) }
    });
    let Ok(parent) = parent else { return Vec::new() };
    let mut signals = false;
    let child = world.spawn(params(0), move |_: &mut Rng| {
        signals = !signals;
        if signals { Step::Wake(parent) } else { Step::Run(Nanos::from_micros(2)) }
    });
    let Ok(child) = child else { return Vec::new() };
    let length = Nanos::from_secs(10);
    world.run_for(length);
    let child = 100.0 * world.record(child).cpu.as_secs_f64() / length.as_secs_f64();
    vec![
        Measured { what: "child's share, %", value: child },
        millis("parent's longest wait, ms", world.record(parent).longest_wait),
    ]
}

fn irman(policy: &str) -> Vec<Measured> {
    beside_hog(policy, MINUTE, |world| {
        let first = world.nr_tasks() as u32;
        for i in 0..8 {
            let next = TaskId(first + (i + 1) % 8);
            let mut at = if i == 0 { 0 } else { 2 };
            let _ = world.spawn(params(0), move |rng: &mut Rng| {
                at = (at + 1) % 3;
                match at {
                    1 => Step::Run(rng.around(Nanos::from_micros(200))),
                    2 => Step::Wake(next),
                    _ => Step::Wait(Sleep::NonInteractive),
                }
            });
        }
    })
}

fn nice_ratio(policy: &str, a: i32, b: i32) -> Vec<Measured> {
    let Some(mut world) = world(policy) else { return Vec::new() };
    let (Ok(a), Ok(b)) = (world.spawn(params(a), hog), world.spawn(params(b), hog)) else {
        return Vec::new();
    };
    world.run_for(Nanos(10 * MINUTE.0));
    let ratio = world.record(a).cpu.as_secs_f64() / world.record(b).cpu.as_secs_f64();
    vec![
        Measured { what: "ratio", value: ratio },
        millis("longest wait of the worse, ms", world.record(b).longest_wait),
    ]
}

fn nice_0_19(policy: &str) -> Vec<Measured> {
    nice_ratio(policy, 0, 19)
}

fn nice_minus_1_0(policy: &str) -> Vec<Measured> {
    nice_ratio(policy, -1, 0)
}

fn starvation(policy: &str) -> Vec<Measured> {
    beside_hog(policy, MINUTE, |world| {
        for _ in 0..2 {
            let _ = world.spawn(params(0), sleeper(Nanos::from_millis(20), Nanos::from_millis(10)));
        }
    })
}

fn forks(policy: &str) -> Vec<Measured> {
    beside_hog(policy, MINUTE, |world| {
        let mut at = 0;
        let _ = world.spawn(params(0), move |_: &mut Rng| {
            at = (at + 1) % 2;
            if at == 1 {
                return Step::Run(Nanos::from_millis(5));
            }
            let mut is_done = true;
            Step::Fork(Box::new(move |_: &mut Rng| {
                is_done = !is_done;
                if is_done { Step::Exit } else { Step::Run(Nanos::from_millis(20)) }
            }))
        });
    })
}
