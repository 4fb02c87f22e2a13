//! The socket: who connects, and may; and who is gone. One thread, asleep until something happens.
//!
//! A connection: *new* → (HELLO) *greeted* → (segment 0) *registered*. Anything else than what comes next ends it, with the reason told; so does
//! the end of the process that made it, even where a child has inherited the socket.

use std::collections::HashMap;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use guest_task::wire::{MESSAGE_MAX, ToApplication, ToDaemon, VERSION};
use host_sys::{Listener, Pidfd, SeqPacket};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use parking_lot::Mutex;

use super::client::Client;
use super::guests::Guests;
use super::{SEGMENTS_MAX, USER_CLIENTS_MAX, table};

/// How long a connection may take to hand its table over.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// The most connections of one user that have not done so yet.
const USER_NEW_MAX: usize = 64;
/// With so many descriptors that were no tables and are not closed yet a user is not listened to.
const USER_BAD_MAX: u32 = 64;
/// Descriptors of the daemon that are not for connections.
const FDS_KEPT: u64 = 16_384;
const FDS_PER_CLIENT: u64 = 3;
const EVENTS: usize = 64;

/// A socket that is listened at; taken away when dropped.
#[derive(Debug)]
pub struct Listening(PathBuf);

impl Drop for Listening {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Listens at `path` for applications: anybody's if we are root, else those of our user.
///
/// # Errors
/// Those of binding, and `AlreadyExists` if something is there that is no socket.
pub fn listen(guests: Arc<Guests>, path: &Path) -> io::Result<Listening> {
    if fs::symlink_metadata(path).is_ok_and(|meta| !meta.file_type().is_socket()) {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let listener = Listener::bind(path)?;
    let listening = Listening(path.to_owned());
    let is_root = nix::unistd::geteuid().is_root();
    // Connecting is refused until here to whom it shall be; who was too early hears of this change.
    fs::set_permissions(path, Permissions::from_mode(if is_root { 0o666 } else { 0o600 }))?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
    let closing = Closing::default();
    let closer = closing.start()?;
    let door = Door {
        guests,
        listener,
        epoll,
        closer,
        clients_max: raise_limit(),
        conns: HashMap::new(),
        new: HashMap::new(),
        closing,
        last: 0,
    };
    thread::Builder::new().name("guest-tasks".into()).spawn(move || door.run())?;
    Ok(listening)
}

/// Allows ourselves as many descriptors as we may have; gives how many connections that is good for.
fn raise_limit() -> usize {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 64 };
    let got = if setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() { hard } else { soft };
    (got.saturating_sub(FDS_KEPT.min(got / 2)) / FDS_PER_CLIENT) as usize
}

/// Descriptors that wait to be closed by a thread of their own, counted by user: what is no table may be a file whose server takes its time to
/// let it go, or for ever.
#[derive(Clone, Default, Debug)]
struct Closing(Arc<Mutex<HashMap<u32, u32>>>);

impl Closing {
    fn start(&self) -> io::Result<Sender<(u32, OwnedFd)>> {
        let (tx, rx) = channel::<(u32, OwnedFd)>();
        let closing = self.clone();
        let close = move || {
            for (uid, fd) in rx {
                drop(fd);
                closing.remove(uid);
            }
        };
        thread::Builder::new().name("guest-closer".into()).spawn(close)?;
        Ok(tx)
    }

    fn add(&self, uid: u32) {
        *self.0.lock().entry(uid).or_default() += 1;
    }

    fn remove(&self, uid: u32) {
        let mut waiting = self.0.lock();
        if let Some(n) = waiting.get_mut(&uid) {
            *n -= 1;
            if *n == 0 {
                waiting.remove(&uid);
            }
        }
    }

    fn nr(&self, uid: u32) -> u32 {
        self.0.lock().get(&uid).copied().unwrap_or(0)
    }
}

const LISTENER: u64 = 0;

struct Door {
    guests: Arc<Guests>,
    listener: Listener,
    epoll: Epoll,
    closer: Sender<(u32, OwnedFd)>,
    closing: Closing,
    clients_max: usize,
    conns: HashMap<u64, Conn>,
    /// Those that have not handed a table over yet: since when, and whose.
    new: HashMap<u64, (Instant, u32)>,
    last: u64,
}

struct Conn {
    pid: i32,
    uid: u32,
    gid: u32,
    state: State,
    /// Told when the process ends.
    pidfd: Pidfd,
}

enum State {
    New { socket: Arc<SeqPacket>, is_greeted: bool },
    Registered { client: Arc<Client>, token: u64 },
}

/// Why a connection ends.
enum End {
    /// It was closed, or its process has ended.
    Gone,
    /// We do not want it.
    Refused(String),
}

impl From<&str> for End {
    fn from(reason: &str) -> Self {
        Self::Refused(reason.to_owned())
    }
}

impl Conn {
    fn socket(&self) -> &SeqPacket {
        match &self.state {
            State::New { socket, .. } => socket,
            State::Registered { client, .. } => client.socket(),
        }
    }
}

impl Door {
    fn run(mut self) {
        let mut events = [EpollEvent::empty(); EVENTS];
        loop {
            let timeout = self.timeout();
            let n = match self.epoll.wait(&mut events, timeout) {
                Ok(n) => n,
                Err(nix::Error::EINTR) => 0,
                Err(error) => {
                    tracing::error!(%error, "applications are no longer listened to");
                    return;
                }
            };
            for event in &events[..n] {
                match event.data() {
                    LISTENER => self.accept_all(),
                    data => self.on_event(data >> 1, data & 1 == 1),
                }
            }
            self.end_late_ones();
        }
    }

    fn timeout(&self) -> EpollTimeout {
        if self.new.is_empty() { EpollTimeout::NONE } else { EpollTimeout::from(1_000u16) }
    }

    fn accept_all(&mut self) {
        // The others shall not wait for a flood.
        for _ in 0..EVENTS {
            match self.listener.accept() {
                Ok(socket) => self.accept(socket),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    // No descriptors, say: it would be told again at once.
                    tracing::debug!(%error, "a connection was not accepted");
                    thread::sleep(Duration::from_millis(50));
                    return;
                }
            }
        }
    }

    fn accept(&mut self, socket: SeqPacket) {
        let Ok(creds) = getsockopt(&socket, PeerCredentials) else { return };
        let (pid, uid, gid) = (creds.pid(), creds.uid(), creds.gid());
        if let Err(reason) = self.admit(pid, uid) {
            refuse(&socket, reason);
            return;
        }
        let Ok(pidfd) = Pidfd::open(pid) else { return };
        self.last += 1;
        let number = self.last;
        let input = EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP;
        let added = self
            .epoll
            .add(&socket, EpollEvent::new(input, number << 1))
            .and_then(|()| self.epoll.add(&pidfd, EpollEvent::new(EpollFlags::EPOLLIN, number << 1 | 1)));
        if added.is_ok() {
            let state = State::New { socket: Arc::new(socket), is_greeted: false };
            self.new.insert(number, (Instant::now(), uid));
            self.conns.insert(number, Conn { pid, uid, gid, state, pidfd });
        }
    }

    fn admit(&self, pid: i32, uid: u32) -> Result<(), &'static str> {
        if pid <= 0 {
            return Err("the application is in a PID namespace that the daemon does not see");
        }
        let own = nix::unistd::geteuid().as_raw();
        if own != 0 && uid != own && uid != 0 {
            return Err("the daemon is another user's");
        }
        if self.closing.nr(uid) >= USER_BAD_MAX {
            return Err("this user has sent too many descriptors that are no tables");
        }
        let of_user = self.guests.nr_clients(uid);
        let nr_new = self.new.values().filter(|(_, of)| *of == uid).count();
        // Also those that have not handed a table over: they have descriptors too.
        let all = self.conns.len();
        if all >= self.clients_max || (uid != 0 && (of_user >= USER_CLIENTS_MAX || nr_new >= USER_NEW_MAX)) {
            return Err("there are too many applications");
        }
        Ok(())
    }

    fn on_event(&mut self, number: u64, has_process_ended: bool) {
        if !self.conns.contains_key(&number) {
            return;
        }
        let end = if has_process_ended { Err(End::Gone) } else { self.receive(number) };
        if let Err(end) = end {
            self.end(number, &end);
        }
    }

    fn end(&mut self, number: u64, end: &End) {
        let Some(conn) = self.conns.remove(&number) else { return };
        self.new.remove(&number);
        let _ = self.epoll.delete(conn.socket().as_fd());
        let _ = self.epoll.delete(conn.pidfd.as_fd());
        if let End::Refused(reason) = end {
            tracing::debug!(pid = conn.pid, uid = conn.uid, reason, "an application is refused");
            refuse(conn.socket(), reason);
        }
        if let State::Registered { token, .. } = conn.state {
            self.guests.remove(token);
        }
    }

    /// Takes one message; more of them are told again.
    fn receive(&mut self, number: u64) -> Result<(), End> {
        let Some(conn) = self.conns.get_mut(&number) else { return Ok(()) };
        let mut bytes = [0; MESSAGE_MAX];
        let mut got = match conn.socket().try_recv_any(&mut bytes) {
            Ok(got) if got.len == 0 && got.fds.is_empty() => return Err(End::Gone),
            Ok(got) => got,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(_) => return Err(End::Gone),
        };
        let fd = got.fds.pop();
        if !got.is_whole || !got.fds.is_empty() {
            got.fds.into_iter().chain(fd).for_each(|fd| self.set_aside(number, fd));
            let reason =
                if got.is_whole { "there is one descriptor in a message" } else { "a message is too long" };
            return Err(reason.into());
        }
        let message = ToDaemon::decode(&bytes[..got.len]);
        match (message, fd) {
            (Ok(ToDaemon::Segment { index }), Some(fd)) => {
                self.take_segment(number, index as usize, fd.into())
            }
            (_, Some(fd)) => {
                self.set_aside(number, fd);
                Err("a descriptor comes with a segment only".into())
            }
            (Ok(ToDaemon::Hello { version }), None) if version != VERSION => Err(End::Refused(format!(
                "this daemon speaks version {VERSION} of guest tasks, the application {version}"
            ))),
            (Ok(ToDaemon::Hello { .. }), None) => match &mut conn.state {
                State::New { is_greeted: is_greeted @ false, .. } => {
                    *is_greeted = true;
                    Ok(())
                }
                _ => Err("HELLO comes first, and once".into()),
            },
            (Ok(ToDaemon::Segment { .. }), None) => Err("a segment comes with a descriptor".into()),
            (Err(e), None) => Err(End::Refused(e.to_string())),
        }
    }

    /// Has a descriptor closed that is no table.
    fn set_aside(&mut self, number: u64, fd: OwnedFd) {
        if let Some(conn) = self.conns.get(&number) {
            self.closing.add(conn.uid);
            let _ = self.closer.send((conn.uid, fd));
        }
    }

    fn take_segment(&mut self, number: u64, index: usize, file: File) -> Result<(), End> {
        let Some(conn) = self.conns.get_mut(&number) else { return Ok(()) };
        let next = match &conn.state {
            State::New { is_greeted: false, .. } => Err("HELLO comes first"),
            State::New { .. } => Ok(0),
            State::Registered { client, .. } => Ok(client.nr_segments()),
        };
        let checked = next.and_then(|next| {
            if index != next {
                return Err("segments come in order");
            }
            table::check_segment(&file, index)
        });
        if let Err(reason) = checked {
            self.set_aside(number, file.into());
            return Err(reason.into());
        }
        match &conn.state {
            // Tasks beyond are not shown; the application need not know.
            State::Registered { client, .. } if index < SEGMENTS_MAX => client.add_segment(file),
            State::Registered { .. } => {}
            State::New { socket, .. } => {
                let welcome = ToApplication::Welcome {
                    version: VERSION,
                    slots_max: guest_task::layout::segment_start(SEGMENTS_MAX),
                };
                // In the tree first: who is welcome finds itself there.
                let client = Arc::new(Client::new((conn.pid, conn.uid, conn.gid), socket.clone(), file));
                let token = self.guests.add(client.clone());
                let _ = client.socket().try_send(&welcome.encode());
                conn.state = State::Registered { client, token };
                self.new.remove(&number);
            }
        }
        Ok(())
    }

    fn end_late_ones(&mut self) {
        let late = self.new.iter().filter(|(_, (since, _))| since.elapsed() > HANDSHAKE);
        let late: Vec<u64> = late.map(|(number, _)| *number).collect();
        for number in late {
            self.end(number, &"the table has not come in time".into());
        }
    }
}

fn refuse(socket: &SeqPacket, reason: &str) {
    let _ = socket.try_send(&ToApplication::Refused { version: VERSION, reason: reason.to_owned() }.encode());
}
