//! Members, a driver that fails and workers that end at any store, on a simulated host: no page's content changes.
#![no_main]

use guest_mm::sim::apply_ops;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| apply_ops(bytes));
