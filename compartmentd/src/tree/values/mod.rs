//! What the attribute files hold: strict parsers of what is written, formatters of what is read.
//!
//! Every parser takes the bytes of one write, is total, and refuses with EINVAL and words that say what it would take. What a
//! formatter gives, the parser of the same file takes back.

mod format;
mod mem;
mod rules;

pub use format::*;
pub use mem::*;
pub use rules::{RULES_MAX, Rule, Who, parse_rules};

use guest_sched::host::proto::{CpuMax, GuestClass};
use nix::sys::signal::Signal;

use crate::errno::{Refusal, Why};

/// The longest value of an attribute file, in bytes.
pub const VALUE_MAX: usize = 256;

/// The shortest and the longest fixed slice, in microseconds.
pub const SLICE_USEC: std::ops::RangeInclusive<u64> = 100..=10_000_000;
/// The shortest and the longest period of `cpu.max`, in microseconds: the kernel's own.
pub const PERIOD_USEC: std::ops::RangeInclusive<u64> = 1_000..=1_000_000;
/// The smallest and the largest quota of `cpu.max`, in microseconds.
pub const QUOTA_USEC: std::ops::RangeInclusive<u64> = 1..=1_000_000_000;

fn malformed<T>(what: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::new(Why::Malformed, what))
}

/// Takes the text out of a write: UTF-8 without control characters, at most [`VALUE_MAX`] bytes, surrounding white space removed.
///
/// # Errors
/// EINVAL.
pub fn parse_text(bytes: &[u8]) -> Result<&str, Refusal> {
    parse_line(bytes, VALUE_MAX)
}

/// As [`parse_text`], with another longest value.
fn parse_line(bytes: &[u8], max: usize) -> Result<&str, Refusal> {
    if bytes.len() > max {
        return malformed(format!("a value has at most {max} bytes"));
    }
    match std::str::from_utf8(bytes).map(|text| text.trim_matches([' ', '\t', '\n'])) {
        Ok("") => malformed("the value is empty"),
        Ok(text) if text.chars().any(char::is_control) => malformed("a value is one line of text"),
        Ok(text) => Ok(text),
        Err(_) => malformed("a value is UTF-8 text"),
    }
}

fn number(text: &str) -> Option<u64> {
    let is_plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| is_plain)
}

/// Parses `nice`: -20 to 19.
///
/// # Errors
/// EINVAL.
pub fn parse_nice(bytes: &[u8]) -> Result<i8, Refusal> {
    let text = parse_text(bytes)?;
    let (sign, digits) = text.strip_prefix('-').map_or((1, text), |digits| (-1, digits));
    match number(digits) {
        Some(n @ 0..=20) if (-20..=19).contains(&(sign * n as i8)) => Ok(sign * n as i8),
        _ => malformed("a nice value is -20 to 19"),
    }
}

/// Parses `vcpus`: 1 to 1024.
///
/// # Errors
/// EINVAL.
pub fn parse_vcpus(bytes: &[u8]) -> Result<u16, Refusal> {
    let limit = guest_sched::Vcpu::LIMIT;
    match number(parse_text(bytes)?) {
        Some(n) if (1..=u64::from(limit)).contains(&n) => Ok(n as u16),
        _ => malformed(format!("vcpus is 1 to {limit}")),
    }
}

/// Parses `slice_usec`: `policy` (`None`) or microseconds in [`SLICE_USEC`].
///
/// # Errors
/// EINVAL.
pub fn parse_slice(bytes: &[u8]) -> Result<Option<u64>, Refusal> {
    match parse_text(bytes)? {
        "policy" => Ok(None),
        text => match number(text) {
            Some(n) if SLICE_USEC.contains(&n) => Ok(Some(n)),
            _ => malformed("slice_usec is policy, or 100 to 10000000"),
        },
    }
}

/// Parses `cpu.max`: `max` or a quota, then a period; without a period the `old` one stays, as in cgroup v2.
///
/// # Errors
/// EINVAL.
pub fn parse_cpu_max(bytes: &[u8], old: CpuMax) -> Result<CpuMax, Refusal> {
    let mut words = parse_text(bytes)?.split_ascii_whitespace();
    let quota_us = match words.next().unwrap_or_default() {
        "max" => None,
        text => match number(text) {
            Some(n) if QUOTA_USEC.contains(&n) => Some(n),
            _ => return malformed("the quota of cpu.max is max, or 1 to 1000000000"),
        },
    };
    let period_us = match words.next() {
        None => old.period_us,
        Some(text) => match number(text) {
            Some(n) if PERIOD_USEC.contains(&n) => n,
            _ => return malformed("the period of cpu.max is 1000 to 1000000"),
        },
    };
    if words.next().is_some() {
        return malformed("cpu.max is a quota and a period");
    }
    Ok(CpuMax { quota_us, period_us })
}

/// Parses `policy`: `normal`, `batch`, `fifo N`, `rr N` with N 1 to 99.
///
/// # Errors
/// EINVAL.
pub fn parse_class(bytes: &[u8]) -> Result<GuestClass, Refusal> {
    let mut words = parse_text(bytes)?.split_ascii_whitespace();
    let name = words.next().unwrap_or_default();
    let priority = words.next().map(|text| number(text).filter(|n| (1..=99).contains(n)));
    match (name, priority, words.next()) {
        ("normal", None, None) => Ok(GuestClass::Normal),
        ("batch", None, None) => Ok(GuestClass::Batch),
        ("fifo", Some(Some(n)), None) => Ok(GuestClass::Fifo(n as u8)),
        ("rr", Some(Some(n)), None) => Ok(GuestClass::Rr(n as u8)),
        _ => malformed("policy is normal, batch, fifo 1 to 99, or rr 1 to 99"),
    }
}

/// Parses `scheduler`: the name of a policy.
///
/// # Errors
/// EINVAL.
pub fn parse_scheduler(bytes: &[u8]) -> Result<&'static str, Refusal> {
    let text = parse_text(bytes)?;
    match guest_sched::POLICIES.iter().find(|name| **name == text) {
        Some(name) => Ok(name),
        None => malformed(format!("scheduler is one of: {}", guest_sched::POLICIES.join(", "))),
    }
}

/// Parses `signal`: a name with or without `SIG`, or a number, 0 (asks only) to 64.
///
/// # Errors
/// EINVAL.
pub fn parse_signal(bytes: &[u8]) -> Result<i32, Refusal> {
    let text = parse_text(bytes)?;
    if let Some(n) = number(text) {
        return if n <= 64 { Ok(n as i32) } else { malformed("a signal's number is 0 to 64") };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    match Signal::iterator().find(|s| s.as_str().strip_prefix("SIG") == Some(name)) {
        Some(signal) => Ok(signal as i32),
        None => malformed("signal is a signal's name or number"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn errno<T>(result: Result<T, Refusal>) -> Option<i32> {
        result.err().map(|e| e.errno())
    }

    #[test]
    fn values_out_of_range_are_malformed() {
        for bad in ["20", "-21", "+5", "1.5", "", " ", "--1", "-", "1\n2", "0x1", "999999999999999999999"] {
            assert_eq!(errno(parse_nice(bad.as_bytes())), Some(libc::EINVAL), "{bad:?}");
        }
        for bad in ["0", "1025", "-1", "1 2"] {
            assert_eq!(errno(parse_vcpus(bad.as_bytes())), Some(libc::EINVAL), "{bad:?}");
        }
        for bad in ["99", "10000001", "Policy", "policy 5"] {
            assert_eq!(errno(parse_slice(bad.as_bytes())), Some(libc::EINVAL), "{bad:?}");
        }
        for bad in ["0", "0 100000", "1000 999", "1000 1000001", "max max", "1 2 3", "-1", "x"] {
            assert_eq!(
                errno(parse_cpu_max(bad.as_bytes(), CpuMax::default())),
                Some(libc::EINVAL),
                "{bad:?}"
            );
        }
        for bad in ["fifo", "fifo 0", "rr 100", "normal 1", "idle", "rr 1 1", "rr x"] {
            assert_eq!(errno(parse_class(bad.as_bytes())), Some(libc::EINVAL), "{bad:?}");
        }
        for bad in ["65", "SIGFOO", "SIG", "-9"] {
            assert_eq!(errno(parse_signal(bad.as_bytes())), Some(libc::EINVAL), "{bad:?}");
        }
        assert_eq!(errno(parse_scheduler(b"cfs")), Some(libc::EINVAL));
        assert_eq!(errno(parse_text(&[b'1'; VALUE_MAX + 1])), Some(libc::EINVAL));
        assert_eq!(errno(parse_text(b"\xff")), Some(libc::EINVAL));
        assert_eq!(errno(parse_text(b"a\0b")), Some(libc::EINVAL));
    }

    #[test]
    fn values_as_echo_writes_them_are_taken() {
        assert_eq!(parse_nice(b"-5\n"), Ok(-5));
        assert_eq!(parse_nice(b"19"), Ok(19));
        assert_eq!(parse_vcpus(b" 4 \n"), Ok(4));
        assert_eq!(parse_slice(b"policy\n"), Ok(None));
        assert_eq!(parse_slice(b"2000\n"), Ok(Some(2000)));
        assert_eq!(parse_class(b"rr 12\n"), Ok(GuestClass::Rr(12)));
        for signal in ["15", "TERM", "SIGTERM", "sigterm\n"] {
            assert_eq!(parse_signal(signal.as_bytes()), Ok(15));
        }
    }

    #[test]
    fn cpu_max_without_period_keeps_the_old_one() {
        let old = CpuMax { quota_us: Some(1), period_us: 5_000 };

        assert_eq!(parse_cpu_max(b"2500\n", old), Ok(CpuMax { quota_us: Some(2500), period_us: 5_000 }));
        assert_eq!(parse_cpu_max(b"max", old), Ok(CpuMax { quota_us: None, period_us: 5_000 }));
    }

    proptest! {
        #[test]
        fn any_bytes_as_a_value_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = parse_nice(&bytes);
            let _ = parse_vcpus(&bytes);
            let _ = parse_slice(&bytes);
            let _ = parse_cpu_max(&bytes, CpuMax::default());
            let _ = parse_class(&bytes);
            let _ = parse_scheduler(&bytes);
            let _ = parse_signal(&bytes);
            let _ = parse_rules(&bytes);
        }

        #[test]
        fn words_of_the_files_never_panic(text in "(max|policy|fifo|rr|user=|sched=|exe=|-?[0-9]{0,22}|[ \n#=])*") {
            let bytes = text.as_bytes();
            let _ = parse_nice(bytes);
            let _ = parse_cpu_max(bytes, CpuMax::default());
            let _ = parse_class(bytes);
            let _ = parse_rules(bytes);
        }

        #[test]
        fn what_is_formatted_is_parsed_back(nice in -20i8..=19, quota in 1u64..=1_000_000_000, period in 1_000u64..=1_000_000, rt in 1u8..=99) {
            let max = CpuMax { quota_us: Some(quota), period_us: period };
            prop_assert_eq!(parse_nice(format_line(nice).as_bytes()), Ok(nice));
            prop_assert_eq!(parse_cpu_max(format_cpu_max(max).as_bytes(), CpuMax::default()), Ok(max));
            prop_assert_eq!(parse_class(format_class(GuestClass::Fifo(rt)).as_bytes()), Ok(GuestClass::Fifo(rt)));
            prop_assert_eq!(parse_slice(format_slice(Some(quota.clamp(100, 10_000_000))).as_bytes()), Ok(Some(quota.clamp(100, 10_000_000))));
        }
    }
}
