//! The brick as the worker sees it: questions to its recorder over a local socket.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use changelog::Position;
use posix::passing::FdStream;
use protocol::brick::{
    BrickHello, BrickRequest, BrickResponse, BrickWelcome, Listed, Look, MAX_ASKED, MAX_OPEN, Names, Opened,
};
use protocol::hello::{MAGIC, Versions};
use protocol::{FrameError, Gfid, Object, Place};

use crate::error::WorkerError;

/// A recorder that does not answer for so long is taken for dead. A barrier has to wait for a crawl, which may take
/// minutes; it has no limit of its own.
const ANSWER_LIMIT: Duration = Duration::from_secs(120);

/// Connections kept for later; one is used for each question that is under way.
const MAX_IDLE: usize = 8;

/// The header of a slice: no record begins before it.
const SLICE_HEADER_BYTES: u64 = 51;

/// A brick with a recorder.
#[derive(Clone, Debug)]
pub struct Brick {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    socket: PathBuf,
    brick: [u8; 16],
    idle: Mutex<Vec<FdStream>>,
}

/// Answers to a question, and the descriptors that came with it.
type Answered = (BrickResponse, Vec<OwnedFd>);

impl Brick {
    /// Connects; also says where the brick's changelog is.
    ///
    /// # Errors
    /// [`WorkerError::Recorder`] or [`WorkerError::RecorderRefuses`].
    pub async fn connect(socket: &Path, brick: [u8; 16]) -> Result<(Brick, PathBuf), WorkerError> {
        let shared = Arc::new(Shared { socket: socket.to_owned(), brick, idle: Mutex::default() });
        let opener = shared.clone();
        let (stream, journal) = blocking(move || opener.open()).await?;
        shared.keep(stream);
        Ok((Brick { shared }, journal))
    }

    /// Which object is at each of these names now?
    ///
    /// # Errors
    /// The recorder cannot be asked.
    pub async fn look(&self, places: Vec<Place>) -> Result<Vec<Look>, WorkerError> {
        self.ask_parts(places, MAX_ASKED, BrickRequest::Look, |answer| match answer {
            BrickResponse::Looked(looks) => Some(looks),
            _ => None,
        })
        .await
    }

    /// What do these objects look like now? `None` where one is gone.
    ///
    /// # Errors
    /// The recorder cannot be asked.
    pub async fn stat(&self, gfids: Vec<Gfid>) -> Result<Vec<Option<Object>>, WorkerError> {
        self.ask_parts(gfids, MAX_ASKED, BrickRequest::Stat, |answer| match answer {
            BrickResponse::Stated(objects) => Some(objects),
            _ => None,
        })
        .await
    }

    /// Under which names does each of these objects live now?
    ///
    /// # Errors
    /// The recorder cannot be asked.
    pub async fn names(&self, gfids: Vec<Gfid>) -> Result<Vec<Names>, WorkerError> {
        self.ask_parts(gfids, MAX_ASKED, BrickRequest::Names, |answer| match answer {
            BrickResponse::Named(names) => Some(names),
            _ => None,
        })
        .await
    }

    /// Opens regular files: a descriptor, and whether its content is in doubt, or an `errno` for each.
    ///
    /// # Errors
    /// The recorder cannot be asked.
    pub async fn open(&self, gfids: &[Gfid]) -> Result<Vec<Result<(OwnedFd, bool), i32>>, WorkerError> {
        let mut opened = Vec::with_capacity(gfids.len());
        for part in gfids.chunks(MAX_OPEN) {
            let (answer, fds) = self.ask(BrickRequest::Open(part.to_vec()), Some(ANSWER_LIMIT)).await?;
            let BrickResponse::Opened(answers) = answer else { return Err(self.unexpected(answer)) };
            let mut fds = fds.into_iter();
            for answer in answers {
                opened.push(match answer {
                    Opened::Open { doubted } => fds.next().map(|fd| (fd, doubted)).ok_or(libc_eio()),
                    Opened::Failed(errno) => Err(errno),
                });
            }
        }
        Ok(opened)
    }

    /// Has everything written down that was changed before this call; where does the changelog end then?
    ///
    /// # Errors
    /// The recorder cannot be asked.
    pub async fn barrier(&self) -> Result<Position, WorkerError> {
        match self.ask(BrickRequest::Barrier, None).await? {
            // A slice without records ends where it begins.
            (BrickResponse::Barrier(p), _) if p.offset <= SLICE_HEADER_BYTES => {
                Ok(Position { after: p.after, offset: 0 })
            }
            (BrickResponse::Barrier(position), _) => Ok(position),
            (other, _) => Err(self.unexpected(other)),
        }
    }

    /// A part of the objects that are recorded, and where to go on.
    ///
    /// # Errors
    /// The recorder cannot be asked.
    pub async fn list(
        &self,
        after: Option<(Gfid, Place)>,
        directories: bool,
    ) -> Result<(Vec<Listed>, Option<(Gfid, Place)>), WorkerError> {
        match self.ask(BrickRequest::List { after, directories }, Some(ANSWER_LIMIT)).await? {
            (BrickResponse::Listed { names, next }, _) => Ok((names, next)),
            (other, _) => Err(self.unexpected(other)),
        }
    }

    async fn ask_parts<Q: Clone, A>(
        &self,
        questions: Vec<Q>,
        limit: usize,
        request: impl Fn(Vec<Q>) -> BrickRequest,
        answer: impl Fn(BrickResponse) -> Option<Vec<A>>,
    ) -> Result<Vec<A>, WorkerError> {
        let mut answers = Vec::with_capacity(questions.len());
        while answers.len() < questions.len() {
            let rest = &questions[answers.len()..];
            let part = &rest[..rest.len().min(limit)];
            let (response, _) = self.ask(request(part.to_vec()), Some(ANSWER_LIMIT)).await?;
            if let BrickResponse::Failed(_) = response {
                return Err(self.unexpected(response));
            }
            // What did not fit into one answer is asked for again.
            match answer(response) {
                Some(some) if (1..=part.len()).contains(&some.len()) => answers.extend(some),
                _ => return Err(WorkerError::RecorderRefuses { reason: "its answer does not fit".into() }),
            }
        }
        Ok(answers)
    }

    async fn ask(&self, request: BrickRequest, limit: Option<Duration>) -> Result<Answered, WorkerError> {
        let shared = self.shared.clone();
        blocking(move || shared.ask(&request, limit)).await
    }

    fn unexpected(&self, answer: BrickResponse) -> WorkerError {
        let reason = match answer {
            BrickResponse::Failed(reason) => reason,
            _ => "its answer does not fit".into(),
        };
        WorkerError::RecorderRefuses { reason }
    }
}

impl Shared {
    fn open(&self) -> Result<(FdStream, PathBuf), WorkerError> {
        let broken = |source: FrameError| WorkerError::Recorder { socket: self.socket.clone(), source };
        let stream = UnixStream::connect(&self.socket).map_err(|e| broken(e.into()))?;
        stream.set_read_timeout(Some(ANSWER_LIMIT)).map_err(|e| broken(e.into()))?;
        let mut stream = FdStream::new(stream);
        stream.send(&MAGIC, &[]).map_err(|e| broken(e.into()))?;
        let hello = BrickHello::Brick { versions: Versions::ours(), brick: self.brick };
        protocol::write_frame(&mut stream, &hello).map_err(broken)?;
        let mut magic = [0; MAGIC.len()];
        stream.read_exact(&mut magic).map_err(|e| broken(e.into()))?;
        if magic != MAGIC {
            return Err(WorkerError::RecorderRefuses { reason: "it does not speak our protocol".into() });
        }
        match protocol::read_frame(&mut stream).map_err(broken)? {
            BrickWelcome::Ready { journal, .. } => Ok((stream, std::ffi::OsString::from_vec(journal).into())),
            BrickWelcome::Refused(reason) => Err(WorkerError::RecorderRefuses { reason }),
        }
    }

    fn ask(&self, request: &BrickRequest, limit: Option<Duration>) -> Result<Answered, WorkerError> {
        let broken = |source: FrameError| WorkerError::Recorder { socket: self.socket.clone(), source };
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut stream = match idle {
            Some(stream) => stream,
            None => self.open()?.0,
        };
        stream.get_ref().set_read_timeout(limit).map_err(|e| broken(e.into()))?;
        protocol::write_frame(&mut stream, request).map_err(broken)?;
        let response: BrickResponse = protocol::read_frame(&mut stream).map_err(broken)?;
        let mut fds = Vec::new();
        while let Some(fd) = stream.take_fd() {
            fds.push(fd);
        }
        self.keep(stream);
        Ok((response, fds))
    }

    fn keep(&self, stream: FdStream) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE {
            idle.push(stream);
        }
    }
}

/// A descriptor that did not come is an input/output error of that file.
fn libc_eio() -> i32 {
    rustix::io::Errno::IO.raw_os_error()
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, WorkerError> + Send + 'static,
) -> Result<T, WorkerError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|e| Err(WorkerError::Local { doing: "asking the recorder", source: std::io::Error::other(e) }))
}
