//! Worker and agent over a control channel.
//!
//! Each side sends [`MAGIC`](crate::hello::MAGIC), then the worker a frame [`WorkerHello`], the agent a frame
//! [`AgentHello`]. After that the worker sends [`Request`]s, each [`Numbered`] from 1, and gets exactly one [`Response`]
//! to each, under its number; many may be under way. The agent carries them out in the order in which they came, but
//! answers a [`Request::Commit`] when it is durable, and goes on meanwhile. A response numbered 0 answers nothing: it is
//! a [`Response::Refused`] that ends the connection.

use changelog::Gfid;
use serde::{Deserialize, Serialize};

use crate::hello::Versions;
use crate::{Object, Place, Version};

/// The most items in one batch; the agent refuses more.
pub const MAX_BATCH_ITEMS: usize = 4096;

/// A worker ends a batch when its items have come to about this size, half of what a frame may have.
pub const BATCH_BYTES: usize = crate::MAX_FRAME_BYTES / 2;

/// The most pending items that an agent keeps for one replica set; beyond, the mark has to wait.
pub const MAX_PENDING_ITEMS: usize = 10_000;

/// The most names in one [`Response::Listed`].
pub const MAX_LISTED: usize = 4096;

/// The most objects in one [`Request::Examine`]; each is held open.
pub const MAX_CANDIDATES: usize = 128;

/// The most parked objects that are named in a [`Welcome`].
pub const MAX_PARKED: usize = 100_000;

/// Who the worker is and what it replicates.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WorkerHello {
    /// What the worker speaks.
    pub versions: Versions,
    /// Identity of the session (UUID).
    pub session: [u8; 16],
    /// Number of the replica set in the volume, from 0.
    pub replica_set: u32,
    /// Identity of the brick that is read (UUID); marks are positions in this brick's changelog.
    pub brick: [u8; 16],
    /// Fencing number of this ACTIVE.
    pub epoch: u64,
    /// The directory that the session names as its secondary; the agent refuses when it serves another one.
    pub root: Vec<u8>,
    /// Which session this is, for the operator of another one that wants the same root.
    pub name: String,
    /// Node and directory of the primary, likewise.
    pub primary: String,
}

/// The agent's answer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum AgentHello {
    /// Go ahead.
    Welcome(Box<Welcome>),
    /// Not with me.
    Refused {
        /// What the agent speaks.
        versions: Versions,
        /// Why.
        reason: Refusal,
    },
}

/// What a worker has to know of the secondary.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Welcome {
    /// What the agent speaks.
    pub versions: Versions,
    /// What is stored for this session and replica set.
    pub stored: Stored,
    /// Opens stage channels and rsync channels for this connection: 32 characters of lower-case hexadecimal.
    pub stage_token: String,
    /// Objects that have no name here, at most [`MAX_PARKED`]: each is gone, or has to be bound.
    pub parked: Vec<Gfid>,
    /// Whether the file system shares extents between files (FICLONE), so that a basis costs nothing.
    pub can_clone: bool,
    /// Whether an older copy is being adopted: [`Request::Examine`], [`Request::Sweep`].
    pub adopting: bool,
    /// What the brake has to know.
    pub balance: Balance,
}

/// What the brake has to know of a secondary.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Balance {
    /// Objects there that have a name.
    pub objects: u64,
    /// How many fewer there are than there were at most in the last hour, accepted removals left out.
    pub lost: u64,
    /// Removals that are accepted and still to come; they are not counted.
    pub accepted: u64,
}

/// What the agent keeps for one session and replica set.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Stored {
    /// The mark, if there is one yet.
    pub mark: Option<Mark>,
    /// What is behind the mark and not applied.
    pub pending: Vec<Pending>,
    /// What the mark says nothing about: both sides are being compared as a whole.
    pub rescan: Option<Rescan>,
}

/// A comparison of both sides that is not complete: whatever it has not come to may differ, also behind the mark.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Rescan {
    /// Why it is made, for the operator.
    pub reason: String,
    /// Wall clock of the primary when it was found to be needed, seconds since 1970.
    pub since: u64,
    /// How far it is.
    pub cursor: Cursor,
}

impl Rescan {
    /// Whether both were found to be needed at once, whatever was done since.
    pub fn is_same(&self, other: &Rescan) -> bool {
        (&self.reason, self.since) == (&other.reason, other.since)
    }
}

/// How far a rescan is. Everything before is on the secondary, or pending.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Cursor {
    /// In the directories that the primary has, behind this name.
    Directories(Option<(Gfid, Place)>),
    /// In everything else that the primary has, behind this name.
    Others(Option<(Gfid, Place)>),
    /// In the names that the secondary has, behind this one.
    Secondary(Option<(Gfid, Place)>),
}

/// Position in a brick's changelog before which everything is durably on the secondary, except what is pending.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Mark {
    /// The brick whose changelog the position is in.
    pub brick: [u8; 16],
    /// The position.
    pub position: changelog::Position,
    /// Wall clock of the primary, seconds since 1970: all changes before it are on the secondary.
    pub synced_until: u64,
}

/// One object or name that could not be applied.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Pending {
    /// What has to be looked at again.
    pub subject: Subject,
    /// Why it could not be applied, for the operator.
    pub reason: String,
    /// Wall clock of the primary at the first failure, seconds since 1970.
    pub since: u64,
}

/// What a pending item is about.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Subject {
    /// A name, with the objects that may be under it on the secondary.
    Name(Place, Vec<Gfid>),
    /// The content of an object.
    Content(Gfid),
    /// The attributes of an object.
    Attributes(Gfid),
    /// The removal of an object that has no name left on the primary.
    Gone(Gfid),
}

/// Why an agent refuses.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// No common protocol version.
    #[error("the agent speaks other protocol versions; install the same release on both sides")]
    Version,
    /// A newer ACTIVE has registered.
    #[error("another worker took over (epoch {current})")]
    Fenced {
        /// The epoch that the agent knows.
        current: u64,
    },
    /// The root cannot be used as it is.
    #[error("the secondary cannot be used: {0}")]
    Root(String),
    /// The forced command leads to another directory than the session names.
    #[error(
        "the session's key leads to {served}, not to the session's directory; mend --root in the key's line of \
         authorized_keys over there, or delete and create the session"
    )]
    OtherRoot {
        /// What the agent serves.
        served: String,
    },
    /// Another session uses the root.
    #[error("{0}")]
    Claimed(String),
}

/// A request or a response with its number.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Numbered<T> {
    /// Chosen by the worker, from 1.
    pub number: u64,
    /// The request or the response.
    pub body: T,
}

/// What the worker asks for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Request {
    /// Make the secondary converge to these statements, in this order. Answer: [`Response::Applied`].
    Apply(Batch),
    /// Put a starting point for rsync into the stage for each object. Answer: [`Response::Prepared`].
    Prepare(Vec<Gfid>),
    /// Make everything that was acknowledged before durable, then store the mark and the whole pending list.
    /// Answer: [`Response::Committed`].
    Commit(Stored),
    /// Nothing; keeps the connection alive and proves that it is. Answer: [`Response::Pong`].
    Ping,
    /// Which objects are there, under which names, behind this one? Answer: [`Response::Listed`].
    List(Option<(Gfid, Place)>),
    /// What is there that may be an older copy of each of these files? Answer: [`Response::Examined`], when the
    /// candidates were read; other requests are answered meanwhile.
    Examine(Vec<Candidate>),
    /// The next names below the root as they are on the disk, of a list that begins anew with each connection. Answer:
    /// [`Response::Swept`].
    Sweep,
    /// Nothing is to be adopted any more. Answer: [`Response::Committed`].
    EndAdoption,
    /// Which of these objects have a name? Answer: [`Response::Known`].
    Known(Vec<Gfid>),
    /// Further removals are accepted; stored durably. Answer: [`Response::Committed`].
    Accept {
        /// So many; the next ones are not counted.
        removals: u64,
        /// What was lost in the last hour is not counted any more either.
        forget: bool,
    },
    /// Where are these objects, for people? Answer: [`Response::Paths`].
    Paths(Vec<Gfid>),
}

/// A file of which an older copy is looked for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Candidate {
    /// The object.
    pub gfid: Gfid,
    /// Its names.
    pub places: Vec<Place>,
    /// Its size on the primary: a copy of another one is not read.
    pub size: u64,
}

/// A file on the secondary as it was when it was examined.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Seen {
    /// Its name; absent when it is the object already.
    pub place: Option<Place>,
    /// Inode number.
    pub inode: u64,
    /// Size and times over there.
    pub version: Version,
}

/// What was found for a [`Candidate`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Examined {
    /// Nothing that could be an older copy.
    Nothing,
    /// A directory that it may be in is not bound yet.
    ParentMissing,
    /// A file of another size, or one that is being written.
    Differs(Seen),
    /// A file of the same size, with the BLAKE3 checksum of its content.
    Read(Seen, [u8; 32]),
}

/// A set of statements about the primary.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Batch {
    /// Statements, carried out in order.
    pub items: Vec<Item>,
    /// Objects that have no name left on the primary: what is parked of them is removed, after the items.
    pub gone: Vec<Gfid>,
}

/// One statement about the primary.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Item {
    /// This name is now this object.
    ///
    /// Whatever else is there gives way (parked when it is known, quarantined when it is not). An object that exists
    /// under `from` is moved, one that exists elsewhere is moved (directory, or parked) or linked (other). One that
    /// does not exist is made from `object`; a regular file only when its content is in the stage
    /// ([`Item::Content`]), else the answer is [`Outcome::NeedContent`].
    Bind {
        /// The name.
        place: Place,
        /// The object.
        gfid: Gfid,
        /// The name that the object lost by the same rename.
        from: Option<Place>,
        /// The object as it is on the primary.
        object: Object,
    },
    /// This name is no longer this object. Nothing happens when the name is something else. An object that loses
    /// its last name is parked.
    Unbind {
        /// The name.
        place: Place,
        /// The object.
        gfid: Gfid,
    },
    /// The object looks like this now; content is left alone. An unknown object: [`Outcome::Unknown`].
    Attributes {
        /// The object.
        gfid: Gfid,
        /// The object as it is on the primary.
        object: Object,
    },
    /// The content in the stage is complete: it takes the place of the object's content under all its names, at
    /// once for each name. An object without names keeps it for its next [`Item::Bind`].
    Content {
        /// The object.
        gfid: Gfid,
        /// The object as it was when the content was read.
        object: Object,
        /// The sender knows that it arrived to its end. Else the agent believes only what a stage channel completed,
        /// or what has the object's size and mtime.
        whole: bool,
    },
    /// Whether the secondary has this version of the object's content: [`Outcome::Done`] or
    /// [`Outcome::NeedContent`].
    Have {
        /// The object.
        gfid: Gfid,
        /// The version.
        version: Version,
    },
    /// While adopting: what was examined is this object. [`Outcome::Unknown`] when it is not what was seen any more.
    Adopt {
        /// The object.
        gfid: Gfid,
        /// The object as it was when the contents were compared.
        object: Object,
        /// What was examined.
        seen: Seen,
        /// Whether the contents are equal; else what is there is an older content of it.
        same: bool,
    },
    /// While adopting: the primary has nothing at this name, nor this object anywhere. It goes to quarantine; a known
    /// directory that holds something yet: [`Outcome::NotEmpty`].
    LeftOver {
        /// The name.
        place: Place,
        /// What was listed there; absent: something without a stamp.
        gfid: Option<Gfid>,
    },
}

impl Item {
    /// About how many bytes it takes in a message.
    pub fn weight_bytes(&self) -> usize {
        24 + match self {
            Item::Bind { place, from, object, .. } => {
                place.weight_bytes() + from.as_ref().map_or(0, Place::weight_bytes) + object.weight_bytes()
            }
            Item::Unbind { place, .. } => place.weight_bytes(),
            Item::Attributes { object, .. } | Item::Content { object, .. } => object.weight_bytes(),
            Item::Have { .. } => 48,
            Item::Adopt { object, seen, .. } => {
                64 + object.weight_bytes() + seen.place.as_ref().map_or(0, Place::weight_bytes)
            }
            Item::LeftOver { place, .. } => 24 + place.weight_bytes(),
        }
    }
}

/// What became of one item.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Outcome {
    /// True now (or already).
    Done,
    /// The content has to come first.
    NeedContent,
    /// The directory of the name does not exist here: bind it (and what is above it) first.
    ParentMissing,
    /// The name is inside the directory that is to be bound to it: bind the directories above the name first.
    Loop,
    /// The object is not known here.
    Unknown,
    /// A directory that is gone on the primary still holds objects here.
    NotEmpty,
    /// The system refused; nothing was changed by this item.
    Failed {
        /// `errno`, 0 if it was not the system.
        errno: i32,
        /// What was tried and what was said, for the operator.
        reason: String,
    },
}

/// The agent's answers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Response {
    /// Outcomes of the items and of the gone objects, in order of the request.
    Applied {
        /// One for each item.
        items: Vec<Outcome>,
        /// One for each gone object.
        gone: Vec<Outcome>,
        /// What went to quarantine meanwhile, for the log: one line each.
        quarantined: Vec<String>,
        /// Objects that gave way and have no name here now: each is gone, or has to be bound.
        parked: Vec<Gfid>,
        /// What the brake has to know, after all this.
        balance: Balance,
    },
    /// One for each object: whether there is a basis in the stage (else the file is to be sent whole).
    Prepared(Vec<bool>),
    /// It is durable.
    Committed,
    /// Answer to [`Request::Ping`].
    Pong {
        /// Free space for unprivileged users, bytes.
        free_bytes: u64,
        /// Free inodes.
        free_inodes: u64,
    },
    /// This connection is over: a newer ACTIVE has registered, or the request was not allowed.
    Refused(Refusal),
    /// Names in the order of their objects, at most [`MAX_LISTED`]; none: that was all.
    Listed(Vec<(Gfid, Place)>),
    /// One for each candidate.
    Examined(Vec<Examined>),
    /// Names with the stamps of what is there.
    Swept {
        /// The names.
        names: Vec<(Place, Option<Gfid>)>,
        /// Whether these were the last; the list begins anew then.
        done: bool,
    },
    /// One for each object: whether it is there under a name.
    Known(Vec<bool>),
    /// One for each object: the path below the root under which it was seen last, bytes; empty when that is not known.
    Paths(Vec<Vec<u8>>),
}
