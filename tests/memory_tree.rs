//! The memory half of the control tree on real processes: its files, who may do what, what is refused, and the commands.

mod support;

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::poll::{PollFd, PollFlags, poll};
use nix::unistd::{Uid, setfsuid};
use serde_json::Value;
use support::{
    EXE, Pools, Program, USERS, alone, as_user, can_run_memory, errno, has, names, parent, wait_for,
    wait_until,
};

const USER: u32 = USERS[0];
const GROUP_FILES: [&str; 11] = [
    "memory.current",
    "memory.events",
    "memory.max",
    "memory.pressure",
    "memory.reclaim",
    "memory.stat",
    "memory.swap.current",
    "memory.swap.max",
    "memory.swap.tiers",
    "representative",
    "vm",
];
const MEMBER_FILES: [&str; 6] =
    ["cmdline", "comm", "memory.current", "memory.stat", "memory.swap.current", "unmanaged"];

/// Holds 48 MiB, reads them again, and prints how many they were.
const HOLD_48M: &str = "head -c 50331648 /dev/zero | tail -c 50331648 | wc -c";

/// Does something with the file-system rights of an ordinary user, which are what the tree sees.
fn with_rights_of<T: Send>(uid: u32, what: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            setfsuid(Uid::from_raw(uid));
            what()
        });
        thread.join().expect("the thread")
    })
}

fn compartment(pools: &Pools, args: &[&str]) -> std::process::Output {
    let mut command = Command::new(EXE);
    command.args(args).env("COMPARTMENTS_MOUNT", &pools.daemon.mount).stdin(Stdio::null());
    command.output().expect("compartment")
}

fn prints(pools: &Pools, args: &[&str]) -> String {
    let output = compartment(pools, args);
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn directories_have_the_documented_files_and_keys() {
    if !can_run_memory() {
        return;
    }
    let _alone = alone();
    let pools = Pools::start();
    pools.mkdir("g");
    let p = Program::spin();
    pools.rename("0", "g", p.pid()).expect("joined");

    let expected: Vec<String> =
        std::iter::once(p.pid().to_string()).chain(GROUP_FILES.map(str::to_owned)).collect();
    let mut sorted = expected;
    sorted.sort();
    assert_eq!(names(&pools.path("g")), sorted);
    assert_eq!(names(&pools.path(&format!("g/{}", p.pid()))), MEMBER_FILES);
    assert_eq!(names(&pools.path(&format!("0/{}", std::process::id()))), MEMBER_FILES);
    assert_eq!(pools.read("g/vm"), "guest_vm\n");
    assert_eq!(pools.read("g/memory.max"), "max\n");
    for key in [
        "anon",
        "unmanaged",
        "zswap",
        "zswapped",
        "pgfault",
        "pgmajfault",
        "pgscan",
        "pgsteal",
        "pswpin",
        "pswpout",
        "rescued",
        "readahead",
        "readahead_hit",
        "nr_members",
        "worker_usec",
    ] {
        let _ = pools.key("g/memory.stat", key);
    }
    for key in ["max", "oom", "oom_kill"] {
        assert_eq!(pools.key("g/memory.events", key), 0);
    }
    let pressure = pools.read("g/memory.pressure");
    assert!(pressure.starts_with("some avg10=") && pressure.contains("\nfull avg10="), "{pressure}");
    let member = format!("g/{}", p.pid());
    wait_until(5, "it to be counted", || pools.number(&format!("{member}/memory.current")) > 0);
    assert!(pools.number("g/memory.current") >= pools.number(&format!("{member}/memory.current")));
    assert_eq!(pools.read(&format!("{member}/comm")), "sh\n");
    let unmanaged = pools.read(&format!("{member}/unmanaged"));
    assert!(unmanaged.lines().all(|line| line.split(' ').count() == 3 && line.contains('-')), "{unmanaged}");
    let worker: i32 = pools.read("g/representative").trim().parse().expect("a PID");
    assert!(pools.daemon.drivers().contains(&worker));
}

#[test]
fn what_can_be_read_can_be_written_back_and_what_is_malformed_changes_nothing() {
    if !can_run_memory() {
        return;
    }
    let _alone = alone();
    let pools = Pools::start();
    pools.mkdir("g");
    let values: [(&str, &[(&str, &str)]); 3] = [
        (
            "g/memory.max",
            &[("64M", "67108864"), ("1G", "1073741824"), ("1048576", "1048576"), ("max", "max")],
        ),
        ("g/memory.swap.max", &[("0", "0"), ("1G", "1073741824"), ("max", "max")]),
        (
            "g/memory.swap.tiers",
            &[
                ("lz4:16M file:2G:/var/tmp", "lz4:16M file:2G:/var/tmp"),
                ("file:1G", "file:1G:/var/tmp"),
                ("none", "none"),
            ],
        ),
    ];
    for (path, values) in values {
        for (written, read) in values {
            pools.write(path, &format!("{written}\n")).unwrap_or_else(|e| panic!("{written} to {path}: {e}"));
            assert_eq!(pools.read(path), format!("{read}\n"));
            pools.write(path, &pools.read(path)).expect("back");
            assert_eq!(pools.read(path), format!("{read}\n"));
        }
    }
    assert_eq!(pools.daemon.read("error_log"), "");

    let before = pools.settings("g");
    let bad: [(&str, &[&str]); 4] = [
        (
            "g/memory.max",
            &[
                "0",
                "1",
                "1023K",
                "-1",
                "64MB",
                "18446744073709551615",
                "18446744073709551616",
                "16777216T",
                "\n",
            ],
        ),
        ("g/memory.swap.max", &["-1", "x", "16777216T"]),
        (
            "g/memory.swap.tiers",
            &[
                "lz4",
                "zstd:1M",
                "file:1K",
                "file:1G:tmp",
                "file:1G lz4:1M",
                "lz4:1M lz4:1M",
                "file:99999999T",
            ],
        ),
        ("g/memory.reclaim", &["0", "-1", "x", "16777216T"]),
    ];
    for (path, values) in bad {
        for value in values {
            pools.refused(&format!("{value:?} to {path}"), libc::EINVAL, "EINVAL", pools.write(path, value));
        }
    }
    pools.write("g/memory.max", "16M").expect("a limit");
    pools.refused(
        "a tier larger than the pool",
        libc::EINVAL,
        "EINVAL",
        pools.write("g/memory.swap.tiers", "lz4:16M"),
    );
    pools.write("g/memory.max", "max").expect("no limit");
    assert_eq!(pools.settings("g"), before);
    for (name, expected) in [("12", libc::EINVAL), ("a b", libc::EINVAL), ("g", libc::EEXIST)] {
        assert_eq!(errno(fs::create_dir(pools.path(name))), expected, "{name}");
    }
    pools.rmdir("g").expect("empty");
}

#[test]
fn members_follow_moves_forks_and_execs() {
    if !can_run_memory() {
        return;
    }
    let _alone = alone();
    let pools = Pools::start();
    pools.pool("a", "64M");
    pools.pool("b", "64M");
    let mut p = Program::spin();
    let shell = Program::shell("while :; do sleep 0.05; done");

    pools.rename("0", "a", shell.pid()).expect("joined");
    // Whom it forks is in the group, and stays there by executing sleep.
    wait_until(10, "a child in the group", || {
        pools.members("a").into_iter().any(|pid| {
            parent(pid) == Some(shell.pid())
                && fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm == "sleep\n")
        })
    });
    pools.rename("0", "a", p.pid()).expect("joined");
    pools.refused("a group with members", libc::EBUSY, "EBUSY", pools.rmdir("a"));
    pools.rename("a", "b", p.pid()).expect("moved");
    assert_eq!(pools.members("b"), [p.pid()]);
    assert!(!pools.members("a").contains(&p.pid()));
    assert!(
        pools.daemon.path(&format!("sched-groups/0/{}", p.pid())).is_dir(),
        "the other half is untouched"
    );
    assert_eq!(errno(pools.rename("a", "b", p.pid())), libc::ENOENT, "it is not there");

    p.0.kill().expect("killed");
    p.0.wait().expect("reaped");
    wait_until(5, "the dead one to be forgotten", || pools.members("b").is_empty());
    pools.rmdir("b").expect("empty");
    pools.rename("a", "0", shell.pid()).expect("left");
}

#[test]
fn processes_that_cannot_be_moved_are_refused() {
    if !can_run_memory() {
        return;
    }
    let _alone = alone();
    let pools = Pools::start();
    pools.mkdir("g");
    let (keeper, worker) = pools.daemon.keeper_and_worker();
    let dead = {
        let mut dead = Program::spin();
        dead.0.kill().expect("killed");
        dead.0.wait().expect("reaped");
        dead.pid()
    };
    let before = pools.settings("g");

    for (what, pid) in [
        ("a thread of the kernel", 2),
        ("the daemon", pools.daemon.pid()),
        ("a keeper", keeper),
        ("its own worker", worker),
    ] {
        pools.refused(what, libc::EOPNOTSUPP, "EOPNOTSUPP", pools.rename("0", "g", pid));
    }
    pools.daemon.mkdir("s");
    pools.refused(
        "a memory worker is never parked",
        libc::EOPNOTSUPP,
        "EOPNOTSUPP",
        pools.daemon.join("s", worker),
    );
    assert!([libc::ESRCH, libc::ENOENT].contains(&errno(pools.rename("0", "g", dead))), "a dead process");
    assert_eq!(pools.settings("g"), before);
}

#[test]
fn ordinary_user_has_own_groups_processes_and_directories_only() {
    if !can_run_memory() || !has("setpriv") {
        return;
    }
    let _alone = alone();
    let pools = Pools::start();
    pools.pool("roots", "64M");
    let (mine, theirs) = (Program::spin(), Program::spin_as(USER));
    let dir = tempfile::tempdir_in("/var/tmp").expect("a directory");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("a mode");
    let [shut, open, link] = ["shut", "open", "link"].map(|name| dir.path().join(name));
    fs::create_dir(&shut).expect("a directory");
    fs::create_dir(&open).expect("a directory");
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).expect("a mode");
    symlink(&open, &link).expect("a link");

    with_rights_of(USER, || {
        pools.pool("users", "32M");
        assert_eq!(fs::metadata(pools.path("users")).expect("there").uid(), USER);
        pools.rename("0", "users", theirs.pid()).expect("an own process");
        let denied = |what: &str, result: io::Result<()>| {
            assert!([libc::EPERM, libc::EACCES].contains(&errno(result)), "{what}");
        };
        denied("another's process", pools.rename("0", "users", mine.pid()));
        denied("another's group", pools.rename("users", "roots", theirs.pid()));
        denied("another's limit", pools.write("roots/memory.max", "1G"));
        denied("another's eviction", pools.write("roots/memory.reclaim", "4096"));
        denied("another's group", pools.rmdir("roots"));
        let tier =
            |dir: &Path| pools.write("users/memory.swap.tiers", &format!("file:64M:{}", dir.display()));
        assert_eq!(errno(tier(&shut)), libc::EACCES, "a directory that the user cannot write to");
        assert_eq!(errno(tier(&link)), libc::ELOOP, "a link, even to one that the user can");
        assert_eq!(errno(tier(&dir.path().join("none"))), libc::ENOENT);
        assert_eq!(errno(tier(Path::new("/proc"))), libc::EACCES);
        tier(&open).expect("one that the user can write to");
        pools.rename("users", "0", theirs.pid()).expect("and back");
        pools.rmdir("users").expect("empty");
    });
    assert!(names(&shut).is_empty());
    assert_eq!(names(&open), Vec::<String>::new(), "no file with a name");
}

#[test]
fn held_group_lives_as_long_as_its_reader() {
    if !can_run_memory() {
        return;
    }
    let _alone = alone();
    let pools = Pools::start();
    let mut cat = Command::new("cat")
        .arg(pools.daemon.path("memories/guest_vm"))
        .stdout(Stdio::piped())
        .spawn()
        .expect("cat");
    let id = cat.id().to_string();
    let mut line = String::new();
    BufReader::new(cat.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
    assert_eq!(line, format!("Created mem_group {id} ('guest_vm')\n"));
    assert_eq!(pools.read(&format!("{id}/representative")), format!("{id}\n"));
    let p = Program::spin();
    pools.rename("0", &id, p.pid()).expect("joined");

    cat.kill().expect("killed");
    cat.wait().expect("reaped");

    wait_until(10, "the group to be gone", || !pools.path(&id).exists());
    assert!(pools.members("0").contains(&p.pid()));
    assert!(matches!(support::state(p.pid()), Some('R' | 'S')));
}

#[test]
fn pool_is_never_larger_than_its_limit_and_what_is_in_it_stays_right() {
    if !can_run_memory() {
        return;
    }
    let _alone = alone();
    let pools = Pools::start();
    let child = Command::new(EXE)
        .args([
            "run",
            "--name",
            "small",
            "--memory",
            "16M",
            "--swap-tiers",
            "lz4:4M file:256M",
            "--",
            "sh",
            "-c",
        ])
        .arg(HOLD_48M)
        .env("COMPARTMENTS_MOUNT", &pools.daemon.mount)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("compartment");
    let mut swapped_out = 0;
    let output = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| child.wait_with_output().expect("its end"));
        while !waiting.is_finished() {
            let number = |file: &str| {
                fs::read_to_string(pools.path(&format!("small/{file}"))).ok()?.trim().parse::<u64>().ok()
            };
            if let Some(current) = number("memory.current") {
                assert!(current <= 16 << 20, "{current}");
            }
            swapped_out = swapped_out.max(number("memory.swap.current").unwrap_or(0));
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        waiting.join().expect("no panic")
    });
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "50331648");
    assert!(swapped_out > 16 << 20, "{swapped_out}");
    wait_until(5, "the group to be gone", || !pools.path("small").exists());
}

#[test]
fn pressure_wakes_who_waits_for_it() {
    if !can_run_memory() {
        return;
    }
    let _alone = alone();
    let pools = Pools::start();
    pools.pool("g", "8M");
    let mut file =
        fs::File::options().read(true).write(true).open(pools.path("g/memory.pressure")).expect("a file");
    file.write_all(b"some 1000 1000000").expect("a trigger");
    assert_eq!(errno(file.write(b"some 1000 1000000").map(drop)), libc::EBUSY);
    let wait = |ms: u16| {
        let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLPRI)];
        poll(&mut fds, ms).expect("poll");
        fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLPRI))
    };
    assert!(!wait(100));

    let shell = Program::shell(&format!("sleep 0.5; while :; do {HOLD_48M}; done >/dev/null"));
    pools.rename("0", "g", shell.pid()).expect("joined");

    assert!((0..60).any(|_| wait(500)), "{}", pools.read("g/memory.pressure"));
    assert!(pools.key("g/memory.stat", "pgsteal") > 0);
}

#[test]
fn compartment_has_one_name_in_both_halves() {
    if !can_run_memory() {
        return;
    }
    let _alone = alone();
    let pools = Pools::start();
    let p = Program::spin();
    let pid = p.pid().to_string();

    prints(&pools, &["create", "web", "--cpu", "0.5", "--memory", "64M", "--swap-max", "1G"]);
    assert_eq!(pools.read("web/memory.max"), "67108864\n");
    assert_eq!(pools.daemon.read("sched-groups/web/cpu.max"), "50000 100000\n");
    prints(&pools, &["mv", &pid, "web"]);
    assert_eq!((pools.members("web"), pools.daemon.members("web")), (vec![p.pid()], vec![p.pid()]));
    prints(&pools, &["set", "web", "memory=128M", "nice=5"]);
    assert_eq!(pools.read("web/memory.max"), "134217728\n");
    assert!(!compartment(&pools, &["set", "web", "memory.swap.max=1G", "memory=1K"]).status.success());
    assert_eq!(pools.read("web/memory.swap.max"), "1073741824\n");

    let shown: Value = serde_json::from_str(&prints(&pools, &["show", "web", "--json"])).expect("JSON");
    assert_eq!(shown["memory"]["memory.max"], 134_217_728);
    assert_eq!(shown["vcpus"], 1);
    let listed = prints(&pools, &["ps"]);
    assert!(listed.contains("RES") && listed.lines().any(|line| line.contains(&pid)), "{listed}");
    let top = prints(&pools, &["top", "--batch", "-n", "1", "-d", "0.3"]);
    assert!(top.contains("FLT/S") && top.contains("SOME%"), "{top}");
    assert!(!compartment(&pools, &["rm", "web"]).status.success(), "it has a member");
    prints(&pools, &["mv", &pid, "0"]);
    prints(&pools, &["rm", "web"]);
    assert!(!pools.path("web").exists() && !pools.daemon.path("sched-groups/web").exists());
}

#[test]
fn run_in_both_halves_needs_no_daemon_and_passes_the_status_on() {
    if !can_run_memory() {
        return;
    }
    let _alone = alone();
    let script = format!("{HOLD_48M}; exit 7");
    let output = Command::new(EXE)
        .args(["run", "--cpu", "1", "--memory", "24M", "--", "sh", "-c", &script])
        .env_remove("COMPARTMENTS_MOUNT")
        .stdin(Stdio::null())
        .output()
        .expect("compartment");

    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "50331648");
}

#[test]
fn next_daemon_adopts_mem_groups_with_members_and_settings() {
    if !can_run_memory() || !has("setpriv") {
        return;
    }
    let _alone = alone();
    let mut pools = Pools::start();
    pools.pool("g", "64M");
    pools.daemon.mkdir("g");
    let p = Program::spin();
    pools.rename("0", "g", p.pid()).expect("joined");
    let drivers = pools.daemon.drivers();

    pools.daemon.kill();
    pools.daemon.restart();

    assert_eq!((pools.read("g/memory.max"), pools.members("g")), ("67108864\n".into(), vec![p.pid()]));
    assert_eq!(pools.daemon.drivers(), drivers, "the same workers");
    assert!(pools.daemon.members("g").is_empty());
    // Who looks at the log as an ordinary user sees nothing of root's.
    let seen = as_user(USER, &["cat"]).arg(pools.daemon.path("error_log")).output().expect("cat");
    assert!(seen.stdout.is_empty());
    pools.rename("g", "0", p.pid()).expect("left");
    pools.rmdir("g").expect("empty");
    let gone = wait_for(5, "its worker to end", || {
        let now = pools.daemon.drivers();
        (now.len() < drivers.len()).then_some(now)
    });
    assert!(gone.iter().all(|pid| drivers.contains(pid)));
}
