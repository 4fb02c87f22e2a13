//! Members that fork, execute, thread and exit at any moment.

mod support;

use support::{Daemon, Program, alone, assert_shares, can_run, cgroup_of, state, wait_for};

#[test]
fn children_are_members_and_share_the_group() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    daemon.mkdir("g");
    daemon.write("sched-groups/g/slice_usec", "10000").expect("a slice");
    let outside = Program::spin();
    let parent = Program::shell("sleep 0.5; for i in 1 2 3; do sh -c 'while :; do :; done' & done; wait");
    daemon.join("g", parent.pid()).expect("joined");
    let children = wait_for(10, "three children", || {
        let all = daemon.members("g");
        (all.len() == 4).then(|| all.into_iter().filter(|&p| p != parent.pid()).collect::<Vec<_>>())
    });
    let mut pids = vec![outside.pid()];
    pids.extend(&children);

    assert_shares(&pids, &[50.0, 16.7, 16.7, 16.7], 4.0, 4);

    for child in children {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(child), nix::sys::signal::Signal::SIGKILL)
            .expect("killed");
    }
    wait_for(5, "the group to be empty", || daemon.members("g").is_empty().then_some(()));
}

#[test]
fn short_lived_children_end_as_they_should() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    daemon.mkdir("g");
    daemon.write("sched-groups/g/slice_usec", "5000").expect("a slice");
    let hog = Program::spin();
    daemon.join("g", hog.pid()).expect("joined");
    let dir = tempfile::tempdir().expect("a directory");
    let done = dir.path().join("done");
    let mut busy = Program::shell(&format!(
        "sleep 0.3; i=0; while [ $i -lt 150 ]; do /bin/true; echo x | cat | cat >/dev/null; i=$((i+1)); done; echo ok > {}",
        done.display()
    ));
    daemon.join("g", busy.pid()).expect("joined");

    let status = wait_for(60, "the script to end", || busy.0.try_wait().expect("a child"));

    assert!(status.success());
    assert_eq!(std::fs::read_to_string(done).expect("written"), "ok\n");
    wait_for(5, "only the hog to be left", || (daemon.members("g") == [hog.pid()]).then_some(()));
}

#[test]
fn leaving_restores_what_joining_changed() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    daemon.mkdir("g");
    let (hog, p) = (Program::spin(), Program::start(&["nice", "-n", "7", "sh", "-c", "while :; do :; done"]));
    wait_for(5, "the nice value", || {
        (support::stat_field(p.pid(), 16).as_deref() == Some("7")).then_some(())
    });
    let before = cgroup_of(p.pid());
    daemon.join("g", hog.pid()).expect("joined");
    daemon.join("g", p.pid()).expect("joined");
    assert_eq!(daemon.read(&format!("sched-groups/g/{}/nice", p.pid())), "7\n");
    wait_for(5, "the host's nice", || {
        (support::stat_field(p.pid(), 16).as_deref() == Some("0")).then_some(())
    });
    wait_for(5, "the cgroup", || cgroup_of(p.pid()).contains("compartment.").then_some(()));

    daemon.rename("g", "0", p.pid()).expect("left");

    assert_eq!(cgroup_of(p.pid()), before);
    assert_eq!(support::stat_field(p.pid(), 16).as_deref(), Some("7"));
    assert_eq!(state(p.pid()), Some('R'));
}

#[test]
fn sleepers_are_not_disturbed() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    daemon.mkdir("g");
    daemon.write("sched-groups/g/slice_usec", "5000").expect("a slice");
    let hog = Program::spin();
    // A frozen or stopped sleeper would see EINTR from epoll_wait, and say so.
    let sleeper = Program::start(&[
        "python3",
        "-c",
        "import select,time\ne=select.epoll()\nr=0\nimport ctypes\nlib=ctypes.CDLL(None,use_errno=True)\nbuf=ctypes.create_string_buffer(64)\n\
         end=time.time()+4\nbad=0\n\
         while time.time()<end:\n  if lib.epoll_wait(e.fileno(),buf,1,20)<0: bad+=1\n\
         raise SystemExit(bad)",
    ]);
    let mut sleeper = sleeper;
    daemon.join("g", hog.pid()).expect("joined");
    daemon.join("g", sleeper.pid()).expect("joined");

    let status = wait_for(30, "the sleeper to end", || sleeper.0.try_wait().expect("a child"));

    assert_eq!(status.code(), Some(0), "interrupted waits");
}

#[test]
fn threads_are_tasks_of_their_own() {
    if !can_run() {
        return;
    }
    let _alone = alone();
    let daemon = Daemon::start();
    daemon.mkdir("g");
    daemon.write("sched-groups/g/slice_usec", "10000").expect("a slice");
    let (outside, one) = (Program::spin(), Program::spin());
    // Hashing lets go of the interpreter's lock, so these three threads only compute.
    let three = Program::start(&[
        "python3",
        "-c",
        "import hashlib,threading\nb=bytes(200000000)\ndef f():\n  while True: hashlib.sha256(b)\n\
         for _ in range(2): threading.Thread(target=f,daemon=True).start()\nf()",
    ]);
    wait_for(20, "three threads", || {
        (std::fs::read_dir(format!("/proc/{}/task", three.pid())).ok()?.count() == 3).then_some(())
    });
    for p in [&one, &three] {
        daemon.join("g", p.pid()).expect("joined");
    }

    assert_shares(&[outside.pid(), one.pid(), three.pid()], &[50.0, 12.5, 37.5], 4.0, 4);
}
