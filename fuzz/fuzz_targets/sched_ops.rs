//! Sequences of operations, legal or not, against every policy: its tables hold after each, and a refusal changes nothing.
#![no_main]

use guest_sched::sim::ops::{MAX_VCPUS, apply_ops};
use guest_sched::{POLICIES, policy_by_name};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((&first, ops)) = bytes.split_first() else { return };
    let vcpus = 1 + u16::from(first) % MAX_VCPUS;
    for name in POLICIES {
        let mut policy = policy_by_name(name, vcpus).expect("a policy of the list, and a few vcpus");
        apply_ops(&mut *policy, ops);
    }
});
