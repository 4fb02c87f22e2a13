//! A registry against a made-up daemon: hand-over, growth, events, a daemon that goes and comes, another version, `fork`.

use std::collections::HashSet;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use guest_task::layout::{self, ID_AT, SLOT_BYTES, SlotView};
use guest_task::wire::{MESSAGE_MAX, ToApplication, ToDaemon, VERSION};
use guest_task::{Accepts, Action, Event, Options, Registry, Status, Task, TaskSpec, TaskState};
use host_sys::{Listener, SeqPacket};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// A daemon at a socket in a directory of its own.
struct Daemon {
    listener: Listener,
    path: PathBuf,
    _dir: tempfile::TempDir,
}

/// An application's connection as the daemon has it.
struct Client {
    socket: SeqPacket,
    segments: Vec<File>,
}

impl Daemon {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("sock");
        Self { listener: Listener::bind(&path).expect("bound"), path, _dir: dir }
    }

    fn accept(&self) -> Client {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match self.listener.accept() {
                Ok(socket) => return Client { socket, segments: Vec::new() },
                Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(2)),
                Err(e) => panic!("nobody connects: {e}"),
            }
        }
    }

    /// Accepts and welcomes an application.
    fn welcome(&self) -> Client {
        let mut client = self.accept();
        assert_eq!(client.recv().0, ToDaemon::Hello { version: VERSION });
        client.take_segment();
        client.send(&ToApplication::Welcome { version: VERSION, slots_max: 1 << 20 });
        client
    }
}

impl Client {
    fn recv(&self) -> (ToDaemon, Option<OwnedFd>) {
        let mut bytes = [0; MESSAGE_MAX];
        let (n, fd) = self.socket.recv(&mut bytes).expect("a message");
        (ToDaemon::decode(&bytes[..n]).expect("one of ours"), fd)
    }

    fn take_segment(&mut self) {
        let (message, fd) = self.recv();
        assert_eq!(message, ToDaemon::Segment { index: self.segments.len() as u32 });
        self.segments.push(fd.expect("a descriptor").into());
    }

    fn send(&self, message: &ToApplication) {
        self.socket.send(&message.encode(), None).expect("sent");
    }

    fn slot(&self, slot: u32) -> Option<SlotView> {
        let (segment, at) = layout::locate(slot);
        let mut bytes = [0; SLOT_BYTES];
        self.segments[segment].read_exact_at(&mut bytes, (at * SLOT_BYTES) as u64).expect("within");
        layout::parse(&bytes)
    }

    fn view(&self, task: &Task) -> Option<SlotView> {
        self.slot(task.id().slot())
    }
}

fn connect(daemon: &Daemon) -> Registry {
    Registry::connect(Options::default().socket(&daemon.path)).expect("a registry")
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn task_published_is_in_the_table_until_dropped() {
    let daemon = Daemon::new();
    let registry = connect(&daemon);
    let client = daemon.welcome();
    let parent = registry.publish(TaskSpec::new("parent"));
    let spec = TaskSpec::new("child").cmdline("child\0-x\0").owner("alice").nice(-3).parent(parent.id());
    let mut task = registry.publish(spec.accepts(Accepts::NONE.signal(9).nice()).start_ns(77));

    let view = client.view(&task).expect("is there");
    assert_eq!((&*view.name, &*view.owner, &*view.cmdline), ("child", "alice", "child\0-x\0"));
    assert_eq!((view.nice, view.signals, view.takes_nice, view.start_ns), (-3, 1 << 8, true, 77));
    assert_eq!((view.parent, view.state), (Some(parent.id()), TaskState::Running));
    task.set_state(TaskState::Stopped);
    task.set_nice(19);
    task.add_cpu_time_ns(5);
    task.set_texts("other name", "", "one line");
    task.set_accepts(Accepts::NONE);
    let view = client.view(&task).expect("is there");
    assert_eq!((&*view.name, &*view.owner, &*view.cmdline), ("other name", "", "one line\0"));
    assert_eq!((view.state, view.nice, view.cpu_ns), (TaskState::Stopped, 19, 5));
    assert_eq!((view.signals, view.takes_nice), (0, false));
    let (slot, id) = (task.id().slot(), task.id());
    drop(task);
    assert_eq!(client.slot(slot), None);
    let next = registry.publish(TaskSpec::new("next"));
    assert!(next.id().slot() == slot && next.id() != id, "the slot is used again, under another name");
}

#[test]
fn segments_are_sealed_and_follow_as_the_table_grows() {
    let daemon = Daemon::new();
    let registry = connect(&daemon);
    let mut client = daemon.welcome();

    let tasks: Vec<Task> = (0..20_000).map(|_| registry.publish(TaskSpec::new("x"))).collect();
    client.take_segment();
    client.take_segment();

    let slots: HashSet<u32> = tasks.iter().map(|task| task.id().slot()).collect();
    assert_eq!(slots.len(), tasks.len());
    assert!(tasks.iter().all(|task| client.view(task).is_some()));
    for (index, file) in client.segments.iter().enumerate() {
        let seals = SealFlag::from_bits_retain(fcntl(file, FcntlArg::F_GET_SEALS).expect("a memfd"));
        assert!(seals.contains(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL));
        let slots = u64::from(layout::segment_slots(index));
        assert_eq!(file.metadata().expect("a file").len(), slots * SLOT_BYTES as u64);
    }
}

#[test]
fn events_are_delivered_by_descriptor_and_not_for_ended_tasks() {
    let daemon = Daemon::new();
    let registry = connect(&daemon);
    let client = daemon.welcome();
    let (first, second) = (registry.publish(TaskSpec::new("a")), registry.publish(TaskSpec::new("b")));
    let ended = first.id();
    let event = |task, action| ToApplication::Event(Event { task, action });
    drop(first);

    client.send(&event(ended, Action::Signal(15)));
    client.send(&event(second.id(), Action::Nice(5)));

    let mut fds = [PollFd::new(registry.event_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut fds, PollTimeout::from(10_000u16)), Ok(1));
    assert_eq!(registry.next_event(), Some(Event { task: second.id(), action: Action::Nice(5) }));
    assert_eq!(registry.next_event(), None);
}

#[test]
fn events_beyond_the_queue_wait_in_the_socket() {
    let daemon = Daemon::new();
    let registry = connect(&daemon);
    let client = daemon.welcome();
    let task = registry.publish(TaskSpec::new("a"));
    let message = ToApplication::Event(Event { task: task.id(), action: Action::Signal(1) }).encode();

    let mut sent = 0;
    let full = |sent: &mut usize| {
        while client.socket.try_send(&message).is_ok() {
            *sent += 1;
        }
    };
    full(&mut sent);
    wait_until("it stops taking them", || {
        let before = sent;
        std::thread::sleep(Duration::from_millis(20));
        full(&mut sent);
        sent == before
    });

    assert!(sent < 10_000, "{sent}");
    let mut got = 0;
    wait_until("all of them", || {
        got += std::iter::from_fn(|| registry.next_event()).count();
        got == sent
    });
}

#[test]
fn callback_that_panics_does_not_end_the_connection() {
    let daemon = Daemon::new();
    let (tx, rx) = channel();
    let tx = std::sync::Mutex::new(tx);
    let handle = move |event: Event| {
        tx.lock().expect("not poisoned").send(event.action).expect("heard");
        assert!(event.action != Action::Signal(1), "on purpose");
    };
    let registry =
        Registry::connect(Options::default().socket(&daemon.path).on_event(handle)).expect("a registry");
    let client = daemon.welcome();
    let task = registry.publish(TaskSpec::new("a"));

    for signal in [2, 3] {
        client.send(&ToApplication::Event(Event { task: task.id(), action: Action::Signal(signal) }));
    }

    let got: Vec<_> = (0..2).map(|_| rx.recv_timeout(Duration::from_secs(10)).expect("an event")).collect();
    assert_eq!(got, [Action::Signal(2), Action::Signal(3)]);
}

#[test]
fn daemon_that_comes_late_or_again_is_handed_the_same_table() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("sock");
    let registry = Registry::connect(Options::default().socket(&path)).expect("a registry");
    let task = registry.publish(TaskSpec::new("early"));
    assert_eq!(registry.wait_answer(Duration::from_millis(50)), Status::Absent);

    for _ in 0..3 {
        let daemon = Daemon {
            listener: Listener::bind(&path).expect("bound"),
            path: path.clone(),
            _dir: tempfile::tempdir().expect("a directory"),
        };
        let begin = Instant::now();
        let client = daemon.welcome();
        assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
        assert_eq!(client.view(&task).map(|view| view.name), Some("early".into()));
        wait_until("it knows", || registry.status() == Status::Connected);
        drop((client, daemon));
        wait_until("it knows", || registry.status() == Status::Absent);
    }
}

#[test]
fn daemon_of_another_version_is_told_of_and_changes_nothing() {
    let daemon = Daemon::new();
    let registry = connect(&daemon);
    let client = daemon.accept();
    client.recv();
    client.send(&ToApplication::Refused { version: 9, reason: "version 9 here".into() });

    assert_eq!(registry.wait_answer(Duration::from_secs(10)), Status::Refused("version 9 here".into()));
    assert!(registry.publish(TaskSpec::new("x")).is_shown());
}

#[test]
fn connection_ends_with_the_last_registry() {
    let daemon = Daemon::new();
    let registry = connect(&daemon);
    let client = daemon.welcome();
    let other = registry.clone();

    drop(registry);
    let task = other.publish(TaskSpec::new("x"));
    drop(other);

    // Or reset, if it has not read the welcome.
    assert!(client.socket.recv(&mut [0; 8]).map_or(true, |(n, _)| n == 0));
    // Nobody looks any more, and nothing breaks.
    task.set_state(TaskState::Waiting);
}

#[test]
fn threads_publish_and_retire_without_meeting() {
    let daemon = Daemon::new();
    let registry = connect(&daemon);
    let client = daemon.welcome();

    std::thread::scope(|scope| {
        for t in 0..4 {
            let (registry, client) = (&registry, &client);
            scope.spawn(move || {
                let mut held = Vec::new();
                for i in 0..2_000 {
                    let name = format!("{t}-{i}");
                    held.push((registry.publish(TaskSpec::new(&name)), name));
                    if i % 3 == 0 {
                        let (task, name) = held.swap_remove(i % held.len());
                        if task.id().slot() < layout::segment_slots(0) {
                            assert_eq!(client.view(&task).map(|view| view.name), Some(name));
                        }
                    }
                }
                // Retired by another thread.
                held
            });
        }
    });

    let mut table = vec![0; layout::segment_slots(0) as usize * SLOT_BYTES];
    client.segments[0].read_exact_at(&mut table, 0).expect("within");
    let live = table.chunks(SLOT_BYTES).skip(1).filter(|slot| slot[ID_AT] & 1 == 1).count();
    assert_eq!(live, 0);
}
