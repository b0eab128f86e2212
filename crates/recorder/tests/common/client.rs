//! The worker's and the monitor's side of the socket.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use changelog::{Gfid, Position};
use posix::passing::FdStream;
use protocol::brick::{
    AdminRequest, AdminResponse, BrickHello, BrickRequest, BrickResponse, BrickStatus, BrickWelcome, Look, Names,
    Opened,
};
use protocol::hello::{MAGIC, Versions};
use protocol::{Object, Place, read_frame, write_frame};

/// Sends the hello and returns the stream with the answer.
pub fn greet(socket: &Path, hello: &BrickHello) -> (FdStream, BrickWelcome) {
    let mut stream = FdStream::new(UnixStream::connect(socket).unwrap());
    stream.write_all(&MAGIC).unwrap();
    write_frame(&mut stream, hello).unwrap();
    let mut magic = [0; 8];
    std::io::Read::read_exact(&mut stream, &mut magic).unwrap();
    assert_eq!(magic, MAGIC);
    let welcome = read_frame(&mut stream).unwrap();
    (stream, welcome)
}

/// Connection of a worker.
pub struct Client {
    pub stream: FdStream,
    pub journal: PathBuf,
}

impl Client {
    pub fn connect(socket: &Path, brick: [u8; 16]) -> Result<Client, String> {
        match greet(socket, &BrickHello::Brick { versions: Versions::ours(), brick }) {
            (stream, BrickWelcome::Ready { journal, .. }) => {
                Ok(Client { stream, journal: std::ffi::OsStr::from_bytes(&journal).into() })
            }
            (_, BrickWelcome::Refused(reason)) => Err(reason),
        }
    }

    pub fn ask(&mut self, request: &BrickRequest) -> BrickResponse {
        write_frame(&mut self.stream, request).unwrap();
        read_frame(&mut self.stream).unwrap()
    }

    pub fn barrier(&mut self) -> Position {
        match self.ask(&BrickRequest::Barrier) {
            BrickResponse::Barrier(position) => position,
            other => panic!("{other:?}"),
        }
    }

    pub fn look(&mut self, parent: Gfid, name: &str) -> Look {
        let place = Place { parent, name: name.into() };
        match self.ask(&BrickRequest::Look(vec![place])) {
            BrickResponse::Looked(mut looks) => looks.remove(0),
            other => panic!("{other:?}"),
        }
    }

    /// The GFID at a path below the root.
    pub fn gfid(&mut self, path: &str) -> Gfid {
        path.split('/').fold(Gfid::ROOT, |parent, name| match self.look(parent, name) {
            Look::Present(gfid, _) => gfid,
            other => panic!("{path}: {other:?}"),
        })
    }

    pub fn stat(&mut self, gfid: Gfid) -> Option<Object> {
        match self.ask(&BrickRequest::Stat(vec![gfid])) {
            BrickResponse::Stated(mut objects) => objects.remove(0),
            other => panic!("{other:?}"),
        }
    }

    pub fn names(&mut self, gfid: Gfid) -> Names {
        match self.ask(&BrickRequest::Names(vec![gfid])) {
            BrickResponse::Named(mut names) => names.remove(0),
            other => panic!("{other:?}"),
        }
    }

    /// Opens a file: whether its content is in doubt.
    pub fn open_doubted(&mut self, gfid: Gfid) -> Result<bool, i32> {
        match self.ask(&BrickRequest::Open(vec![gfid])) {
            BrickResponse::Opened(opened) => match opened[0] {
                Opened::Open { doubted } => self.stream.take_fd().map(|_| doubted).ok_or(0),
                Opened::Failed(errno) => Err(errno),
            },
            other => panic!("{other:?}"),
        }
    }

    pub fn open(&mut self, gfid: Gfid) -> Result<OwnedFd, i32> {
        match self.ask(&BrickRequest::Open(vec![gfid])) {
            BrickResponse::Opened(opened) => match opened[0] {
                Opened::Open { .. } => Ok(self.stream.take_fd().unwrap()),
                Opened::Failed(errno) => Err(errno),
            },
            other => panic!("{other:?}"),
        }
    }
}

/// Connection of the monitor.
pub struct Admin {
    stream: FdStream,
}

impl Admin {
    pub fn connect(socket: &Path) -> Admin {
        let (stream, welcome) = greet(socket, &BrickHello::Admin { versions: Versions::ours() });
        assert!(matches!(welcome, BrickWelcome::Ready { .. }), "{welcome:?}");
        Admin { stream }
    }

    fn ask(&mut self, request: &AdminRequest) -> Result<Vec<BrickStatus>, String> {
        write_frame(&mut self.stream, request).unwrap();
        match read_frame(&mut self.stream).unwrap() {
            AdminResponse::Done => Ok(Vec::new()),
            AdminResponse::Failed(reason) => Err(reason),
            AdminResponse::Status(all) => Ok(all),
        }
    }

    pub fn attach(&mut self, brick: [u8; 16], path: &Path, state: &Path) -> Result<(), String> {
        let (path, state) = (path.as_os_str().as_bytes().to_vec(), state.as_os_str().as_bytes().to_vec());
        self.ask(&AdminRequest::Attach { brick, path, state }).map(drop)
    }

    pub fn detach(&mut self, brick: [u8; 16]) -> Result<(), String> {
        self.ask(&AdminRequest::Detach { brick }).map(drop)
    }

    pub fn status(&mut self) -> Vec<BrickStatus> {
        self.ask(&AdminRequest::Status).unwrap()
    }
}
