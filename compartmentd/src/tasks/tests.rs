//! Real applications at a real socket, without a mount; and some that lie.

use std::fs::File;
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use guest_task::layout::{FIRST_SLOTS, SLOT_BYTES};
use guest_task::wire::{MESSAGE_MAX, ToApplication, ToDaemon, VERSION};
use guest_task::{Accepts, Action, Options, Registry, Status, Task, TaskSpec};
use host_sys::SeqPacket;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use super::*;
use crate::errno::Refusal;
use crate::groups::{Caller, Journal};
use crate::notices::Notices;

const ROOT: Caller = Caller::DAEMON;

struct World {
    guests: Arc<Guests>,
    socket: PathBuf,
    _listening: Listening,
    _dir: tempfile::TempDir,
}

fn me() -> i32 {
    std::process::id() as i32
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let notices = Notices::new().0;
        let journal = Arc::new(Journal::new(notices.clone()));
        let guests = Arc::new(Guests::new(journal, notices, dir.path()));
        let socket = dir.path().join("sock");
        let listening = listen(guests.clone(), &socket).expect("bound");
        Self { guests, socket, _listening: listening, _dir: dir }
    }

    fn registry(&self) -> Registry {
        let registry = Registry::connect(Options::default().socket(&self.socket)).expect("a registry");
        assert_eq!(registry.wait_answer(Duration::from_secs(10)), Status::Connected);
        registry
    }

    fn pids(&self) -> Vec<i32> {
        self.guests.list(me())
    }

    fn name(&self, pid: i32) -> Option<String> {
        self.guests.find(pid).ok().map(|found| found.view.name)
    }

    /// A connection that says what it wants.
    fn raw(&self) -> SeqPacket {
        SeqPacket::connect(&self.socket).expect("connected")
    }
}

fn errno<T>(result: Result<T, Refusal>) -> i32 {
    result.err().map_or(0, |e| e.errno())
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn reason(socket: &SeqPacket) -> String {
    let mut bytes = [0; MESSAGE_MAX];
    match socket.recv(&mut bytes) {
        Ok((n @ 1.., _)) => match ToApplication::decode(&bytes[..n]) {
            Ok(ToApplication::Refused { reason, .. }) => reason,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

fn segment(slots: u32) -> File {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let file = File::from(memfd_create(c"lies", flags).expect("memory"));
    file.set_len(u64::from(slots) * SLOT_BYTES as u64).expect("memory");
    file.write_all_at(&guest_task::layout::MAGIC.to_ne_bytes(), 0).expect("memory");
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).expect("sealed");
    file
}

#[test]
fn task_keeps_its_number_and_no_other_gets_it() {
    let world = World::new();
    let registry = world.registry();
    let (a, b) = (registry.publish(TaskSpec::new("a")), registry.publish(TaskSpec::new("b")));

    let pids = world.pids();
    assert!(pids.len() == 2 && pids.iter().all(|pid| *pid >= FIRST_PID));
    assert_eq!(world.pids(), pids);
    let of_a = pids.iter().copied().find(|pid| world.name(*pid).as_deref() == Some("a")).expect("a is there");
    drop(a);
    let c = registry.publish(TaskSpec::new("c"));
    assert_eq!(errno(world.guests.find(of_a)), libc::ESRCH);
    let later = world.pids();
    assert!(later.len() == 2 && !later.contains(&of_a), "{later:?}");
    drop((b, c));
    assert!(world.pids().is_empty());
}

#[test]
fn numbers_stay_while_several_look_and_tasks_come_and_go() {
    let world = World::new();
    let registry = world.registry();
    let kept: Vec<Task> = (0..200).map(|_| registry.publish(TaskSpec::new("kept"))).collect();
    let named = |world: &World| {
        let all = world.guests.views(me()).expect("alone").into_iter();
        all.filter(|(_, _, view)| view.name == "kept").map(|(pid, ..)| pid).collect::<Vec<_>>()
    };
    let before = named(&world);
    let is_over = std::sync::atomic::AtomicBool::new(false);

    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut given = std::collections::HashMap::new();
                while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                    world.pids();
                    for (pid, _, view) in world.guests.views(me()).expect("alone") {
                        // A number is never another task's.
                        assert_eq!(given.entry(pid).or_insert_with(|| view.start_ns), &view.start_ns);
                    }
                }
            });
        }
        for i in 1..3_000 {
            let passing: Vec<Task> =
                (0..8).map(|k| registry.publish(TaskSpec::new("passing").start_ns(i * 8 + k))).collect();
            std::hint::black_box(&passing);
        }
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
    });

    assert_eq!(named(&world), before);
    drop(kept);
}

#[test]
fn parent_is_a_task_or_the_application() {
    let world = World::new();
    let registry = world.registry();
    let parent = registry.publish(TaskSpec::new("parent"));
    let child = registry.publish(TaskSpec::new("child").parent(parent.id()));
    let by_name = |name: &str| {
        world.pids().into_iter().find(|pid| world.name(*pid).as_deref() == Some(name)).expect("is there")
    };
    let ppid = |pid| world.guests.parent(&world.guests.find(pid).expect("is there"));

    assert_eq!(ppid(by_name("parent")), me());
    assert_eq!(ppid(by_name("child")), by_name("parent"));
    let of_child =
        world.guests.views(me()).expect("alone").into_iter().find(|(_, _, view)| view.name == "child");
    assert_eq!(of_child.map(|(_, ppid, _)| ppid), Some(by_name("parent")));
    drop(parent);
    assert_eq!(ppid(by_name("child")), me());
    drop(child);
}

#[test]
fn signals_and_nice_reach_the_application_if_it_takes_them_and_the_caller_may() {
    let world = World::new();
    let registry = world.registry();
    let task = registry.publish(TaskSpec::new("a").accepts(Accepts::NONE.signal(15).nice()));
    let deaf = registry.publish(TaskSpec::new("deaf"));
    let find = |name: &str| {
        let all = world.pids().into_iter().map(|pid| world.guests.find(pid).expect("is there"));
        all.into_iter().find(|found| found.view.name == name).expect("is there")
    };
    let (found, other) = (find("a"), find("deaf"));
    let stranger = Caller { tid: 0, uid: 12_345, gid: 12_345 };

    assert_eq!(errno(world.guests.signal(&stranger, &found, 15)), libc::EPERM);
    assert_eq!(errno(world.guests.renice(&stranger, &found, 5)), libc::EPERM);
    assert_eq!(errno(world.guests.signal(&ROOT, &found, 9)), libc::EOPNOTSUPP);
    assert_eq!(errno(world.guests.signal(&ROOT, &other, 15)), libc::EOPNOTSUPP);
    assert_eq!(errno(world.guests.renice(&ROOT, &other, 5)), libc::EOPNOTSUPP);
    assert_eq!(world.guests.signal(&ROOT, &other, 0), Ok(()));
    assert_eq!(world.guests.signal(&ROOT, &found, 15), Ok(()));
    assert_eq!(world.guests.renice(&ROOT, &found, -7), Ok(()));
    let mut got = Vec::new();
    wait_until("two events", || {
        got.extend(std::iter::from_fn(|| registry.next_event()).map(|event| (event.task, event.action)));
        got.len() == 2
    });
    assert_eq!(got, [(task.id(), Action::Signal(15)), (task.id(), Action::Nice(-7))]);
    drop((task, deaf));
    assert_eq!(errno(world.guests.find(0)), libc::ESRCH);
}

#[test]
fn signals_that_are_not_taken_are_refused_in_the_end() {
    let world = World::new();
    let registry = world.registry();
    let _task = registry.publish(TaskSpec::new("a").accepts(Accepts::ALL));
    let found = world.guests.find(world.pids()[0]).expect("is there");

    let refused = (0..100_000).find_map(|_| world.guests.signal(&ROOT, &found, 1).err());

    assert_eq!(refused.map(|why| why.errno()), Some(libc::EAGAIN));
    let mut got = 0;
    wait_until("those that were taken", || {
        got += std::iter::from_fn(|| registry.next_event()).count();
        got > 256
    });
}

#[test]
fn application_with_two_connections_is_one_group() {
    let world = World::new();
    let (first, second) = (world.registry(), world.registry());
    let _tasks: Vec<Task> = [&first, &second].map(|r| r.publish(TaskSpec::new("x"))).into();

    assert_eq!(world.guests.apps().len(), 1);
    assert_eq!(world.pids().len(), 2);
    assert_eq!(world.guests.count(me()), (2, 2 * u64::from(FIRST_SLOTS)));
    drop(first);
    wait_until("one is gone", || world.pids().len() == 1);
    drop(second);
    wait_until("both are gone", || world.guests.app(me()).is_none());
}

#[test]
fn tasks_by_the_hundred_thousand_are_listed_once_each() {
    let world = World::new();
    let registry = world.registry();
    let tasks: Vec<Task> = (0..100_000).map(|_| registry.publish(TaskSpec::new("x"))).collect();

    wait_until("all segments to be handed over", || world.guests.count(me()).0 == tasks.len());
    let mut pids = world.pids();
    assert_eq!(pids.len(), tasks.len());
    pids.dedup();
    assert_eq!(pids.len(), tasks.len());
    let views: Vec<i32> = world.guests.views(me()).expect("alone").into_iter().map(|(pid, ..)| pid).collect();
    assert_eq!(views, pids);
    drop(tasks);
    assert!(world.pids().is_empty());
}

#[test]
fn handshakes_that_go_wrong_are_told_why_and_change_nothing() {
    let world = World::new();
    let registry = world.registry();
    let _task = registry.publish(TaskSpec::new("other"));
    let hello = ToDaemon::Hello { version: VERSION }.encode();
    let first = ToDaemon::Segment { index: 0 }.encode();
    let plain = tempfile::tempfile().expect("a file");
    let (good, small) = (segment(FIRST_SLOTS), segment(1));
    type Messages<'a> = Vec<(&'a [u8], Option<&'a File>)>;
    let cases: [(&str, Messages<'_>); 9] = [
        ("not a message", vec![(b"GET / HTTP/1.1\r\n", None)]),
        ("wrong length", vec![(&hello[..10], None)]),
        ("too long", vec![(&[0; 1000], None)]),
        ("HELLO comes first", vec![(&first, Some(&good))]),
        ("HELLO comes first", vec![(&hello, None), (&hello, None)]),
        ("with a descriptor", vec![(&hello, None), (&first, None)]),
        ("with a segment only", vec![(&hello, Some(&good))]),
        ("is a memfd", vec![(&hello, None), (&first, Some(&plain))]),
        ("has the size", vec![(&hello, None), (&first, Some(&small))]),
    ];
    for (words, messages) in cases {
        let socket = world.raw();
        for (bytes, file) in messages {
            socket.send(bytes, file.map(|f| f.as_fd())).expect("sent");
        }
        let reason = reason(&socket);
        assert!(reason.contains(words), "{words}: {reason}");
        assert!(socket.recv(&mut [0; 8]).map_or(true, |(n, _)| n == 0), "it hangs up");
    }
    let socket = world.raw();
    let strange = [&ToDaemon::Hello { version: 7 }.encode()[..], b"and more"].concat();
    socket.send(&strange, None).expect("sent");
    assert!(reason(&socket).contains("speaks version 1 of guest tasks, the application 7"));

    assert_eq!(world.pids().len(), 1);
    assert_eq!(registry.status(), Status::Connected);
}

#[test]
fn descriptors_sent_by_the_dozen_are_all_closed() {
    let world = World::new();
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("sent");
    let file = File::create(&path).expect("a file");
    let fds = [file.as_raw_fd(); 20];
    for flags in [MsgFlags::empty(), MsgFlags::MSG_NOSIGNAL] {
        for bytes in [&ToDaemon::Hello { version: VERSION }.encode()[..], &[0; 1_000]] {
            let socket = world.raw();
            let control = [ControlMessage::ScmRights(&fds)];
            sendmsg::<()>(socket.as_fd().as_raw_fd(), &[IoSlice::new(bytes)], &control, flags, None)
                .expect("sent");
            reason(&socket);
        }
    }
    drop(file);

    wait_until("all to be closed", || {
        let open = std::fs::read_dir("/proc/self/fd").expect("procfs").flatten();
        !open.filter_map(|fd| std::fs::read_link(fd.path()).ok()).any(|to| to == path)
    });
}

#[test]
fn connection_that_says_nothing_is_ended() {
    let world = World::new();
    let silent = world.raw();

    assert!(reason(&silent).contains("in time"));
}

#[test]
fn registered_application_that_sends_nonsense_is_ended() {
    let world = World::new();
    let file = segment(FIRST_SLOTS);
    for slot in 0..FIRST_SLOTS {
        let noise: Vec<u8> =
            (0..SLOT_BYTES as u32).map(|i| ((i * 31 + slot * 7) ^ (slot >> 3)) as u8 | 1).collect();
        file.write_all_at(&noise, u64::from(slot) * SLOT_BYTES as u64).expect("memory");
    }
    file.write_all_at(&guest_task::layout::MAGIC.to_ne_bytes(), 0).expect("memory");
    file.write_all_at(&u64::MAX.to_ne_bytes(), 8).expect("memory");
    let socket = world.raw();
    socket.send(&ToDaemon::Hello { version: VERSION }.encode(), None).expect("sent");
    socket.send(&ToDaemon::Segment { index: 0 }.encode(), Some(file.as_fd())).expect("sent");
    let mut bytes = [0; MESSAGE_MAX];
    let (n, _) = socket.recv(&mut bytes).expect("an answer");
    assert!(matches!(ToApplication::decode(&bytes[..n]), Ok(ToApplication::Welcome { .. })));

    // Every slot claims to be a task in the middle of a change.
    let pids = world.pids();
    assert_eq!(pids.len(), FIRST_SLOTS as usize - 1);
    for pid in pids.iter().take(500) {
        let found = world.guests.find(*pid).expect("as it says");
        assert!(!found.view.name.contains(char::is_control));
        world.guests.parent(&found);
    }
    for _ in 0..1000 {
        if socket.try_send(b"x").is_err() {
            break;
        }
    }
    wait_until("it is gone", || world.guests.app(me()).is_none());
    assert_eq!(errno(world.guests.find(pids[0])), libc::ESRCH);
}
