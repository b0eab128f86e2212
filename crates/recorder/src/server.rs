//! The local socket: one thread a connection, one request after the other.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use posix::passing::FdStream;
use protocol::brick::{
    ANSWER_BYTES, AdminRequest, AdminResponse, BrickHello, BrickRequest, BrickResponse, BrickWelcome, Look, MAX_ASKED,
    MAX_OPEN, Names, Opened,
};
use protocol::hello::{MAGIC, Versions};
use protocol::{FrameError, Object, encode, read_frame, write_frame};
use rustix::fs::Mode;

use crate::answers::Answers;
use crate::brick::Claims;
use crate::error::{Error, Result};
use crate::pipeline::{Attached, Open};
use crate::registry::Registry;

/// More connections at once are closed at once.
const CONNECTIONS_MAX: usize = 256;

/// A peer has this long to say who it is.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// Makes the socket: only its owner can connect.
///
/// # Errors
/// [`Error::Io`]; `AddrInUse` when another recorder answers there.
pub fn listen(path: &Path) -> Result<UnixListener> {
    if let Some(dir) = path.parent()
        && !dir.exists()
    {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(Error::io("create", dir))?;
    }
    let failed = || Error::io("listen on", path);
    if path.exists() {
        if UnixStream::connect(path).is_ok() {
            return Err(failed()(io::ErrorKind::AddrInUse.into()));
        }
        std::fs::remove_file(path).map_err(failed())?;
    }
    let before = rustix::process::umask(Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(path);
    rustix::process::umask(before);
    listener.map_err(failed())
}

/// Accepts connections until the process ends.
pub fn serve(listener: &UnixListener, registry: &Arc<Registry>) {
    let connections = Arc::new(AtomicUsize::new(0));
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection cannot be accepted");
                std::thread::sleep(Duration::from_millis(100));
                continue;
            }
        };
        if connections.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS_MAX {
            connections.fetch_sub(1, Ordering::Relaxed);
            tracing::warn!("too many connections");
            continue;
        }
        let (registry, count) = (registry.clone(), connections.clone());
        let spawned = std::thread::Builder::new().name("connection".into()).spawn(move || {
            match Connection::new(stream, registry).and_then(|mut connection| connection.run()) {
                Ok(()) | Err(FrameError::Closed) => {}
                Err(error) => tracing::debug!(%error, "a connection ended"),
            }
            count.fetch_sub(1, Ordering::Relaxed);
        });
        if let Err(error) = spawned {
            connections.fetch_sub(1, Ordering::Relaxed);
            tracing::warn!(%error, "a connection cannot be served");
        }
    }
}

struct Connection {
    stream: FdStream,
    registry: Arc<Registry>,
}

impl Connection {
    fn new(stream: UnixStream, registry: Arc<Registry>) -> std::result::Result<Connection, FrameError> {
        stream.set_read_timeout(Some(HELLO_TIMEOUT))?;
        Ok(Connection { stream: FdStream::new(stream), registry })
    }

    fn run(&mut self) -> std::result::Result<(), FrameError> {
        let mut magic = [0; MAGIC.len()];
        self.stream.read_exact(&mut magic)?;
        if magic != MAGIC {
            return Err(io::Error::from(io::ErrorKind::InvalidData).into());
        }
        self.stream.write_all(&MAGIC)?;
        let hello: BrickHello = read_frame(&mut self.stream)?;
        let (BrickHello::Brick { versions, .. } | BrickHello::Admin { versions }) = &hello;
        if Versions::ours().common(versions).is_none() {
            return self.refuse(format!(
                "the recorder speaks protocol {}..{}, you speak {}..{}",
                Versions::ours().min,
                Versions::ours().max,
                versions.min,
                versions.max
            ));
        }
        match hello {
            BrickHello::Admin { .. } => {
                self.welcome(Vec::new())?;
                self.administrate()
            }
            BrickHello::Brick { brick, .. } => match self.registry.brick(brick) {
                Some(attached) => {
                    self.welcome(attached.spec.journal_dir().into_os_string().into_encoded_bytes())?;
                    self.answer(brick, &attached)
                }
                None => self.refuse("the brick is not attached to this recorder".into()),
            },
        }
    }

    fn welcome(&mut self, journal: Vec<u8>) -> std::result::Result<(), FrameError> {
        self.stream.get_ref().set_read_timeout(None)?;
        write_frame(&mut self.stream, &BrickWelcome::Ready { versions: Versions::ours(), journal })
    }

    fn refuse(&mut self, reason: String) -> std::result::Result<(), FrameError> {
        write_frame(&mut self.stream, &BrickWelcome::Refused(reason))
    }

    fn administrate(&mut self) -> std::result::Result<(), FrameError> {
        loop {
            let request: AdminRequest = read_frame(&mut self.stream)?;
            let done = |result: Result<()>| match result {
                Ok(()) => AdminResponse::Done,
                Err(error) => AdminResponse::Failed(error.chain()),
            };
            let response = match request {
                AdminRequest::Attach { brick, path, state } => {
                    done(self.registry.attach(brick, as_path(&path), as_path(&state)))
                }
                AdminRequest::Detach { brick } => done(self.registry.detach(brick)),
                AdminRequest::Retain { brick, marks, budget_bytes } => {
                    done(self.registry.retain(brick, Claims { marks, budget_bytes }))
                }
                AdminRequest::Status => AdminResponse::Status(self.registry.status()),
            };
            write_frame(&mut self.stream, &response)?;
        }
    }

    fn answer(&mut self, id: [u8; 16], attached: &Attached) -> std::result::Result<(), FrameError> {
        loop {
            let request: BrickRequest = read_frame(&mut self.stream)?;
            let (response, fds) = match request {
                BrickRequest::Barrier => match self.registry.barrier(id) {
                    Ok(position) => (BrickResponse::Barrier(position), Vec::new()),
                    Err(reason) => (BrickResponse::Failed(reason), Vec::new()),
                },
                request => ask(attached, request).unwrap_or_else(|error| failed(error.chain())),
            };
            let bytes = match encode(&response) {
                Err(FrameError::TooLong { .. }) => encode(&failed("the answer is too large, ask for less".into()).0)?,
                other => other?,
            };
            let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
            self.stream.send(&bytes, &borrowed)?;
        }
    }
}

fn ask(attached: &Attached, request: BrickRequest) -> Result<(BrickResponse, Vec<OwnedFd>)> {
    let open = attached.open.read().unwrap_or_else(PoisonError::into_inner).clone();
    let Some(Open { disk, index }) = open else {
        let error = attached.error.lock().unwrap_or_else(PoisonError::into_inner).clone();
        return Ok(failed(if error.is_empty() { "the brick is not attached".into() } else { error }));
    };
    let mut answers = Answers::new(index.published_view()?, &disk);
    let mut fds = Vec::new();
    let response = match request {
        BrickRequest::Look(places) if places.len() <= MAX_ASKED => {
            BrickResponse::Looked(as_fits(places, |place| answers.look(&place), Look::weight_bytes)?)
        }
        BrickRequest::Stat(gfids) if gfids.len() <= MAX_ASKED => {
            let weight = |object: &Option<Object>| object.as_ref().map_or(1, Object::weight_bytes);
            BrickResponse::Stated(as_fits(gfids, |gfid| answers.stat(gfid), weight)?)
        }
        BrickRequest::Names(gfids) if gfids.len() <= MAX_ASKED => {
            BrickResponse::Named(as_fits(gfids, |gfid| answers.names(gfid), Names::weight_bytes)?)
        }
        BrickRequest::Open(gfids) if gfids.len() <= MAX_OPEN => {
            let mut opened = Vec::with_capacity(gfids.len());
            for gfid in gfids {
                opened.push(match answers.open(gfid)? {
                    Ok((fd, doubted)) => {
                        fds.push(fd);
                        Opened::Open { doubted }
                    }
                    Err(errno) => Opened::Failed(errno),
                });
            }
            BrickResponse::Opened(opened)
        }
        BrickRequest::List { after, directories } => answers.list(after, directories)?,
        _ => return Ok(failed(format!("more than {MAX_ASKED} questions, or {MAX_OPEN} files, at once"))),
    };
    Ok((response, fds))
}

/// Answers one question after the other until that is enough for one message.
fn as_fits<Q, A>(
    questions: Vec<Q>,
    mut answer: impl FnMut(Q) -> Result<A>,
    weight: impl Fn(&A) -> usize,
) -> Result<Vec<A>> {
    let (mut answers, mut bytes) = (Vec::with_capacity(questions.len()), 0);
    for question in questions {
        let answered = answer(question)?;
        bytes += weight(&answered);
        answers.push(answered);
        if bytes >= ANSWER_BYTES {
            break;
        }
    }
    Ok(answers)
}

fn failed(reason: String) -> (BrickResponse, Vec<OwnedFd>) {
    (BrickResponse::Failed(reason), Vec::new())
}

fn as_path(bytes: &[u8]) -> &Path {
    use std::os::unix::ffi::OsStrExt;
    Path::new(std::ffi::OsStr::from_bytes(bytes))
}
