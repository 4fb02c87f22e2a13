//! The files of mem_groups.

use std::fmt::Write;

use guest_mm::uffd::proto::{Tier, UnmanagedRange};
use guest_mm::uffd::table::{MemStat, MemberStat, Stall};

use super::format::{format_line, keyed};
use super::{malformed, number, parse_line};
use crate::errno::Refusal;
use crate::pools::host_mem::HostMem;
use crate::pools::{LIMIT_MIN, TIERS_MAX};

/// The longest value of `memory.swap.tiers`, in bytes: paths are long.
pub const TIERS_LEN_MAX: usize = 8 * 1024;
/// Where a file tier is that names no directory.
pub const TIER_DIR: &str = "/var/tmp";

const PAGE: u64 = 4096;
/// The shortest and the longest window of a trigger, in microseconds: the kernel's own.
const WINDOW_USEC: std::ops::RangeInclusive<u64> = 500_000..=10_000_000;
const UNITS: [(&str, u64); 4] = [("K", 1 << 10), ("M", 1 << 20), ("G", 1 << 30), ("T", 1 << 40)];

/// A stall that somebody waits for: so much waiting for memory inside a window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Trigger {
    /// Whether all members have to wait at once.
    pub is_full: bool,
    /// The threshold.
    pub stall_usec: u64,
    /// The window.
    pub window_usec: u64,
}

/// Reads a number of bytes, with K, M, G or T of 1024 each; `None` if it is none or too large for any machine.
fn bytes(text: &str) -> Option<u64> {
    let (digits, unit) = match text.char_indices().last() {
        Some((at, c)) if c.is_ascii_alphabetic() => {
            let unit = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(&text[at..]))?;
            (&text[..at], unit.1)
        }
        _ => (text, 1),
    };
    number(digits)?.checked_mul(unit).filter(|n| *n <= i64::MAX as u64)
}

fn size(text: &str, what: &str) -> Result<u64, Refusal> {
    match bytes(text) {
        Some(n) if n >= LIMIT_MIN => Ok(n / PAGE * PAGE),
        Some(_) => malformed(format!("{what} is at least 1M")),
        None => malformed(format!("{what} is a number of bytes, which may end in K, M, G or T")),
    }
}

/// Parses `memory.max`: `max` (`None`) or at least 1 MiB; whole pages count.
///
/// # Errors
/// EINVAL.
pub fn parse_limit(value: &[u8]) -> Result<Option<u64>, Refusal> {
    match super::parse_text(value)? {
        "max" => Ok(None),
        text => size(text, "memory.max").map(Some),
    }
}

/// Parses `memory.swap.max`: `max` (`None`) or bytes; whole pages count.
///
/// # Errors
/// EINVAL.
pub fn parse_swap_max(value: &[u8]) -> Result<Option<u64>, Refusal> {
    match super::parse_text(value)? {
        "max" => Ok(None),
        text => match bytes(text) {
            Some(n) => Ok(Some(n / PAGE * PAGE)),
            None => malformed("memory.swap.max is max, or a number of bytes, which may end in K, M, G or T"),
        },
    }
}

/// Parses `memory.reclaim`: bytes, rounded up to whole pages.
///
/// # Errors
/// EINVAL.
pub fn parse_reclaim(value: &[u8]) -> Result<u64, Refusal> {
    match bytes(super::parse_text(value)?) {
        Some(n) if n > 0 => Ok(n.next_multiple_of(PAGE)),
        _ => malformed("memory.reclaim is a number of bytes, which may end in K, M, G or T"),
    }
}

/// Parses `memory.swap.tiers`: `none`, or words of `lz4:SIZE` (one at most, and the first) and `file:SIZE[:DIR]`.
///
/// # Errors
/// EINVAL.
pub fn parse_tiers(value: &[u8]) -> Result<Vec<Tier>, Refusal> {
    let text = parse_line(value, TIERS_LEN_MAX)?;
    if text == "none" {
        return Ok(Vec::new());
    }
    let tiers = text.split_ascii_whitespace().map(parse_tier).collect::<Result<Vec<_>, _>>()?;
    if tiers.len() > TIERS_MAX {
        return malformed(format!("there are at most {TIERS_MAX} tiers"));
    }
    if tiers.iter().skip(1).any(|tier| matches!(tier, Tier::Lz4 { .. })) {
        return malformed("the compressed tier is the first one, and there is one at most");
    }
    Ok(tiers)
}

fn parse_tier(word: &str) -> Result<Tier, Refusal> {
    let (kind, rest) = word.split_once(':').unwrap_or((word, ""));
    let (text, dir) = rest.split_once(':').map_or((rest, None), |(text, dir)| (text, Some(dir)));
    match (kind, dir) {
        ("lz4", None) => Ok(Tier::Lz4 { size: size(text, "a tier's size")? }),
        ("lz4", Some(_)) => malformed("the compressed tier is in memory: lz4:SIZE"),
        ("file", dir) => {
            let dir = dir.unwrap_or(TIER_DIR);
            if !dir.starts_with('/') {
                return malformed("a tier's directory is an absolute path");
            }
            Ok(Tier::File { size: size(text, "a tier's size")?, dir: dir.into() })
        }
        _ => malformed(format!("{word:?} is neither lz4:SIZE nor file:SIZE:DIR")),
    }
}

/// Parses a trigger of `memory.pressure`: `some STALL_USEC WINDOW_USEC` or `full …`, as for the kernel's own.
///
/// # Errors
/// EINVAL.
pub fn parse_trigger(value: &[u8]) -> Result<Trigger, Refusal> {
    // What the kernel's users write may end in a zero byte.
    let value = value.strip_suffix(b"\0").unwrap_or(value);
    let words: Vec<&str> = super::parse_text(value)?.split_ascii_whitespace().collect();
    let [kind @ ("some" | "full"), stall, window] = words[..] else {
        return malformed("a trigger is some or full, a stall and a window, in microseconds");
    };
    match (number(stall), number(window)) {
        (Some(stall_usec), Some(window_usec))
            if WINDOW_USEC.contains(&window_usec) && (1..=window_usec).contains(&stall_usec) =>
        {
            Ok(Trigger { is_full: kind == "full", stall_usec, window_usec })
        }
        _ => malformed("a trigger's window is 500000 to 10000000 microseconds, its stall at most the window"),
    }
}

/// Formats `memory.max` and `memory.swap.max`.
pub fn format_limit(limit: Option<u64>) -> String {
    limit.map_or_else(|| "max\n".to_owned(), format_line)
}

/// Writes a size in the largest unit that tells all of it.
fn sized(n: u64) -> String {
    let unit = UNITS.iter().rev().find(|(_, unit)| n > 0 && n.is_multiple_of(*unit));
    unit.map_or_else(|| n.to_string(), |(name, unit)| format!("{}{name}", n / unit))
}

/// Formats `memory.swap.tiers`.
pub fn format_tiers(tiers: &[Tier]) -> String {
    let words: Vec<String> = tiers
        .iter()
        .map(|tier| match tier {
            Tier::Lz4 { size } => format!("lz4:{}", sized(*size)),
            Tier::File { size, dir } => format!("file:{}:{}", sized(*size), dir.display()),
        })
        .collect();
    if words.is_empty() { "none\n".into() } else { format_line(words.join(" ")) }
}

/// Formats a group's `memory.stat`.
pub fn format_mem_stat(stat: &MemStat, nr_members: usize) -> String {
    keyed([
        ("anon", stat.anon),
        ("unmanaged", stat.unmanaged),
        ("zswap", stat.zswap),
        ("zswapped", stat.zswapped),
        ("pgfault", stat.pgfault),
        ("pgmajfault", stat.pgmajfault),
        ("pgscan", stat.pgscan),
        ("pgsteal", stat.pgsteal),
        ("pswpin", stat.pswpin),
        ("pswpout", stat.pswpout),
        ("rescued", stat.rescued),
        ("readahead", stat.readahead),
        ("readahead_hit", stat.readahead_hit),
        ("nr_members", nr_members as u64),
        ("worker_usec", stat.worker_usec),
    ])
}

/// Formats `memory.events`.
pub fn format_mem_events(stat: &MemStat) -> String {
    keyed([("max", stat.max_events), ("oom", stat.oom), ("oom_kill", stat.oom_kill)])
}

/// Formats `memory.pressure`.
pub fn format_pressure(stat: &MemStat) -> String {
    let line = |name, stall: &Stall| {
        let percent = |n: u64| format!("{}.{:02}", n / 100, n % 100);
        let [avg10, avg60, avg300] = [stall.avg10, stall.avg60, stall.avg300].map(percent);
        format!("{name} avg10={avg10} avg60={avg60} avg300={avg300} total={}\n", stall.total_usec)
    };
    line("some", &stat.some) + &line("full", &stat.full)
}

/// Formats a member's `memory.stat`.
pub fn format_member_stat(member: &MemberStat) -> String {
    keyed([
        ("anon", member.resident),
        ("unmanaged", member.unmanaged),
        ("swapped", member.swapped),
        ("pgfault", member.pgfault),
        ("pgmajfault", member.pgmajfault),
    ])
}

/// Formats the `memory.stat` of a process in no group.
pub fn format_host_stat(mem: &HostMem) -> String {
    keyed([("anon", mem.anon), ("file", mem.file), ("shmem", mem.shmem), ("swapped", mem.swapped)])
}

/// Formats `unmanaged`: a line per range, `START-END RESIDENT REASON`, addresses as in `/proc/PID/maps`.
pub fn format_unmanaged(ranges: &[UnmanagedRange]) -> String {
    ranges.iter().fold(String::new(), |mut out, range| {
        let _ = writeln!(out, "{:x}-{:x} {} {}", range.start, range.end, range.resident, range.reason);
        out
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn errno<T>(result: Result<T, Refusal>) -> Option<i32> {
        result.err().map(|e| e.errno())
    }

    fn file(size: u64, dir: &str) -> Tier {
        Tier::File { size, dir: dir.into() }
    }

    #[test]
    fn sizes_as_people_write_them_are_taken() {
        assert_eq!(parse_limit(b"64M\n"), Ok(Some(64 << 20)));
        assert_eq!(parse_limit(b"1g"), Ok(Some(1 << 30)));
        assert_eq!(parse_limit(b"max"), Ok(None));
        assert_eq!(parse_limit(b"1048577"), Ok(Some(1 << 20)), "whole pages");
        assert_eq!(parse_swap_max(b"0"), Ok(Some(0)));
        assert_eq!(parse_reclaim(b"1"), Ok(4096));
    }

    #[test]
    fn sizes_that_are_none_are_malformed() {
        for bad in [
            "",
            "0",
            "1",
            "1023K",
            "-1",
            "+64M",
            "64MB",
            "64 M",
            "6.4M",
            "M",
            "0x100000",
            "Max",
            "64M 1",
            "18446744073709551616",
            "18446744073709551615",
            "16777216T",
            "9223372036854775808",
            "64Ä",
            "∞",
        ] {
            assert_eq!(errno(parse_limit(bad.as_bytes())), Some(libc::EINVAL), "{bad:?}");
        }
        for bad in ["", "-1", "16777216T", "x", "18446744073709551615"] {
            assert_eq!(errno(parse_swap_max(bad.as_bytes())), Some(libc::EINVAL), "{bad:?}");
            assert_eq!(errno(parse_reclaim(bad.as_bytes())), Some(libc::EINVAL), "{bad:?}");
        }
        assert_eq!(errno(parse_reclaim(b"0")), Some(libc::EINVAL));
    }

    #[test]
    fn tiers_are_read_in_order_and_written_back() {
        let tiers = parse_tiers(b"lz4:16M file:2G:/var/tmp file:1500K\n").expect("tiers");

        assert_eq!(tiers[..2], [Tier::Lz4 { size: 16 << 20 }, file(2 << 30, "/var/tmp")]);
        assert_eq!(format_tiers(&tiers), "lz4:16M file:2G:/var/tmp file:1500K:/var/tmp\n");
        assert_eq!(parse_tiers(b"file:1M:/a:b"), Ok(vec![file(1 << 20, "/a:b")]));
        assert_eq!((parse_tiers(b"none\n"), format_tiers(&[]).as_str()), (Ok(vec![]), "none\n"));
        let long = format!("file:1M:/{}", "x".repeat(1_000));
        assert!(parse_tiers(long.as_bytes()).is_ok());
    }

    #[test]
    fn tiers_that_are_none_are_malformed() {
        for bad in [
            "",
            "lz4",
            "lz4:",
            "lz4:16M:/tmp",
            "zstd:1M",
            "file",
            "file:1K",
            "file:1G:tmp",
            "file:1G:",
            "file:1G lz4:1M",
            "lz4:1M lz4:1M",
            "none file:1G",
            "file:16777216T",
            "file:1M\nfile:1M",
            "file:1M\0",
            &"file:1M ".repeat(9),
        ] {
            assert_eq!(errno(parse_tiers(bad.as_bytes())), Some(libc::EINVAL), "{bad:?}");
        }
    }

    #[test]
    fn triggers_are_the_kernels() {
        let trigger = Trigger { is_full: false, stall_usec: 150_000, window_usec: 1_000_000 };
        assert_eq!(parse_trigger(b"some 150000 1000000\0"), Ok(trigger));
        assert_eq!(parse_trigger(b"full 1 500000\n").map(|t| t.is_full), Ok(true));
        for bad in [
            "",
            "some",
            "some 0 1000000",
            "some 2000000 1000000",
            "some 1 499999",
            "all 1 1000000",
            "some 1 10000001",
        ] {
            assert_eq!(errno(parse_trigger(bad.as_bytes())), Some(libc::EINVAL), "{bad:?}");
        }
    }

    #[test]
    fn pressure_is_written_as_the_kernel_does() {
        let some = Stall { avg10: 150, avg60: 7, avg300: 10_000, total_usec: 12_345 };
        let text = format_pressure(&MemStat { some, ..MemStat::default() });

        assert_eq!(
            text,
            "some avg10=1.50 avg60=0.07 avg300=100.00 total=12345\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
        );
    }

    proptest! {
        #[test]
        fn any_bytes_as_a_value_never_panic(value in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = parse_limit(&value);
            let _ = parse_swap_max(&value);
            let _ = parse_tiers(&value);
            let _ = parse_reclaim(&value);
            let _ = parse_trigger(&value);
        }

        #[test]
        fn words_of_the_files_never_panic(text in "(max|none|some|full|lz4:|file:|:|/|[0-9]{0,22}|[KMGTkmgt]| )*") {
            let value = text.as_bytes();
            let _ = parse_limit(value);
            let _ = parse_tiers(value);
            let _ = parse_trigger(value);
        }

        #[test]
        fn what_is_formatted_is_parsed_back(pages in 256u64..1 << 40, compressed in 256u64..1 << 40) {
            let limit = Some(pages * PAGE);
            prop_assert_eq!(parse_limit(format_limit(limit).as_bytes()), Ok(limit));
            let tiers = vec![Tier::Lz4 { size: compressed * PAGE }, file(pages * PAGE, "/x")];
            prop_assert_eq!(parse_tiers(format_tiers(&tiers).as_bytes()), Ok(tiers));
        }
    }
}
