//! What the operator's command asks of the monitor: one JSON object a line, one answer a line.

use std::path::PathBuf;

use cluster::{Secondary, Session, SessionId, Transition, Volume};
use serde::{Deserialize, Serialize};

use crate::status::StatusReport;

/// The longest line in bytes, either way.
pub const LINE_MAX: u64 = 8 << 20;

/// Raised when requests or answers change in a way that an older side would misunderstand.
pub const API_VERSION: u32 = 1;

/// A request.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "cmd", rename_all = "kebab-case")]
pub enum Request {
    /// Who is there? Answer: [`Answer::Hello`].
    Hello,
    /// What is declared? Answer: [`Answer::Declared`].
    Declared,
    /// Declare a session, and a volume for its directory if there is none. Answer: [`Answer::Session`].
    Create {
        /// Identity, chosen by the command because the key is made before.
        id: SessionId,
        /// Name.
        name: String,
        /// The primary directory on this node, absolute and without links.
        primary: PathBuf,
        /// Where to.
        secondary: Secondary,
        /// Settings that differ from the defaults.
        settings: Vec<(String, String)>,
    },
    /// Start, stop, pause, resume or delete. Answers [`Answer::Session`] (as it was, for a deletion) when the
    /// processes that have to end have ended.
    Transition {
        /// Name of the session.
        session: String,
        /// Which.
        transition: Transition,
        /// As GlusterFS's `force`.
        force: bool,
    },
    /// The bricks of the session on this node are right as they are now, although they are empty or other ones. Answer:
    /// [`Answer::Session`].
    AcceptBrick {
        /// Name of the session.
        session: String,
    },
    /// Go on after a pause or a halt. Answer: [`Answer::Session`].
    Resume {
        /// Name of the session.
        session: String,
        /// As GlusterFS's `force`.
        force: bool,
        /// The removals that a halt told of are meant.
        accept_removals: bool,
    },
    /// Change settings; `None` resets one. Answer: [`Answer::Session`].
    Configure {
        /// Name of the session.
        session: String,
        /// Names and values.
        changes: Vec<(String, Option<String>)>,
    },
    /// How is everything, or one session? Answer: [`Answer::Status`].
    Status {
        /// Name of a session.
        session: Option<String>,
    },
    /// Answer when all that was changed on the primary before is on the secondary: [`Answer::Waited`].
    Wait {
        /// Name of the session.
        session: String,
        /// Give up after this many milliseconds.
        timeout_ms: u64,
    },
    /// Compare both sides of a session as a whole. Answer, when it is durable that this has to be done:
    /// [`Answer::Waited`].
    Resync {
        /// Name of the session.
        session: String,
    },
}

/// The answers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Answer {
    /// To [`Request::Hello`].
    Hello {
        /// [`API_VERSION`]
        version: u32,
        /// Name of this node.
        node: String,
        /// Process id of the monitor.
        pid: u32,
        /// Its state directory.
        state_dir: PathBuf,
    },
    /// To [`Request::Declared`].
    Declared {
        /// All volumes.
        volumes: Vec<Volume>,
        /// All sessions.
        sessions: Vec<Session>,
    },
    /// The session as it is now.
    Session {
        /// It.
        session: Session,
    },
    /// To [`Request::Status`].
    Status(StatusReport),
    /// To [`Request::Wait`] and [`Request::Resync`].
    Waited {
        /// Whether everything is there; `false` after the time-out.
        done: bool,
        /// How many objects or names could not be applied.
        pending: u64,
    },
    /// It was not done.
    Failed(Failure),
}

/// Why something was not done; nothing was changed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// For scripts.
    pub code: FailureCode,
    /// For the operator.
    pub message: String,
    /// What to do next, for the operator; may be empty.
    pub hint: String,
}

/// Kinds of [`Failure`]; append-only.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureCode {
    /// No session of this name.
    NoSession,
    /// A name or a directory is in use.
    Taken,
    /// Not possible in the state in which the session is.
    Refused,
    /// Unknown setting or bad value.
    BadOption,
    /// The request is not understood.
    BadRequest,
    /// Something that should work did not; the message says what.
    Internal,
}

impl Failure {
    /// A failure without a hint.
    pub fn new(code: FailureCode, message: impl Into<String>) -> Failure {
        Failure { code, message: message.into(), hint: String::new() }
    }

    /// Adds what to do next.
    pub fn hint(self, hint: impl Into<String>) -> Failure {
        Failure { hint: hint.into(), ..self }
    }
}
