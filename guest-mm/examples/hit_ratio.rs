//! Prints how often references find their page without I/O: the pool against LRU, CLOCK, FIFO and OPT.
//!
//! `cargo run --release -p guest-mm --no-default-features --features sim --example hit_ratio`

use guest_mm::sim::pager::Pager;
use guest_mm::sim::refs::{PATTERNS, clock_hits, fifo_hits, lru_hits, opt_hits, references};
use guest_mm::{Config, TierConfig, TierId, TierStore, VmError};

const PAGES: u64 = 8192;
const REFS: usize = 400_000;

fn pool(refs: &[u64], frames: u64, staging: u32) -> Result<(f64, f64), VmError> {
    let config = Config {
        limit_pages: Some(frames),
        tiers: vec![TierConfig { id: TierId(0), store: TierStore::File { slots: 1 << 20 } }],
        staging_pages: staging,
        readahead_max: 1,
        fill_max: 1,
        ..Config::default()
    };
    let mut pager = Pager::new(config, PAGES as usize)?;
    for (at, page) in refs.iter().enumerate() {
        pager.reference(*page, at % 10 < 3)?;
    }
    let misses = pager.majors + pager.firsts;
    Ok((percent(refs.len() as u64 - misses, refs), percent(pager.rescues, refs)))
}

fn percent(part: u64, refs: &[u64]) -> f64 {
    part as f64 * 100.0 / refs.len() as f64
}

fn main() -> Result<(), VmError> {
    println!(
        "hit ratio in % of {REFS} references to {PAGES} pages; of the pool, rescues count as hits and are shown too"
    );
    println!(
        "| pattern | frames | pool | rescued | FIFO | CLOCK | LRU | OPT |\n|---|---|---|---|---|---|---|---|"
    );
    for pattern in PATTERNS {
        for frames in [2048, 4096, 6144] {
            let refs = references(pattern, PAGES, frames, REFS, 1);
            let (hits, rescued) = pool(&refs, frames, (frames / 4) as u32)?;
            let [fifo, clock, lru, opt] = [fifo_hits, clock_hits, lru_hits, opt_hits]
                .map(|f| percent(f(&refs, frames as usize) as u64, &refs));
            println!(
                "| {pattern:?} | {frames} | {hits:.1} | {rescued:.1} | {fifo:.1} | {clock:.1} | {lru:.1} | {opt:.1} |"
            );
        }
    }
    Ok(())
}
