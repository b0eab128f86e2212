//! The life of a worker: connect, replicate, and again when something broke.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use crate::config::WorkerConfig;
use crate::control::{CrawlState, Halted, WorkerState};
use crate::error::WorkerError;
use crate::server;
use crate::session::replicate;
use crate::shared::{Progress, Shared};

/// The first wait after something broke; doubled for each further time.
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// The longest wait: a secondary that comes back is noticed within this time.
const LAST_WAIT: Duration = Duration::from_secs(5);

/// A connection that lasted this long was a good one: the waits begin anew.
const GOOD_FOR: Duration = Duration::from_secs(10);

/// Runs until `stop` is given.
///
/// # Errors
/// When the control socket cannot be made, or another worker took over.
pub async fn run(config: WorkerConfig, stop: CancellationToken) -> Result<(), WorkerError> {
    let shared = Arc::new(Shared::default());
    let config = Arc::new(config);
    std::fs::create_dir_all(&config.run_dir).map_err(local("making the run directory"))?;
    let _ = std::fs::remove_file(&config.control_socket);
    let listener = UnixListener::bind(&config.control_socket).map_err(local("making the control socket"))?;
    tokio::spawn(server::serve(listener, config.clone(), shared.clone(), stop.clone()));
    let mut wait = FIRST_WAIT;
    let mut accepted = None;
    loop {
        let begun = Instant::now();
        let error = match replicate(&config, &shared, &mut accepted, &stop).await {
            Ok(()) => return Ok(()),
            Err(e) if stop.is_cancelled() => {
                tracing::info!(error = %e, "stopped");
                return Ok(());
            }
            Err(e) if e.is_fenced() => return Err(e),
            Err(e) => e,
        };
        if let WorkerError::Halted(halted) = &error {
            tracing::warn!(session = %config.session_name, "{error}");
            show_broken(&shared, &error);
            tokio::select! {
                answer = shared.wait_for_answer(Halted::clone(halted)) => accepted = answer,
                () = stop.cancelled() => return Ok(()),
            }
            tracing::info!(session = %config.session_name, ?accepted, "the operator lets it go on");
            continue;
        }
        if begun.elapsed() >= GOOD_FOR {
            wait = FIRST_WAIT;
        }
        tracing::warn!(session = %config.session_name, error = %error, retry_ms = wait.as_millis() as u64, "broken off");
        show_broken(&shared, &error);
        let jittered = wait.mul_f64(0.5 + fastrand::f64());
        tokio::select! {
            () = tokio::time::sleep(jittered) => {}
            () = stop.cancelled() => return Ok(()),
        }
        wait = (wait * 2).min(LAST_WAIT);
    }
}

fn show_broken(shared: &Shared, error: &WorkerError) {
    shared.publish(Progress::default());
    shared.update(|s| {
        s.state = WorkerState::Faulty;
        s.crawl = CrawlState::NotApplicable;
        s.error = error.to_string();
    });
}

/// Parses the text form of a UUID.
///
/// # Errors
/// [`WorkerError::Local`] when it is none.
pub fn parse_uuid(text: &str) -> Result<[u8; 16], WorkerError> {
    text.parse::<changelog::Gfid>()
        .map(|gfid| gfid.0)
        .map_err(|e| WorkerError::Local { doing: "reading the configuration", source: std::io::Error::other(e) })
}

fn local(doing: &'static str) -> impl FnOnce(std::io::Error) -> WorkerError {
    move |source| WorkerError::Local { doing, source }
}
