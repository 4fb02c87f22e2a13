//! Loads that use memory. Each prints one line of `key=value` words at its end; every page that it ever wrote is verified.

use std::fs::File;
use std::hint::black_box;
use std::io::{Read as _, Seek as _, Write as _};
use std::num::NonZeroUsize;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, ValueEnum};
use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::unistd::getuid;

use super::now;
use super::sys::Mapping;

const PAGE_WORDS: usize = 512;
/// An access that takes longer was a page fault, nanoseconds.
const FAULT: u64 = 1_000;
/// Ballast comes in pieces of so many bytes.
const BALLAST: usize = 128 << 10;
/// The latencies of so many faults are kept at most.
const MOST_FAULTS: usize = 1 << 22;

/// Fills pages, reads and writes some of them in an order, and looks at all of them again.
#[derive(Debug, Args)]
pub(super) struct PagesArgs {
    /// How much memory
    #[arg(long)]
    mib: usize,
    /// The order of the accesses
    #[arg(long, value_enum)]
    pattern: Pattern,
    /// How many accesses
    #[arg(long)]
    ops: u64,
    /// How many in a hundred accesses write
    #[arg(long, default_value_t = 30)]
    writes: u64,
    /// Of a hundred words so many cannot be compressed
    #[arg(long, default_value_t = 50)]
    noise: u64,
    /// After the pages are filled, prints `filled` and waits for a line
    #[arg(long)]
    hold: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Pattern {
    Random,
    Zipf,
    Sequential,
}

/// Maps, touches and unmaps memory.
#[derive(Debug, Args)]
pub(super) struct MapsArgs {
    /// How much each time
    #[arg(long, default_value_t = 64)]
    kib: usize,
    /// How many pages of it are touched
    #[arg(long, default_value_t = 1)]
    touch: usize,
    /// How many pairs
    #[arg(long)]
    ops: u64,
}

/// Forks, executes `true` and waits, with some memory.
#[derive(Debug, Args)]
pub(super) struct ChildrenArgs {
    /// How much memory
    #[arg(long)]
    mib: usize,
    /// How many children
    #[arg(long)]
    ops: u64,
}

/// Takes up as much memory as a zram device does, so that its pages count where this runs.
#[derive(Debug, Args)]
pub(super) struct BallastArgs {
    /// The device's `mm_stat`
    #[arg(long)]
    stat: PathBuf,
}

/// Pages whose contents are known.
struct Pages {
    memory: Mapping,
    noise: u64,
}

const fn mix(x: u64) -> u64 {
    let x = x.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ x >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^ x >> 32
}

impl Pages {
    fn new(mib: usize, noise: u64) -> Result<Self> {
        let len = NonZeroUsize::new(mib << 20).context("no memory is no load")?;
        Ok(Self { memory: Mapping::new(len).context("map memory")?, noise })
    }

    /// What must be in a word of a page but for the first two, which are its number and how often it was written.
    fn word(&self, page: usize, at: usize) -> u64 {
        // The words that are noise are spread evenly, as the fields of records are.
        if at as u64 * self.noise % 100 < self.noise {
            mix((page * PAGE_WORDS + at) as u64)
        } else {
            at as u64 & 7
        }
    }

    fn nr(&self) -> usize {
        self.memory.len() / (PAGE_WORDS * 8)
    }

    fn page(&mut self, page: usize) -> &mut [u64] {
        &mut self.memory.words()[page * PAGE_WORDS..(page + 1) * PAGE_WORDS]
    }

    fn fill(&mut self) {
        for page in 0..self.nr() {
            let words: [u64; PAGE_WORDS] = std::array::from_fn(|at| match at {
                0 => page as u64,
                1 => 0,
                at => self.word(page, at),
            });
            self.page(page).copy_from_slice(&words);
        }
    }

    fn check(&mut self, page: usize, at: usize) -> Result<()> {
        let (want, number) = (self.word(page, at), page as u64);
        let words = self.page(page);
        ensure!(words[0] == number, "WRONG: page {page} has the number {}", words[0]);
        ensure!(words[at] == want, "WRONG: word {at} of page {page} is {:#x}, not {want:#x}", words[at]);
        Ok(())
    }

    /// Checks every word; gives how often pages were written.
    fn check_all(&mut self) -> Result<u64> {
        let mut written = 0;
        for page in 0..self.nr() {
            for at in 2..PAGE_WORDS {
                self.check(page, at)?;
            }
            written += self.page(page)[1];
        }
        Ok(written)
    }
}

/// xorshift64, always the same.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Spread as by Zipf's law with an exponent of 0.8, the frequent ones scattered.
    fn zipf(&mut self, nr: usize) -> usize {
        let part = (self.next() >> 11) as f64 / (1u64 << 53) as f64;
        let rank = (part * ((nr as f64 + 1.0).powf(0.2) - 1.0) + 1.0).powi(5) - 1.0;
        (rank as usize).min(nr - 1).wrapping_mul(2_654_435_761) % nr
    }
}

pub(super) fn pages(args: &PagesArgs) -> Result<()> {
    let mut pages = Pages::new(args.mib, args.noise.min(100))?;
    let nr = pages.nr();
    let begun = now()?;
    pages.fill();
    let filled = now()?;
    if args.hold {
        tell("filled")?;
        std::io::stdin().read_line(&mut String::new()).context("wait for a line")?;
    }
    let started = now()?;
    let mut random = Random(88_172_645_463_325_252);
    let mut faults = Vec::new();
    let mut written = 0;
    for op in 0..args.ops {
        let page = match args.pattern {
            Pattern::Random => (random.next() % nr as u64) as usize,
            Pattern::Zipf => random.zipf(nr),
            Pattern::Sequential => (op % nr as u64) as usize,
        };
        let does_write = random.next() % 100 < args.writes;
        let before = now()?;
        let words = pages.page(page);
        black_box(words[0]);
        if does_write {
            words[1] = black_box(words[1]) + 1;
        }
        let took = now()? - before;
        written += u64::from(does_write);
        pages.check(page, 2 + (op % (PAGE_WORDS as u64 - 2)) as usize)?;
        if took > FAULT && faults.len() < MOST_FAULTS {
            faults.push(took);
        }
    }
    let worked = now()?;
    let found = pages.check_all()?;
    if found != written {
        bail!("WRONG: {written} writes were made, and {found} are there");
    }
    let (fill, ops, scan) = (filled - begun, worked - started, now()? - worked);
    faults.sort_unstable();
    let percentile =
        |percent: usize| faults.get((faults.len() * percent / 100).min(faults.len().saturating_sub(1)));
    let [p50, p99] = [50, 99].map(|percent| percentile(percent).copied().unwrap_or(0));
    let nr_faults = faults.len();
    tell(&format!(
        "fill_ns={fill} ops_ns={ops} scan_ns={scan} total_ns={} faults={nr_faults} p50_ns={p50} p99_ns={p99}",
        fill + ops + scan
    ))
}

pub(super) fn maps(args: &MapsArgs) -> Result<()> {
    let len = NonZeroUsize::new(args.kib << 10).context("no memory is no load")?;
    let started = now()?;
    for op in 0..args.ops {
        let mut memory = Mapping::new(len).context("map memory")?;
        for page in memory.words().chunks_mut(PAGE_WORDS).take(args.touch) {
            ensure!(page[0] == 0, "WRONG: new memory has {:#x} in it", page[0]);
            page[0] = black_box(op);
        }
    }
    let took = now()? - started;
    tell(&format!("total_ns={took} each_ns={}", took / args.ops.max(1)))
}

pub(super) fn children(args: &ChildrenArgs) -> Result<()> {
    let mut pages = Pages::new(args.mib, 50)?;
    pages.fill();
    let started = now()?;
    for _ in 0..args.ops {
        // A user that is set, though it is the same, makes the standard library fork instead of using posix_spawn.
        let status = Command::new("true").uid(getuid().as_raw()).status().context("start true")?;
        ensure!(status.success(), "WRONG: true ended with {status}");
    }
    let took = now()? - started;
    pages.check_all()?;
    tell(&format!("total_ns={took} each_ns={}", took / args.ops.max(1)))
}

pub(super) fn ballast(args: &BallastArgs) -> Result<()> {
    mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE).context("lock memory")?;
    let own = own_pages()?;
    let len = NonZeroUsize::new(BALLAST).context("not zero")?;
    let mut stat = File::open(&args.stat).with_context(|| format!("open {}", args.stat.display()))?;
    let mut weights = Vec::new();
    tell("ready")?;
    loop {
        let mut text = String::new();
        stat.rewind()?;
        stat.read_to_string(&mut text).context("read mm_stat")?;
        let used: usize = text.split_whitespace().nth(2).and_then(|n| n.parse().ok()).context("mm_stat")?;
        let wanted = used.saturating_sub(own).div_ceil(BALLAST);
        weights.truncate(wanted);
        if weights.len() < wanted {
            let mut weight = Mapping::new(len).context("map memory")?;
            weight.words().iter_mut().step_by(PAGE_WORDS).for_each(|word| *word = 1);
            weights.push(weight);
        } else {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// What this process has of its own, in bytes.
fn own_pages() -> Result<usize> {
    let status = std::fs::read_to_string("/proc/self/status").context("read the own status")?;
    let kib = status.lines().find_map(|l| l.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB"));
    Ok(kib.and_then(|n| n.trim().parse::<usize>().ok()).context("there is no RssAnon")? << 10)
}

fn tell(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_that_were_filled_are_right_and_a_changed_word_is_found() {
        let mut pages = Pages::new(1, 30).expect("memory");
        pages.fill();

        assert_eq!(pages.check_all().expect("right"), 0);
        pages.page(7)[1] += 2;
        assert_eq!(pages.check_all().expect("right"), 2);
        pages.page(9)[300] ^= 1;
        assert!(pages.check_all().is_err());
    }

    #[test]
    fn noise_is_as_much_as_was_asked() {
        for noise in [0, 25, 50, 100] {
            let pages = Pages::new(1, noise).expect("memory");
            let nr = (2..PAGE_WORDS).filter(|&at| pages.word(3, at) > 7).count();
            assert!((nr as f64 * 100.0 / 510.0 - noise as f64).abs() < 2.0, "{noise}: {nr}");
        }
    }

    #[test]
    fn zipf_prefers_few_pages() {
        let mut random = Random(1);
        let mut counts = vec![0u32; 1000];
        (0..100_000).for_each(|_| counts[random.zipf(1000)] += 1);
        counts.sort_unstable_by(|a, b| b.cmp(a));

        assert!(counts[..200].iter().sum::<u32>() > 60_000);
        assert!(counts[999] > 0);
    }
}
