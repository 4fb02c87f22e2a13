//! Messages between daemon and worker, and a group's configuration as it lies in the state directory: whatever is there, reading it is an
//! error or a value that is written and read again unchanged.
#![no_main]

use guest_mm::uffd::proto as mem;
use guest_sched::host::proto::{GroupConfig, Message, Request};
use libfuzzer_sys::fuzz_target;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Reads a value, and checks that it is read again unchanged.
fn survives<T: DeserializeOwned + Serialize + PartialEq>(bytes: &[u8]) {
    if let Ok(value) = serde_json::from_slice::<T>(bytes) {
        let again = serde_json::to_vec(&value).expect("it has nothing that JSON cannot hold");
        assert!(serde_json::from_slice::<T>(&again).is_ok_and(|read| read == value));
    }
}

fuzz_target!(|bytes: &[u8]| {
    survives::<Request>(bytes);
    survives::<Message>(bytes);
    survives::<GroupConfig>(bytes);
    survives::<mem::Request>(bytes);
    survives::<mem::Message>(bytes);
    survives::<mem::MemConfig>(bytes);
});
