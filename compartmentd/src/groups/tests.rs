//! The controller with made-up processes and workers.

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use guest_sched::host::{Event, GroupConfig};
use tempfile::TempDir;

use super::fake::{FakeHost, FakeLauncher, FakeWorker};
use super::{Caller, Controller, GROUPS_MAX, Group, GroupId, Journal, Setup};
use crate::errno::Refusal;
use crate::notices::Notices;
use crate::pools::fake::{FakeMemLauncher, FakeMemWorker};
use crate::pools::{self, Pool, Pools};
use crate::supervise::StateRoot;

const ROOT: Caller = Caller::DAEMON;

pub(crate) struct World {
    pub(crate) controller: Arc<Controller>,
    pub(crate) pools: Arc<Pools>,
    pub(crate) host: Arc<FakeHost>,
    launcher: Arc<FakeLauncher>,
    mem_launcher: Arc<FakeMemLauncher>,
    dir: TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        let host = Arc::new(FakeHost::default());
        let launcher = Arc::new(FakeLauncher::on(host.clone()));
        let dir = tempfile::tempdir().expect("a directory");
        let mem_launcher = Arc::new(FakeMemLauncher::on(host.clone()));
        let controller = Self::start(&host, &launcher, &dir);
        let pools = pools::beside(&controller, mem_launcher.clone()).expect("pools");
        Self { controller, pools, host, launcher, mem_launcher, dir }
    }

    fn start(host: &Arc<FakeHost>, launcher: &Arc<FakeLauncher>, dir: &TempDir) -> Arc<Controller> {
        let notices = Notices::new().0;
        Controller::new(Setup {
            host: host.clone(),
            launcher: launcher.clone(),
            journal: Arc::new(Journal::new(notices.clone())),
            notices,
            state: StateRoot::open(&dir.path().join("state")).expect("free"),
            template: GroupConfig::default(),
        })
    }

    pub(crate) fn group(&self, caller: &Caller, name: &str) -> Arc<Group> {
        self.controller.create(caller, OsStr::new(name)).expect("a group")
    }

    pub(crate) fn pool(&self, caller: &Caller, name: &str) -> Arc<Pool> {
        self.pools.create(caller, OsStr::new(name)).expect("a group")
    }

    pub(crate) fn mem_worker(&self, pool: &Pool) -> Arc<FakeMemWorker> {
        self.mem_launcher.worker(&pool.dir).expect("its worker")
    }

    fn worker(&self, group: &Group) -> Arc<FakeWorker> {
        self.launcher.worker(&group.dir).expect("its worker")
    }

    fn held(&self, pid: i32, uid: u32) -> Arc<Group> {
        self.host.add(pid, uid);
        self.controller
            .create_held(&Caller { tid: pid, uid, gid: uid }, guest_sched::POLICIES[0])
            .expect("a group")
    }

    pub(crate) fn put(&self, pid: i32, to: &Group) -> Result<(), Refusal> {
        self.controller.place(pid, to.id)
    }

    fn at(&self, pid: i32) -> Option<GroupId> {
        self.controller.locate(pid).map(|(_, id)| id)
    }
}

pub(crate) fn user(uid: u32) -> Caller {
    Caller { tid: 0, uid, gid: uid }
}

pub(crate) fn errno<T>(result: Result<T, Refusal>) -> i32 {
    result.err().map_or(0, |e| e.errno())
}

pub(crate) fn eventually(mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(5);
    while !is_so() {
        assert!(Instant::now() < end, "it did not happen");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn process_moved_is_with_its_worker_and_nowhere_else() {
    let world = World::new();
    let (a, b) = (world.group(&ROOT, "a"), world.group(&ROOT, "b"));
    world.host.add(10, 1000);

    assert_eq!(world.put(10, &a), Ok(()));
    assert_eq!(world.controller.move_process(&ROOT, 10, a.id, b.id), Ok(()));

    assert!(world.worker(&a).pids().is_empty());
    assert_eq!((world.worker(&b).pids(), world.at(10)), (vec![10], Some(b.id)));
    assert_eq!(errno(world.put(10, &a)), libc::ESRCH, "it is not in group 0 any more");
}

#[test]
fn join_refused_leaves_the_process_where_it_was() {
    let world = World::new();
    let (a, b) = (world.group(&ROOT, "a"), world.group(&ROOT, "b"));
    world.host.add(10, 1000);
    world.put(10, &a).expect("moved");
    world.worker(&b).refuse_joins(true);

    assert_eq!(errno(world.controller.move_process(&ROOT, 10, a.id, b.id)), libc::EOPNOTSUPP);

    assert_eq!((world.worker(&a).pids(), world.at(10)), (vec![10], Some(a.id)));
}

#[test]
fn processes_that_cannot_be_members_are_refused() {
    let world = World::new();
    let a = world.group(&ROOT, "a");
    let driver = a.driver().expect("started");
    world.host.add(20, 0);
    world.host.change(20, |process| process.is_kernel_thread = true);
    world.host.add(1, 0);

    for pid in [20, 1, driver.keeper_pid()] {
        assert_eq!(errno(world.put(pid, &a)), libc::EOPNOTSUPP, "{pid}");
    }
    assert_eq!(errno(world.put(77, &a)), libc::ESRCH);
    assert_eq!(errno(world.put(driver.worker_pid(), &a)), libc::ELOOP, "its own representative");
}

#[test]
fn reused_pid_is_not_a_member() {
    let world = World::new();
    let a = world.group(&ROOT, "a");
    world.host.add(10, 1000);
    world.put(10, &a).expect("moved");

    world.host.change(10, |process| process.start_time += 1);

    assert_eq!(world.at(10), Some(GroupId::HOST));
    assert!(world.controller.members(a.id).is_empty());
}

#[test]
fn two_writers_move_one_process_once() {
    let world = World::new();
    let groups: Vec<_> = (0..8).map(|n| world.group(&ROOT, &format!("g{n}"))).collect();
    world.host.add(10, 1000);

    let results: Vec<i32> = std::thread::scope(|scope| {
        let writers: Vec<_> =
            groups.iter().map(|group| scope.spawn(|| errno(world.put(10, group)))).collect();
        writers.into_iter().map(|w| w.join().expect("no panic")).collect()
    });

    assert_eq!(results.iter().filter(|errno| **errno == 0).count(), 1, "{results:?}");
    assert!(results.iter().all(|errno| [0, libc::ESRCH].contains(errno)), "{results:?}");
    let holding: Vec<_> = groups.iter().filter(|group| !world.worker(group).pids().is_empty()).collect();
    assert_eq!(holding.iter().map(|group| group.id).collect::<Vec<_>>(), [world.at(10).expect("alive")]);
}

#[test]
fn two_writers_of_attributes_lose_nothing() {
    let world = World::new();
    let a = world.group(&ROOT, "a");

    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 1..=200 {
                world
                    .controller
                    .configure(&ROOT, &a, |c| {
                        c.vcpus = n;
                        Ok(())
                    })
                    .expect("set");
            }
        });
        scope.spawn(|| {
            for n in 1..=200 {
                world
                    .controller
                    .configure(&ROOT, &a, |c| {
                        c.slice_us = Some(1000 + n);
                        Ok(())
                    })
                    .expect("set");
            }
        });
    });

    let config = a.config();
    assert_eq!((config.vcpus, config.slice_us), (200, Some(1200)));
    assert_eq!(world.worker(&a).config(), config);
}

#[test]
fn removal_and_moves_race_without_losing_a_process() {
    for _ in 0..50 {
        let world = World::new();
        let a = world.group(&ROOT, "a");
        world.host.add(10, 1000);

        let (moved, removed) = std::thread::scope(|scope| {
            let mover = scope.spawn(|| errno(world.put(10, &a)));
            let remover = scope.spawn(|| errno(world.controller.remove(&ROOT, "a")));
            (mover.join().expect("no panic"), remover.join().expect("no panic"))
        });

        match (moved, removed) {
            (0, libc::EBUSY) => assert_eq!(world.at(10), Some(a.id)),
            (libc::EBUSY | libc::ENOENT, 0) => assert_eq!(world.at(10), Some(GroupId::HOST)),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn users_have_their_own_groups_and_processes_only() {
    let world = World::new();
    let (alices, roots) = (world.group(&user(1000), "alices"), world.group(&ROOT, "roots"));
    for (pid, uid) in [(10, 1000), (11, 1001)] {
        world.host.add(pid, uid);
    }
    let go = |uid, pid, from: GroupId, to: GroupId| {
        errno(world.controller.move_process(&user(uid), pid, from, to))
    };

    assert_eq!(go(1000, 11, GroupId::HOST, alices.id), libc::EPERM, "another's process");
    assert_eq!(go(1000, 10, GroupId::HOST, roots.id), libc::EPERM, "another's group");
    assert_eq!(go(1000, 10, GroupId::HOST, alices.id), 0);
    assert_eq!(go(1001, 10, alices.id, GroupId::HOST), libc::EPERM);
    assert_eq!(errno(world.controller.remove(&user(1001), "alices")), libc::EPERM);
    assert_eq!(errno(world.controller.chown(&user(1000), alices.id, Some(1001), None)), libc::EPERM);
    let process = world.controller.locate(10).expect("alive").0;
    assert_eq!(
        errno(world.controller.set_member_nice(&user(1000), &alices, &process, -20)),
        0,
        "its own group"
    );
    assert_eq!(go(1000, 10, alices.id, GroupId::HOST), 0);
    // In root's group Alice may only yield.
    world.put(10, &roots).expect("moved");
    assert_eq!(errno(world.controller.set_member_nice(&user(1000), &roots, &process, -1)), libc::EACCES);
    assert_eq!(errno(world.controller.set_member_nice(&user(1000), &roots, &process, 1)), 0);
}

#[test]
fn groups_beyond_the_limit_are_refused() {
    let world = World::new();
    {
        // Real ones would take a minute.
        let mut tables = world.controller.tables.lock();
        for n in 0..GROUPS_MAX - 1 {
            let setup = super::group::GroupSetup {
                config: guest_sched::host::GroupConfig { name: format!("g{n}"), ..Default::default() },
                uid: 0,
                gid: 0,
                holder: None,
                nested: None,
            };
            tables.add_group(&format!("g{n}"), |id| Group::new(id, "/nowhere".into(), setup)).expect("room");
        }
    }

    assert_eq!(errno(world.controller.create(&ROOT, OsStr::new("last"))), 0);
    assert_eq!(errno(world.controller.create(&ROOT, OsStr::new("more"))), libc::ENOSPC);
    assert_eq!(errno(world.controller.create(&ROOT, OsStr::new("last"))), libc::EEXIST);
}

#[test]
fn nesting_in_a_circle_is_refused() {
    let world = World::new();
    let groups = [world.held(100, 0), world.held(101, 0), world.held(102, 0)];
    world.put(101, &groups[0]).expect("nested");
    world.put(102, &groups[1]).expect("nested");

    assert_eq!(errno(world.put(100, &groups[2])), libc::ELOOP);

    assert_eq!(groups[0].outer(), None);
    assert!(world.worker(&groups[2]).is_gated() && !world.worker(&groups[0]).is_gated());
    assert_eq!(errno(world.controller.move_process(&ROOT, 101, groups[0].id, GroupId::HOST)), 0);
    assert!(!world.worker(&groups[1]).is_gated() && world.worker(&groups[0]).pids().is_empty());
    assert_eq!(world.put(100, &groups[2]), Ok(()), "no circle any more");
}

#[test]
fn group_released_returns_members_and_groups_outwards() {
    let world = World::new();
    let (outer, middle, inner) = (world.held(100, 0), world.held(101, 0), world.held(102, 0));
    world.host.add(10, 1000);
    world.put(101, &outer).expect("nested");
    world.put(102, &middle).expect("nested");
    world.put(10, &middle).expect("moved");

    world.controller.release(middle.id);

    assert_eq!(world.at(10), Some(outer.id));
    assert_eq!(inner.outer(), Some(outer.id));
    assert_eq!(world.worker(&outer).pids(), [10, 102]);
    assert!(world.controller.group(middle.id).is_err() && !middle.dir.exists());
    world.controller.release(outer.id);
    assert_eq!((world.at(10), inner.outer()), (Some(GroupId::HOST), None));
}

#[test]
fn held_group_is_busy_for_rmdir_and_for_a_second_hold() {
    let world = World::new();
    world.held(100, 0);

    assert_eq!(errno(world.controller.remove(&ROOT, "100")), libc::EBUSY);
    let again = world.controller.create_held(&Caller { tid: 100, uid: 0, gid: 0 }, guest_sched::POLICIES[0]);
    assert_eq!(errno(again), libc::EBUSY);
}

#[test]
fn holder_whose_number_is_reused_stands_for_nothing() {
    let world = World::new();
    let (held, other) = (world.held(100, 0), world.group(&ROOT, "other"));

    world.host.change(100, |process| process.start_time += 1);

    assert_eq!(world.put(100, &other), Ok(()));
    assert_eq!((held.outer(), world.worker(&other).pids()), (None, vec![100]));
}

#[test]
fn children_and_exits_reported_change_the_index() {
    let world = World::new();
    let a = world.group(&ROOT, "a");
    world.host.add(10, 1000);
    world.put(10, &a).expect("moved");
    world.host.add_child(11, 1000, 10);

    world.worker(&a).report(Event::Forked { parent: 10, child: 11 });

    eventually(|| world.at(11) == Some(a.id));
    world.host.end(10);
    world.worker(&a).report(Event::Exited { pid: 10 });
    eventually(|| world.controller.nr_members(a.id) == 1);
}

#[test]
fn child_that_was_not_reported_yet_is_known_to_be_a_member() {
    let world = World::new();
    let a = world.group(&ROOT, "a");
    world.host.add(10, 1000);
    world.put(10, &a).expect("moved");
    world.host.add_child(11, 1000, 10);
    world.worker(&a).fork_silently(11);

    assert_eq!(errno(world.put(11, &a)), libc::ESRCH, "it is not in group 0");
    assert_eq!(world.at(11), Some(a.id));
}

#[test]
fn worker_that_dies_is_found_again_with_its_members() {
    let world = World::new();
    let (a, inner) = (world.group(&ROOT, "a"), world.held(100, 0));
    world.host.add(10, 1000);
    world.put(10, &a).expect("moved");
    world.put(100, &a).expect("nested");

    let journal = world.controller.journal().open_events(0);

    world.worker(&a).die();

    let mut told = String::new();
    eventually(|| {
        let more = journal.read(&ROOT, 4096).expect("a read").unwrap_or_default();
        told.push_str(&String::from_utf8_lossy(&more));
        told.contains("event=reconnected group=a members=")
    });
    eventually(|| a.driver().is_ok() && world.at(10) == Some(a.id));
    assert_eq!(inner.outer(), Some(a.id));
}

#[test]
fn groups_of_an_earlier_daemon_are_adopted() {
    let mut world = World::new();
    let (outer, held) = (world.group(&user(1000), "outer"), world.held(100, 1001));
    world.host.add(10, 1000);
    world.put(10, &outer).expect("moved");
    world.put(100, &outer).expect("nested");
    let (outer_worker, held_worker) = (world.worker(&outer), world.worker(&held));
    world
        .controller
        .configure(&user(1000), &outer, |c| {
            c.vcpus = 3;
            Ok(())
        })
        .expect("set");
    std::fs::write(outer.dir.join("config.json"), serde_json::to_vec(&outer.config()).expect("text"))
        .expect("kept");
    // The daemon dies: its listeners go with it, so that its lock is free.
    for worker in [&outer_worker, &held_worker] {
        for group in [&outer, &held] {
            *group.phase.write() = super::group::Phase::Removing;
        }
        worker.die();
    }
    world.host.end(100);
    let other = World::new();
    world.pools = other.pools.clone();
    let old = Arc::downgrade(&std::mem::replace(&mut world.controller, other.controller.clone()));
    drop((outer, held));
    eventually(|| old.strong_count() == 0);
    let controller = World::start(&world.host, &world.launcher, &world.dir);

    controller.adopt_all();

    let outer = controller.group_named("outer").expect("adopted");
    let held = controller.group_named("100").expect("adopted");
    assert_eq!((outer.owner().0, outer.config().vcpus, held.owner().0), (1000, 3, 1001));
    assert_eq!(controller.locate(10).map(|(_, id)| id), Some(outer.id));
    assert!(held.holder().is_none(), "it lasts now");
    let stands_for_it = held.representative().expect("its worker");
    assert_eq!(held.outer(), Some(outer.id));
    assert_eq!(outer_worker.pids(), [10, stands_for_it]);
    assert_eq!(controller.remove(&user(1001), "100"), Ok(()));
}
