//! Stock programs in a shell that `compartment enter` starts, where `/proc` has the guest tasks too.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use super::Bench;
use crate::bench::Side;
use crate::bench::procs::Load;
use crate::bench::report::{On, Row, Target};
use crate::step::{has_program, output};

/// How many processes there are to be seen beside the host's own.
const PROCESSES: usize = 1_000;

/// Each prints the milliseconds of one look, the median of five.
const PROGRAMS: &[(&str, &str)] = &[
    (
        "ps aux",
        "import subprocess, time
def look(): subprocess.run(['ps', 'aux'], stdout=subprocess.DEVNULL, check=True)",
    ),
    (
        "psutil.process_iter",
        "import psutil, time
def look(): list(psutil.process_iter(['pid', 'ppid', 'name', 'cmdline', 'status', 'cpu_times', 'memory_info']))",
    ),
];

const TIMES: &str = "
times = []
for _ in range(5):
    began = time.monotonic()
    look()
    times.append(time.monotonic() - began)
print(sorted(times)[2] * 1e3)";

pub(super) fn all(bench: &Bench) -> Result<Vec<Row>> {
    let help =
        bench.daemon.command(&["enter", "--help"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !help.is_ok_and(|status| status.success()) {
        eprintln!("    there is no `compartment enter` yet");
        return Ok(Vec::new());
    }
    let mut sleepers = Load::telling(&["sleepers", "--nr", &PROCESSES.to_string()])?;
    sleepers.hear()?;
    let mut rows = Vec::new();
    for (name, program) in PROGRAMS {
        let script = format!("{program}{TIMES}");
        if *name == "psutil.process_iter" && !has_psutil() {
            eprintln!("    there is no psutil (Debian: python3-psutil)");
            continue;
        }
        let pairs = bench.pairs(|side| {
            let mut command = match side {
                Side::Ours => bench.daemon.command(&["enter", "--", "python3", "-c", &script]),
                Side::Peer => {
                    let mut command = Command::new("python3");
                    command.args(["-c", &script]);
                    command
                }
            };
            let text = output(&mut command)?;
            Ok(vec![text.trim().parse().with_context(|| format!("{name} tells {text:?}"))?])
        })?;
        rows.push(
            Row::new(format!("(e) {name}, {PROCESSES} processes"), " ms", 1, pairs.ours(0))
                .beside("bare", pairs.peer(0))
                .target(On::Ratio, Target::AtMost(2.0)),
        );
    }
    Ok(rows)
}

fn has_psutil() -> bool {
    let look = Command::new("python3").args(["-c", "import psutil"]).stderr(Stdio::null()).status();
    has_program("python3") && look.is_ok_and(|status| status.success())
}
