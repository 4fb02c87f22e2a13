//! The picture as plain text.

use std::io::{self, Write};

use super::frame::Frame;
use crate::output::{Align, Table, bar};
use crate::tree::values::{size_of_bytes, time_of_usec};

const BAR_WIDTH: usize = 20;

/// A number with one decimal, `-` for none.
pub(super) fn decimal(number: Option<f64>) -> String {
    number.map_or_else(|| "-".into(), |n| format!("{n:.1}"))
}

/// Microseconds as seconds, `-` for none.
pub(super) fn seconds(usec: Option<u64>) -> String {
    usec.map_or_else(|| "-".into(), |usec| format!("{:.2}s", usec as f64 / 1e6))
}

/// A whole number, `-` for none.
pub(super) fn whole(number: Option<i64>) -> String {
    number.map_or_else(|| "-".into(), |n| n.to_string())
}

/// Bytes, `-` for none.
pub(super) fn size(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "-".into(), size_of_bytes)
}

fn memories_table(frame: &Frame) -> Table {
    use Align::{Left, Right};
    let mut table = Table::new(&[
        ("MEMORY", Left),
        ("RES", Right),
        ("", Left),
        ("MAX", Right),
        ("SWAP", Right),
        ("MEMBERS", Right),
        ("FLT/S", Right),
        ("MAJ/S", Right),
        ("SOME%", Right),
        ("FULL%", Right),
        ("WORKER%", Right),
    ]);
    for memory in &frame.memories {
        table.row([
            memory.name.to_string(),
            size(memory.resident),
            bar(memory.fill(), BAR_WIDTH),
            memory.max.map_or_else(|| "max".into(), size_of_bytes),
            size(memory.swapped),
            memory.nr_members.to_string(),
            format!("{:.0}", memory.faults),
            format!("{:.0}", memory.major_faults),
            decimal(memory.pressure.0),
            decimal(memory.pressure.1),
            decimal(Some(memory.worker)),
        ]);
    }
    table
}

/// Writes the picture.
///
/// # Errors
/// Those of the writer.
pub(super) fn write(out: &mut dyn Write, frame: &Frame) -> io::Result<()> {
    use Align::{Left, Right};
    let mut groups = Table::new(&[
        ("GROUP", Left),
        ("%CPU", Right),
        ("", Left),
        ("CAP", Right),
        ("MEMBERS", Right),
        ("VCPUS", Right),
        ("NI", Right),
        ("ASKED", Right),
        ("GOT", Right),
        ("ERR%", Right),
        ("MODE", Left),
    ]);
    for group in &frame.groups {
        groups.row([
            group.name.to_string(),
            decimal(Some(group.share)),
            bar(group.share / 100.0, BAR_WIDTH),
            decimal(group.cap),
            group.nr_members.to_string(),
            group.vcpus.clone(),
            group.nice.clone(),
            seconds(group.asked_usec),
            seconds(group.got_usec),
            decimal(group.error_pct),
            group.mode.clone(),
        ]);
    }
    let has_memory = !frame.memories.is_empty();
    let mut columns = vec![
        ("PID", Right),
        ("GROUP", Left),
        ("STATE", Left),
        ("NI", Right),
        ("PRIO", Right),
        ("%CPU", Right),
        ("", Left),
        ("TIME", Right),
    ];
    if has_memory {
        columns.extend([("RES", Right), ("SWAP", Right)]);
    }
    columns.push(("COMM", Left));
    let mut members = Table::new(&columns);
    for member in &frame.members {
        let mut cells = vec![
            member.pid.to_string(),
            member.group.to_string(),
            member.state.clone(),
            whole(member.nice),
            whole(member.prio),
            decimal(Some(member.share)),
            bar(member.share / 100.0, BAR_WIDTH),
            time_of_usec(member.usage_usec),
        ];
        if has_memory {
            cells.extend([size(member.resident), size(member.swapped)]);
        }
        cells.push(member.comm.clone());
        members.row(cells);
    }
    writeln!(out, "ungrouped {} %CPU", decimal(frame.ungrouped))?;
    groups.write(out)?;
    writeln!(out)?;
    if has_memory {
        memories_table(frame).write(out)?;
        writeln!(out)?;
    }
    members.write(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verbs::top::frame::example;

    #[test]
    fn text_has_groups_and_members() {
        let mut out = Vec::new();

        write(&mut out, &example()).expect("memory");

        let text = String::from_utf8(out).expect("text");
        assert!(text.starts_with("ungrouped 75.0 %CPU\nGROUP  %CPU"), "{text}");
        assert!(
            text.contains(
                "web    50.0  ██████████            25.0        3      1   0  2.50s  2.49s  -0.4  park=freeze"
            ),
            "{text}"
        );
        assert!(
            text.contains(
                " 42  web    running   5   120  50.0  ██████████            0:01.50  2.0M  1.0M  sh"
            ),
            "{text}"
        );
        assert!(
            text.contains(
                "web     32.0M  ██████████            64.0M  16.0M        1    500     20    1.5    0.2      2.0"
            ),
            "{text}"
        );
    }
}
