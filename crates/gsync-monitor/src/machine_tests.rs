//! Tables for the machine: lists of events and the effects that they must have.

use cluster::{BrickId, Epoch, LogLevel, SessionId};
use gsync_worker::config::{EngineKind, SecondaryConfig, Settings};

use crate::event::{Effect, Event, Unit};
use crate::machine::Machine;
use crate::unit::{Phase, STOP_LIMIT_MS};
use crate::want::{Want, WantedBrick, WorkerKey, WorkerSpec};

const DEVICE: u64 = 7;

struct Rig {
    machine: Machine,
    key: WorkerKey,
    now: u64,
}

impl Rig {
    fn new() -> Rig {
        let key = WorkerKey { session: SessionId::random(), brick: BrickId::random() };
        Rig { machine: Machine::new(1), key, now: 1_000 }
    }

    fn want(&self, device: Option<u64>, jobs: Option<u32>) -> Want {
        let mut want = Want::default();
        let device = device.ok_or_else(|| "not mounted".to_owned());
        want.bricks.insert(self.key.brick, WantedBrick { path: "/b".into(), device });
        want.workers.extend(jobs.map(|jobs| (self.key, spec(jobs))));
        want
    }

    fn apply(&mut self, event: Event) -> Vec<Effect> {
        let effects = self.machine.apply(self.now, event);
        assert_eq!(self.machine.apply(self.now, Event::Tick), [], "an event is carried out once");
        effects
    }

    fn started(&mut self, unit: Unit, epoch: u64) -> Vec<Effect> {
        self.apply(Event::Started { unit, pid: 1, epoch: Epoch(epoch) })
    }

    fn exited(&mut self, unit: Unit) -> Vec<Effect> {
        self.apply(Event::Exited { unit, error: "died".into() })
    }

    fn worker(&self) -> Unit {
        Unit::Worker(self.key)
    }

    fn attach(&self) -> Effect {
        Effect::Attach { device: DEVICE, brick: self.key.brick, path: "/b".into() }
    }

    fn start_worker(&self, jobs: u32) -> Effect {
        Effect::StartWorker(self.key, Box::new(spec(jobs)))
    }

    /// Brings recorder, brick and worker up.
    fn up() -> Rig {
        let mut rig = Rig::new();
        let want = rig.want(Some(DEVICE), Some(3));
        assert_eq!(rig.apply(Event::Want(want)), [Effect::StartRecorder(DEVICE)]);
        assert_eq!(rig.started(Unit::Recorder(DEVICE), 0), [rig.attach()]);
        assert_eq!(rig.apply(Event::Attached { device: DEVICE, brick: rig.key.brick }), [rig.start_worker(3)]);
        assert_eq!(rig.started(rig.worker(), 5), []);
        rig
    }

    /// Lets time pass up to the next deadline and returns what is done then.
    fn wait(&mut self) -> Vec<Effect> {
        self.now = self.machine.deadline(self.now).expect("something is due");
        self.apply(Event::Tick)
    }
}

fn spec(jobs: u32) -> WorkerSpec {
    WorkerSpec {
        session_name: "s".into(),
        brick_path: "/b".into(),
        replica_set: 0,
        number: 0,
        secondary: SecondaryConfig::Local { path: "/copy".into(), agent: "gsync-agent".into() },
        settings: Settings {
            sync_engine: EngineKind::Tar,
            sync_jobs: jobs,
            rsync_command: "rsync".into(),
            brake_share: 20,
            brake_count: 10_000,
        },
        log_level: LogLevel::Info,
    }
}

#[test]
fn recorder_brick_and_worker_come_up_in_order() {
    let mut rig = Rig::up();
    assert_eq!(rig.machine.deadline(rig.now), None, "what runs needs no timer");
    assert_eq!(rig.apply(Event::Tick), []);
    let same = rig.want(Some(DEVICE), Some(3));
    assert_eq!(rig.apply(Event::Want(same)), []);
}

#[test]
fn a_worker_that_dies_comes_back_later_and_later() {
    let mut rig = Rig::up();
    let (worker, start) = (rig.worker(), rig.start_worker(3));
    let mut epoch = Epoch(5);
    for longest in [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000] {
        let died = rig.now;
        assert_eq!(rig.exited(worker), [Effect::Resign(rig.key, 0, epoch)]);
        assert_eq!(rig.wait(), std::slice::from_ref(&start));
        let delay = rig.now - died;
        assert!((longest / 2..=longest).contains(&delay), "{delay} instead of {longest}");
        epoch = Epoch(epoch.0 + 1);
        rig.started(worker, epoch.0);
        rig.now += 10;
    }
    rig.now += 60_000;
    let died = rig.now;
    rig.exited(worker);
    rig.wait();
    assert!(rig.now - died <= 200, "a minute of health forgets the failures");
}

#[test]
fn a_worker_that_cannot_be_started_is_tried_again() {
    let mut rig = Rig::up();
    let (worker, start) = (rig.worker(), rig.start_worker(3));
    rig.exited(worker);
    rig.wait();
    let failed = Event::StartFailed { unit: worker, error: "no such file".into() };
    assert_eq!(rig.apply(failed), [], "no epoch was won, none is given up");
    assert_eq!(rig.wait(), [start]);
}

#[test]
fn a_recorder_that_dies_gets_its_bricks_again_and_workers_go_on() {
    let mut rig = Rig::up();
    assert_eq!(rig.exited(Unit::Recorder(DEVICE)), []);
    assert_eq!(rig.wait(), [Effect::StartRecorder(DEVICE)]);
    assert_eq!(rig.started(Unit::Recorder(DEVICE), 0), [rig.attach()]);
    assert_eq!(rig.apply(Event::Attached { device: DEVICE, brick: rig.key.brick }), []);
    assert!(matches!(rig.machine.workers[&rig.key].process.phase, Phase::Running(_)));
}

#[test]
fn no_worker_starts_before_its_brick_is_recorded() {
    let mut rig = Rig::new();
    rig.apply(Event::Want(rig.want(Some(DEVICE), Some(3))));
    rig.started(Unit::Recorder(DEVICE), 0);
    let (device, brick) = (DEVICE, rig.key.brick);
    for _ in 0..3 {
        assert_eq!(rig.apply(Event::AttachFailed { device, brick, error: "no".into() }), []);
        assert_eq!(rig.wait(), [rig.attach()]);
    }
    assert_eq!(rig.apply(Event::Attached { device, brick }), [rig.start_worker(3)]);
}

#[test]
fn stopping_a_session_ends_the_worker_and_goes_on_recording() {
    let mut rig = Rig::up();
    let worker = rig.worker();
    assert_eq!(rig.apply(Event::Want(rig.want(Some(DEVICE), None))), [Effect::Terminate(worker)]);
    assert_eq!(rig.exited(worker), [Effect::Resign(rig.key, 0, Epoch(5))]);
    assert!(rig.machine.workers.is_empty());
    assert!(rig.machine.recorder_of(rig.key.brick).is_some());
    assert_eq!(rig.apply(Event::Want(rig.want(Some(DEVICE), Some(3)))), [rig.start_worker(3)], "without a delay");
}

#[test]
fn a_worker_that_does_not_end_is_killed_once() {
    let mut rig = Rig::up();
    let (worker, begun) = (rig.worker(), rig.now);
    rig.apply(Event::Want(rig.want(Some(DEVICE), None)));
    assert_eq!(rig.wait(), [Effect::Kill(worker)]);
    assert_eq!(rig.now - begun, STOP_LIMIT_MS);
    assert_eq!(rig.machine.deadline(rig.now), None);
    rig.exited(worker);
    assert!(rig.machine.workers.is_empty());
}

#[test]
fn a_changed_setting_restarts_the_worker_at_once() {
    let mut rig = Rig::up();
    let worker = rig.worker();
    assert_eq!(rig.apply(Event::Want(rig.want(Some(DEVICE), Some(8)))), [Effect::Terminate(worker)]);
    assert_eq!(rig.exited(worker), [Effect::Resign(rig.key, 0, Epoch(5)), rig.start_worker(8)]);
    // While it is being started the setting changes once more.
    assert_eq!(rig.apply(Event::Want(rig.want(Some(DEVICE), Some(1)))), []);
    assert_eq!(rig.started(worker, 6), [Effect::Terminate(worker)].as_slice());
}

#[test]
fn deleting_the_last_session_detaches_then_ends_the_recorder() {
    let mut rig = Rig::up();
    let (worker, device, brick) = (rig.worker(), DEVICE, rig.key.brick);
    let effects = rig.apply(Event::Want(Want::default()));
    assert_eq!(effects, [Effect::Detach { device, brick }, Effect::Terminate(worker)]);
    rig.exited(worker);
    assert_eq!(rig.apply(Event::Detached { device, brick }), [Effect::Terminate(Unit::Recorder(device))]);
    assert_eq!(rig.exited(Unit::Recorder(device)), [Effect::Release(device)]);
    assert!(rig.machine.is_idle());
}

#[test]
fn an_unmounted_brick_stays_attached_and_is_not_attached_elsewhere() {
    let mut rig = Rig::up();
    assert_eq!(rig.apply(Event::Want(rig.want(None, Some(3)))), []);
    assert_eq!(rig.machine.recorder_of(rig.key.brick), Some(DEVICE));
    let effects = rig.apply(Event::Want(rig.want(Some(9), Some(3))));
    assert_eq!(effects, [Effect::Detach { device: DEVICE, brick: rig.key.brick }, Effect::StartRecorder(9)]);
}

#[test]
fn nothing_runs_for_a_brick_that_was_never_there() {
    let mut rig = Rig::new();
    assert_eq!(rig.apply(Event::Want(rig.want(None, Some(3)))), []);
    assert_eq!(rig.apply(Event::Want(rig.want(Some(DEVICE), Some(3)))), [Effect::StartRecorder(DEVICE)]);
}

#[test]
fn at_the_end_workers_end_before_recorders() {
    let mut rig = Rig::up();
    let worker = rig.worker();
    assert_eq!(rig.apply(Event::Shutdown), [Effect::Terminate(worker)]);
    let effects = rig.exited(worker);
    assert_eq!(effects, [Effect::Resign(rig.key, 0, Epoch(5)), Effect::Terminate(Unit::Recorder(DEVICE))]);
    assert!(!rig.machine.is_idle());
    rig.exited(Unit::Recorder(DEVICE));
    assert!(rig.machine.is_idle());
    // What is wanted starts nothing any more.
    assert_eq!(rig.apply(Event::Want(rig.want(Some(DEVICE), Some(3)))), []);
}

#[test]
fn what_is_being_started_at_the_end_is_ended_too() {
    let mut rig = Rig::new();
    rig.apply(Event::Want(rig.want(Some(DEVICE), Some(3))));
    assert_eq!(rig.apply(Event::Shutdown), []);
    assert_eq!(rig.started(Unit::Recorder(DEVICE), 0), [Effect::Terminate(Unit::Recorder(DEVICE))]);
    rig.exited(Unit::Recorder(DEVICE));
    assert!(rig.machine.is_idle());
}

/// Random events never lead to two starts of one process without an end between them, and what is up stays up.
#[test]
fn a_process_is_never_started_twice() {
    for seed in 0..300 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut rig = Rig::new();
        let (device, brick, worker) = (DEVICE, rig.key.brick, rig.worker());
        let mut starting: std::collections::BTreeSet<Unit> = Default::default();
        let mut running: std::collections::BTreeSet<Unit> = Default::default();
        for _ in 0..300 {
            rig.now += random.u64(0..3_000);
            let any_unit = if random.bool() { worker } else { Unit::Recorder(device) };
            let event = match random.u8(0..8) {
                0 => Event::Want(rig.want(Some(device), random.bool().then_some(3))),
                1 => Event::Want(if random.bool() { Want::default() } else { rig.want(None, Some(4)) }),
                2 | 3 if starting.remove(&any_unit) => {
                    running.insert(any_unit);
                    Event::Started { unit: any_unit, pid: 1, epoch: Epoch(1) }
                }
                4 if running.remove(&any_unit) => Event::Exited { unit: any_unit, error: "died".into() },
                5 => Event::Attached { device, brick },
                6 => Event::Detached { device, brick },
                _ => Event::Tick,
            };
            for effect in rig.apply(event) {
                let unit = match effect {
                    Effect::StartRecorder(device) => Unit::Recorder(device),
                    Effect::StartWorker(key, _) => Unit::Worker(key),
                    Effect::Terminate(unit) | Effect::Kill(unit) => {
                        assert!(running.contains(&unit), "seed {seed}: {unit} is ended but does not run");
                        continue;
                    }
                    _ => continue,
                };
                assert!(!running.contains(&unit), "seed {seed}: {unit} is started while it runs");
                assert!(starting.insert(unit), "seed {seed}: {unit} is started twice");
            }
        }
    }
}

/// A worker asked a recorder that had ended for ever: the brick was mounted anew, on another loop device.
#[test]
fn a_worker_follows_its_brick_to_another_recorder() {
    const OTHER: u64 = DEVICE + 1;
    let mut rig = Rig::up();
    let moved = rig.want(Some(OTHER), Some(3));
    let brick = rig.key.brick;
    let effects = rig.apply(Event::Want(moved));
    assert!(effects.contains(&Effect::StartRecorder(OTHER)), "{effects:?}");
    assert!(effects.contains(&Effect::Detach { device: DEVICE, brick }), "{effects:?}");
    rig.apply(Event::Detached { device: DEVICE, brick });
    rig.started(Unit::Recorder(OTHER), 0);
    let effects = rig.apply(Event::Attached { device: OTHER, brick });
    assert!(effects.contains(&Effect::Terminate(rig.worker())), "{effects:?}");
    let effects = rig.exited(rig.worker());
    assert!(effects.contains(&rig.start_worker(3)), "{effects:?}");
    rig.started(rig.worker(), 6);
    assert_eq!(rig.apply(Event::Tick), []);
}
