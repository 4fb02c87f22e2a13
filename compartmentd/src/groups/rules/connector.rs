//! The kernel's process-event connector: who has executed a program. Linux `include/uapi/linux/{netlink,connector,cn_proc}.h`.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::sys::socket::{MsgFlags, NetlinkAddr, bind, recv, send};

use super::sys::connector_socket;

const CN_IDX_PROC: u32 = 1;
const CN_VAL_PROC: u32 = 1;
const LISTEN: u32 = 1;
const IGNORE: u32 = 2;
const EXEC: u32 = 2;
const NLMSG_DONE: u16 = 3;

/// `nlmsghdr` and `cn_msg`.
const HEADERS: usize = 16 + 20;

/// A watch over all programs started, until it is dropped. Needs `CAP_NET_ADMIN` in the first namespaces.
#[derive(Debug)]
pub struct Connector {
    socket: Arc<OwnedFd>,
    is_over: Arc<AtomicBool>,
}

impl Connector {
    /// Begins; `on_exec` gets PIDs from a thread of the watch's own.
    ///
    /// # Errors
    /// EPERM and the like.
    pub fn start(on_exec: impl Fn(i32) + Send + 'static) -> io::Result<Self> {
        let socket = Arc::new(connector_socket()?);
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, CN_IDX_PROC))?;
        tell(&socket, LISTEN)?;
        let is_over = Arc::new(AtomicBool::new(false));
        let (reader, end) = (socket.clone(), is_over.clone());
        thread::Builder::new().name("rules".into()).spawn(move || watch(&reader, &end, on_exec))?;
        Ok(Self { socket, is_over })
    }
}

impl Drop for Connector {
    fn drop(&mut self) {
        // The kernel acknowledges IGNORE with a message, which wakes the reader.
        self.is_over.store(true, Ordering::SeqCst);
        let _ = tell(&self.socket, IGNORE);
    }
}

fn tell(socket: &OwnedFd, op: u32) -> io::Result<()> {
    let mut m = Vec::with_capacity(HEADERS + 4);
    m.extend_from_slice(&((HEADERS + 4) as u32).to_ne_bytes());
    m.extend_from_slice(&NLMSG_DONE.to_ne_bytes());
    m.extend_from_slice(&0u16.to_ne_bytes());
    for word in [0, 0, CN_IDX_PROC, CN_VAL_PROC, 0, 0] {
        m.extend_from_slice(&word.to_ne_bytes());
    }
    m.extend_from_slice(&4u16.to_ne_bytes());
    m.extend_from_slice(&0u16.to_ne_bytes());
    m.extend_from_slice(&op.to_ne_bytes());
    send(socket.as_raw_fd(), &m, MsgFlags::empty())?;
    Ok(())
}

fn watch(socket: &OwnedFd, is_over: &AtomicBool, on_exec: impl Fn(i32)) {
    let mut buf = [0u8; 8192];
    while !is_over.load(Ordering::SeqCst) {
        match recv(socket.as_raw_fd(), &mut buf, MsgFlags::empty()) {
            Ok(len) => {
                if let Some(pid) = executed(&buf[..len]) {
                    on_exec(pid);
                }
            }
            // ENOBUFS: events were lost; later ones come.
            Err(nix::Error::EINTR | nix::Error::ENOBUFS) => {}
            Err(_) => return,
        }
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// The process that a message says has executed a program.
fn executed(message: &[u8]) -> Option<i32> {
    let (what, tgid) = (word(message, HEADERS)?, word(message, HEADERS + 16 + 4)?);
    (what == EXEC).then_some(tgid.cast_signed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_of_an_exec_gives_its_process() {
        let mut message = vec![0u8; HEADERS + 24];
        message[HEADERS..HEADERS + 4].copy_from_slice(&EXEC.to_ne_bytes());
        message[HEADERS + 20..HEADERS + 24].copy_from_slice(&77u32.to_ne_bytes());

        assert_eq!(executed(&message), Some(77));
        assert_eq!(executed(&message[..HEADERS + 20]), None);
        message[HEADERS] = 1;
        assert_eq!(executed(&message), None);
    }
}
