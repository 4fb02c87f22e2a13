//! Faults and reclaim do not allocate once the tables are as large as they need to be.
#![allow(clippy::unwrap_used)] // In a test a panic is the report.
#![allow(unsafe_code)] // A global allocator is an unsafe trait; this one only counts.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use guest_mm::sim::entropy::Entropy;
use guest_mm::sim::pager::Pager;
use guest_mm::{Config, TierConfig, TierId, TierStore};

thread_local! {
    static NR_ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        NR_ALLOCATIONS.with(|nr| nr.set(nr.get() + 1));
        // SAFETY: the caller keeps `alloc`'s contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps `dealloc`'s contract, and all memory comes from `System`.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn faults_and_reclaim_do_not_allocate() {
    const PAGES: u64 = 4096;
    let config = Config {
        limit_pages: Some(PAGES / 2),
        tiers: vec![TierConfig { id: TierId(0), store: TierStore::File { slots: 3 * PAGES as u32 } }],
        ..Config::default()
    };
    let mut pager = Pager::new(config, PAGES as usize).unwrap();
    let mut entropy = Entropy::from_seed(1);
    let mut churn = |pager: &mut Pager, nr: u64| {
        for _ in 0..nr {
            let page = entropy.below(PAGES);
            pager.reference(page, entropy.one_in(3)).unwrap();
        }
    };
    churn(&mut pager, 200_000);
    let before = NR_ALLOCATIONS.with(Cell::get);
    churn(&mut pager, 200_000);
    assert_eq!(NR_ALLOCATIONS.with(Cell::get) - before, 0);
    assert!(pager.majors > 10_000 && pager.rescues > 1_000);
    pager.vm.check_invariants().unwrap();
}
