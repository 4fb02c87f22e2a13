//! The tree's files, and what is refused: the errno, a line in `error_log`, nothing changed.

mod support;

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Command, Stdio};

use support::{Daemon, Program, alone, can_run, children, errno, kill9, sh, wait_for, wait_until};

/// All that can be read of the groups and is not a measurement.
fn settings(daemon: &Daemon) -> Vec<String> {
    let mut all = Vec::new();
    let mut groups: Vec<_> = fs::read_dir(daemon.path("sched-groups"))
        .expect("a listing")
        .map(|e| e.expect("an entry").file_name().into_string().expect("UTF-8"))
        .filter(|name| name != "0")
        .collect();
    groups.sort();
    for group in groups {
        for file in ["scheduler", "representative", "slice_usec", "vcpus", "nice", "cpu.max", "mode"] {
            all.push(daemon.read(&format!("sched-groups/{group}/{file}")));
        }
        for pid in daemon.members(&group) {
            for file in ["nice", "policy"] {
                all.push(format!("{pid} {}", daemon.read(&format!("sched-groups/{group}/{pid}/{file}"))));
            }
        }
        all.push(group);
    }
    all
}

#[test]
fn every_file_reads_and_settings_can_be_written_back() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    daemon.mkdir("g");
    let p = Program::spin();
    daemon.join("g", p.pid()).expect("joined");
    assert!(daemon.read("version").starts_with("compartments "));

    for file in ["slice_usec", "vcpus", "nice", "cpu.max"] {
        let path = format!("sched-groups/g/{file}");
        let value = daemon.read(&path);
        daemon.write(&path, &value).unwrap_or_else(|e| panic!("write {value:?} back to {path}: {e}"));
        assert_eq!(daemon.read(&path), value);
    }
    for file in ["nice", "policy"] {
        let path = format!("sched-groups/g/{}/{file}", p.pid());
        let value = daemon.read(&path);
        daemon.write(&path, &value).unwrap_or_else(|e| panic!("write {value:?} back to {path}: {e}"));
    }
    assert_eq!(daemon.read("sched-groups/g/scheduler"), "guest_o1_scheduler\n");
    assert!(daemon.read("sched-groups/g/mode").starts_with("park="));
    for key in ["usage_usec", "nr_members", "nr_switches", "nr_throttled", "throttled_usec", "worker_usec"] {
        assert!(daemon.key("sched-groups/g/cpu.stat", key).is_some(), "cpu.stat has {key}");
    }
    for key in ["asked", "got", "error_pct", "worst_window_usec", "longest_park_usec", "overhead_pct"] {
        assert!(daemon.key("sched-groups/g/cpu.promise", key).is_some(), "cpu.promise has {key}");
    }
    let member = format!("sched-groups/g/{}", p.pid());
    assert_eq!(daemon.read(&format!("{member}/comm")), "sh\n");
    for (file, key) in [("sched", "static_prio"), ("sched", "slice_left_usec"), ("stat", "usage_usec")] {
        assert!(daemon.key(&format!("{member}/{file}"), key).is_some(), "{file} has {key}");
    }
}

#[test]
fn refusals_have_their_errno_and_change_nothing() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    daemon.mkdir("g");
    let p = Program::spin();
    daemon.join("g", p.pid()).expect("joined");
    for (file, bad) in [
        ("slice_usec", "soon"),
        ("slice_usec", "-1"),
        ("vcpus", "0"),
        ("vcpus", "99999999999999999999"),
        ("nice", "20"),
        ("cpu.max", "0 100000"),
        ("cpu.max", "1 2 3"),
    ] {
        let path = format!("sched-groups/g/{file}");
        let before = daemon.read(&path);
        assert_eq!(errno(daemon.write(&path, bad)), libc::EINVAL, "{bad:?} to {file}");
        assert_eq!(daemon.read(&path), before);
    }
    for bad in ["21", "x", ""] {
        assert_eq!(
            errno(daemon.write(&format!("sched-groups/g/{}/nice", p.pid()), &format!("{bad}\n"))),
            libc::EINVAL
        );
    }
    assert_eq!(errno(daemon.join("g", 2)), libc::EOPNOTSUPP, "a thread of the kernel");
    assert_eq!(errno(daemon.join("g", daemon.pid())), libc::EOPNOTSUPP, "the daemon itself");
    assert_eq!(errno(daemon.rmdir("g")), libc::EBUSY, "a group with members");
    assert_eq!(errno(std::fs::create_dir(daemon.path("sched-groups/123"))), libc::EINVAL, "all digits");
    assert_eq!(errno(std::fs::create_dir(daemon.path("sched-groups/a\nb"))), libc::EINVAL, "an odd byte");
    assert_eq!(daemon.members("g"), [p.pid()]);
    let log = daemon.read("error_log");
    assert!(log.lines().count() >= 10 && log.contains("slice_usec"), "{log}");
}

#[test]
fn two_writers_at_once_leave_each_process_in_one_group() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    daemon.mkdir("a");
    daemon.mkdir("b");
    let p = Program::spin();
    std::thread::scope(|scope| {
        for (from, to) in [("a", "b"), ("b", "a")] {
            let (daemon, p) = (&daemon, &p);
            scope.spawn(move || {
                for _ in 0..20 {
                    let _ = daemon.join(to, p.pid());
                    let _ = daemon.rename(from, to, p.pid());
                }
            });
        }
    });
    let places = ["a", "b"].iter().filter(|g| daemon.members(g).contains(&p.pid())).count();
    assert_eq!(places, 1);
}

#[test]
fn every_refusal_is_in_error_log_and_changes_nothing() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    daemon.mkdir("g");
    daemon.mkdir("other");
    let p = Program::spin();
    daemon.join("g", p.pid()).expect("joined");
    let cat = Command::new("cat")
        .arg(daemon.path("schedulers/guest_o1_scheduler"))
        .stdout(Stdio::null())
        .spawn()
        .expect("cat");
    let held = Program(cat);
    let holder = held.pid().to_string();
    wait_until(5, "the held group", || daemon.path("sched-groups").join(&holder).exists());
    let groups = daemon.path("sched-groups");
    let member = format!("sched-groups/g/{}", p.pid());
    let drivers = daemon.drivers();
    let keeper = *drivers.iter().find(|&&k| !children(k).is_empty()).expect("a keeper");
    let held_worker = *drivers
        .iter()
        .find(|&&w| {
            children(w).is_empty() && w != daemon.representative("g") && w != daemon.representative("other")
        })
        .expect("the held group's worker");
    let before = settings(&daemon);
    let mkdir = |name: &[u8]| errno(fs::create_dir(groups.join(OsStr::from_bytes(name))));
    let write = |path: &str, value: &str| errno(daemon.write(path, value));

    let long = [b'x'; 65];
    for (got, expected, what) in [
        (write("sched-groups/g/scheduler", "guest_fair_scheduler"), libc::EBUSY, "a group with members"),
        (write("sched-groups/other/scheduler", "cfs"), libc::EINVAL, "no such policy"),
        (write("sched-groups/g/mode", "park=stop"), libc::EPERM, "mode is read only"),
        (write("version", "1"), libc::EPERM, "version is read only"),
        (write("sched-groups/g/cpu.stat", "0"), libc::EPERM, "cpu.stat is read only"),
        (write(&format!("{member}/policy"), "fifo 100"), libc::EINVAL, "priority"),
        (write(&format!("{member}/policy"), "idle"), libc::EINVAL, "policy"),
        (write(&format!("{member}/signal"), "SIGNOTHING"), libc::EINVAL, "signal"),
        (write(&format!("{member}/signal"), "65"), libc::EINVAL, "signal"),
        (write("sched-groups/g/nice", &"1".repeat(300)), libc::EINVAL, "a long value"),
        (write("sched-groups/g/nice", "1\0"), libc::EINVAL, "an odd byte"),
        (write("rules", "nonsense"), libc::EINVAL, "rules"),
        (write("rules", "user=0"), libc::EINVAL, "rules"),
        (mkdir(b"g"), libc::EEXIST, "there is one"),
        (mkdir(b"007"), libc::EINVAL, "digits"),
        (mkdir(b"a b"), libc::EINVAL, "white space"),
        (mkdir(b"-rf"), libc::EINVAL, "an option"),
        (mkdir(b".x"), libc::EINVAL, "hidden"),
        (mkdir(b"a\xff"), libc::EINVAL, "not UTF-8"),
        (mkdir("a\u{202e}b".as_bytes()), libc::EINVAL, "turned around"),
        (mkdir(&long), libc::EINVAL, "long"),
        (mkdir(b"g/sub"), libc::EPERM, "nesting is by moving"),
        (errno(fs::write(groups.join("g/new"), "x")), libc::EPERM, "a new file"),
        (errno(fs::remove_file(groups.join("g/nice"))), libc::EPERM, "a file of a group"),
        (errno(daemon.rmdir(&holder)), libc::EBUSY, "a held group"),
        (errno(daemon.rmdir("0")), libc::EPERM, "group 0"),
        (errno(daemon.join("other", 1)), libc::EOPNOTSUPP, "init"),
        (errno(daemon.join("other", keeper)), libc::EOPNOTSUPP, "a keeper"),
        (errno(daemon.join("other", held_worker)), libc::EOPNOTSUPP, "a worker that is no representative"),
        (errno(fs::rename(groups.join("g/nice"), groups.join("other/nice"))), libc::EPERM, "a file moved"),
        (errno(fs::rename(groups.join("g"), groups.join("h"))), libc::EPERM, "a group renamed"),
    ] {
        // The kernel refuses some by itself (EACCES for a mode, EEXIST, EBUSY): those it may.
        assert_eq!(got, expected, "{what}");
    }

    assert_eq!(settings(&daemon), before);
    let log = daemon.read("error_log");
    for (op, errno, nr) in
        [("write", "EINVAL", 9), ("write", "EBUSY", 1), ("mkdir", "EINVAL", 7), ("rename", "EOPNOTSUPP", 3)]
    {
        let is_it = |l: &&str| l.contains(&format!(" op={op} ")) && l.contains(&format!(" errno={errno} "));
        assert!(log.lines().filter(is_it).count() >= nr, "{op} {errno}:\n{log}");
    }
    for line in log.lines() {
        for key in ["time=", " pid=", " op=", " path=", " value=", " errno=", " reason="] {
            assert!(line.contains(key), "{line}");
        }
    }
}

#[test]
fn process_that_is_gone_is_told_from_others() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    daemon.mkdir("g");
    let mut p = Program::spin();
    let pid = p.pid();
    let mut nice = fs::File::options()
        .write(true)
        .open(daemon.path(&format!("sched-groups/0/{pid}/nice")))
        .expect("open");
    // The kernel remembers the entry for a moment, and asks us to move it.
    fs::metadata(daemon.path(&format!("sched-groups/0/{pid}"))).expect("an entry");
    kill9(pid);
    p.0.wait().expect("reaped");

    let moved = errno(daemon.join("g", pid));
    assert!([libc::ESRCH, libc::ENOENT].contains(&moved), "{moved}");
    assert_eq!(errno(nice.write_all(b"1")), libc::ESRCH);
    assert_eq!(errno(daemon.join("g", 4_000_000)), libc::ENOENT, "there never was one");
    assert!(daemon.members("g").is_empty());
}

#[test]
fn group_0_lists_whom_nobody_has_moved() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    daemon.mkdir("g");
    let (p, user) = (Program::spin(), Program::spin_as(support::USERS[0]));
    let zero = fs::metadata(daemon.path("sched-groups/0")).expect("a directory");
    assert_eq!(zero.permissions().mode() & 0o7777, 0o1777);
    assert_eq!(
        fs::metadata(daemon.path(&format!("sched-groups/0/{}", user.pid()))).expect("an entry").uid(),
        support::USERS[0]
    );
    let me = std::process::id() as i32;
    for pid in [p.pid(), user.pid(), me, 1] {
        assert!(daemon.members("0").contains(&pid), "{pid}");
    }
    assert_eq!(daemon.read(&format!("sched-groups/0/{}/nice", p.pid())), "0\n");
    daemon.write(&format!("sched-groups/0/{}/nice", p.pid()), "3").expect("the host's nice");
    assert_eq!(support::nice(p.pid()), Some(3));

    daemon.join("g", p.pid()).expect("joined");

    assert!(!daemon.members("0").contains(&p.pid()));
    daemon.write(&format!("sched-groups/g/{}/signal", p.pid()), "KILL").expect("a signal");
    wait_until(5, "its end", || daemon.members("g").is_empty());
}

#[test]
fn events_tell_what_happens() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    let out = tempfile::NamedTempFile::new().expect("a file");
    let reader = Command::new("cat")
        .arg(daemon.path("events"))
        .stdout(out.reopen().expect("open"))
        .spawn()
        .expect("cat");
    let _reader = Program(reader);
    let text = || fs::read_to_string(out.path()).expect("a file");
    // It may not have opened them yet.
    wait_for(10, "an event", || {
        let _ = fs::create_dir(daemon.path("sched-groups/probe"));
        let _ = daemon.rmdir("probe");
        text().contains("group=probe").then_some(())
    });
    daemon.mkdir("g");
    let p = Program::shell("sleep 0.3; /bin/true; exec sleep 1000");
    daemon.join("g", p.pid()).expect("joined");
    wait_until(10, "the exec", || text().contains(&format!("event=executed group=g pid={}", p.pid())));
    kill9(p.pid());
    wait_until(10, "the end", || text().contains(&format!("event=exited group=g pid={}", p.pid())));
    daemon.rmdir("g").expect("removed");
    wait_until(10, "the end of the group", || text().contains("event=dissolved group=g"));
    for event in ["event=created group=g", "event=moved", "event=forked"] {
        assert!(text().contains(event), "{event}:\n{}", text());
    }
}

#[test]
fn rules_put_new_programs_into_groups() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    daemon.mkdir("sleepers");
    let sleep = sh("readlink -f $(command -v sleep)");
    let path = String::from_utf8_lossy(&sleep.stdout).trim().to_owned();
    // Only programs of a user of our own: others start programs on this machine too.
    let user = support::USERS[1];
    daemon.write("rules", &format!("user={user} sched=sleepers\n")).expect("rules");

    let ids = [format!("--reuid={user}"), format!("--regid={user}")];
    let p = Program::start(&["setpriv", &ids[0], &ids[1], "--clear-groups", &path, "1000"]);

    wait_until(10, "it to be put there", || daemon.members("sleepers") == [p.pid()]);
    daemon.write("rules", "\n").expect("no rules");
    assert_eq!(daemon.read("rules"), "");
}
