//! `/proc/PID/maps`: what an address space consists of, and which of it can be paged.

use std::io;

/// A mapping.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Mapping {
    /// First address.
    pub(crate) start: u64,
    /// First address after it.
    pub(crate) end: u64,
    /// What it is to us.
    pub(crate) kind: Kind,
}

/// What a mapping is to us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Private anonymous memory, the stack included: it can be paged.
    Anonymous,
    /// A private mapping of a file: pages written to are the process's own, and cannot be paged.
    FilePrivate,
    /// Memory that others may share.
    Shared,
    /// Ours: code and staging area of the agent.
    Agent,
    /// The kernel's: vDSO and the like. Counts for nothing.
    Special,
}

/// How the agent's memory file appears.
const AGENT: &str = "/memfd:compartment-agent";

impl Mapping {
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.splitn(6, ' ');
        let (start, end) = fields.next()?.split_once('-')?;
        let perms = fields.next()?.as_bytes();
        let inode = fields.nth(2)?;
        let name = fields.next().unwrap_or("").trim_start();
        let kind = match perms.get(3)? {
            _ if name.starts_with(AGENT) => Kind::Agent,
            _ if name.starts_with("[v") || name == "[uprobes]" => Kind::Special,
            b's' => Kind::Shared,
            _ if inode == "0" => Kind::Anonymous,
            _ => Kind::FilePrivate,
        };
        Some(Self {
            start: u64::from_str_radix(start, 16).ok()?,
            end: u64::from_str_radix(end, 16).ok()?,
            kind,
        })
    }
}

/// Reads the mappings of a process, in address order. Costs about 1 µs for each.
///
/// # Errors
/// `ESRCH` if the process, or its address space, is gone.
pub(crate) fn read(pid: i32) -> io::Result<Vec<Mapping>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let mappings: Vec<_> = text.lines().filter_map(Mapping::parse).collect();
    if mappings.is_empty() { Err(io::Error::from_raw_os_error(libc::ESRCH)) } else { Ok(mappings) }
}

/// Where a process has its arguments and environment, which the kernel reads for `/proc/PID/cmdline` and stops at a missing page: first
/// and last address, rounded to pages.
pub(crate) fn arguments(pid: i32) -> io::Result<(u64, u64)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    // Fields 48 to 51 of proc(5): arg_start, arg_end, env_start, env_end; the first after the name is the third.
    let fields: Vec<u64> =
        rest.split_ascii_whitespace().skip(45).take(4).filter_map(|f| f.parse().ok()).collect();
    let used = fields.iter().copied().filter(|&a| a != 0);
    let (low, high) = (used.clone().min().unwrap_or(0), used.max().unwrap_or(0));
    Ok((low & !0xFFF, high.next_multiple_of(4096)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(line: &str) -> Option<Kind> {
        Mapping::parse(line).map(|m| m.kind)
    }

    #[test]
    fn mappings_are_told_apart() {
        assert_eq!(kind("7f00-7f10 rw-p 00000000 00:00 0 "), Some(Kind::Anonymous));
        assert_eq!(
            kind("55-56 rw-p 00000000 00:00 0                          [heap]"),
            Some(Kind::Anonymous)
        );
        assert_eq!(kind("55-56 r-xp 00000000 00:00 0                          [vdso]"), Some(Kind::Special));
        assert_eq!(kind("55-56 rw-s 00000000 00:01 77      /dev/zero (deleted)"), Some(Kind::Shared));
        assert_eq!(kind("55-56 rw-p 00000000 fe:00 77      /usr/lib/x y.so"), Some(Kind::FilePrivate));
        assert_eq!(
            kind("55-56 r-xs 00000000 00:01 77 /memfd:compartment-agent (deleted)"),
            Some(Kind::Agent)
        );
        assert_eq!(kind("nonsense"), None);
    }

    #[test]
    fn own_stack_holds_own_arguments() {
        let me = std::process::id() as i32;
        let (low, high) = arguments(me).expect("our own");
        let mappings = read(me).expect("our own");

        assert!(low < high);
        assert!(mappings.iter().any(|m| m.start <= low && high <= m.end && m.kind == Kind::Anonymous));
        assert!(mappings.is_sorted_by_key(|m| m.start));
    }
}
