//! A program that lies: it hands the daemon a table and then writes noise over it without a pause, header and sequences included, until it
//! is killed. `liar flood` connects and says nonsense over and over instead. For tests of the daemon.

use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use guest_task::layout::{FIRST_SLOTS, MAGIC, SLOT_BYTES};
use guest_task::wire::{ToDaemon, VERSION};
use host_sys::SeqPacket;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

fn main() -> std::io::Result<()> {
    let path = PathBuf::from(std::env::var_os(guest_task::SOCKET_VARIABLE).unwrap_or_default());
    let hello = ToDaemon::Hello { version: VERSION }.encode();
    if std::env::args().nth(1).is_some_and(|word| word == "flood") {
        println!("flooding");
        let mut open = Vec::new();
        loop {
            let Ok(socket) = SeqPacket::connect(&path) else { continue };
            for _ in 0..100 {
                let _ = socket.try_send(&hello);
                let _ = socket.send(b"nonsense", Some(std::io::stdin().as_fd()));
            }
            open.push(socket);
            if open.len() > 200 {
                open.clear();
            }
        }
    }
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let file = std::fs::File::from(memfd_create(c"lies", flags)?);
    file.set_len(u64::from(FIRST_SLOTS) * SLOT_BYTES as u64)?;
    file.write_all_at(&MAGIC.to_ne_bytes(), 0)?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW))?;
    let socket = SeqPacket::connect(&path)?;
    socket.send(&hello, None)?;
    socket.send(&ToDaemon::Segment { index: 0 }.encode(), Some(file.as_fd()))?;
    println!("lying");
    let mut seed = 1u64;
    loop {
        for slot in 0..u64::from(FIRST_SLOTS) {
            let noise: Vec<u8> = std::iter::repeat_with(|| {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                seed.to_ne_bytes()
            })
            .take(SLOT_BYTES / 8)
            .flatten()
            .collect();
            file.write_all_at(&noise, slot * SLOT_BYTES as u64)?;
        }
    }
}
