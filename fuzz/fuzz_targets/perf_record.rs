//! Records of perf: whatever lies in a ring, reading it is nothing or a record.
#![no_main]

use guest_sched::host::sensor::{Tracepoint, Tracepoints, parse};
use host_sys::perf::RawRecord;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u32, u16, u16, u16, &[u8])| {
    let (kind, misc, id, field, body) = input;
    let tracepoints = Tracepoints {
        switch: Tracepoint { id: u64::from(id), field: usize::from(field) },
        wakeup: Tracepoint { id: u64::from(id) + 1, field: usize::from(field) },
    };
    for kind in [kind, kind % 16] {
        let raw = RawRecord { kind, misc, body };
        assert_eq!(parse(raw, 3, Some(&tracepoints)).map_or(3, |record| record.cpu), 3);
        let _ = parse(raw, 3, None);
    }
});
