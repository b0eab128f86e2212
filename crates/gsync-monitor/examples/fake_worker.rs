//! Stands for `gsync-worker` in tests: says that it is active, and that nothing is in flight. Ends with an error when
//! its brick has a file `.fail`.

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};

use gsync_worker::config::WorkerConfig;
use gsync_worker::control::{ControlRequest, ControlResponse, CrawlState, WorkerState, WorkerStatus};

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(2).ok_or("no configuration")?;
    let config: WorkerConfig = serde_json::from_slice(&std::fs::read(path)?)?;
    if config.brick_path.join(".fail").exists() {
        eprintln!("error: told to fail");
        std::process::exit(4);
    }
    let listener = UnixListener::bind(&config.control_socket)?;
    for channel in listener.incoming() {
        let (channel, epoch) = (channel?, config.epoch);
        std::thread::spawn(move || answer(channel, epoch).map_err(|error| eprintln!("{error}")));
    }
    Ok(())
}

fn answer(channel: UnixStream, epoch: u64) -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut lines = BufReader::new(channel.try_clone()?);
    let (mut channel, mut line) = (channel, String::new());
    while lines.read_line(&mut line)? > 0 {
        let response = match serde_json::from_str(&line)? {
            ControlRequest::Status => ControlResponse::Status(status(epoch)),
            ControlRequest::Wait { .. } | ControlRequest::Resync { .. } => {
                ControlResponse::Waited { done: true, pending: 0 }
            }
            ControlRequest::Resume { .. } => ControlResponse::Resumed { was_halted: false },
        };
        channel.write_all((serde_json::to_string(&response)? + "\n").as_bytes())?;
        line.clear();
    }
    Ok(())
}

fn status(epoch: u64) -> WorkerStatus {
    WorkerStatus {
        state: WorkerState::Active,
        crawl: CrawlState::ChangelogCrawl,
        last_synced: 1,
        mark: epoch.to_string(),
        ..WorkerStatus::unknown()
    }
}
