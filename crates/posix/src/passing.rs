//! Descriptors sent through Unix sockets.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};

/// The most descriptors that one message may carry (`SCM_MAX_FD` of Linux is 253).
pub const MAX_FDS: usize = 250;

/// A stream socket of which descriptors arrive beside the bytes, in order.
#[derive(Debug)]
pub struct FdStream {
    stream: UnixStream,
    fds: VecDeque<OwnedFd>,
}

impl FdStream {
    /// Wraps a connected socket.
    pub fn new(stream: UnixStream) -> FdStream {
        FdStream { stream, fds: VecDeque::new() }
    }

    /// The socket itself, to set time-outs or shut it down.
    pub fn get_ref(&self) -> &UnixStream {
        &self.stream
    }

    /// The socket alone. Descriptors that arrived and were not taken are closed.
    pub fn into_inner(self) -> UnixStream {
        self.stream
    }

    /// Sends all bytes; the descriptors go with the first of them.
    ///
    /// # Errors
    /// What the system says; `InvalidInput` for more than [`MAX_FDS`] descriptors or descriptors without bytes.
    pub fn send(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        if fds.is_empty() {
            return self.stream.write_all(bytes);
        }
        if fds.len() > MAX_FDS || bytes.is_empty() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let sent = send_message(self.stream.as_fd(), bytes, fds)?;
        self.stream.write_all(&bytes[sent..])
    }

    /// Takes the oldest descriptor that arrived and was not taken yet.
    pub fn take_fd(&mut self) -> Option<OwnedFd> {
        self.fds.pop_front()
    }
}

/// Sends one message with descriptors through a connected datagram socket.
///
/// # Errors
/// As [`FdStream::send`].
pub fn send_datagram(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    send_message(socket, bytes, fds).map(drop)
}

fn send_message(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    loop {
        match rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL) {
            Err(rustix::io::Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

impl Read for FdStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(buffer)];
        let message = rustix::net::recvmsg(&self.stream, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC)?;
        for part in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = part {
                self.fds.extend(fds);
            }
        }
        if message.flags.contains(ReturnFlags::CTRUNC) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "descriptors were lost on the way"));
        }
        Ok(message.bytes)
    }
}

impl Write for FdStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
