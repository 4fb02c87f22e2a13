//! The tree's files, and what is refused: the errno, a line in `error_log`, nothing changed.

mod support;

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;

use nix::poll::{PollFd, PollFlags, poll};
use support::{Daemon, Program, alone, can_run, errno, is_free, wait_until};

/// The keys of a group's files; no keys: one value.
const GROUP_FILES: [(&str, &[&str]); 9] = [
    ("scheduler", &[]),
    ("representative", &[]),
    ("slice_usec", &[]),
    ("vcpus", &[]),
    ("nice", &[]),
    ("cpu.max", &[]),
    (
        "cpu.stat",
        &["usage_usec", "nr_members", "nr_switches", "nr_throttled", "throttled_usec", "worker_usec"],
    ),
    (
        "cpu.promise",
        &[
            "asked",
            "got",
            "error_pct",
            "worst_window_usec",
            "longest_park_usec",
            "overhead_pct",
            "excess_runnable_usec",
            "worker_got",
        ],
    ),
    ("mode", &[]),
];

/// Those of a member; `signal` can only be written.
const MEMBER_FILES: [(&str, &[&str]); 8] = [
    ("comm", &[]),
    ("cmdline", &[]),
    ("nice", &[]),
    ("policy", &[]),
    ("state", &[]),
    ("sched", &["static_prio", "prio", "bonus", "sleep_avg_usec", "interactive", "slice_left_usec"]),
    ("stat", &["usage_usec", "wait_usec", "nr_switches"]),
    ("signal", &[]),
];

fn names(dir: &std::path::Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("a directory").flatten();
    let mut names: Vec<String> = entries.filter_map(|e| e.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// A group `g` with one busy member.
fn group() -> (Daemon, Program) {
    let daemon = Daemon::start();
    daemon.mkdir("g");
    let p = Program::spin();
    daemon.join("g", p.pid()).expect("joined");
    (daemon, p)
}

/// All that a refusal could have changed.
fn settings(daemon: &Daemon, pid: i32) -> Vec<String> {
    let files = ["scheduler", "representative", "slice_usec", "vcpus", "nice", "cpu.max", "mode"];
    let mut all: Vec<String> = files.iter().map(|f| daemon.read(&format!("sched-groups/g/{f}"))).collect();
    all.extend(["nice", "policy"].map(|f| daemon.read(&format!("sched-groups/g/{pid}/{f}"))));
    all.push(daemon.read("rules"));
    all.extend(names(&daemon.path("sched-groups")));
    all.push(format!("{:?}", daemon.members("g")));
    all
}

/// The newest line of `error_log`, after that many.
fn refusal(daemon: &Daemon, after: usize) -> String {
    let log = daemon.read("error_log");
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines.len(), after + 1, "one line for each refusal: {log}");
    lines[after].to_owned()
}

#[test]
fn directories_have_the_documented_files_and_keys() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let (daemon, p) = group();

    let version = daemon.read("version");
    assert!(version.starts_with("compartments ") && version.ends_with(" abi 1\n"), "{version}");
    let member = format!("sched-groups/g/{}", p.pid());
    let mut expected: Vec<String> = GROUP_FILES.iter().map(|(f, _)| (*f).to_owned()).collect();
    expected.push(p.pid().to_string());
    expected.sort();
    assert_eq!(names(&daemon.path("sched-groups/g")), expected);
    let mut expected: Vec<String> = MEMBER_FILES.iter().map(|(f, _)| (*f).to_owned()).collect();
    expected.sort();
    assert_eq!(names(&daemon.path(&member)), expected);
    assert_eq!(names(&daemon.path(&format!("sched-groups/0/{}", std::process::id()))), expected);

    let readable = MEMBER_FILES.iter().filter(|(f, _)| *f != "signal");
    let files = GROUP_FILES.iter().map(|f| ("sched-groups/g", f)).chain(readable.map(|f| (&member[..], f)));
    for (dir, (file, keys)) in files {
        let text = daemon.read(&format!("{dir}/{file}"));
        assert!(text.ends_with(if *file == "cmdline" { '\0' } else { '\n' }), "{file}: {text:?}");
        let found: Vec<&str> = text.lines().filter_map(|l| Some(l.split_once(' ')?.0)).collect();
        if !keys.is_empty() {
            assert_eq!(found, *keys, "{file}: {text}");
        }
    }
    assert_eq!(daemon.read(&format!("{member}/comm")), "sh\n");
    assert_eq!(daemon.read("sched-groups/g/scheduler"), "guest_o1_scheduler\n");
    assert_eq!(daemon.read("sched-groups/g/cpu.max"), "max 100000\n");
    assert_eq!(daemon.read("sched-groups/g/slice_usec"), "policy\n");
    let state = daemon.read(&format!("{member}/state"));
    assert!(["running\n", "queued\n", "expired\n", "sleeping\n"].contains(&&state[..]), "{state}");
    let mode = daemon.read("sched-groups/g/mode");
    for part in ["park=", "handover=", "sensor=", "envelope="] {
        assert!(mode.contains(part), "{mode}");
    }
}

#[test]
fn what_can_be_read_can_be_written_back() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let (daemon, p) = group();
    let member = format!("sched-groups/g/{}", p.pid());
    let values: [(&str, &[&str]); 6] = [
        ("sched-groups/g/slice_usec", &["policy", "100", "10000000"]),
        ("sched-groups/g/vcpus", &["2", "1"]),
        ("sched-groups/g/nice", &["-20", "19", "0"]),
        ("sched-groups/g/cpu.max", &["50000 100000", "2500 10000", "max 100000"]),
        (&format!("{member}/nice"), &["-20", "19", "0"]),
        (&format!("{member}/policy"), &["batch", "fifo 1", "rr 99", "normal"]),
    ];
    for (path, values) in values {
        for value in values {
            daemon.write(path, value).unwrap_or_else(|e| panic!("{value:?} to {path}: {e}"));
            assert_eq!(daemon.read(path), format!("{value}\n"), "{path}");
            let text = daemon.read(path);
            daemon.write(path, &text).unwrap_or_else(|e| panic!("{text:?} back to {path}: {e}"));
            assert_eq!(daemon.read(path), text);
        }
    }
    // As in cgroup v2 the period may be left out, and stays.
    daemon.write("sched-groups/g/cpu.max", "5000 20000").expect("a quota");
    daemon.write("sched-groups/g/cpu.max", "max").expect("no quota");
    assert_eq!(daemon.read("sched-groups/g/cpu.max"), "max 20000\n");

    daemon.mkdir("fair");
    daemon.write("sched-groups/fair/scheduler", "guest_fair_scheduler\n").expect("an empty group");
    assert_eq!(daemon.read("sched-groups/fair/scheduler"), "guest_fair_scheduler\n");
    assert_eq!(daemon.read("error_log"), "");
}

#[test]
fn malformed_values_are_refused() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let (daemon, p) = group();
    let long = "1".repeat(300);
    let member = format!("sched-groups/g/{}", p.pid());
    let before = settings(&daemon, p.pid());
    let bad: [(&str, &[&str]); 8] = [
        (
            "sched-groups/g/slice_usec",
            &["soon", "-1", "0", "99", "10000001", "1.5", "0x100", "100 100", "\n", &long],
        ),
        ("sched-groups/g/vcpus", &["0", "-1", "1025", "99999999999999999999", "two", "\n"]),
        ("sched-groups/g/nice", &["20", "-21", "+", "1e1", "--1", "\n"]),
        (
            "sched-groups/g/cpu.max",
            &["0 100000", "1 2 3", "-1", "1000 999", "1000 1000001", "min", "max x", "\n"],
        ),
        (&format!("{member}/nice"), &["21", "-21", "x", "1\n2", "\n"]),
        (&format!("{member}/policy"), &["idle", "fifo", "fifo 0", "rr 100", "normal 1", "fifo 1 2", "\n"]),
        (&format!("{member}/signal"), &["NOTHING", "65", "-9", "SIGSIG", "\n"]),
        ("rules", &["x", "sched=g", "user=1 sched=", "exe=make sched=g"]),
    ];
    let mut nr = 0;
    for (path, values) in bad {
        for value in values {
            assert_eq!(errno(daemon.write(path, value)), libc::EINVAL, "{value:?} to {path}");
            let line = refusal(&daemon, nr);
            assert!(line.contains(&format!(" path={path} ")) && line.contains(" errno=EINVAL "), "{line}");
            assert!(line.contains(&format!(" pid={} ", std::process::id())), "{line}");
            nr += 1;
        }
    }
    let busy = errno(daemon.write("sched-groups/g/scheduler", "guest_fair_scheduler"));
    assert_eq!(busy, libc::EBUSY, "the scheduler of a group with members");
    assert!(refusal(&daemon, nr).contains("errno=EBUSY"));
    assert_eq!(errno(daemon.write("sched-groups/g/scheduler", "cfs")), libc::EINVAL);
    assert_eq!(settings(&daemon, p.pid()), before);
}

#[test]
fn processes_that_cannot_be_moved_are_refused() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let (daemon, p) = group();
    let (keeper, worker) = daemon.keeper_and_worker();
    let dead = {
        let mut dead = Program::spin();
        dead.0.kill().expect("killed");
        dead.0.wait().expect("reaped");
        dead.pid()
    };
    let before = settings(&daemon, p.pid());

    // The worker stands for its group: into itself it would be a circle.
    let refused = [
        (2, libc::EOPNOTSUPP, "EOPNOTSUPP", "a thread of the kernel"),
        (daemon.pid(), libc::EOPNOTSUPP, "EOPNOTSUPP", "the daemon"),
        (keeper, libc::EOPNOTSUPP, "EOPNOTSUPP", "a keeper"),
        (worker, libc::ELOOP, "ELOOP", "its own worker"),
    ];
    for (nr, (pid, expected, name, what)) in refused.into_iter().enumerate() {
        assert_eq!(errno(daemon.join("g", pid)), expected, "{what}");
        let line = refusal(&daemon, nr);
        assert!(line.contains(&format!("errno={name} reason=")) && line.contains(&pid.to_string()), "{line}");
    }
    // The entry of a dead process is not there; the kernel asks for it first.
    assert_eq!(errno(daemon.join("g", dead)), libc::ESRCH, "a dead process");
    assert_eq!(errno(daemon.rename("g", "0", dead)), libc::ESRCH);
    assert_eq!(errno(daemon.join("g", 4_194_303)), libc::ESRCH, "a number that no process has");
    assert!(daemon.read("error_log").contains("4194303"), "{}", daemon.read("error_log"));
    assert_eq!(errno(daemon.rename("0", "g", p.pid())), libc::ENOENT, "it is not there");
    assert_eq!(errno(daemon.rmdir("g")), libc::EBUSY, "a group with members");
    assert_eq!(settings(&daemon, p.pid()), before);
    assert!(is_free(daemon.pid()) && is_free(keeper));
}

#[test]
fn files_and_directories_cannot_be_made_removed_or_renamed() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let (daemon, p) = group();
    let before = settings(&daemon, p.pid());
    let groups = daemon.path("sched-groups");
    let at = |name: &str| groups.join(name);
    let refuses = |what: &str, result: io::Result<()>| {
        let got = errno(result);
        assert!([libc::EPERM, libc::EACCES].contains(&got), "{what}: {got}");
    };
    refuses("rm of a file", fs::remove_file(at("g/nice")));
    refuses("rmdir of a member", fs::remove_dir(at(&format!("g/{}", p.pid()))));
    refuses("rmdir of 0", fs::remove_dir(at("0")));
    refuses("rmdir of a room", fs::remove_dir(&groups));
    refuses("mkdir in a group", fs::create_dir(at("g/x")));
    refuses("mkdir at the top", fs::create_dir(daemon.path("x")));
    refuses("a new file", fs::write(at("g/x"), "1"));
    refuses("another name", fs::rename(at("g"), at("h")));
    refuses("another PID", fs::rename(at(&format!("g/{}", p.pid())), at("0/1")));
    refuses("a link", fs::hard_link(at("g/nice"), at("g/x")));
    refuses("a link", std::os::unix::fs::symlink("nice", at("g/x")));
    assert_eq!(errno(fs::create_dir(at("g"))), libc::EEXIST);
    assert_eq!(errno(fs::remove_dir(at("nobody"))), libc::ENOENT);
    assert_eq!(settings(&daemon, p.pid()), before);
}

#[test]
fn odd_names_of_groups_are_refused() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    let long = "x".repeat(65);
    let odd: [&[u8]; 13] = [
        b"123",
        b"1",
        b"a\nb",
        b"a b",
        b"-rf",
        b".hidden",
        b"a=b",
        b"a\\b",
        b"q\"",
        b"a\xff",
        b"\x1b[2J",
        "a\u{202e}b".as_bytes(),
        long.as_bytes(),
    ];
    for (nr, name) in odd.into_iter().enumerate() {
        let result = fs::create_dir(daemon.path("sched-groups").join(OsStr::from_bytes(name)));
        assert_eq!(errno(result), libc::EINVAL, "{name:?}");
        let line = refusal(&daemon, nr);
        assert!(line.contains("op=mkdir") && line.contains("errno=EINVAL"), "{line}");
        assert!(line.chars().all(|c| !c.is_control()), "{line:?}");
    }
    // Names of 256 bytes and more do not come to us on kernels before 6.17.
    let got = errno(fs::create_dir(daemon.path("sched-groups").join("y".repeat(256))));
    assert!([libc::ENAMETOOLONG, libc::EINVAL].contains(&got), "{got}");
    assert_eq!(names(&daemon.path("sched-groups")), ["0"]);

    for name in ["web", "Büro_2", "9lives", &"x".repeat(64)] {
        daemon.mkdir(name);
        daemon.rmdir(name).expect("removed");
    }
}

#[test]
fn writers_at_once_leave_a_consistent_tree() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    daemon.mkdir("a");
    daemon.mkdir("b");
    let programs = [Program::spin(), Program::spin()];
    std::thread::scope(|scope| {
        for (from, to) in [("a", "b"), ("b", "a")] {
            let (daemon, programs) = (&daemon, &programs);
            scope.spawn(move || {
                for round in 0..60 {
                    for p in programs {
                        // One of two wins; nothing but these is answered.
                        for result in [daemon.join(to, p.pid()), daemon.rename(from, to, p.pid())] {
                            let got = errno(result);
                            let known = [0, libc::ESRCH, libc::ENOENT, libc::EBUSY];
                            assert!(known.contains(&got), "round {round}: {got}");
                        }
                    }
                    let (nice, name) = ((round % 20).to_string(), format!("t{to}"));
                    daemon.write("sched-groups/a/nice", &nice).expect("a nice value");
                    daemon.write(&format!("sched-groups/{to}/slice_usec"), "5000").expect("a slice");
                    if round % 10 == 0 {
                        daemon.mkdir(&name);
                        daemon.rmdir(&name).expect("removed");
                    }
                }
            });
        }
    });

    assert_eq!(names(&daemon.path("sched-groups")), ["0", "a", "b"]);
    assert_eq!(daemon.read("sched-groups/a/nice"), "19\n");
    for p in &programs {
        let places: Vec<&str> =
            ["0", "a", "b"].into_iter().filter(|g| daemon.members(g).contains(&p.pid())).collect();
        assert_eq!(places.len(), 1, "{places:?}");
        let counted = daemon.number(&format!("sched-groups/{}/cpu.stat", places[0]), "nr_members");
        assert!(counted >= 1.0);
        let before = support::cpu_ms(p.pid());
        wait_until(5, "it to run", || support::cpu_ms(p.pid()) > before);
        daemon.rename(places[0], "0", p.pid()).expect("left");
        assert!(is_free(p.pid()));
    }
    for name in ["a", "b"] {
        daemon.rmdir(name).expect("empty");
    }
}

#[test]
fn events_wake_who_polls() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    daemon.mkdir("early");
    let mut events = fs::File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(daemon.path("events"))
        .expect("events");
    let is_ready = |events: &fs::File, ms: u16| {
        poll(&mut [PollFd::new(events.as_fd(), PollFlags::POLLIN)], ms).expect("poll") == 1
    };
    let mut buffer = [0; 4096];

    assert!(!is_ready(&events, 100), "they start at open");
    assert_eq!(events.read(&mut buffer).map_err(|e| e.kind()), Err(io::ErrorKind::WouldBlock));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(std::time::Duration::from_millis(200));
            daemon.mkdir("late");
        });
        assert!(is_ready(&events, 10_000), "woken by what happens");
    });

    let n = events.read(&mut buffer).expect("a line");
    let text = String::from_utf8_lossy(&buffer[..n]).into_owned();
    assert!(text.starts_with("time=") && text.contains(" event=created group=late "), "{text}");
    assert!(text.ends_with('\n') && !text.contains("early"), "{text}");
    assert!(!is_ready(&events, 100), "all is read");

    let p = Program::spin();
    daemon.join("late", p.pid()).expect("joined");
    assert!(is_ready(&events, 5_000));
    let n = events.read(&mut buffer).expect("a line");
    let text = String::from_utf8_lossy(&buffer[..n]).into_owned();
    assert!(text.contains(&format!("event=moved pid={} from=0 to=late ", p.pid())), "{text}");
}
