//! A control channel: requests in, in order; answers out.

use std::io::{BufReader, Read, Write};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SyncSender};

use protocol::agent::{AgentHello, Numbered, Refusal, Request, Response, WorkerHello};
use protocol::frame::{FRAME_HEADER_BYTES, decode, parse_header};
use protocol::hello::{MAGIC, Versions};
use protocol::{FrameError, write_frame};

use super::budget::Budget;
use super::{ChannelReader, ChannelWriter, Ends, read_magic};
use crate::applier::Job;

/// What goes to the worker.
#[derive(Debug)]
pub enum Reply {
    /// The answer to its hello.
    Hello(AgentHello),
    /// The answer to a request of so many bytes.
    Response(Numbered<Response>, usize),
    /// The last one, which answers nothing; the channel is closed behind it.
    Last(Response),
}

/// Serves one control channel until it ends.
///
/// # Errors
/// [`FrameError`] when it did not end by being closed.
pub fn run(ends: &Arc<Ends>, connection: u64, queue: &SyncSender<Job>) -> Result<(), FrameError> {
    let budget = Arc::new(Budget::default());
    let (replies, answers) = mpsc::channel();
    let writer = {
        let (ends, budget) = (ends.clone(), budget.clone());
        std::thread::spawn(move || {
            let result = write_answers(&ends, &answers, &budget);
            budget.close();
            ends.stop();
            result
        })
    };
    let result = read_requests(ends, connection, queue, &budget, replies);
    // Behind all requests, so they are all carried out and answered before the connection is over.
    let _ = queue.send(Job::Closed { connection });
    if !matches!(result, Ok(()) | Err(FrameError::Closed)) {
        ends.stop();
    }
    let _ = writer.join();
    result
}

fn read_requests(
    ends: &Arc<Ends>,
    connection: u64,
    queue: &SyncSender<Job>,
    budget: &Budget,
    replies: mpsc::Sender<Reply>,
) -> Result<(), FrameError> {
    let mut reader = BufReader::with_capacity(64 << 10, ChannelReader(ends.clone()));
    read_magic(&mut reader)?;
    let Some(hello) = read_hello(&mut reader)? else {
        let refused = AgentHello::Refused { versions: Versions::ours(), reason: Refusal::Version };
        let _ = replies.send(Reply::Hello(refused));
        return Ok(());
    };
    if queue.send(Job::Hello { connection, hello, replies, queue: queue.clone() }).is_err() {
        return Ok(());
    }
    loop {
        let mut header = [0; FRAME_HEADER_BYTES];
        if reader.read(&mut header[..1])? == 0 {
            return Ok(());
        }
        reader.read_exact(&mut header[1..])?;
        let (bytes, checksum) = parse_header(header)?;
        if !budget.take(bytes) {
            return Ok(());
        }
        let mut body = vec![0; bytes];
        reader.read_exact(&mut body)?;
        let request: Numbered<Request> = decode(&body, checksum)?;
        if queue.send(Job::Request { connection, request, bytes }).is_err() {
            return Ok(());
        }
    }
}

/// Reads who the worker is; `None` for one of another release, whose hello has other fields behind its versions.
fn read_hello(reader: &mut impl Read) -> Result<Option<WorkerHello>, FrameError> {
    let mut header = [0; FRAME_HEADER_BYTES];
    reader.read_exact(&mut header)?;
    let (bytes, checksum) = parse_header(header)?;
    let mut body = vec![0; bytes];
    reader.read_exact(&mut body)?;
    match decode(&body, checksum) {
        Err(FrameError::Malformed(error)) => match postcard::take_from_bytes::<Versions>(&body) {
            Ok((versions, _)) if versions.common(&Versions::ours()).is_none() => Ok(None),
            _ => Err(FrameError::Malformed(error)),
        },
        other => Ok(Some(other?)),
    }
}

fn write_answers(ends: &Arc<Ends>, answers: &Receiver<Reply>, budget: &Budget) -> Result<(), FrameError> {
    let mut writer = ChannelWriter(ends.clone());
    writer.write_all(&MAGIC)?;
    for reply in answers {
        match reply {
            Reply::Hello(hello) => write_frame(&mut writer, &hello)?,
            Reply::Response(response, bytes) => {
                write_frame(&mut writer, &response)?;
                budget.give_back(bytes);
            }
            Reply::Last(body) => return write_frame(&mut writer, &Numbered { number: 0, body }),
        }
    }
    Ok(())
}
