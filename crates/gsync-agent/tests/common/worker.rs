//! An agent as a process, and a worker's side of its channels.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use protocol::agent::{AgentHello, Batch, Item, Numbered, Outcome, Request, Response, Stored, Welcome, WorkerHello};
use protocol::hello::{MAGIC, Versions};
use protocol::stage::{StageHello, StageReady, Staged};
use protocol::{FrameError, Gfid, read_frame, write_frame};
use rustix::process::{Pid, Signal};

pub const AGENT: &str = env!("CARGO_BIN_EXE_gsync-agent");

/// A process that does not outlive the test.
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A root whose agent (which doors start) does not outlive the test.
pub struct AgentRoot(pub PathBuf);

impl AgentRoot {
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The agent that serves the root now.
    pub fn agent(&self) -> Option<Pid> {
        let number: u32 = std::fs::read_to_string(self.0.join(".gsync/lock")).ok()?.trim().parse().ok()?;
        let command = std::fs::read(format!("/proc/{number}/cmdline")).ok()?;
        let root = self.0.as_os_str().as_encoded_bytes();
        let ours = command.windows(root.len()).any(|part| part == root);
        if ours { Pid::from_raw(number as i32) } else { None }
    }

    /// Sends the agent a signal and waits for its end.
    pub fn end_agent(&self, signal: Signal) -> bool {
        let Some(pid) = self.agent() else { return false };
        let _ = rustix::process::kill_process(pid, signal);
        wait_until("the agent ends", || self.agent() != Some(pid));
        true
    }
}

impl Drop for AgentRoot {
    fn drop(&mut self) {
        self.end_agent(Signal::KILL);
    }
}

pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "not within 20 s: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A door with pipes.
pub struct Door {
    pub process: Process,
    pub input: Option<ChildStdin>,
    pub output: ChildStdout,
}

impl Door {
    pub fn open(root: &Path, words: &[&str]) -> Door {
        let mut command = Command::new(AGENT);
        command.args(["door", "--root"]).arg(root).arg("--").args(words);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take(), child.stdout.take().unwrap());
        Door { process: Process(child), input, output }
    }

    pub fn send<T: serde::Serialize>(&mut self, message: &T) -> Result<(), FrameError> {
        write_frame(self.input.as_mut().unwrap(), message)
    }

    pub fn receive<T: serde::de::DeserializeOwned>(&mut self) -> Result<T, FrameError> {
        read_frame(&mut self.output)
    }

    pub fn exchange_magic(&mut self) {
        let _ = self.input.as_mut().unwrap().write_all(&MAGIC);
        let mut magic = [0; 8];
        let _ = self.output.read_exact(&mut magic);
    }
}

pub fn hello(epoch: u64) -> WorkerHello {
    WorkerHello {
        versions: Versions::ours(),
        session: [1; 16],
        replica_set: 0,
        brick: [2; 16],
        epoch,
        root: Vec::new(),
        name: "test".into(),
        primary: "here:/primary".into(),
    }
}

/// A worker with its control channel.
pub struct Worker {
    pub root: PathBuf,
    pub door: Door,
    pub welcome: Welcome,
    number: u64,
}

impl Worker {
    pub fn connect(root: &Path, epoch: u64) -> Worker {
        match Worker::try_connect(root, &hello(epoch)) {
            Ok(worker) => worker,
            Err(other) => panic!("{other:?}"),
        }
    }

    pub fn try_connect(root: &Path, hello: &WorkerHello) -> Result<Worker, Option<Box<AgentHello>>> {
        let mut door = Door::open(root, &["gsync", "control"]);
        door.exchange_magic();
        let mut hello = hello.clone();
        if hello.root.is_empty() {
            hello.root = root.as_os_str().as_encoded_bytes().to_vec();
        }
        let _ = door.send(&hello);
        match door.receive() {
            Ok(AgentHello::Welcome(welcome)) => Ok(Worker { root: root.into(), door, welcome: *welcome, number: 0 }),
            other => Err(other.ok().map(Box::new)),
        }
    }

    pub fn request(&mut self, request: &Request) -> Result<Response, FrameError> {
        self.number += 1;
        self.door.send(&Numbered { number: self.number, body: request })?;
        Ok(self.door.receive::<Numbered<Response>>()?.body)
    }

    pub fn apply(&mut self, items: Vec<Item>, gone: Vec<Gfid>) -> Result<(Vec<Outcome>, Vec<Outcome>), FrameError> {
        match self.request(&Request::Apply(Batch { items, gone }))? {
            Response::Applied { items, gone, .. } => Ok((items, gone)),
            other => panic!("{other:?}"),
        }
    }

    pub fn commit(&mut self, stored: Stored) -> Result<(), FrameError> {
        match self.request(&Request::Commit(stored))? {
            Response::Committed => Ok(()),
            other => panic!("{other:?}"),
        }
    }

    pub fn stage_channel(&self) -> Door {
        self.try_stage_channel().unwrap()
    }

    pub fn try_stage_channel(&self) -> Result<Door, FrameError> {
        let mut door = Door::open(&self.root, &["gsync", "stage"]);
        door.exchange_magic();
        door.send(&StageHello { versions: Versions::ours(), token: self.welcome.stage_token.clone() })?;
        match door.receive()? {
            StageReady::Ready => Ok(door),
            StageReady::Refused => Err(FrameError::Closed),
        }
    }
}

/// One entry of a stage stream.
pub fn entry(name: &str, content: &[u8]) -> Vec<u8> {
    entry_with(name, content, |_| {})
}

/// One entry of a stage stream whose header is changed before it is sealed.
pub fn entry_with(name: &str, content: &[u8], change: impl FnOnce(&mut tar::Header)) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    // Not with set_path, which refuses what an attacker sends.
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.set_size(content.len() as u64);
    header.set_mode(0o600);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1);
    header.set_entry_type(tar::EntryType::Regular);
    change(&mut header);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

/// Sends a file as one piece.
pub fn send_file(channel: &mut Door, gfid: Gfid, content: &[u8]) -> Result<Staged, FrameError> {
    let bytes = entry(&format!("{gfid}/0/{}/0", content.len()), content);
    channel.input.as_mut().unwrap().write_all(&bytes)?;
    channel.receive()
}
