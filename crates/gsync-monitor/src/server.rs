//! The monitor's socket: one JSON request a line, one answer a line.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use crate::api::{Answer, Failure, FailureCode, LINE_MAX, Request};
use crate::service::Service;

/// Connections that are served at the same time; further ones wait.
const CONNECTIONS_MAX: usize = 64;

/// How long to wait after accepting failed (the process may be out of descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until it is dropped.
pub async fn serve(listener: UnixListener, service: Arc<Service>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((channel, _)) => {
                let service = Arc::clone(&service);
                tokio::spawn(async move {
                    if let Err(error) = converse(channel, &service).await {
                        tracing::debug!(%error, "a connection broke");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn converse(channel: UnixStream, service: &Service) -> io::Result<()> {
    let (input, mut output) = channel.into_split();
    let mut input = BufReader::new(input);
    let mut line = Vec::new();
    loop {
        line.clear();
        (&mut input).take(LINE_MAX).read_until(b'\n', &mut line).await?;
        if line.is_empty() {
            return Ok(());
        }
        let answer = match serde_json::from_slice::<Request>(&line) {
            Ok(request) => service.answer(request).await.unwrap_or_else(Answer::Failed),
            Err(error) => Answer::Failed(
                Failure::new(FailureCode::BadRequest, format!("the request is not understood: {error}"))
                    .hint("use the command and the monitor of the same release"),
            ),
        };
        let mut bytes = serde_json::to_vec(&answer)?;
        bytes.push(b'\n');
        output.write_all(&bytes).await?;
    }
}
