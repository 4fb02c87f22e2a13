//! What is read.

use std::fmt::{Display, Write};

use guest_sched::TaskState;
use guest_sched::host::GroupStat;
use guest_sched::host::proto::{CpuMax, GuestClass};

use crate::groups::TaskView;

const US: u64 = 1_000;

/// Formats a single value.
pub fn format_line(value: impl Display) -> String {
    format!("{value}\n")
}

/// Formats `cpu.max`.
pub fn format_cpu_max(max: CpuMax) -> String {
    match max.quota_us {
        Some(quota) => format!("{quota} {}\n", max.period_us),
        None => format!("max {}\n", max.period_us),
    }
}

/// Formats `slice_usec`.
pub fn format_slice(slice_us: Option<u64>) -> String {
    slice_us.map_or_else(|| "policy\n".to_owned(), format_line)
}

/// Formats `policy`.
pub fn format_class(class: GuestClass) -> String {
    match class {
        GuestClass::Normal => "normal\n".into(),
        GuestClass::Batch => "batch\n".into(),
        GuestClass::Fifo(n) => format!("fifo {n}\n"),
        GuestClass::Rr(n) => format!("rr {n}\n"),
    }
}

/// Gives the word for `state`.
pub const fn state_word(state: TaskState) -> &'static str {
    match state {
        TaskState::Running => "running",
        TaskState::Queued => "queued",
        TaskState::Expired => "expired",
        TaskState::Sleeping => "sleeping",
    }
}

pub(super) fn keyed<const N: usize>(pairs: [(&str, u64); N]) -> String {
    pairs.iter().fold(String::new(), |mut out, (key, value)| {
        let _ = writeln!(out, "{key} {value}");
        out
    })
}

/// Formats `cpu.stat`.
pub fn format_cpu_stat(stat: &GroupStat) -> String {
    keyed([
        ("usage_usec", stat.usage_ns / US),
        ("nr_members", stat.nr_members),
        ("nr_switches", stat.nr_switches),
        ("nr_throttled", stat.nr_throttled),
        ("throttled_usec", stat.throttled_ns / US),
        ("worker_usec", stat.worker_ns / US),
    ])
}

/// Formats `cpu.promise`: what the group was to have over the last 10 s and what it had, and how far off that is. `overhead_pct` is the
/// worker's CPU time over that time, in percent of one CPU. `got_ns` is the kernel's account as the daemon has read it, the worker's own comes
/// last; it stands in where the daemon has not looked for so long.
pub fn format_promise(stat: &GroupStat, got_ns: Option<u64>) -> String {
    let got_ns = got_ns.unwrap_or(stat.got_ns);
    let percent = |part: f64, whole: u64| if whole == 0 { 0.0 } else { 100.0 * part / whole as f64 };
    let error = percent(got_ns as f64 - stat.asked_ns as f64, stat.asked_ns);
    let overhead = percent(stat.overhead_ns as f64, stat.window_ns);
    format!(
        "asked {}\ngot {}\nerror_pct {error:.2}\nworst_window_usec {}\nlongest_park_usec {}\noverhead_pct {overhead:.2}\nexcess_runnable_usec {}\nworker_got {}\n",
        stat.asked_ns / US,
        got_ns / US,
        stat.worst_window_ns / US,
        stat.longest_park_ns / US,
        stat.excess_ns / US,
        stat.got_ns / US,
    )
}

/// Formats a member's `sched`.
pub fn format_sched(task: &TaskView) -> String {
    keyed([
        ("static_prio", task.static_prio.into()),
        ("prio", task.prio.into()),
        ("bonus", task.bonus.into()),
        ("sleep_avg_usec", task.sleep_avg_ns / US),
        ("interactive", task.is_interactive.into()),
        ("slice_left_usec", task.slice_left_ns / US),
    ])
}

/// Formats a member's `stat`.
pub fn format_task_stat(usage_ns: u64, wait_ns: u64, nr_switches: u64) -> String {
    keyed([("usage_usec", usage_ns / US), ("wait_usec", wait_ns / US), ("nr_switches", nr_switches)])
}

/// Escapes bytes so that they are one word of an `events` line: white space, control characters, `\`, `=` and quotes as `\xHH`.
pub fn escape(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() || c.is_whitespace() || matches!(c, '\\' | '=' | '"' | '\'') {
                let mut utf8 = [0; 4];
                push_hex(&mut out, c.encode_utf8(&mut utf8).as_bytes());
            } else {
                out.push(c);
            }
        }
        push_hex(&mut out, chunk.invalid());
    }
    out
}

fn push_hex(out: &mut String, bytes: &[u8]) {
    for b in bytes {
        let _ = write!(out, "\\x{b:02x}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promise_of_a_new_group_has_no_error() {
        let text = format_promise(&GroupStat::default(), None);

        assert!(text.contains("error_pct 0.00\n") && text.contains("overhead_pct 0.00\n"), "{text}");
    }

    #[test]
    fn promise_tells_the_error_with_its_sign() {
        let stat = GroupStat {
            asked_ns: 2_000_000,
            got_ns: 1_990_000,
            overhead_ns: 5,
            window_ns: 1000,
            ..GroupStat::default()
        };

        assert!(format_promise(&stat, None).starts_with("asked 2000\ngot 1990\nerror_pct -0.50\n"));
        let text = format_promise(&stat, Some(1_800_000));
        assert!(text.starts_with("asked 2000\ngot 1800\nerror_pct -10.00\n"), "{text}");
        assert!(text.ends_with("worker_got 1990\n"), "{text}");
    }

    #[test]
    fn escaped_bytes_are_one_word() {
        assert_eq!(escape("a b\n\\=ä".as_bytes()), "a\\x20b\\x0a\\x5c\\x3dä");
        assert_eq!(escape(b"\xff"), "\\xff");
    }
}
