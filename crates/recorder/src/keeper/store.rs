//! systemd's file descriptor store: what is sent to the service manager comes back with the next start of the unit.
//!
//! The unit needs `FileDescriptorStoreMax=`. Two descriptors for each file system, named `gsync-group-<device>` and
//! `gsync-ring-<device>`. See sd_notify(3) and sd_listen_fds(3).

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Held, Keeper};
use crate::sys;

/// The first descriptor that is passed.
const FIRST: RawFd = 3;

/// More than this are not passed.
const PASSED_MAX: usize = 1024;

/// The service manager, as one process sees it.
#[derive(Debug)]
pub struct Manager {
    /// `NOTIFY_SOCKET`.
    socket: OsString,
    passed: Mutex<HashMap<String, OwnedFd>>,
}

impl Manager {
    /// A manager at this socket, with what it passed.
    pub fn new(socket: OsString, passed: impl IntoIterator<Item = (String, OwnedFd)>) -> Manager {
        Manager { socket, passed: Mutex::new(passed.into_iter().collect()) }
    }

    /// Takes what was passed according to the variables `LISTEN_PID`, `LISTEN_FDS` and `LISTEN_FDNAMES`. To be called
    /// once, before other descriptors are opened.
    pub fn passed(pid: Option<&str>, count: Option<&str>, names: Option<&str>) -> Vec<(String, OwnedFd)> {
        let own = rustix::process::getpid().as_raw_nonzero().to_string();
        let count = count.filter(|_| pid == Some(own.as_str())).and_then(|count| count.parse().ok()).unwrap_or(0);
        let names = names.unwrap_or_default().split(':');
        let numbers = (FIRST..).take(usize::min(count, PASSED_MAX));
        numbers.zip(names).filter_map(|(number, name)| Some((name.to_owned(), sys::inherited(number).ok()?))).collect()
    }

    fn send(&self, message: &str, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let bytes = self.socket.as_bytes();
        let address = match bytes.strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(&self.socket)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&address)?;
        posix::passing::send_datagram(socket.as_fd(), message.as_bytes(), fd.as_slice())
    }

    fn take(&self, name: &str) -> Option<OwnedFd> {
        self.passed.lock().unwrap_or_else(PoisonError::into_inner).remove(name)
    }
}

/// What the manager holds for one file system.
#[derive(Debug)]
pub struct Store {
    manager: Arc<Manager>,
    group: String,
    ring: String,
}

impl Store {
    /// For the file system with this device number.
    pub fn new(manager: Arc<Manager>, device: u64) -> Store {
        Store { manager, group: format!("gsync-group-{device:x}"), ring: format!("gsync-ring-{device:x}") }
    }

    fn remove(&self) {
        for name in [&self.group, &self.ring] {
            if let Err(error) = self.manager.send(&format!("FDSTOREREMOVE=1\nFDNAME={name}"), None) {
                tracing::warn!(%error, "the service manager cannot be reached");
            }
        }
    }
}

impl Keeper for Store {
    fn take(&mut self) -> Option<Held> {
        let (group, ring) = (self.manager.take(&self.group), self.manager.take(&self.ring));
        Some(Held { group: group?, ring: ring? })
    }

    fn keep(&mut self, group: BorrowedFd<'_>, ring: BorrowedFd<'_>) -> io::Result<()> {
        self.remove();
        // Without FDPOLL=0 a descriptor that becomes readable in a certain way would be dropped.
        for (name, fd) in [(&self.group, group), (&self.ring, ring)] {
            self.manager.send(&format!("FDSTORE=1\nFDPOLL=0\nFDNAME={name}"), Some(fd))?;
        }
        Ok(())
    }

    fn is_holding(&mut self) -> bool {
        // The manager tells nothing, and outlives us.
        true
    }

    fn forget(&mut self) {
        self.remove();
    }
}
