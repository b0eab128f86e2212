//! What is known of each process and each attachment.

use std::collections::BTreeMap;

use cluster::{BrickId, Epoch};

use crate::backoff::Backoff;
use crate::event::{Effect, Millis, Unit};
use crate::want::{WantedBrick, WorkerSpec};

/// How long a process may take to end after SIGTERM before it gets SIGKILL.
pub const STOP_LIMIT_MS: u64 = 20_000;

/// Where a process is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Not running; to be started at this time or later.
    Waiting(Millis),
    /// Being started.
    Starting,
    /// Running since this time.
    Running(Millis),
    /// Told to end; SIGKILL follows at this time, or was sent if there is none.
    Stopping(Option<Millis>),
}

/// What is known of a process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Process {
    /// Where it is in its life.
    pub phase: Phase,
    /// Its id while it runs.
    pub pid: Option<u32>,
    /// Its epoch while it runs.
    pub epoch: Epoch,
    /// Why it ended or could not be started the last time, if it was not told to end.
    pub error: Option<String>,
    pub(crate) backoff: Backoff,
}

/// What is known of a worker.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Worker {
    /// Its process.
    pub process: Process,
    /// What it was started with, or will be.
    pub spec: WorkerSpec,
    /// The device of the recorder that it was started with: it asks no other one.
    pub recorder: Option<u64>,
}

/// What is known of a recorder.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recorder {
    /// Its process.
    pub process: Process,
    /// Its bricks.
    pub bricks: BTreeMap<BrickId, Attachment>,
}

/// What is known of a brick at a recorder.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Attachment {
    /// Where it is in its life.
    pub phase: AttachPhase,
    /// Why it could not be attached the last time.
    pub error: Option<String>,
    pub(crate) backoff: Backoff,
}

/// Where an attachment is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AttachPhase {
    /// Not attached; to be attached at this time or later.
    Waiting(Millis),
    /// Asked for.
    Attaching,
    /// Recorded.
    Attached,
    /// Its end was asked for.
    Detaching,
}

impl Default for AttachPhase {
    fn default() -> AttachPhase {
        AttachPhase::Waiting(0)
    }
}

impl Process {
    pub(crate) fn new(now: Millis) -> Process {
        Process {
            phase: Phase::Waiting(now),
            pid: None,
            epoch: Epoch::default(),
            error: None,
            backoff: Backoff::default(),
        }
    }

    pub(crate) fn terminate(&mut self, now: Millis, unit: Unit, effects: &mut Vec<Effect>) {
        self.phase = Phase::Stopping(Some(now + STOP_LIMIT_MS));
        effects.push(Effect::Terminate(unit));
    }

    pub(crate) fn kill_if_due(&mut self, now: Millis, unit: Unit, effects: &mut Vec<Effect>) {
        if matches!(self.phase, Phase::Stopping(Some(at)) if at <= now) {
            self.phase = Phase::Stopping(None);
            effects.push(Effect::Kill(unit));
        }
    }
}

impl Recorder {
    pub(crate) fn new(now: Millis) -> Recorder {
        Recorder { process: Process::new(now), bricks: BTreeMap::new() }
    }

    pub(crate) fn attach_and_detach<'a>(
        &mut self,
        now: Millis,
        device: u64,
        here: impl Iterator<Item = (&'a BrickId, &'a WantedBrick)>,
        wanted: impl Fn(&BrickId) -> bool,
        effects: &mut Vec<Effect>,
    ) {
        for (&brick, place) in here {
            let attachment = self.bricks.entry(brick).or_default();
            if matches!(attachment.phase, AttachPhase::Waiting(until) if until <= now) {
                attachment.phase = AttachPhase::Attaching;
                effects.push(Effect::Attach { device, brick, path: place.path.clone() });
            }
        }
        self.bricks.retain(|&brick, attachment| match attachment.phase {
            AttachPhase::Waiting(_) => wanted(&brick),
            AttachPhase::Attached if !wanted(&brick) => {
                attachment.phase = AttachPhase::Detaching;
                effects.push(Effect::Detach { device, brick });
                true
            }
            _ => true,
        });
    }
}
