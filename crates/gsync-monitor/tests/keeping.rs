//! A real monitor with fake recorders and workers: what it starts, starts again, and ends.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use cluster::{SessionId, Transition};
use gsync_monitor::api::{Answer, FailureCode, Request};
use gsync_monitor::status::BrickRow;
use gsync_monitor::{Client, ClientError, RunDir};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

const LIMIT: Duration = Duration::from_secs(20);

struct Rig {
    dir: tempfile::TempDir,
    monitor: Child,
}

impl Rig {
    fn new() -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("bin");
        fs::create_dir(&bin).unwrap();
        let built = Path::new(env!("CARGO_BIN_EXE_gsync-monitor")).parent().unwrap().join("examples");
        for (name, fake) in [("gsync-recorder", "fake_recorder"), ("gsync-worker", "fake_worker")] {
            symlink(built.join(fake), bin.join(name)).unwrap();
        }
        for name in ["brick", "copy"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let monitor = start(dir.path());
        Rig { dir, monitor }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn ask(&self, request: &Request) -> Result<Answer, ClientError> {
        let socket = RunDir::new(self.path("r")).monitor_socket();
        until(|| Client::connect(&socket).ok()).ask(request)
    }

    fn create(&self) {
        let request = Request::Create {
            id: SessionId::random(),
            name: "s".into(),
            primary: self.path("brick"),
            secondary: self.path("copy").to_str().unwrap().parse().unwrap(),
            settings: vec![],
        };
        assert!(matches!(self.ask(&request).unwrap(), Answer::Session { .. }));
    }

    fn transit(&self, transition: Transition) {
        let request = Request::Transition { session: "s".into(), transition, force: false };
        assert!(matches!(self.ask(&request).unwrap(), Answer::Session { .. }));
    }

    fn row(&self) -> BrickRow {
        let answer = self.ask(&Request::Status { session: Some("s".into()) }).unwrap();
        let Answer::Status(mut report) = answer else { panic!("{answer:?}") };
        report.sessions.remove(0).bricks.remove(0)
    }

    fn wait_for(&self, wanted: impl Fn(&BrickRow) -> bool) -> BrickRow {
        until(|| Some(self.row()).filter(&wanted))
    }

    fn active(&self) -> BrickRow {
        self.wait_for(|row| row.status == "Active" && row.recorder_pid.is_some())
    }

    /// What the recorder was asked for.
    fn recorded(&self) -> String {
        let files = fs::read_dir(self.path("r")).unwrap().map(|entry| entry.unwrap().path());
        let mut logs = files.filter(|path| path.to_str().unwrap().ends_with(".sock.log"));
        logs.next().map(|log| fs::read_to_string(log).unwrap()).unwrap_or_default()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = self.monitor.kill();
        let _ = self.monitor.wait();
    }
}

fn command(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gsync-monitor"));
    command.env_remove("GSYNC_BIN_DIR");
    command.arg("--state-dir").arg(dir.join("d")).arg("--run-dir").arg(dir.join("r"));
    command.arg("--bin-dir").arg(dir.join("bin")).stderr(Stdio::null());
    command
}

fn start(dir: &Path) -> Child {
    command(dir).spawn().unwrap()
}

fn until<T>(mut what: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(found) = what() {
            return found;
        }
        assert!(Instant::now() < deadline, "it does not happen");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn pid(pid: Option<u32>) -> Pid {
    Pid::from_raw(pid.unwrap().cast_signed()).unwrap()
}

fn kill(process: Option<u32>) {
    kill_process(pid(process), Signal::KILL).unwrap();
}

fn is_gone(process: Option<u32>) -> bool {
    test_kill_process(pid(process)).is_err()
}

fn end(child: &mut Child) -> ExitStatus {
    until(|| child.try_wait().unwrap())
}

#[test]
fn what_is_killed_comes_back() {
    let rig = Rig::new();
    rig.create();
    assert_eq!(rig.row().status, "Created");
    rig.transit(Transition::Start);
    let first = rig.active();
    assert_eq!((first.epoch, rig.recorded().matches("attach").count()), (Some(1), 1));
    let mut epoch = 1;
    for _ in 0..3 {
        kill(rig.active().worker_pid);
        let again = rig.wait_for(|row| row.status == "Active" && row.epoch > Some(epoch));
        assert_eq!(again.epoch, Some(epoch + 1), "each start has an epoch of its own");
        assert_eq!(again.recorder_pid, first.recorder_pid);
        epoch += 1;
    }
    kill(first.recorder_pid);
    let again = rig.wait_for(|row| row.recorder_pid.is_some_and(|pid| Some(pid) != first.recorder_pid));
    assert_eq!(again.epoch, Some(epoch), "the worker goes on");
    assert_eq!(rig.recorded().matches("attach").count(), 2, "the brick is attached again");
}

#[test]
fn a_worker_that_fails_is_faulty_and_says_why() {
    let rig = Rig::new();
    fs::write(rig.path("brick/.fail"), "").unwrap();
    rig.create();
    rig.transit(Transition::Start);
    let row = rig.wait_for(|row| row.status == "Faulty");
    assert_eq!(row.error, "the worker ended: error: told to fail (exit status: 4)");
    assert!(row.hint.contains("s-0.log"), "{}", row.hint);
    fs::remove_file(rig.path("brick/.fail")).unwrap();
    rig.active();
    fs::remove_file(rig.path("bin/gsync-worker")).unwrap();
    kill(rig.row().worker_pid);
    rig.wait_for(|row| row.status == "Faulty" && row.error.contains("cannot start gsync-worker"));
}

#[test]
fn children_die_with_the_monitor_and_its_successor_takes_up_everything() {
    let mut rig = Rig::new();
    rig.create();
    rig.transit(Transition::Start);
    let before = rig.active();
    rig.monitor.kill().unwrap();
    rig.monitor.wait().unwrap();
    until(|| (is_gone(before.worker_pid) && is_gone(before.recorder_pid)).then_some(()));
    rig.monitor = start(rig.dir.path());
    let after = rig.active();
    assert!(after.epoch > before.epoch);
}

#[test]
fn stop_keeps_recording_and_delete_ends_it() {
    let rig = Rig::new();
    rig.create();
    rig.transit(Transition::Start);
    let up = rig.active();
    rig.transit(Transition::Stop);
    assert!(is_gone(up.worker_pid), "stop returns when the worker has ended");
    let stopped = rig.row();
    assert_eq!((stopped.status.as_str(), stopped.recorder_pid), ("Stopped", up.recorder_pid));
    rig.transit(Transition::Start);
    rig.active();
    rig.transit(Transition::Pause);
    assert_eq!(rig.row().status, "Paused");
    rig.transit(Transition::Resume);
    rig.active();
    rig.transit(Transition::Stop);
    rig.transit(Transition::Delete);
    until(|| is_gone(up.recorder_pid).then_some(()));
    assert!(rig.recorded().ends_with("detach\n"));
}

#[test]
fn a_changed_setting_restarts_the_worker() {
    let rig = Rig::new();
    rig.create();
    rig.transit(Transition::Start);
    let before = rig.active();
    let change = |value: &str| Request::Configure {
        session: "s".into(),
        changes: vec![("sync_jobs".into(), Some(value.into()))],
    };
    let Err(ClientError::Failed(failure)) = rig.ask(&change("99")) else { panic!("99 jobs are too many") };
    assert_eq!(failure.code, FailureCode::BadOption);
    assert_eq!(rig.row().worker_pid, before.worker_pid, "an error changes nothing");
    rig.ask(&change("7")).unwrap();
    rig.wait_for(|row| row.status == "Active" && row.epoch > before.epoch);
    let mut configs = fs::read_dir(rig.path("r")).unwrap().map(|entry| entry.unwrap().path());
    let config = configs.find(|path| path.extension().is_some_and(|e| e == "json")).unwrap();
    assert!(fs::read_to_string(config).unwrap().contains("\"sync_jobs\": 7"));
}

#[test]
fn there_is_one_monitor_and_only_its_owner_may_ask() {
    let mut rig = Rig::new();
    rig.ask(&Request::Hello).unwrap();
    let socket = RunDir::new(rig.path("r")).monitor_socket();
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let mut second = start(rig.dir.path());
    assert_eq!(end(&mut second).code(), Some(3));
    let id = fs::read_to_string(RunDir::new(rig.path("r")).monitor_pid()).unwrap();
    assert_eq!(id.trim(), rig.monitor.id().to_string());
    rig.create();
    rig.transit(Transition::Start);
    let up = rig.active();
    kill_process(pid(Some(rig.monitor.id())), Signal::TERM).unwrap();
    assert!(end(&mut rig.monitor).success());
    assert!(is_gone(up.worker_pid) && is_gone(up.recorder_pid) && !socket.exists());
}
