//! `cpu.max` holds for all members together.

mod support;

use std::time::Duration;

use support::{Daemon, Program, alone, assert_near, can_run, used_ms};

/// CPU time in percent of one CPU that the programs use together.
fn usage(programs: &[&Program]) -> f64 {
    let pids: Vec<i32> = programs.iter().map(|p| p.pid()).collect();
    used_ms(&pids, Duration::from_secs(3)).iter().sum::<f64>() / 30.0
}

#[test]
fn group_of_three_uses_its_quota_and_no_more() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    daemon.mkdir("g");
    let (a, b, c) = (Program::spin(), Program::spin(), Program::spin());
    for (quota, percent) in [("10000 100000", 10.0), ("40000 100000", 40.0)] {
        daemon.write("sched-groups/g/cpu.max", quota).expect("a quota");
        assert_eq!(daemon.read("sched-groups/g/cpu.max"), format!("{quota}\n"));
        for p in [&a, &b, &c] {
            let _ = daemon.join("g", p.pid());
        }

        assert_near(&[percent], percent * 0.06, || vec![usage(&[&a, &b, &c])]);
    }
    assert!(daemon.number("sched-groups/g/cpu.stat", "nr_throttled") > 100.0);

    daemon.write("sched-groups/g/cpu.max", "max").expect("no quota");

    assert_near(&[100.0], 15.0, || vec![usage(&[&a, &b, &c])]);
}
