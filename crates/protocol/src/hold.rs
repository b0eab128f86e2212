//! Recorder, monitor and the holder of a queue of events over a local socket.
//!
//! Who connects sends one [`Ask`], eight bytes; `Keep` brings the descriptors of the fanotify group and of the ring. The
//! answer has eight bytes too, and both descriptors where they are taken. These bytes never change their meaning: a
//! holder may be older or newer than the recorder.

/// Name of the socket of the holder for a file system with this device number.
pub fn socket_name(device: u64) -> String {
    format!("hold-{device:x}.sock")
}

/// How long a request and an answer are.
pub const HOLD_BYTES: usize = 8;

/// Answer: both descriptors come with it, or were taken.
pub const HELD: [u8; HOLD_BYTES] = *b"GSHOLD1h";

/// Answer: there is nothing.
pub const NOTHING: [u8; HOLD_BYTES] = *b"GSHOLD1n";

/// What a holder is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ask {
    /// The descriptors, if there are any.
    Take,
    /// These descriptors are to be held.
    Keep,
    /// Let go and end; the answer is the end of the connection.
    End,
}

impl Ask {
    /// As it is sent.
    pub fn bytes(self) -> [u8; HOLD_BYTES] {
        match self {
            Ask::Take => *b"GSHOLD1T",
            Ask::Keep => *b"GSHOLD1K",
            Ask::End => *b"GSHOLD1E",
        }
    }

    /// What was sent.
    pub fn parse(bytes: [u8; HOLD_BYTES]) -> Option<Ask> {
        [Ask::Take, Ask::Keep, Ask::End].into_iter().find(|ask| ask.bytes() == bytes)
    }
}
