//! The control socket: status, and waiting for the mark.

use std::sync::Arc;
use std::time::Duration;

use changelog::Position;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use crate::brick::Brick;
use crate::config::WorkerConfig;
use crate::control::{ControlRequest, ControlResponse};
use crate::error::WorkerError;
use crate::run::parse_uuid;
use crate::shared::Shared;

/// The longest request line.
const MAX_LINE_BYTES: u64 = 64 << 10;

/// Serves until it is told to stop.
pub async fn serve(listener: UnixListener, config: Arc<WorkerConfig>, shared: Arc<Shared>, stop: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let Ok((stream, _)) = accepted else {
            // Out of descriptors, most likely: they come back.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (config, shared) = (config.clone(), shared.clone());
        tokio::spawn(async move {
            if let Err(e) = converse(stream, &config, &shared).await {
                tracing::debug!(error = %e, "a control connection ended");
            }
        });
    }
}

async fn converse(stream: UnixStream, config: &WorkerConfig, shared: &Shared) -> std::io::Result<()> {
    let (input, mut output) = stream.into_split();
    let mut lines = BufReader::new(input);
    let mut line = Vec::new();
    while (&mut lines).take(MAX_LINE_BYTES).read_until(b'\n', &mut line).await? > 0 {
        let response = match serde_json::from_slice(&line) {
            Ok(ControlRequest::Status) => ControlResponse::Status(shared.status()),
            Ok(ControlRequest::Wait { timeout_ms }) => wait(config, shared, Duration::from_millis(timeout_ms)).await,
            Ok(ControlRequest::Resync { timeout_ms }) => resync(shared, Duration::from_millis(timeout_ms)).await,
            Ok(ControlRequest::Resume { accept_removals }) => {
                ControlResponse::Resumed { was_halted: shared.resume(accept_removals) }
            }
            Err(e) => ControlResponse::Error { message: format!("the request is not understood: {e}") },
        };
        let mut answer = serde_json::to_vec(&response)?;
        answer.push(b'\n');
        output.write_all(&answer).await?;
        line.clear();
    }
    Ok(())
}

/// Waits until everything that was changed before is durably on the secondary.
async fn wait(config: &WorkerConfig, shared: &Shared, limit: Duration) -> ControlResponse {
    let deadline = tokio::time::Instant::now() + limit;
    let _guard = shared.wait_guard();
    let reached = tokio::time::timeout_at(deadline, async {
        let position = barrier(config).await;
        let mut progress = shared.subscribe();
        let there = progress.wait_for(|p| p.durable.is_some_and(|mark| mark >= position)).await;
        there.map(|p| p.pending).unwrap_or(0)
    });
    match reached.await {
        Ok(pending) => ControlResponse::Waited { done: true, pending },
        Err(_) => ControlResponse::Waited { done: false, pending: shared.subscribe().borrow().pending },
    }
}

/// Asks for a comparison of both sides, and waits until that is stored.
async fn resync(shared: &Shared, limit: Duration) -> ControlResponse {
    let _guard = shared.wait_guard();
    let mut progress = shared.subscribe();
    let before = progress.borrow_and_update().resyncs;
    shared.ask_resync();
    let stored = tokio::time::timeout(limit, progress.wait_for(|p| p.resyncs > before)).await;
    ControlResponse::Waited { done: matches!(stored, Ok(Ok(_))), pending: 0 }
}

/// Where the changelog ends when everything before now is in it; asks again while the recorder is away.
async fn barrier(config: &WorkerConfig) -> Position {
    loop {
        match try_barrier(config).await {
            Ok(position) => return position,
            Err(e) => {
                tracing::debug!(error = %e, "the recorder cannot be asked now");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn try_barrier(config: &WorkerConfig) -> Result<Position, WorkerError> {
    let (brick, _) = Brick::connect(&config.recorder_socket, parse_uuid(&config.brick)?).await?;
    brick.barrier().await
}
