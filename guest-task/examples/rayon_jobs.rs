//! Jobs on a rayon pool as tasks with their true CPU time: `rayon_jobs [NR]` runs so many jobs that compute until SIGTERM ends them, each. Those that wait for
//! a thread are queued.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use guest_task::{Accepts, Options, Registry, Task, TaskId, TaskSpec, TaskState, thread_cpu_time_ns};

type Stops = Arc<Mutex<HashMap<TaskId, Arc<AtomicBool>>>>;

/// Computes until it shall end; every few thousand rounds it says what it has used.
fn compute(task: &Task, is_over: &AtomicBool) -> u64 {
    task.set_state(TaskState::Running);
    let start = thread_cpu_time_ns();
    let mut sum = 1u64;
    while !is_over.load(Ordering::Relaxed) {
        for i in 0..100_000 {
            sum = std::hint::black_box(sum.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(i));
        }
        task.set_cpu_time_ns(thread_cpu_time_ns() - start);
    }
    sum
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let nr: usize = std::env::args().nth(1).map_or(Ok(3), |word| word.parse())?;
    let stops = Stops::default();
    let known = stops.clone();
    let registry = Registry::connect(Options::default().on_event(move |event| {
        if let Some(stop) = known.lock().unwrap_or_else(PoisonError::into_inner).get(&event.task) {
            stop.store(true, Ordering::Relaxed);
        }
    }))?;
    println!("{:?}", registry.wait_answer(Duration::from_secs(5)));
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build()?;
    pool.scope(|scope| {
        for i in 1..=nr {
            let name = format!("job-{i}");
            let takes = Accepts::NONE.signal(15);
            let task = registry.publish(TaskSpec::new(&name).state(TaskState::Queued).accepts(takes));
            let stop = Arc::<AtomicBool>::default();
            stops.lock().unwrap_or_else(PoisonError::into_inner).insert(task.id(), stop.clone());
            scope.spawn(move |_| {
                compute(&task, &stop);
                println!("{name} ended");
            });
        }
    });
    Ok(())
}
