//! Requests to the agent, many under way.

use std::time::Duration;

use protocol::agent::{AgentHello, Request, Response, Welcome, WorkerHello};
use tokio::io::AsyncWriteExt;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::channel::{Channel, read_frame, write_frame};
use crate::error::SyncError;
use crate::target::Target;

/// Requests that may wait to be written; more make the caller wait.
const QUEUE: usize = 64;

/// How long the agent may take to say hello (it may have to rebuild its index first).
const HELLO_LIMIT: Duration = Duration::from_secs(600);

type Answer = oneshot::Sender<Response>;

/// The control channel to the agent. Clones share it.
#[derive(Clone, Debug)]
pub struct Control {
    requests: mpsc::Sender<(Vec<u8>, Answer)>,
    ended: CancellationToken,
}

impl Control {
    /// Opens the channel and introduces the worker.
    ///
    /// # Errors
    /// As [`Channel::open`]; [`SyncError::Refused`] with the agent's reason.
    pub async fn connect(target: &Target, hello: &WorkerHello) -> Result<(Control, Welcome), SyncError> {
        let mut channel = Channel::open(target, &["gsync", "control"]).await?;
        write_frame(&mut channel.input, hello).await?;
        let answer = tokio::time::timeout(HELLO_LIMIT, read_frame::<AgentHello>(&mut channel.output)).await;
        let welcome = match answer {
            Ok(Ok(AgentHello::Welcome(welcome))) => welcome,
            Ok(Ok(AgentHello::Refused { reason, .. })) => return Err(reason.into()),
            Ok(Err(e)) => return Err(SyncError::Connect { reason: channel.said.or(&e.to_string()) }),
            Err(_) => return Err(SyncError::Connect { reason: "the agent did not answer in time".into() }),
        };
        let (requests, queue) = mpsc::channel(QUEUE);
        let ended = CancellationToken::new();
        tokio::spawn(carry(channel, queue, ended.clone()));
        Ok((Control { requests, ended }, welcome))
    }

    /// Puts a request on its way; requests are carried out in the order of these calls. The answer comes through the
    /// receiver, which fails when the connection ends before.
    ///
    /// # Errors
    /// [`SyncError::Ended`].
    pub async fn send(&self, request: &Request) -> Result<oneshot::Receiver<Response>, SyncError> {
        let bytes = protocol::encode(request)?;
        let (answer, receiver) = oneshot::channel();
        self.requests.send((bytes, answer)).await.map_err(|_| SyncError::Ended)?;
        Ok(receiver)
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// [`SyncError::Ended`], or [`SyncError::Refused`] when the agent refuses.
    pub async fn call(&self, request: &Request) -> Result<Response, SyncError> {
        match self.send(request).await?.await {
            Ok(Response::Refused(reason)) => Err(reason.into()),
            Ok(response) => Ok(response),
            Err(_) => Err(SyncError::Ended),
        }
    }

    /// Returns when the connection has ended.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }
}

/// Writes requests and hands out answers until either side ends.
async fn carry(channel: Channel, mut queue: mpsc::Receiver<(Vec<u8>, Answer)>, ended: CancellationToken) {
    let _guard = ended.drop_guard();
    let Channel { mut input, mut output, child, .. } = channel;
    let (waiting, mut waiters) = mpsc::unbounded_channel::<Answer>();
    let write = async move {
        while let Some((bytes, answer)) = queue.recv().await {
            // The waiter has to be known before the answer can come.
            if waiting.send(answer).is_err() || input.write_all(&bytes).await.is_err() || input.flush().await.is_err() {
                break;
            }
        }
    };
    let read = async {
        while let Ok(response) = read_frame::<Response>(&mut output).await {
            let Some(answer) = waiters.recv().await else { break };
            let _ = answer.send(response);
        }
    };
    tokio::select! {
        () = write => {}
        () = read => {}
    }
    drop(child);
}
