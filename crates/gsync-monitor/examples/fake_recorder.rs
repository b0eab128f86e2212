//! Stands for `gsync-recorder` in tests: answers the administration and writes each request to `<socket>.log`.

use std::error::Error;
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Mutex;

use protocol::brick::{AdminRequest, AdminResponse, BrickHello, BrickStatus, BrickWelcome};
use protocol::hello::{MAGIC, Versions};
use protocol::{read_frame, write_frame};

static ATTACHED: Mutex<Vec<[u8; 16]>> = Mutex::new(Vec::new());

fn main() -> Result<(), Box<dyn Error>> {
    let socket = std::env::args().nth(2).ok_or("no socket")?;
    let listener = UnixListener::bind(&socket)?;
    for channel in listener.incoming() {
        let (channel, log) = (channel?, format!("{socket}.log"));
        std::thread::spawn(move || answer(channel, &log).map_err(|error| eprintln!("{error}")));
    }
    Ok(())
}

fn answer(mut channel: UnixStream, log: &str) -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut magic = [0; MAGIC.len()];
    channel.read_exact(&mut magic)?;
    let BrickHello::Admin { .. } = read_frame(&mut channel)? else { return Err("no administration".into()) };
    channel.write_all(&MAGIC)?;
    write_frame(&mut channel, &BrickWelcome::Ready { versions: Versions::ours(), journal: Vec::new() })?;
    loop {
        let request: AdminRequest = read_frame(&mut channel)?;
        let mut attached = ATTACHED.lock().map_err(|_| "poisoned")?;
        let (line, response) = match request {
            AdminRequest::Attach { brick, path, .. } => {
                attached.push(brick);
                (format!("attach {}\n", String::from_utf8_lossy(&path)), AdminResponse::Done)
            }
            AdminRequest::Detach { brick } => {
                attached.retain(|known| *known != brick);
                ("detach\n".into(), AdminResponse::Done)
            }
            AdminRequest::Retain { .. } => (String::new(), AdminResponse::Done),
            AdminRequest::Status => {
                let status = |&brick| BrickStatus {
                    brick,
                    crawling: false,
                    objects: 1,
                    error: String::new(),
                    crawls: 0,
                    level: String::new(),
                };
                (String::new(), AdminResponse::Status(attached.iter().map(status).collect()))
            }
        };
        OpenOptions::new().append(true).create(true).open(log)?.write_all(line.as_bytes())?;
        write_frame(&mut channel, &response)?;
    }
}
