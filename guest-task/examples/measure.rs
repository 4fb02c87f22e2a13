//! What guest tasks cost through a mounted tree: `measure MOUNT [TASKS]`, with a daemon at MOUNT. Prints medians, and the slowest of a hundred.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use guest_task::{Accepts, Options, Registry, Status, Task, TaskSpec, socket_beside};

const ROUNDS: usize = 2_000;

fn tell(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
    println!("{what:44} p50 {:>12.1?}   p99 {:>12.1?}", at(0.5), at(0.99));
}

fn timed<T>(run: impl FnOnce() -> T) -> (Duration, T) {
    let start = Instant::now();
    let value = run();
    (start.elapsed(), value)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let mount = PathBuf::from(args.next().ok_or("measure MOUNT [TASKS]")?);
    let nr: usize = args.next().map_or(Ok(1_000), |word| word.parse())?;
    let (tx, rx) = channel();
    let options = Options::default().socket(socket_beside(&mount)).on_event(move |_| {
        let _ = tx.send(Instant::now());
    });
    let registry = Registry::connect(options)?;
    if registry.wait_answer(Duration::from_secs(5)) != Status::Connected {
        return Err("no daemon takes the table".into());
    }
    let spec =
        TaskSpec::new("GET /index").cmdline("GET /index HTTP/1.1").owner("10.0.0.7").accepts(Accepts::ALL);
    let (time, tasks) = timed(|| (0..nr).map(|_| registry.publish(spec)).collect::<Vec<Task>>());
    println!("{nr} tasks published, new slots             {:>12.1?} each", time / nr.max(1) as u32);
    let group = mount.join("sched-groups").join(std::process::id().to_string());
    // Segments are handed over by another thread.
    while fs::read_to_string(group.join("tasks.stat"))?.lines().next() != Some(&format!("nr_tasks {nr}")) {
        std::thread::sleep(Duration::from_millis(5));
    }
    for round in ["first", "again"] {
        let (time, entries) = timed(|| fs::read_dir(&group).map(Iterator::count));
        println!("{} entries listed, {round}                    {time:>12.1?}", entries?);
    }
    let (time, bytes) = timed(|| fs::read(group.join("tasks")).map(|text| text.len()));
    println!("tasks, {} bytes, read                   {time:>12.1?}", bytes?);
    let first =
        fs::read_dir(&group)?.flatten().find_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let task = group.join(first.ok_or("no task")?.to_string());
    tell(
        "comm: open, read, close",
        (0..ROUNDS).map(|_| timed(|| fs::read(task.join("comm")).map(drop)).0).collect(),
    );
    let mut signal = fs::File::options().write(true).open(task.join("signal"))?;
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        signal.write_all(b"TERM")?;
        times.push(rx.recv_timeout(Duration::from_secs(5))?.duration_since(start));
    }
    tell("signal: from write to the owner's handler", times);
    drop(tasks);
    Ok(())
}
