//! The programs that tests and benches need, installed where they are missing.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;

use crate::step::{has_program, run};

/// Install what tests and benches need.
#[derive(Debug, Default, Args)]
pub(crate) struct SetupArgs {
    /// Also what `vm-test` needs
    #[arg(long)]
    pub(crate) vm: bool,
    /// Only tell what is missing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// A program, or a path, that tells whether a Debian package is there.
const TESTS: &[(&str, &str)] = &[
    ("busybox", "busybox-static"),
    ("c++", "g++"),
    ("cc", "gcc"),
    ("cpulimit", "cpulimit"),
    ("chrt", "util-linux"),
    ("fusermount3", "fuse3"),
    ("gdb", "gdb"),
    ("htop", "htop"),
    ("killall", "psmisc"),
    ("linux.uml", "user-mode-linux"),
    ("make", "make"),
    ("mount", "mount"),
    ("nsenter", "util-linux"),
    ("pkg-config", "pkgconf"),
    ("perl", "perl"),
    ("objdump", "binutils"),
    ("ps", "procps"),
    ("python3", "python3-minimal"),
    ("/usr/lib/python3/dist-packages/psutil/__init__.py", "python3-psutil"),
    ("redis-server", "redis-server"),
    ("redis-cli", "redis-tools"),
    ("renice", "bsdutils"),
    ("script", "bsdutils"),
    ("setpriv", "util-linux"),
    ("sqlite3", "sqlite3"),
    ("strace", "strace"),
    ("stress-ng", "stress-ng"),
    ("taskset", "util-linux"),
    ("tmux", "tmux"),
    ("unshare", "util-linux"),
    ("xz", "xz-utils"),
];

const VM: &[(&str, &str)] = &[("cpio", "cpio"), ("qemu-system-x86_64", "qemu-system-x86")];

const APT_LIMIT: Duration = Duration::from_secs(900);

/// Installs what is missing; does nothing where nothing is.
///
/// # Errors
/// If something is missing and cannot be installed, with what to do about it.
pub(crate) fn run_setup(args: &SetupArgs) -> Result<Option<String>> {
    let mut missing = missing(TESTS);
    if args.vm {
        missing.extend(self::missing(VM));
    }
    missing.sort_unstable();
    missing.dedup();
    load_fuse(args.dry_run);
    if missing.is_empty() {
        return Ok(Some("nothing to install".into()));
    }
    let advice = format!("apt-get install {}", missing.join(" "));
    if args.dry_run {
        bail!("missing; as root: {advice}");
    }
    if !nix::unistd::geteuid().is_root() {
        bail!("packages are missing, and we are not root; run: sudo {advice}");
    }
    if !has_program("apt-get") {
        bail!(
            "packages are missing, and there is no apt-get; install what your system calls: {}",
            missing.join(" ")
        );
    }
    apt(&["update", "-q"])?;
    let mut install = vec!["install", "-q", "-y", "--no-install-recommends"];
    install.extend(&missing);
    apt(&install)?;
    Ok(Some(format!("installed {}", missing.join(" "))))
}

/// The task `setup`.
pub(crate) fn run_task(args: &SetupArgs) -> Result<()> {
    if let Some(note) = run_setup(args)? {
        println!("{note}");
    }
    Ok(())
}

fn missing(wanted: &[(&str, &'static str)]) -> Vec<&'static str> {
    wanted.iter().filter(|(program, _)| !has_program(program)).map(|(_, package)| *package).collect()
}

fn apt(args: &[&str]) -> Result<()> {
    run(Command::new("apt-get").args(args).env("DEBIAN_FRONTEND", "noninteractive"), APT_LIMIT)
}

/// A kernel may have FUSE as a module that nothing has loaded.
fn load_fuse(dry_run: bool) {
    if Path::new("/dev/fuse").exists() {
        return;
    }
    if dry_run || !has_program("modprobe") || run(Command::new("modprobe").arg("fuse"), APT_LIMIT).is_err() {
        println!("there is no /dev/fuse: tests of the control tree cannot run here (modprobe fuse, as root)");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_not_missing() {
        assert_eq!(missing(&[("sh", "dash"), ("no-such-program-7", "nothing")]), ["nothing"]);
    }
}
