//! Messages between daemon and worker, and a group's configuration as it lies in the state directory: whatever is there, reading it is an
//! error or a value that is written and read again unchanged.
#![no_main]

use guest_sched::host::proto::{GroupConfig, Message, Request};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(request) = serde_json::from_slice::<Request>(bytes) {
        let again = serde_json::to_vec(&request).expect("a request has nothing that JSON cannot hold");
        assert_eq!(serde_json::from_slice::<Request>(&again).ok(), Some(request));
    }
    if let Ok(message) = serde_json::from_slice::<Message>(bytes) {
        let again = serde_json::to_vec(&message).expect("a message has nothing that JSON cannot hold");
        assert_eq!(serde_json::from_slice::<Message>(&again).ok(), Some(message));
    }
    if let Ok(config) = serde_json::from_slice::<GroupConfig>(bytes) {
        let again = serde_json::to_vec(&config).expect("a configuration has nothing that JSON cannot hold");
        assert_eq!(serde_json::from_slice::<GroupConfig>(&again).ok(), Some(config));
    }
});
