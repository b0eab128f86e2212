//! What happened, and what to do.

use std::fmt;
use std::path::PathBuf;

use cluster::{BrickId, Epoch};

use crate::want::{Want, WorkerKey, WorkerSpec};

/// Milliseconds on a clock that only goes forward.
pub type Millis = u64;

/// A process that the monitor keeps.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Unit {
    /// The recorder of a file system.
    Recorder(u64),
    /// A worker.
    Worker(WorkerKey),
}

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// This should run.
    Want(Want),
    /// Everything should end.
    Shutdown,
    /// A process was started.
    Started {
        /// Which.
        unit: Unit,
        /// Its process id.
        pid: u32,
        /// The epoch that it was given; 0 for a recorder.
        epoch: Epoch,
    },
    /// A process could not be started.
    StartFailed {
        /// Which.
        unit: Unit,
        /// Why.
        error: String,
    },
    /// A process ended.
    Exited {
        /// Which.
        unit: Unit,
        /// How, and the last that it said.
        error: String,
    },
    /// A brick is recorded now.
    Attached {
        /// By the recorder of this device.
        device: u64,
        /// Which.
        brick: BrickId,
    },
    /// A brick could not be attached.
    AttachFailed {
        /// To the recorder of this device.
        device: u64,
        /// Which.
        brick: BrickId,
        /// Why.
        error: String,
    },
    /// A brick is not recorded any more.
    Detached {
        /// By the recorder of this device.
        device: u64,
        /// Which.
        brick: BrickId,
    },
    /// Time went by.
    Tick,
}

/// What to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Start a recorder; answered by [`Event::Started`] or [`Event::StartFailed`].
    StartRecorder(u64),
    /// Campaign, then start a worker; answered likewise.
    StartWorker(WorkerKey, Box<WorkerSpec>),
    /// Send SIGTERM.
    Terminate(Unit),
    /// Send SIGKILL.
    Kill(Unit),
    /// The worker of this epoch has ended: give its role up.
    Resign(WorkerKey, u32, Epoch),
    /// Nobody needs the queue of events of this file system any more, which outlives its recorder.
    Release(u64),
    /// Let a recorder record a brick.
    Attach {
        /// The recorder of this device.
        device: u64,
        /// Which.
        brick: BrickId,
        /// Its directory.
        path: PathBuf,
    },
    /// Let a recorder stop recording a brick.
    Detach {
        /// The recorder of this device.
        device: u64,
        /// Which.
        brick: BrickId,
    },
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unit::Recorder(device) => write!(f, "recorder {device:x}"),
            Unit::Worker(key) => write!(f, "worker of session {} brick {}", key.session, key.brick),
        }
    }
}
