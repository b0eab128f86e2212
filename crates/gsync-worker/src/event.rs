//! What the state machine is told and what it wants done.

use changelog::{Position, Record};
use protocol::agent::{Balance, Batch, Outcome, Stored};
use protocol::{Gfid, Object};

use crate::adoption::Swept;
use crate::plan::{Round, Survey};
use crate::rescan::{Page, PageRequest};

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// Records were read.
    Records {
        /// Why the records before these ones may not be all that there should be; `None`: they are.
        unproven: Option<String>,
        /// The records.
        records: Vec<(Position, Record)>,
        /// Behind the last.
        next: Position,
        /// Nothing more is there for now.
        at_tail: bool,
        /// Wall clock: all changes before this time are among what was read so far; 0 when it is not known.
        read_until: u64,
    },
    /// A round was surveyed.
    Surveyed(Round, Survey),
    /// Contents were carried (or not).
    Transferred(Vec<Transferred>),
    /// A batch was answered.
    Applied {
        /// Of which batch.
        ticket: u64,
        /// One for each item.
        items: Vec<Outcome>,
        /// One for each gone object.
        gone: Vec<Outcome>,
        /// Objects that gave way and have no name on the secondary now.
        parked: Vec<Gfid>,
        /// What the brake has to know.
        balance: Balance,
    },
    /// What is over there was compared, to end an adoption.
    Swept(Swept),
    /// Of the objects of one [`Effect::Count`] the secondary has these.
    Counted(Vec<Gfid>),
    /// Answer to [`Effect::FindEnd`].
    End(Position),
    /// The last [`Effect::Commit`] is durable.
    Committed,
    /// A part of what one side has.
    Listed {
        /// [`PageRequest::generation`].
        generation: u64,
        /// It.
        page: Page,
    },
}

/// What to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Look at the brick: [`Event::Surveyed`].
    Survey(Round),
    /// Open, and send into the stage: [`Event::Transferred`].
    Transfer(Vec<TransferJob>),
    /// Send: [`Event::Applied`]. Batches are sent in the order of these effects.
    Apply(u64, Batch),
    /// Store: [`Event::Committed`].
    Commit(Stored),
    /// List a part of what one side has: [`Event::Listed`].
    List(PageRequest),
    /// Ask which of these objects the secondary has: [`Event::Counted`].
    Count(Vec<Gfid>),
    /// Ask where the changelog ends when everything is in it that was changed before: [`Event::End`].
    FindEnd,
    /// Tell the secondary how many further removals it should not count; behind everything that was sent before.
    Accept(u64),
    /// Read the changelog again from here; nothing that was read before is delivered any more.
    Rewind(Position),
}

/// One file to send.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TransferJob {
    /// The object.
    pub gfid: Gfid,
    /// Although the secondary may have this version.
    pub hard: bool,
    /// Although somebody is writing to it.
    pub accept_unstable: bool,
    /// How long it has been waiting.
    pub waited: std::time::Duration,
}

/// What became of one file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transferred {
    /// The object.
    pub gfid: Gfid,
    /// What became of its content.
    pub state: TransferState,
}

/// What became of a file's content.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TransferState {
    /// It is in the stage.
    Staged {
        /// The file as it was when its content was read.
        object: Object,
        /// The engine vouches that it arrived to its end.
        whole: bool,
    },
    /// The secondary has it.
    Current(Object),
    /// Somebody is writing to it.
    Busy,
    /// An older copy of it may be in a directory that is not bound yet.
    Early,
    /// It is gone, or no regular file.
    Missing,
    /// It failed, for this reason.
    Failed(String),
}
