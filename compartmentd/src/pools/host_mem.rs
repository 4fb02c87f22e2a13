//! The memory of processes in no mem_group, as `/proc/PID/status` has it.

use crate::errno::{Refusal, no_process};

/// Sizes in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HostMem {
    /// Resident.
    pub resident: u64,
    /// Swapped out by the host.
    pub swapped: u64,
    /// Resident and anonymous.
    pub anon: u64,
    /// Resident of files.
    pub file: u64,
    /// Resident and shared.
    pub shmem: u64,
}

/// Reads a process's memory; a thread of the kernel has none.
///
/// # Errors
/// ESRCH.
pub fn read(pid: i32) -> Result<HostMem, Refusal> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).map_err(|_| no_process(pid))?;
    Ok(parse(&status))
}

fn parse(status: &str) -> HostMem {
    let mut mem = HostMem::default();
    for line in status.lines() {
        let Some((key, rest)) = line.split_once(':') else { continue };
        let bytes = || rest.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024);
        let field = match key {
            "VmRSS" => &mut mem.resident,
            "VmSwap" => &mut mem.swapped,
            "RssAnon" => &mut mem.anon,
            "RssFile" => &mut mem.file,
            "RssShmem" => &mut mem.shmem,
            _ => continue,
        };
        *field = bytes().unwrap_or(0);
    }
    mem
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_is_read_in_bytes() {
        let mem =
            parse("Name:\tx\nVmRSS:\t    12 kB\nRssAnon:\t 8 kB\nRssFile:\t 4 kB\nVmSwap:\t       1 kB\n");

        assert_eq!(mem, HostMem { resident: 12288, swapped: 1024, anon: 8192, file: 4096, shmem: 0 });
        assert!(read(std::process::id() as i32).expect("alive").resident > 0);
        assert_eq!(read(0x3fff_ffff).map_err(|e| e.errno()), Err(libc::ESRCH));
    }
}
