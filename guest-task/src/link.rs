//! The thread that keeps a daemon informed: it connects, hands the table over, and takes events.
//!
//! While there is no daemon it sleeps until something is made in the socket's directory.

use std::io;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use host_sys::SeqPacket;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::SigSet;

use crate::events::Event;
use crate::layout::ID;
use crate::place;
use crate::registry::{Inner, Options, Status};
use crate::task::TaskId;
use crate::wire::{MESSAGE_MAX, ToApplication, ToDaemon, VERSION};

const RETRY_FIRST: Duration = Duration::from_millis(10);
/// How often to look where the socket's directory cannot be watched, or a daemon refuses.
const RETRY_LAST: Duration = Duration::from_secs(10);

/// Starts it, with every signal left to the application's own threads.
pub(crate) fn start(inner: &'static Inner, options: Options) -> io::Result<()> {
    let old = SigSet::thread_get_mask()?;
    SigSet::all().thread_block()?;
    let link =
        Link { inner, places: place::candidates(options.socket.as_deref()), on_event: options.on_event };
    let started = std::thread::Builder::new().name("guest-tasks".into()).spawn(move || link.run());
    old.thread_set_mask()?;
    started.map(drop)
}

/// Whether a task is still the one of that name.
pub(crate) fn is_live(inner: &Inner, task: TaskId) -> bool {
    inner.table.slot(task.slot()).is_some_and(|slot| task.is(slot[ID].load(Ordering::Acquire)))
}

struct Link {
    inner: &'static Inner,
    places: Vec<PathBuf>,
    on_event: Option<Box<dyn Fn(Event) + Send + Sync>>,
}

/// How a connection ended.
enum End {
    Closed,
    Lost,
    Refused(String),
}

impl Link {
    fn run(self) {
        let mut pause = RETRY_FIRST;
        // Watched before the first try, so that nothing is missed between the two.
        let mut watch = self.watch();
        while !self.inner.is_closed() {
            let connected = self.places.iter().find_map(|path| SeqPacket::connect(path).ok());
            let end = connected.map_or(End::Lost, |socket| self.serve(&socket, &mut pause));
            match end {
                End::Closed => return,
                End::Lost => self.inner.set_status(Status::Absent),
                End::Refused(reason) => {
                    self.inner.set_status(Status::Refused(reason));
                    pause = RETRY_LAST;
                }
            }
            if self.sleep(watch.as_ref(), pause) {
                pause = RETRY_FIRST;
            } else {
                pause = (pause * 2).min(RETRY_LAST);
            }
            if watch.is_none() {
                watch = self.watch();
            }
        }
    }

    fn watch(&self) -> Option<Inotify> {
        let watch = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).ok()?;
        let dirs = self.places.iter().filter_map(|path| path.parent());
        let dirs = dirs.map(|dir| if dir.as_os_str().is_empty() { Path::new(".") } else { dir });
        let what = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_ATTRIB;
        let watched = dirs.filter(|dir| watch.add_watch(*dir, what).is_ok()).count();
        (watched > 0).then_some(watch)
    }

    /// Sleeps that long, or until woken: then, if it was by the socket's directory, gives true.
    fn sleep(&self, watch: Option<&Inotify>, time: Duration) -> bool {
        let timeout = PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
        let mut fds = vec![PollFd::new(self.inner.wake.as_fd(), PollFlags::POLLIN)];
        fds.extend(watch.map(|watch| PollFd::new(watch.as_fd(), PollFlags::POLLIN)));
        let _ = poll(&mut fds, timeout);
        let _ = self.inner.wake.read();
        let Some(events) = watch.and_then(|watch| watch.read_events().ok()) else { return false };
        // Others make files there too.
        let is_named = |path: &PathBuf| events.iter().any(|e| e.name.as_deref() == path.file_name());
        self.places.iter().any(is_named)
    }

    /// Hands the table over and takes events until the connection ends.
    fn serve(&self, socket: &SeqPacket, pause: &mut Duration) -> End {
        let mut handed_over = 0;
        if socket.send(&ToDaemon::Hello { version: VERSION }.encode(), None).is_err() {
            return self.last_words(socket);
        }
        loop {
            for (index, file) in self.inner.table.files(handed_over) {
                let message = ToDaemon::Segment { index: index as u32 }.encode();
                if socket.send(&message, Some(file)).is_err() {
                    return self.last_words(socket);
                }
                handed_over = index + 1;
            }
            let wants_events = self.on_event.is_some() || !self.inner.queue.is_full();
            let flags = if wants_events { PollFlags::POLLIN } else { PollFlags::empty() };
            let mut fds =
                [PollFd::new(self.inner.wake.as_fd(), PollFlags::POLLIN), PollFd::new(socket.as_fd(), flags)];
            let _ = poll(&mut fds, PollTimeout::NONE);
            let has_hung_up =
                fds[1].revents().is_some_and(|e| e.intersects(PollFlags::POLLHUP | PollFlags::POLLERR));
            let _ = self.inner.wake.read();
            if self.inner.is_closed() {
                return End::Closed;
            }
            if let Some(end) = self.receive(socket, pause) {
                return end;
            }
            if has_hung_up && !wants_events {
                return End::Lost;
            }
        }
    }

    /// Takes what has come, as far as there is room for it.
    fn receive(&self, socket: &SeqPacket, pause: &mut Duration) -> Option<End> {
        let mut bytes = [0; MESSAGE_MAX];
        while self.on_event.is_some() || !self.inner.queue.is_full() {
            let message = match socket.try_recv(&mut bytes) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return None,
                Ok((0, _)) | Err(_) => return Some(End::Lost),
                Ok((n, _)) => ToApplication::decode(&bytes[..n]),
            };
            match message {
                Ok(ToApplication::Welcome { .. }) => {
                    *pause = RETRY_FIRST;
                    self.inner.set_status(Status::Connected);
                }
                Ok(ToApplication::Refused { reason, .. }) => return Some(End::Refused(reason)),
                Ok(ToApplication::Event(event)) => self.deliver(event),
                Err(_) => return Some(End::Lost),
            }
        }
        None
    }

    /// A daemon that refuses says why before it hangs up.
    fn last_words(&self, socket: &SeqPacket) -> End {
        let mut unused = Duration::ZERO;
        self.receive(socket, &mut unused).unwrap_or(End::Lost)
    }

    fn deliver(&self, event: Event) {
        if !is_live(self.inner, event.task) {
            return;
        }
        match &self.on_event {
            // The application's fault is not the connection's.
            Some(handle) => drop(catch_unwind(AssertUnwindSafe(|| handle(event)))),
            None => self.inner.queue.push(event),
        }
    }
}
