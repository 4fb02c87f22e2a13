//! What the demo measures, from the kernel's own accounting and not from ours: `/proc/PID/schedstat`.

use std::fs;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

use crate::exit::CliError;
use crate::output::{Align, Table, bar};
use crate::signals::Signals;

/// The three programs.
pub(super) const NAMES: [&str; 3] = ["A", "B", "C"];
const ASKED: [f64; 3] = [50.0, 25.0, 25.0];
/// How far a share may be off, in points.
pub(super) const TOLERANCE: f64 = 0.5;
/// Below this much of the CPU, something else used the rest.
const MOST_OF_CPU: f64 = 97.0;

/// The programs' CPU time at one moment.
#[derive(Clone, Debug)]
pub(super) struct Watch {
    pids: [u32; 3],
    at: Instant,
    used_ns: [u64; 3],
}

impl Watch {
    /// Reads it.
    ///
    /// # Errors
    /// If one of them has ended.
    pub(super) fn start(pids: [u32; 3]) -> Result<Self, CliError> {
        let mut used_ns = [0; 3];
        let at = Instant::now();
        for (used, pid) in used_ns.iter_mut().zip(pids) {
            let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
            *used =
                parse_schedstat(&text).ok_or_else(|| CliError::Failed(format!("process {pid} has ended")))?;
        }
        Ok(Self { pids, at, used_ns })
    }

    /// When it was read.
    pub(super) fn at(&self) -> Instant {
        self.at
    }

    /// Gives the shares since an earlier moment.
    pub(super) fn since(&self, earlier: &Self) -> Shares {
        debug_assert_eq!(self.pids, earlier.pids);
        let mut used_ns = self.used_ns;
        for (now, before) in used_ns.iter_mut().zip(earlier.used_ns) {
            *now = now.saturating_sub(before);
        }
        Shares { used_ns, time: self.at - earlier.at }
    }
}

/// Field 1: nanoseconds on a CPU.
fn parse_schedstat(text: &str) -> Option<u64> {
    text.split_whitespace().next()?.parse().ok()
}

/// CPU time used by each program in some time.
#[derive(Clone, Debug)]
pub(super) struct Shares {
    used_ns: [u64; 3],
    time: Duration,
}

impl Shares {
    /// Percent of what the three got together.
    pub(super) fn parts(&self) -> [f64; 3] {
        let sum = self.used_ns.iter().sum::<u64>().max(1) as f64;
        self.used_ns.map(|used| used as f64 * 100.0 / sum)
    }

    /// Percent of the CPU that the three got together.
    pub(super) fn of_cpu(&self) -> f64 {
        self.used_ns.iter().sum::<u64>() as f64 * 100.0 / self.time.as_nanos().max(1) as f64
    }

    /// The time measured.
    pub(super) fn seconds(&self) -> f64 {
        self.time.as_secs_f64()
    }

    /// A line of the live table.
    pub(super) fn row(&self, second: u32) -> String {
        let mut line = format!("{second:>3} s  ");
        for (name, part) in NAMES.iter().zip(self.parts()) {
            line += &format!(" {name} {part:>5.1} {} ", bar(part / 60.0, 16));
        }
        line + &format!(" of {:>5.1} % of the CPU", self.of_cpu())
    }
}

/// What came out.
#[derive(Clone, Debug)]
pub(super) struct Verdict {
    pub(super) shares: Shares,
    pub(super) cpu: usize,
    pub(super) mode: String,
}

/// One program's part in the verdict.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) asked: f64,
    pub(super) got: f64,
}

impl Row {
    /// How far off, in points.
    pub(super) fn off(&self) -> f64 {
        self.got - self.asked
    }
}

impl Verdict {
    /// One row per program.
    pub(super) fn rows(&self) -> impl Iterator<Item = Row> {
        let got = self.shares.parts();
        (0..3).map(move |i| Row { name: NAMES[i], asked: ASKED[i], got: got[i] })
    }

    /// Whether every program got what it should.
    pub(super) fn is_pass(&self) -> bool {
        self.rows().all(|row| row.off().abs() <= TOLERANCE)
    }

    /// Writes it in words.
    ///
    /// # Errors
    /// Those of the writer.
    pub(super) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out)?;
        let columns = ["", "asked", "got", "off"].map(|name| (name, Align::Right));
        let mut table = Table::new(&columns);
        for row in self.rows() {
            let number = |n: f64| format!("{n:.2}");
            table.row([row.name.into(), number(row.asked), number(row.got), format!("{:+.2}", row.off())]);
        }
        table.write(out)?;
        let of_cpu = self.shares.of_cpu();
        if of_cpu < MOST_OF_CPU {
            writeln!(
                out,
                "The three had {of_cpu:.1} % of CPU {}: the rest is steal or other load.",
                self.cpu
            )?;
        }
        let (word, what) = if self.is_pass() { ("PASS", "each is") } else { ("FAIL", "not each is") };
        let seconds = self.shares.seconds();
        writeln!(out, "{word}: {what} within {TOLERANCE} points over {seconds:.1} s on CPU {}", self.cpu)
    }
}

/// Takes the number out of "Created sched_group 290 ('guest_o1_scheduler')".
pub(super) fn created_group(line: &str) -> Option<u32> {
    line.strip_prefix("Created sched_group ")?.split(' ').next()?.parse().ok()
}

/// Gives the CPU that was idle longest in a short time, of those that we may run on; the last of equals, since the
/// first is where most interrupts go.
pub(super) fn quietest_cpu(signals: &Signals) -> Result<usize, CliError> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).map_err(CliError::nix("read the own affinity"))?;
    let stat = || fs::read_to_string("/proc/stat").map_err(CliError::os("read /proc/stat"));
    let before = idle_ticks(&stat()?);
    signals.sleep(Duration::from_millis(300))?;
    let idle = idle_ticks(&stat()?).into_iter().map(|(cpu, ticks)| {
        let earlier = before.iter().find(|(c, _)| *c == cpu).map_or(ticks, |(_, t)| *t);
        (cpu, ticks.saturating_sub(earlier))
    });
    idle.filter(|(cpu, _)| *cpu < CpuSet::count() && allowed.is_set(*cpu).unwrap_or(false))
        .max_by_key(|(_, idle)| *idle)
        .map(|(cpu, _)| cpu)
        .ok_or_else(|| CliError::Failed("there is no CPU to run on".into()))
}

/// Takes each CPU's idle time out of `/proc/stat`.
fn idle_ticks(stat: &str) -> Vec<(usize, u64)> {
    stat.lines()
        .filter_map(|line| {
            let mut fields = line.strip_prefix("cpu")?.split(' ');
            Some((fields.next()?.parse().ok()?, fields.nth(3)?.parse().ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(used_ms: [u64; 3]) -> Verdict {
        let shares = Shares { used_ns: used_ms.map(|ms| ms * 1_000_000), time: Duration::from_secs(10) };
        Verdict { shares, cpu: 1, mode: String::new() }
    }

    fn text(verdict: &Verdict) -> String {
        let mut out = Vec::new();
        verdict.write(&mut out).expect("memory");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn verdict_within_tolerance_passes() {
        let verdict = verdict([5030, 2480, 2490]);

        assert!(verdict.is_pass());
        assert!(text(&verdict).contains("A  50.00  50.30  +0.30"), "{}", text(&verdict));
        assert!(text(&verdict).contains("PASS: each is within 0.5 points over 10.0 s on CPU 1"));
        assert!(!text(&verdict).contains("steal"));
    }

    #[test]
    fn verdict_off_fails_and_missing_time_is_named() {
        let verdict = verdict([3000, 3000, 3000]);

        assert!(!verdict.is_pass());
        assert!(text(&verdict).contains("90.0 % of CPU 1: the rest is steal or other load"));
        assert!(text(&verdict).contains("FAIL"));
    }

    #[test]
    fn nothing_used_is_no_division_by_zero() {
        assert!(!verdict([0, 0, 0]).is_pass());
        assert!(verdict([0, 0, 0]).shares.row(1).contains("A   0.0"));
    }

    #[test]
    fn created_line_gives_the_group() {
        assert_eq!(created_group("Created sched_group 290 ('guest_o1_scheduler')\n"), Some(290));
        assert_eq!(created_group("Created mem_group 290"), None);
    }

    #[test]
    fn idle_time_is_found_per_cpu() {
        let stat = "cpu  1 2 3 40 5\ncpu0 1 2 3 10 5\ncpu1 1 2 3 30 5\nintr 7\n";
        assert_eq!(idle_ticks(stat), [(0, 10), (1, 30)]);
        assert_eq!(parse_schedstat("12 3 4\n"), Some(12));
    }
}
