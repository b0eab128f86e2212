//! Worker and recorder over a local socket: what is at a name now, where an object lives now, give me its content.
//!
//! The worker sends [`MAGIC`](crate::hello::MAGIC) and a frame [`BrickHello`], then [`BrickRequest`]s; the recorder
//! answers each with one [`BrickResponse`], in order. Opened files travel as descriptors beside the answer's bytes.
//! The monitor uses the same socket to attach bricks ([`BrickHello::Admin`]).

use changelog::{Gfid, Position};
use serde::{Deserialize, Serialize};

use crate::hello::Versions;
use crate::{Kind, Object, Place};

/// The most names or objects in one request; of [`BrickRequest::Open`]: [`MAX_OPEN`].
pub const MAX_ASKED: usize = 4096;

/// An answer is ended when it has come to about this size, a quarter of what a frame may have: the next object may be a
/// large one, too.
pub const ANSWER_BYTES: usize = crate::MAX_FRAME_BYTES / 4;

/// The most objects opened by one request (their descriptors travel in one message).
pub const MAX_OPEN: usize = 128;

/// Made by the monitor in the state directory of a brick when the operator says that the brick is right as it is now,
/// although it is another one or empty. The recorder uses it up, and heeds it for ten minutes.
pub const ACCEPT_FILE: &str = "accept-brick";

/// The most names that one [`BrickRequest::List`] goes through.
pub const MAX_LISTED: usize = 4096;

/// The first frame of a connection.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum BrickHello {
    /// Questions about one attached brick follow ([`BrickRequest`]).
    Brick {
        /// What the asker speaks.
        versions: Versions,
        /// Identity of the brick.
        brick: [u8; 16],
    },
    /// Administration follows ([`AdminRequest`]).
    Admin {
        /// What the asker speaks.
        versions: Versions,
    },
}

/// The recorder's answer to [`BrickHello`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum BrickWelcome {
    /// Ask.
    Ready {
        /// What the recorder speaks.
        versions: Versions,
        /// Directory of the brick's changelog (absolute path, bytes); empty for administration.
        journal: Vec<u8>,
    },
    /// Not possible, with the reason for the operator.
    Refused(String),
}

/// What a worker asks about a brick.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum BrickRequest {
    /// Which object is at each of these names now? Answer: [`BrickResponse::Looked`].
    Look(Vec<Place>),
    /// What do these objects look like now? Answer: [`BrickResponse::Stated`].
    Stat(Vec<Gfid>),
    /// Under which names does each of these objects live now? Answer: [`BrickResponse::Named`].
    Names(Vec<Gfid>),
    /// Open these regular files for reading. Answer: [`BrickResponse::Opened`] and the descriptors.
    Open(Vec<Gfid>),
    /// Write down everything that was changed before this request; where does the changelog end then?
    /// Answer: [`BrickResponse::Barrier`].
    Barrier,
    /// Which objects are recorded, under which names? Answer: [`BrickResponse::Listed`], in the order of the objects: one
    /// that is there all the time from the first page to the last is on one of them, whatever it is called meanwhile.
    List {
        /// Behind this name of this object; `None`: from the first.
        after: Option<(Gfid, Place)>,
        /// Directories, or all others.
        directories: bool,
    },
}

/// The recorder's answers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum BrickResponse {
    /// One for each name, from the first on. As these three are ended when they are large ([`ANSWER_BYTES`]), there may
    /// be fewer than were asked for, but at least one: the others are to be asked for again.
    Looked(Vec<Look>),
    /// One for each object, from the first on; `None` where it is gone.
    Stated(Vec<Option<Object>>),
    /// One for each object, from the first on.
    Named(Vec<Names>),
    /// One for each object.
    Opened(Vec<Opened>),
    /// The position behind everything that was changed before the request.
    Barrier(Position),
    /// The request could not be answered at all.
    Failed(String),
    /// A part of the names, at most [`MAX_LISTED`] (there may be none although more follow).
    Listed {
        /// The names.
        names: Vec<Listed>,
        /// Where to go on; `None`: that was all.
        next: Option<(Gfid, Place)>,
    },
}

/// One recorded name.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Listed {
    /// The object.
    pub gfid: Gfid,
    /// The name.
    pub place: Place,
    /// Its type.
    pub kind: Kind,
}

/// Whether a file could be opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Opened {
    /// Its descriptor comes with the answer.
    Open {
        /// A file system that lost what it had may give this content the times of another one: equal times do not prove
        /// that the secondary has it.
        doubted: bool,
    },
    /// This `errno`, and no descriptor. `ENOENT`: gone.
    Failed(i32),
}

/// What is at a name.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Look {
    /// Nothing (also when the directory itself is gone).
    Absent,
    /// This object, and the changelog says so too: when it leaves the name, a record will tell.
    Present(Gfid, Object),
    /// Something of which the changelog does not tell yet; a record will follow.
    Unrecorded,
    /// It could not be looked at: `errno`.
    Failed(i32),
}

/// Where an object lives.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Names {
    /// Nowhere: it has no name in this brick any more.
    Gone,
    /// Under these names, each recorded and looked at just now; none where it is alive under names of which the changelog does
    /// not tell yet (records will follow).
    Alive(Object, Vec<Place>),
    /// It cannot be told yet: the crawl that finds out is running. Ask again later.
    Unrecorded,
}

impl Look {
    /// About how many bytes it takes in a message.
    pub fn weight_bytes(&self) -> usize {
        match self {
            Look::Present(_, object) => 16 + object.weight_bytes(),
            _ => 8,
        }
    }
}

impl Names {
    /// About how many bytes it takes in a message.
    pub fn weight_bytes(&self) -> usize {
        match self {
            Names::Alive(object, places) => {
                object.weight_bytes() + places.iter().map(Place::weight_bytes).sum::<usize>()
            }
            _ => 8,
        }
    }
}

/// What the monitor asks a recorder.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum AdminRequest {
    /// Record this directory from now on (again: nothing happens). Answers when its first crawl has begun and
    /// events are being collected.
    Attach {
        /// Identity of the brick.
        brick: [u8; 16],
        /// The directory, absolute.
        path: Vec<u8>,
        /// Where changelog and index are kept, absolute, outside of the brick.
        state: Vec<u8>,
    },
    /// Stop recording it; what was seen is written down first.
    Detach {
        /// Identity of the brick.
        brick: [u8; 16],
    },
    /// What is attached and how it is.
    Status,
    /// What is behind these positions is still needed of the brick's changelog; older slices may go.
    Retain {
        /// Identity of the brick.
        brick: [u8; 16],
        /// The mark of every session; `0:0` of one that has none yet. None at all: everything is kept.
        marks: Vec<Position>,
        /// Bytes that the changelog may take; beyond, it is compacted.
        budget_bytes: u64,
    },
}

/// Answers to [`AdminRequest`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum AdminResponse {
    /// Done.
    Done,
    /// Not possible; nothing was changed.
    Failed(String),
    /// One for each attached brick.
    Status(Vec<BrickStatus>),
}

/// How one brick is recorded.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BrickStatus {
    /// Identity of the brick.
    pub brick: [u8; 16],
    /// Whether a crawl is running (the changelog is not complete up to now).
    pub crawling: bool,
    /// Objects in the index.
    pub objects: u64,
    /// The last error, empty if there is none.
    pub error: String,
    /// How many crawls the recorder began since it started.
    pub crawls: u64,
    /// How much the kernel reports: `full` or `full-moved`.
    pub level: String,
}
