//! Operation sequences on a simulated host: no page's content is lost, no frame or slot lost, doubled or leaked, the limit kept;
//! with failures of every step, and workers that end between any two stores. `MM_ROUNDS=1000` runs more of them.

use guest_mm::sim::apply_ops;
use guest_mm::sim::entropy::Entropy;
use guest_mm::sim::world::World;
use proptest::prelude::*;

fn run(seed: u64, steps: u32, with_failures: bool, with_cuts: bool) -> (u64, u64) {
    let mut world = World::new(Entropy::from_seed(seed)).unwrap_or_else(|e| panic!("seed {seed}: {e:?}"));
    world.with_failures = with_failures;
    world.with_cuts = with_cuts;
    let wanted: Option<u64> = std::env::var("MM_LOG").ok().and_then(|text| text.parse().ok());
    world.with_log = wanted == Some(seed);
    for step in 0..steps {
        let result = world.step();
        if let Err(trouble) = result {
            let last = world.log.len().saturating_sub(120);
            panic!("seed {seed}, step {step}: {trouble:?}\n{}", world.log[last..].join("\n"));
        }
    }
    let counts = (world.nr_cuts, world.nr_oom);
    world.finale().unwrap_or_else(|e| panic!("seed {seed}, at the end: {e:?}"));
    counts
}

/// Which seeds to run: `MM_ROUNDS` of them, or the one of `MM_LOG` alone, with a log of what happened.
fn seeds(default: u64) -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    match number("MM_LOG") {
        Some(seed) => seed..seed + 1,
        None => 0..number("MM_ROUNDS").unwrap_or(default),
    }
}

#[test]
fn world_without_failures_is_right() {
    for seed in seeds(8) {
        run(seed, 400, false, false);
    }
}

#[test]
fn world_with_failures_is_right() {
    for seed in seeds(8) {
        run(seed, 400, true, false);
    }
}

#[test]
fn world_with_ending_workers_loses_nothing() {
    let nr_cuts: u64 = seeds(24).map(|seed| run(seed, 400, true, true).0).sum();
    assert!(nr_cuts > 10 || std::env::var("MM_LOG").is_ok(), "only {nr_cuts} workers ended");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_is_right(bytes in proptest::collection::vec(any::<u8>(), 0..1500)) {
        apply_ops(&bytes);
    }
}
