//! Runs a command in a pool of its own, with no daemon: `pool MIB SWAP_DIR [lz4] -- CMD…`. Prints the group's counters at the end.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use guest_mm::uffd::client::{KEEPER_ARG, MemWorker};
use guest_mm::uffd::keeper;
use guest_mm::uffd::proto::{MemConfig, Tier};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).is_some_and(|a| a == KEEPER_ARG) {
        return keeper::main(Path::new(&args[2]));
    }
    let split = args.iter().position(|a| a == "--").unwrap_or(args.len());
    let (options, command) = (&args[1..split], &args[split..]);
    let (Some(mib), Some(dir), true) = (options.first(), options.get(1), command.len() > 1) else {
        eprintln!("usage: pool MIB SWAP_DIR [lz4] -- CMD…");
        return ExitCode::from(2);
    };
    let mut tiers = vec![Tier::File { size: 4 << 30, dir: PathBuf::from(dir) }];
    if options.get(2).is_some_and(|o| o == "lz4") {
        tiers.insert(0, Tier::Lz4 { size: 1 << 30 });
    }
    let config = MemConfig {
        name: "pool".into(),
        max: mib.parse::<u64>().ok().map(|mib| mib << 20),
        tiers,
        ..MemConfig::default()
    };
    match run(&config, &command[1..]) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("pool: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(config: &MemConfig, command: &[String]) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let dir = std::env::temp_dir().join(format!("pool-{}", std::process::id()));
    std::fs::create_dir(&dir)?;
    let (events, told) = channel();
    let worker = MemWorker::spawn(&std::env::current_exe()?, &dir, config, events)?;
    let mut child = Command::new("sh")
        .args(["-c", "read _; exec \"$0\" \"$@\""])
        .args(command)
        .stdin(Stdio::piped())
        .spawn()?;
    let pid = child.id() as i32;
    worker.join(pid, host_sys::process::stat(pid)?.start_time)?;
    let started = Instant::now();
    child.stdin.take().ok_or("no pipe")?.write_all(b"\n")?;
    let mut most = 0;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        most = most.max(worker.stat().current);
        std::thread::sleep(Duration::from_millis(10));
    };
    eprintln!("{status} after {:.2} s, at most {most} bytes", started.elapsed().as_secs_f64());
    worker.sync()?;
    eprintln!("{:#?}", worker.stat());
    for event in told.try_iter() {
        eprintln!("{event:?}");
    }
    worker.dissolve()?;
    std::fs::remove_dir_all(dir)?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
