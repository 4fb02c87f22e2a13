//! What a task costs that is published, changed once and retired; on one thread and on several, alone and with a reader that copies the
//! table without a pause.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use criterion::Criterion;
use guest_task::{Accepts, Options, Registry, TaskSpec, TaskState};

fn one(registry: &Registry, n: u64) {
    let spec = TaskSpec::new("GET /api/v1/users")
        .cmdline("GET /api/v1/users/4711 HTTP/1.1")
        .owner("10.0.0.7:52344")
        .accepts(Accepts::NONE.signal(15));
    let task = registry.publish(black_box(spec));
    task.set_state(TaskState::Waiting);
    task.set_cpu_time_ns(n);
}

/// Time for `n` tasks on each of some threads.
fn on_threads(registry: &Registry, threads: usize, n: u64) -> Duration {
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| (0..n).for_each(|i| one(registry, i)));
        }
    });
    start.elapsed()
}

/// A reader as the daemon is one: in another process's place, through the file, without a pause.
fn beside_reader(run: impl FnOnce()) {
    use std::os::unix::fs::FileExt;
    let fds = std::fs::read_dir("/proc/self/fd").expect("procfs").flatten();
    let table = fds
        .map(|fd| fd.path())
        .find(|fd| std::fs::read_link(fd).is_ok_and(|to| to.to_string_lossy().contains("guest-tasks")))
        .expect("the table's file");
    let file = std::fs::File::open(table).expect("the table");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut copy = vec![0u8; 64 * 256];
            while !stop.load(Ordering::Relaxed) {
                file.read_exact_at(&mut copy, 0).expect("as long as a segment");
                black_box(&copy);
            }
        });
        run();
        stop.store(true, Ordering::Relaxed);
    });
}

fn main() {
    let mut c = Criterion::default()
        .configure_from_args()
        .measurement_time(Duration::from_secs(3))
        .warm_up_time(Duration::from_secs(1));
    let nowhere = std::env::temp_dir().join("no-daemon.sock");
    let registry = Registry::connect(Options::default().socket(nowhere)).expect("a registry");
    let mut group = c.benchmark_group("publish+update+retire");
    group.bench_function("one thread", |b| {
        b.iter_custom(|n| {
            let start = Instant::now();
            (0..n).for_each(|i| one(&registry, i));
            start.elapsed()
        });
    });
    let bare = TaskSpec::new("job").start_ns(1);
    group.bench_function("one thread, name only, start given", |b| {
        b.iter(|| registry.publish(black_box(bare)).set_cpu_time_ns(1));
    });
    group.bench_function("two threads, per task and thread", |b| {
        b.iter_custom(|n| on_threads(&registry, 2, n))
    });
    group.bench_function("one thread, 100 000 others live", |b| {
        let _held: Vec<_> = (0..100_000).map(|_| registry.publish(bare)).collect();
        b.iter_custom(|n| {
            let start = Instant::now();
            (0..n).for_each(|i| one(&registry, i));
            start.elapsed()
        });
    });
    beside_reader(|| {
        group.bench_function("one thread, beside a reader", |b| {
            b.iter_custom(|n| {
                let start = Instant::now();
                (0..n).for_each(|i| one(&registry, i));
                start.elapsed()
            });
        });
    });
    group.finish();
    c.final_summary();
}
