//! From what is known to what is wanted: the second half of [`Machine::apply`].

use cluster::BrickId;

use crate::event::{Effect, Millis, Unit};
use crate::machine::Machine;
use crate::unit::{Phase, Process, Recorder, Worker};
use crate::want::Want;

impl Machine {
    pub(crate) fn settle_recorders(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        for brick in self.want.bricks.values().filter(|_| !self.ending) {
            if let Ok(device) = brick.device {
                self.recorders.entry(device).or_insert_with(|| Recorder::new(now));
            }
        }
        let (want, ending, no_workers) = (&self.want, self.ending, self.workers.is_empty());
        self.recorders.retain(|&device, recorder| {
            let wanted = |brick: &BrickId| stays(want, brick, device);
            let is_on = want.bricks.values().any(|brick| brick.device == Ok(device));
            let is_needed = !ending && (is_on || recorder.bricks.keys().any(wanted));
            match recorder.process.phase {
                Phase::Waiting(_) if !is_needed => {
                    if !ending {
                        effects.push(Effect::Release(device));
                    }
                    return false;
                }
                Phase::Waiting(until) if until <= now => {
                    recorder.process.phase = Phase::Starting;
                    effects.push(Effect::StartRecorder(device));
                }
                // What a worker still asks of its recorder is answered.
                Phase::Running(_) if ending && !no_workers => {}
                Phase::Running(_) if ending => recorder.process.terminate(now, Unit::Recorder(device), effects),
                Phase::Running(_) => {
                    let here = want.bricks.iter().filter(|(_, brick)| brick.device == Ok(device));
                    recorder.attach_and_detach(now, device, here, wanted, effects);
                    if !is_needed && recorder.bricks.is_empty() {
                        recorder.process.terminate(now, Unit::Recorder(device), effects);
                    }
                }
                Phase::Stopping(_) => recorder.process.kill_if_due(now, Unit::Recorder(device), effects),
                Phase::Waiting(_) | Phase::Starting => {}
            }
            true
        });
    }

    pub(crate) fn settle_workers(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        for (&key, spec) in self.want.workers.iter().filter(|_| !self.ending) {
            let new = || Worker { process: Process::new(now), spec: spec.clone(), recorder: None };
            self.workers.entry(key).or_insert_with(new);
        }
        let mut workers = std::mem::take(&mut self.workers);
        workers.retain(|&key, worker| {
            let wanted = self.want.workers.get(&key).filter(|_| !self.ending);
            match (worker.process.phase, wanted) {
                (Phase::Waiting(_), None) => return false,
                (Phase::Waiting(until), Some(spec)) => {
                    let is_changed = worker.spec != *spec;
                    if is_changed {
                        // What failed before may work now.
                        *worker = Worker { process: Process::new(now), spec: spec.clone(), recorder: None };
                    }
                    let recorder = self.recorder_of(key.brick);
                    if (is_changed || until <= now) && recorder.is_some() {
                        worker.recorder = recorder;
                        worker.process.phase = Phase::Starting;
                        effects.push(Effect::StartWorker(key, Box::new(spec.clone())));
                    }
                }
                // A brick that was mounted anew may have another device, and another recorder.
                (Phase::Running(_), Some(spec))
                    if worker.spec == *spec
                        && self.recorder_of(key.brick).is_none_or(|recorder| worker.recorder == Some(recorder)) => {}
                (Phase::Running(_), _) => worker.process.terminate(now, Unit::Worker(key), effects),
                (Phase::Stopping(_), _) => worker.process.kill_if_due(now, Unit::Worker(key), effects),
                (Phase::Starting, _) => {}
            }
            true
        });
        self.workers = workers;
        // The last worker is gone: now the recorders may end.
        if self.ending && self.workers.is_empty() {
            for (&device, recorder) in &mut self.recorders {
                if let Phase::Running(_) = recorder.process.phase {
                    recorder.process.terminate(now, Unit::Recorder(device), effects);
                }
            }
        }
    }
}

/// Whether a brick is wanted at the recorder of a device. One that cannot be looked at now stays where it is.
fn stays(want: &Want, brick: &BrickId, device: u64) -> bool {
    want.bricks
        .get(brick)
        .is_some_and(|brick| brick.device.as_ref().is_ok_and(|&on| on == device) || brick.device.is_err())
}
