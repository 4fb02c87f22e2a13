//! Two groups: what one that thrashes does to another.

use anyhow::Result;

use super::Bench;
use super::programs::Program;
use super::sides::{MIB, Tier};
use crate::bench::report::Row;

/// A program with and without a thrashing neighbour in a group of its own.
pub(super) fn thrashing(bench: &Bench) -> Result<Vec<Row>> {
    let neighbour = Program::load(&format!("pages --mib 128 --pattern random --ops {}", u32::MAX))?;
    let ops = bench.sized(30_000, 200_000);
    let cases = [
        ("32 MiB in 64", format!("pages --mib 32 --pattern random --ops {}", ops * 20)),
        ("96 MiB in 64", format!("pages --mib 96 --pattern random --ops {ops}")),
    ];
    let mut rows = Vec::new();
    for (name, args) in cases {
        let program = Program::load(&args)?;
        let pairs = bench.pairs(|side| {
            let place = bench.place(side, Tier::File)?;
            let fence = place.group("quiet", 64 * MIB)?;
            let alone = fence.run(&program)?.seconds();
            let other = place.group("thrash", 32 * MIB)?;
            let _neighbour = other.start(&neighbour)?;
            let beside = fence.run(&program)?.seconds();
            Ok(vec![beside / alone])
        })?;
        rows.push(
            Row::new(format!("(g) slowdown by a thrashing neighbour, {name}"), " ×", 2, pairs.ours(0))
                .beside(Tier::File.peer(), pairs.peer(0)),
        );
    }
    Ok(rows)
}
