//! What a worker answers on its control socket: one JSON object a line, one answer a line.

use serde::{Deserialize, Serialize};

use crate::brake::Halt;

/// A request to a worker.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "cmd", rename_all = "kebab-case")]
pub enum ControlRequest {
    /// How is it? Answer: [`ControlResponse::Status`].
    Status,
    /// Answer when everything that was changed on the brick before this request is durably on the secondary:
    /// [`ControlResponse::Waited`].
    Wait {
        /// Give up after this many milliseconds.
        timeout_ms: u64,
    },
    /// Compare both sides as a whole. Answered when it is durable that this has to be done: [`ControlResponse::Waited`].
    Resync {
        /// Give up waiting after this many milliseconds; it is done nevertheless.
        timeout_ms: u64,
    },
    /// Go on after a halt. Answer: [`ControlResponse::Resumed`].
    Resume {
        /// So many removals are accepted: those that the halt told of.
        accept_removals: bool,
    },
}

/// The answers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum ControlResponse {
    /// To [`ControlRequest::Status`].
    Status(WorkerStatus),
    /// To [`ControlRequest::Wait`].
    Waited {
        /// Whether everything is there; `false` after the time-out.
        done: bool,
        /// How many objects or names are pending because they could not be applied.
        pending: u64,
    },
    /// To [`ControlRequest::Resume`].
    Resumed {
        /// Whether it had halted.
        was_halted: bool,
    },
    /// The request was not understood or could not be carried out.
    Error {
        /// Why, for the operator.
        message: String,
    },
}

/// STATUS column, in the words of GlusterFS.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum WorkerState {
    /// Connecting to recorder and agent.
    Initializing,
    /// Replicating.
    Active,
    /// Ready to take over.
    Passive,
    /// Something is wrong; retried by itself.
    Faulty,
    /// The brake: too much would be removed, the operator is asked.
    Halted,
}

/// CRAWL STATUS column, in the words of GlusterFS.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum CrawlState {
    /// Not working.
    NotApplicable,
    /// Both sides are compared as a whole, or the recorder's crawl is running: the first copy, or catching up after an
    /// outage.
    HybridCrawl,
    /// Reading what was recorded before the worker started.
    HistoryCrawl,
    /// Following the open slice.
    ChangelogCrawl,
}

/// Why a session halted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Halted {
    /// Objects that would be removed on the secondary; so many are accepted with `--accept-removals`.
    pub removals: u64,
    /// New objects that make up for some of them.
    pub made: u64,
    /// How many fewer there are already than there were at most in the hour before.
    pub lost: u64,
    /// Objects on the secondary.
    pub objects: u64,
    /// Some of those that would be removed, as paths on the secondary.
    pub examples: Vec<String>,
}

impl Halted {
    /// For the operator; `paths` are those of the halt's examples.
    pub fn new(halt: &Halt, paths: &[Vec<u8>]) -> Halted {
        let Halt { removals, made, lost, objects, .. } = *halt;
        let paths = paths.iter().filter(|path| !path.is_empty());
        Halted { removals, made, lost, objects, examples: paths.map(|p| p.escape_ascii().to_string()).collect() }
    }

    /// In words.
    pub fn message(&self) -> String {
        let Halted { removals, made, lost, objects, examples } = self;
        let mut text = format!("the brake: {removals} of {objects} objects on the secondary would be removed");
        if *made > 0 {
            text += &format!(", for {made} of them there are new ones");
        }
        if *lost > 0 {
            text += &format!(", {lost} were lost already in the last hour");
        }
        if !examples.is_empty() {
            text += &format!("; for example {}", examples.join(", "));
        }
        text
    }
}

/// How a worker is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// STATUS.
    pub state: WorkerState,
    /// CRAWL STATUS.
    pub crawl: CrawlState,
    /// All changes before this time are durably on the secondary; seconds since 1970, 0 when none was synced yet.
    pub last_synced: u64,
    /// Name changes read and not yet on the secondary.
    pub entry: u64,
    /// Objects with changed content read and not yet on the secondary.
    pub data: u64,
    /// Objects with changed attributes read and not yet on the secondary.
    pub meta: u64,
    /// Pending: could not be applied, retried with back-off.
    pub failures: u64,
    /// The oldest pending items with their reasons, for the operator (at most 10).
    pub failure_reasons: Vec<String>,
    /// The mark, as text.
    pub mark: String,
    /// The last error, empty if there is none.
    pub error: String,
    /// Bytes of content handed to the engine since the start.
    pub sent_bytes: u64,
    /// Files whose content was sent since the start.
    pub sent_files: u64,
    /// Why both sides are being compared as a whole; empty if they are not.
    #[serde(default)]
    pub rescan: String,
    /// Why it halted, when it did.
    #[serde(default)]
    pub halted: Option<Halted>,
}

impl WorkerStatus {
    /// A worker of which nothing is known yet.
    pub fn unknown() -> WorkerStatus {
        WorkerStatus {
            state: WorkerState::Initializing,
            crawl: CrawlState::NotApplicable,
            last_synced: 0,
            entry: 0,
            data: 0,
            meta: 0,
            failures: 0,
            failure_reasons: Vec::new(),
            mark: String::new(),
            error: String::new(),
            sent_bytes: 0,
            sent_files: 0,
            rescan: String::new(),
            halted: None,
        }
    }
}
