//! What the core adds to a fault and to an eviction, in pools of 64 MiB and of 4 GiB that are full.
//!
//! `resident`: a fault on a page that is there. `zero`: a first touch, its outcome, and the unmapping that makes room. `load`: a
//! fault on a swapped page and its outcome. `evict`: a page's way from selection to its slot, in batches of 64.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::Criterion;
use guest_mm::sim::entropy::Entropy;
use guest_mm::{
    Access, Config, Load, MoveOutcome, Nanos, Outcome, Released, Resolution, SpaceId, TierConfig, TierId,
    TierStore, VecMemory, Victim, Vm, Vpn, Write, WriteOutcome,
};

const SPACE: SpaceId = SpaceId(1);
const BATCH: u64 = 64;

struct Pool {
    vm: Vm<VecMemory>,
    pages: u64,
    entropy: Entropy,
    loads: Vec<Load>,
    victims: Vec<Victim>,
    writes: Vec<Write>,
    released: Vec<Released>,
}

impl Pool {
    fn new(frames: u64) -> Self {
        let config = Config {
            limit_pages: Some(frames),
            tiers: vec![TierConfig { id: TierId(0), store: TierStore::File { slots: 4 * frames as u32 } }],
            staging_pages: (frames / 8).min(8192) as u32,
            readahead_max: 1,
            fill_max: 1,
            ..Config::default()
        };
        let mut vm = Vm::new(VecMemory::new(), config).expect("good settings");
        vm.add_space(SPACE).expect("a new space");
        let mut pool = Self {
            vm,
            pages: 2 * frames,
            entropy: Entropy::from_seed(7),
            loads: Vec::new(),
            victims: Vec::new(),
            writes: Vec::new(),
            released: Vec::new(),
        };
        for page in 0..pool.pages {
            pool.touch(Vpn(page));
        }
        pool
    }

    fn touch(&mut self, vpn: Vpn) {
        loop {
            match self.vm.fault(SPACE, vpn, Access::Write, Nanos(0), &mut self.loads) {
                Ok(Resolution::NeedFrames(n)) => {
                    self.evict(n.max(BATCH));
                }
                Ok(_) => break,
                Err(error) => panic!("{error}"),
            }
        }
        for load in &self.loads {
            self.vm.installed(load.frame, Outcome::Installed).expect("it is awaited");
        }
    }

    fn evict(&mut self, want: u64) -> usize {
        self.vm.select(want, &mut self.victims);
        for victim in &self.victims {
            self.vm.moved(victim.frame, MoveOutcome::Staged).expect("it is awaited");
        }
        self.vm.unstage_plan(want, Nanos(0), &mut self.writes);
        for write in &self.writes {
            self.vm.written(write.stage, WriteOutcome::Done).expect("it is awaited");
        }
        self.released.clear();
        self.vm.take_released(&mut self.released);
        self.writes.len()
    }

    /// Evicts a batch and loads as much again; gives the times of the one and of the other, and how many pages.
    fn round(&mut self) -> (Duration, Duration, u64) {
        let start = Instant::now();
        let nr = self.evict(BATCH) as u64;
        let evicted = start.elapsed();
        let mut loaded = Duration::ZERO;
        for _ in 0..nr {
            let vpn = Vpn(self.entropy.below(self.pages));
            let start = Instant::now();
            self.touch(vpn);
            loaded += start.elapsed();
        }
        (evicted, loaded, nr)
    }
}

fn hot_paths(criterion: &mut Criterion) {
    for (name, frames) in [("64MiB", 16 << 10), ("4GiB", 1 << 20)] {
        let mut pool = Pool::new(frames);
        let mut group = criterion.benchmark_group(name);
        group
            .sample_size(10)
            .measurement_time(Duration::from_secs(1))
            .warm_up_time(Duration::from_millis(300));
        let top = Vpn(pool.pages - 1);
        pool.touch(top);
        group.bench_function("resident", |b| {
            b.iter(|| black_box(pool.vm.fault(SPACE, top, Access::Write, Nanos(0), &mut pool.loads)));
        });
        pool.evict(BATCH);
        group.bench_function("zero", |b| {
            b.iter(|| {
                pool.touch(top);
                pool.vm.unmap(SPACE, top, 1).expect("a space");
            });
        });
        group.bench_function("load", |b| {
            b.iter_custom(|iters| {
                let (mut time, mut done) = (Duration::ZERO, 0);
                while done < iters {
                    let (_, loaded, nr) = pool.round();
                    time += loaded;
                    done += nr.max(1);
                }
                time.mul_f64(iters as f64 / done as f64)
            });
        });
        group.bench_function("evict", |b| {
            b.iter_custom(|iters| {
                let (mut time, mut done) = (Duration::ZERO, 0);
                while done < iters {
                    let (evicted, _, nr) = pool.round();
                    time += evicted;
                    done += nr.max(1);
                }
                time.mul_f64(iters as f64 / done as f64)
            });
        });
        group.finish();
    }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    hot_paths(&mut criterion);
    criterion.final_summary();
}
