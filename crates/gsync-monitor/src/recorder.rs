//! Administration of a recorder, over its socket.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use cluster::BrickId;
use protocol::FrameError;
use protocol::brick::{AdminRequest, AdminResponse, BrickHello, BrickStatus, BrickWelcome};
use protocol::frame::{FRAME_HEADER_BYTES, parse_header};
use protocol::hello::{MAGIC, Versions};
use protocol::hold::Ask;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// How long a recorder that was just started may take until its socket answers.
const UP_LIMIT: Duration = Duration::from_secs(10);

/// How often the socket of a starting recorder is tried.
const UP_POLL: Duration = Duration::from_millis(20);

/// How long attaching or detaching may take: the recorder watches each directory, or writes down what it has seen.
const WORK_LIMIT: Duration = Duration::from_secs(600);

/// How long a recorder may take to say how it is.
const STATUS_LIMIT: Duration = Duration::from_secs(2);

/// Why a recorder did not do it. Retry, unless it [refused](RecorderError::Refused); then retry later.
#[derive(Debug, thiserror::Error)]
pub enum RecorderError {
    /// Its socket is not there or broke.
    #[error("the recorder cannot be reached")]
    Io(#[from] io::Error),
    /// It does not speak our protocol.
    #[error("the recorder is not understood")]
    Frame(#[from] FrameError),
    /// It says no.
    #[error("the recorder refuses: {0}")]
    Refused(String),
    /// It does not answer.
    #[error("the recorder does not answer in time")]
    Late,
}

/// Lets a recorder record a brick; waits for a recorder that was just started.
///
/// # Errors
/// [`RecorderError`].
pub async fn attach(socket: &Path, brick: BrickId, path: &Path, state: &Path) -> Result<(), RecorderError> {
    let request = AdminRequest::Attach {
        brick: brick.bytes(),
        path: path.as_os_str().as_bytes().to_vec(),
        state: state.as_os_str().as_bytes().to_vec(),
    };
    let channel = timeout(UP_LIMIT, connect_when_up(socket)).await.map_err(|_| RecorderError::Late)?;
    done(ask(channel, &request, WORK_LIMIT).await?)
}

/// Lets a recorder stop recording a brick.
///
/// # Errors
/// [`RecorderError`].
pub async fn detach(socket: &Path, brick: BrickId) -> Result<(), RecorderError> {
    let channel = UnixStream::connect(socket).await?;
    done(ask(channel, &AdminRequest::Detach { brick: brick.bytes() }, WORK_LIMIT).await?)
}

/// Tells a recorder what sessions still need of a brick's changelog.
///
/// # Errors
/// [`RecorderError`].
pub async fn retain(
    socket: &Path,
    brick: BrickId,
    marks: Vec<changelog::Position>,
    budget_bytes: u64,
) -> Result<(), RecorderError> {
    let channel = UnixStream::connect(socket).await?;
    let request = AdminRequest::Retain { brick: brick.bytes(), marks, budget_bytes };
    done(ask(channel, &request, STATUS_LIMIT).await?)
}

/// Asks a recorder for its bricks.
///
/// # Errors
/// [`RecorderError`].
pub async fn status(socket: &Path) -> Result<Vec<BrickStatus>, RecorderError> {
    let channel = UnixStream::connect(socket).await?;
    match ask(channel, &AdminRequest::Status, STATUS_LIMIT).await? {
        AdminResponse::Status(bricks) => Ok(bricks),
        other => done(other).map(|()| Vec::new()),
    }
}

/// Ends the process that holds a queue of events, if there is one.
pub async fn release(holder: &Path) {
    let talk = async {
        let mut channel = UnixStream::connect(holder).await?;
        channel.write_all(&Ask::End.bytes()).await
    };
    if let Ok(Ok(())) = timeout(STATUS_LIMIT, talk).await {
        tracing::info!(holder = %holder.display(), "the queue of events is not needed any more");
    }
}

fn done(response: AdminResponse) -> Result<(), RecorderError> {
    match response {
        AdminResponse::Failed(reason) => Err(RecorderError::Refused(reason)),
        AdminResponse::Done | AdminResponse::Status(_) => Ok(()),
    }
}

async fn connect_when_up(socket: &Path) -> UnixStream {
    loop {
        if let Ok(channel) = UnixStream::connect(socket).await {
            return channel;
        }
        tokio::time::sleep(UP_POLL).await;
    }
}

async fn ask(mut channel: UnixStream, request: &AdminRequest, limit: Duration) -> Result<AdminResponse, RecorderError> {
    let talk = async {
        channel.write_all(&MAGIC).await?;
        send(&mut channel, &BrickHello::Admin { versions: Versions::ours() }).await?;
        let mut magic = [0; MAGIC.len()];
        channel.read_exact(&mut magic).await?;
        if magic != MAGIC {
            return Err(RecorderError::Refused("it is another program".into()));
        }
        if let BrickWelcome::Refused(reason) = receive(&mut channel).await? {
            return Err(RecorderError::Refused(reason));
        }
        send(&mut channel, request).await?;
        receive(&mut channel).await
    };
    timeout(limit, talk).await.map_err(|_| RecorderError::Late)?
}

async fn send(channel: &mut UnixStream, message: &impl Serialize) -> Result<(), RecorderError> {
    Ok(channel.write_all(&protocol::encode(message)?).await?)
}

async fn receive<T: DeserializeOwned>(channel: &mut UnixStream) -> Result<T, RecorderError> {
    let mut header = [0; FRAME_HEADER_BYTES];
    channel.read_exact(&mut header).await?;
    let (length, checksum) = parse_header(header)?;
    let mut body = vec![0; length];
    channel.read_exact(&mut body).await?;
    Ok(protocol::decode(&body, checksum)?)
}
