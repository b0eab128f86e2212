//! What to do next: processes and attachments as a state machine. No I/O, no clock; randomness from a seed.
//!
//! An event changes what is known; then [`Machine::apply`] compares that with what is wanted and returns the effects
//! that bring the two closer. Applying an event that tells nothing new returns no effect.

use std::collections::BTreeMap;

use cluster::{BrickId, Epoch};

use crate::backoff::Backoff;
use crate::event::{Effect, Event, Millis, Unit};
use crate::unit::{AttachPhase, Attachment, Phase, Process, Recorder, Worker};
use crate::want::{Want, WorkerKey};

/// All processes of a node.
#[derive(Clone, Debug)]
pub struct Machine {
    /// What should run.
    pub want: Want,
    /// Recorders by device.
    pub recorders: BTreeMap<u64, Recorder>,
    /// Workers.
    pub workers: BTreeMap<WorkerKey, Worker>,
    pub(crate) ending: bool,
    random: fastrand::Rng,
}

impl Machine {
    /// Nothing runs and nothing is wanted. The seed is for the jitter of delays.
    pub fn new(seed: u64) -> Machine {
        Machine {
            want: Want::default(),
            recorders: BTreeMap::new(),
            workers: BTreeMap::new(),
            ending: false,
            random: fastrand::Rng::with_seed(seed),
        }
    }

    /// Takes an event and says what to do.
    pub fn apply(&mut self, now: Millis, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.learn(now, event, &mut effects);
        self.settle_recorders(now, &mut effects);
        self.settle_workers(now, &mut effects);
        effects
    }

    /// When [`Event::Tick`] is due, if nothing else happens before.
    pub fn deadline(&self, now: Millis) -> Option<Millis> {
        let processes = self.recorders.values().map(|r| &r.process).chain(self.workers.values().map(|w| &w.process));
        let of_processes = processes.filter_map(|process| match process.phase {
            Phase::Waiting(until) => Some(until),
            Phase::Stopping(kill) => kill,
            Phase::Starting | Phase::Running(_) => None,
        });
        let attachments = self.recorders.values().flat_map(|recorder| recorder.bricks.values());
        let of_attachments = attachments.filter_map(|attachment| match attachment.phase {
            AttachPhase::Waiting(until) => Some(until),
            _ => None,
        });
        // What is due already waits for something else.
        of_processes.chain(of_attachments).filter(|&at| at > now).min()
    }

    /// Whether nothing runs any more.
    pub fn is_idle(&self) -> bool {
        self.recorders.is_empty() && self.workers.is_empty()
    }

    /// The recorder that records a brick now.
    pub fn recorder_of(&self, brick: BrickId) -> Option<u64> {
        let records = |recorder: &Recorder| {
            matches!(recorder.process.phase, Phase::Running(_))
                && recorder.bricks.get(&brick).is_some_and(|b| b.phase == AttachPhase::Attached)
        };
        self.recorders.iter().find(|(_, recorder)| records(recorder)).map(|(&device, _)| device)
    }

    fn learn(&mut self, now: Millis, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::Want(want) => self.want = want,
            Event::Shutdown => self.ending = true,
            Event::Tick => {}
            Event::Started { unit, pid, epoch } => {
                if let Some(process) = self.process(unit) {
                    process.phase = Phase::Running(now);
                    process.pid = Some(pid);
                    process.epoch = epoch;
                }
            }
            Event::StartFailed { unit, error } | Event::Exited { unit, error } => self.ended(now, unit, error, effects),
            Event::Attached { device, brick } => {
                if let Some(attachment) = self.attachment(device, brick) {
                    *attachment = Attachment { phase: AttachPhase::Attached, ..Attachment::default() };
                }
            }
            Event::AttachFailed { device, brick, error } => {
                let roll = self.random.u64(..);
                if let Some(attachment) = self.attachment(device, brick) {
                    attachment.phase = AttachPhase::Waiting(now + attachment.backoff.fail(0, roll));
                    attachment.error = Some(error);
                }
            }
            Event::Detached { device, brick } => {
                if let Some(recorder) = self.recorders.get_mut(&device) {
                    recorder.bricks.remove(&brick);
                }
            }
        }
    }

    fn ended(&mut self, now: Millis, unit: Unit, error: String, effects: &mut Vec<Effect>) {
        let roll = self.random.u64(..);
        let Some(process) = self.process(unit) else { return };
        let epoch = std::mem::take(&mut process.epoch);
        let ran = if let Phase::Running(since) = process.phase { now.saturating_sub(since) } else { 0 };
        let told = matches!(process.phase, Phase::Stopping(_));
        process.phase = if told {
            process.backoff = Backoff::default();
            process.error = None;
            Phase::Waiting(now)
        } else {
            process.error = Some(error);
            Phase::Waiting(now + process.backoff.fail(ran, roll))
        };
        process.pid = None;
        match unit {
            // A recorder that starts again knows of no brick.
            Unit::Recorder(device) => {
                if let Some(recorder) = self.recorders.get_mut(&device) {
                    recorder.bricks.clear();
                }
            }
            Unit::Worker(key) => {
                if let Some(worker) = self.workers.get(&key).filter(|_| epoch != Epoch::default()) {
                    effects.push(Effect::Resign(key, worker.spec.replica_set, epoch));
                }
            }
        }
    }

    fn process(&mut self, unit: Unit) -> Option<&mut Process> {
        match unit {
            Unit::Recorder(device) => self.recorders.get_mut(&device).map(|recorder| &mut recorder.process),
            Unit::Worker(key) => self.workers.get_mut(&key).map(|worker| &mut worker.process),
        }
    }

    fn attachment(&mut self, device: u64, brick: BrickId) -> Option<&mut Attachment> {
        self.recorders.get_mut(&device)?.bricks.get_mut(&brick)
    }
}
