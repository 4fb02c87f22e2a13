//! Names and values as anybody may write them into the control tree: no input may panic, and what is taken is taken again when
//! it is written back as it is read.
#![no_main]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use compartmentd::tree::names::{parse_group_name, parse_pid};
use compartmentd::tree::values::{
    format_class, format_cpu_max, format_limit, format_line, format_slice, format_tiers, parse_class,
    parse_cpu_max, parse_limit, parse_nice, parse_reclaim, parse_rules, parse_scheduler, parse_signal,
    parse_slice, parse_swap_max, parse_tiers, parse_trigger, parse_vcpus,
};
use guest_sched::host::proto::CpuMax;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let name = OsStr::from_bytes(bytes);
    if let Ok(text) = parse_group_name(name) {
        assert_eq!(text.as_bytes(), bytes);
        assert!(parse_pid(name).is_none(), "{text:?} names a group and a process");
    }
    if let Some(pid) = parse_pid(name) {
        assert_eq!(pid.to_string().as_bytes(), bytes);
    }
    if let Ok(nice) = parse_nice(bytes) {
        assert_eq!(parse_nice(format_line(nice).as_bytes()), Ok(nice));
    }
    if let Ok(vcpus) = parse_vcpus(bytes) {
        assert_eq!(parse_vcpus(format_line(vcpus).as_bytes()), Ok(vcpus));
    }
    if let Ok(slice) = parse_slice(bytes) {
        assert_eq!(parse_slice(format_slice(slice).as_bytes()), Ok(slice));
    }
    if let Ok(max) = parse_cpu_max(bytes, CpuMax::default()) {
        assert_eq!(parse_cpu_max(format_cpu_max(max).as_bytes(), CpuMax::default()), Ok(max));
    }
    if let Ok(class) = parse_class(bytes) {
        assert_eq!(parse_class(format_class(class).as_bytes()), Ok(class));
    }
    if let Ok(limit) = parse_limit(bytes) {
        assert_eq!(parse_limit(format_limit(limit).as_bytes()), Ok(limit));
    }
    if let Ok(limit) = parse_swap_max(bytes) {
        assert_eq!(parse_swap_max(format_limit(limit).as_bytes()), Ok(limit));
    }
    if let Ok(tiers) = parse_tiers(bytes) {
        assert_eq!(parse_tiers(format_tiers(&tiers).as_bytes()), Ok(tiers));
    }
    let _ = parse_reclaim(bytes);
    let _ = parse_trigger(bytes);
    let _ = parse_scheduler(bytes);
    let _ = parse_signal(bytes);
    let _ = parse_rules(bytes);
});
