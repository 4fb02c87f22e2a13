//! The tree's files, and what is refused: the errno, a line in `error_log`, nothing changed.

mod support;

use support::{Daemon, Program, alone, can_run, errno};

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
