//! The asking end of a channel.

use std::fmt;
use std::io::{Read, Write};

use protocol::frame::{read_frame, write_frame};

use crate::request::{Look, Request};
use crate::wire::{self, Answer, Ask, BATCH_BYTES, WireEntry};
use crate::{Entry, TreePath, VerifyError};

/// A channel to a manifest server.
pub(crate) struct Client {
    input: Box<dyn Read + Send>,
    output: Box<dyn Write + Send>,
    /// Whether an answer was not read to its end, so that nothing more can be asked.
    spent: bool,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("spent", &self.spent).finish_non_exhaustive()
    }
}

impl Client {
    pub(crate) fn greet(
        mut input: Box<dyn Read + Send>,
        mut output: Box<dyn Write + Send>,
    ) -> Result<Client, VerifyError> {
        wire::greet(&mut input, &mut output)?;
        Ok(Client { input, output, spent: false })
    }

    pub(crate) fn ask(&mut self, request: Request) -> Result<Answers<'_>, VerifyError> {
        if std::mem::replace(&mut self.spent, true) {
            return Err(VerifyError::ChannelSpent);
        }
        match request {
            Request::Whole => write_frame(&mut self.output, &Ask::Whole)?,
            Request::Some(looks) => self.send_looks(looks)?,
        }
        Ok(Answers { client: self, batch: Vec::new().into_iter(), before: None, objects: 0 })
    }

    fn send_looks(&mut self, looks: Vec<Look>) -> Result<(), VerifyError> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        for look in looks {
            bytes += look.path.as_bytes().len();
            batch.push(wire::pack_look(look));
            if bytes >= BATCH_BYTES {
                write_frame(&mut self.output, &Ask::Some { looks: std::mem::take(&mut batch), last: false })?;
                bytes = 0;
            }
        }
        Ok(write_frame(&mut self.output, &Ask::Some { looks: batch, last: true })?)
    }
}

/// The answer to one request.
pub(crate) struct Answers<'a> {
    client: &'a mut Client,
    batch: std::vec::IntoIter<WireEntry>,
    before: Option<TreePath>,
    objects: u64,
}

impl Answers<'_> {
    pub(crate) fn next_entry(&mut self) -> Result<Option<Entry>, VerifyError> {
        loop {
            if let Some(packed) = self.batch.next() {
                let Some(entry) = packed.unpack(self.before.as_ref()) else {
                    return Err(VerifyError::Disorder { after: self.before.take().unwrap_or_default() });
                };
                self.before = Some(entry.path.clone());
                self.objects += 1;
                return Ok(Some(entry));
            }
            if !self.client.spent {
                return Ok(None);
            }
            match read_frame(&mut self.client.input)? {
                Answer::Entries(batch) => self.batch = batch.into_iter(),
                Answer::End { objects } if objects == self.objects => self.client.spent = false,
                Answer::End { .. } => {
                    return Err(VerifyError::Disorder { after: self.before.take().unwrap_or_default() });
                }
                Answer::Failed { reason } => {
                    self.client.spent = false;
                    return Err(VerifyError::Refused { reason });
                }
            }
        }
    }
}
