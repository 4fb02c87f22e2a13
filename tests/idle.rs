//! Where nobody wants to run, nobody of ours wakes up.

mod support;

use std::time::Duration;

use support::{Daemon, Program, alone, can_run, threads, voluntary_switches};

#[test]
fn group_of_sleepers_wakes_nobody() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    daemon.mkdir("g");
    let sleepers = [Program::start(&["sleep", "1000"]), Program::start(&["sleep", "1000"])];
    for p in &sleepers {
        daemon.join("g", p.pid()).expect("joined");
    }
    let (keeper, worker) = daemon.keeper_and_worker();
    std::thread::sleep(Duration::from_secs(1));
    let count = || -> u64 {
        [daemon.pid(), keeper, worker].iter().flat_map(|&pid| threads(pid)).map(voluntary_switches).sum()
    };

    let before = count();
    std::thread::sleep(Duration::from_secs(3));

    assert!(count() - before <= 3, "{} wake-ups in 3 s", count() - before);
}
