//! Requests to the agent, many under way.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use protocol::agent::{AgentHello, Numbered, Refusal, Request, Response, Welcome, WorkerHello};
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
    requests: mpsc::Sender<(Vec<u8>, u64, Answer)>,
    last_number: Arc<AtomicU64>,
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
            Ok(Ok(AgentHello::Welcome(welcome))) => *welcome,
            Ok(Ok(AgentHello::Refused { versions, reason: Refusal::Version })) => {
                return Err(SyncError::Version { there: versions, here: hello.versions.clone() });
            }
            Ok(Ok(AgentHello::Refused { reason, .. })) => return Err(reason.into()),
            Ok(Err(e)) => return Err(SyncError::Connect { reason: channel.said.or(&e.to_string()) }),
            Err(_) => return Err(SyncError::Connect { reason: "the agent did not answer in time".into() }),
        };
        let (requests, queue) = mpsc::channel(QUEUE);
        let ended = CancellationToken::new();
        tokio::spawn(carry(channel, queue, ended.clone()));
        Ok((Control { requests, last_number: Arc::default(), ended }, welcome))
    }

    /// Puts a request on its way; requests are carried out in the order of these calls. The answer comes through the
    /// receiver, which fails when the connection ends before.
    ///
    /// # Errors
    /// [`SyncError::Ended`].
    pub async fn send(&self, request: Request) -> Result<oneshot::Receiver<Response>, SyncError> {
        let number = self.last_number.fetch_add(1, Ordering::Relaxed) + 1;
        let bytes = protocol::encode(&Numbered { number, body: request })?;
        let (answer, receiver) = oneshot::channel();
        self.requests.send((bytes, number, answer)).await.map_err(|_| SyncError::Ended)?;
        Ok(receiver)
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// [`SyncError::Ended`], or [`SyncError::Refused`] when the agent refuses.
    pub async fn call(&self, request: Request) -> Result<Response, SyncError> {
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

/// Who waits for which answer, and why no more can be had.
#[derive(Debug, Default)]
struct Waiting {
    answers: HashMap<u64, Answer>,
    refusal: Option<Refusal>,
}

/// Writes requests and hands out answers until either side ends.
async fn carry(channel: Channel, mut queue: mpsc::Receiver<(Vec<u8>, u64, Answer)>, ended: CancellationToken) {
    let _guard = ended.drop_guard();
    let Channel { mut input, mut output, child, .. } = channel;
    let waiting = Mutex::new(Waiting::default());
    let lock = || waiting.lock().unwrap_or_else(PoisonError::into_inner);
    let write = async {
        while let Some((bytes, number, answer)) = queue.recv().await {
            // The waiter has to be known before the answer can come.
            lock().answers.insert(number, answer);
            if input.write_all(&bytes).await.is_err() || input.flush().await.is_err() {
                // What the agent still says may tell why.
                std::future::pending::<()>().await;
            }
        }
    };
    let read = async {
        while let Ok(Numbered { number, body }) = read_frame::<Numbered<Response>>(&mut output).await {
            let waiter = lock().answers.remove(&number);
            match (waiter, body) {
                (Some(waiter), body) => drop(waiter.send(body)),
                (None, Response::Refused(reason)) => lock().refusal = Some(reason),
                (None, _) => break,
            }
        }
    };
    tokio::select! {
        () = write => {}
        () = read => {}
    }
    drop(child);
    let Waiting { answers, refusal } = std::mem::take(&mut *lock());
    if let Some(reason) = refusal {
        for answer in answers.into_values() {
            let _ = answer.send(Response::Refused(reason.clone()));
        }
    }
}
