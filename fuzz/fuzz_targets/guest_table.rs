//! What an application may say and write: the handshake's messages, and a slot of its table. Reading them is an error or a value within bounds;
//! messages that are read are written again unchanged.
#![no_main]

use std::fs::File;
use std::os::unix::fs::FileExt;

use compartmentd::tasks::table::{check_segment, live_slots, read_slot};
use guest_task::layout::{self, FIRST_SLOTS, SLOT_BYTES};
use guest_task::wire::{ToApplication, ToDaemon};
use libfuzzer_sys::fuzz_target;

std::thread_local! {
    /// An ordinary file where a table is expected: the reader looks at words, not at what holds them.
    static TABLE: File = {
        let path = std::env::temp_dir().join(format!("guest-table-{}", std::process::id()));
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path).expect("a file");
        let _ = std::fs::remove_file(&path);
        file.set_len(u64::from(FIRST_SLOTS) * SLOT_BYTES as u64).expect("room");
        file
    };
}

fuzz_target!(|bytes: &[u8]| {
    if let Ok(message) = ToDaemon::decode(bytes)
        && bytes.len() == 12
    {
        assert_eq!(message.encode(), bytes);
    }
    if let Ok(message @ (ToApplication::Welcome { .. } | ToApplication::Event(_))) =
        ToApplication::decode(bytes)
    {
        assert_eq!(message.encode(), bytes);
    }
    TABLE.with(|table| {
        let len = bytes.len().min(8 * SLOT_BYTES);
        table.write_all_at(&bytes[..len], 0).expect("within");
        for at in 0..8 {
            if let Some(view) = read_slot(table, at).expect("within") {
                assert!(layout::is_live(view.id) && (-20..=19).contains(&view.nice));
                let texts = [&view.name, &view.owner, &view.cmdline];
                assert!(texts.iter().all(|text| text.chars().count() <= layout::CMDLINE_BYTES + 1));
                assert!(!view.name.contains(char::is_control) && !view.owner.contains(char::is_control));
            }
        }
        let live = live_slots(std::slice::from_ref(table));
        assert!(
            live.len() < FIRST_SLOTS as usize
                && live.iter().all(|(slot, id)| *slot > 0 && layout::is_live(*id))
        );
        assert!(check_segment(table, 0).is_err());
    });
});
