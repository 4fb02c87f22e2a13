//! Message sockets that keep boundaries and can carry a file descriptor.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr,
    accept4, bind, connect, listen, recvmsg, sendmsg, socket, socketpair,
};

/// One end of a `SOCK_SEQPACKET` connection.
#[derive(Debug)]
pub struct SeqPacket {
    fd: OwnedFd,
}

/// A message as it came, from somebody who may send anything.
#[derive(Debug)]
pub struct Received {
    /// How many of its bytes are in the buffer; 0 is the end of the connection.
    pub len: usize,
    /// Whether it fitted into the buffer.
    pub is_whole: bool,
    /// Every descriptor that came with it. Closing one may take long: whoever serves its file may be asked.
    pub fds: Vec<OwnedFd>,
}

/// The most descriptors that the kernel lets through in one message (`SCM_MAX_FD`). With less room than for all of them, those that came would be
/// ours without our knowing.
const FDS_MAX: usize = 253;

/// A listening `SOCK_SEQPACKET` socket; never blocks in [`Listener::accept`].
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
}

impl Listener {
    /// Binds to `path`, replacing a socket that is there.
    ///
    /// # Errors
    /// Those of `socket`, `bind` and `listen`.
    pub fn bind(path: &Path) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        bind(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
        listen(&fd, Backlog::new(16)?)?;
        Ok(Self { fd })
    }

    /// Takes a waiting connection; it blocks in its own calls.
    ///
    /// # Errors
    /// `WouldBlock` if none waits, and those of `accept4`.
    pub fn accept(&self) -> io::Result<SeqPacket> {
        Ok(SeqPacket { fd: crate::sys::own_received(accept4(self.fd.as_raw_fd(), SockFlag::SOCK_CLOEXEC)?) })
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl SeqPacket {
    /// Connects to the listener at `path`.
    ///
    /// # Errors
    /// Those of `socket` and `connect`.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
        connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
        Ok(Self { fd })
    }

    /// Makes a connected pair.
    ///
    /// # Errors
    /// Those of `socketpair`.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (a, b) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        Ok((Self { fd: a }, Self { fd: b }))
    }

    /// Takes over a descriptor that came through another connection.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// Makes a second handle of the same end.
    ///
    /// # Errors
    /// Those of `dup`.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { fd: self.fd.try_clone()? })
    }

    /// Sends one message, with a descriptor if one is given.
    ///
    /// # Errors
    /// Those of `sendmsg`; `EPIPE` if the other end is gone (no signal).
    pub fn send(&self, message: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        self.send_flags(message, fd, MsgFlags::MSG_NOSIGNAL)
    }

    /// As [`SeqPacket::send`], but gives `WouldBlock` instead of waiting for a slow reader.
    ///
    /// # Errors
    /// As [`SeqPacket::send`].
    pub fn try_send(&self, message: &[u8]) -> io::Result<()> {
        self.send_flags(message, None, MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT)
    }

    fn send_flags(&self, message: &[u8], fd: Option<BorrowedFd<'_>>, flags: MsgFlags) -> io::Result<()> {
        let raw = fd.map(|fd| [fd.as_raw_fd()]);
        let rights = raw.as_ref().map(|raw| [ControlMessage::ScmRights(raw)]);
        let control: &[ControlMessage<'_>] = rights.as_ref().map_or(&[], |r| r);
        loop {
            match sendmsg::<()>(self.fd.as_raw_fd(), &[IoSlice::new(message)], control, flags, None) {
                Err(nix::Error::EINTR) => {}
                other => return Ok(other.map(drop)?),
            }
        }
    }

    /// Receives one message and the descriptor that came with it. Length 0 is the end of the connection.
    ///
    /// # Errors
    /// Those of `recvmsg`; `InvalidData` if the message did not fit into `buf`.
    pub fn recv(&self, buf: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
        self.recv_flags(buf, MsgFlags::MSG_CMSG_CLOEXEC)
    }

    /// As [`SeqPacket::recv`], but gives `WouldBlock` if no message waits.
    ///
    /// # Errors
    /// As [`SeqPacket::recv`].
    pub fn try_recv(&self, buf: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
        self.recv_flags(buf, MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT)
    }

    /// As [`SeqPacket::try_recv`], for messages from those who are not trusted: nothing that came with one is dropped here.
    ///
    /// # Errors
    /// `WouldBlock` if no message waits, and those of `recvmsg`.
    pub fn try_recv_any(&self, buf: &mut [u8]) -> io::Result<Received> {
        self.recv_any(buf, MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT)
    }

    fn recv_flags(&self, buf: &mut [u8], flags: MsgFlags) -> io::Result<(usize, Option<OwnedFd>)> {
        let Received { len, is_whole, mut fds } = self.recv_any(buf, flags)?;
        if is_whole { Ok((len, fds.pop())) } else { Err(io::ErrorKind::InvalidData.into()) }
    }

    fn recv_any(&self, buf: &mut [u8], flags: MsgFlags) -> io::Result<Received> {
        let mut space = nix::cmsg_space!([RawFd; FDS_MAX]);
        let mut iov = [IoSliceMut::new(buf)];
        let message = loop {
            match recvmsg::<()>(self.fd.as_raw_fd(), &mut iov, Some(&mut space), flags) {
                Err(nix::Error::EINTR) => {}
                other => break other?,
            }
        };
        let mut owned = Vec::new();
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(fds) = control {
                owned.extend(fds.into_iter().map(crate::sys::own_received));
            }
        }
        let is_whole = !message.flags.contains(MsgFlags::MSG_TRUNC);
        Ok(Received { len: message.bytes, is_whole, fds: owned })
    }
}

impl AsFd for SeqPacket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
