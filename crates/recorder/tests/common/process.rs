//! A recorder process.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::client::{Admin, Client};

/// Identity of the tests' first brick.
pub const BRICK: [u8; 16] = [7; 16];

/// A running recorder; killed when dropped.
pub struct Recorder {
    run: TempDir,
    child: Child,
}

impl Recorder {
    /// Starts it and waits until it listens.
    pub fn start(arguments: &[&str]) -> Recorder {
        Recorder::start_with(Command::new(env!("CARGO_BIN_EXE_gsync-recorder")), arguments)
    }

    /// Starts it where the kernel tells that it was booted meanwhile.
    ///
    /// It has mounts of its own, and sees those in the directories `mounts` only: another test could not unmount its
    /// file systems.
    pub fn start_after_reboot(mounts: &[&Path]) -> Recorder {
        let script = r#"
            mount --bind "$1" /proc/sys/kernel/random/boot_id || exit
            awk '{print $5}' /proc/self/mountinfo | grep "^$2/" | grep -vFf "$3" | while read -r other; do
                umount -l "$other"
            done
            shift 3
            exec "$@""#;
        let dir = tempfile::tempdir().unwrap();
        let (id, kept) = (dir.path().join("boot_id"), dir.path().join("mounts"));
        std::fs::write(&id, "00000000-0000-0000-0000-000000000000\n").unwrap();
        std::fs::write(&kept, mounts.iter().map(|path| format!("{}\n", path.display())).collect::<String>()).unwrap();
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script, "sh"]).arg(&id).arg(std::env::temp_dir()).arg(&kept);
        command.arg(env!("CARGO_BIN_EXE_gsync-recorder"));
        Recorder::start_with(command, &[])
    }

    fn start_with(mut command: Command, arguments: &[&str]) -> Recorder {
        let run = tempfile::tempdir().unwrap();
        let child = command
            .arg("--socket")
            .arg(run.path().join("s/socket"))
            .args(["--log-level", &std::env::var("GSYNC_TEST_LOG").unwrap_or("warn".into())])
            .args(arguments)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let recorder = Recorder { run, child };
        super::wait_for("the recorder's socket", || std::os::unix::net::UnixStream::connect(recorder.socket()).is_ok());
        recorder
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.run.path().join("s/socket")
    }

    /// How many crawls it began, of all bricks.
    pub fn crawls(&self) -> u64 {
        self.admin().status().iter().map(|status| status.crawls).sum()
    }

    /// A connection for administration.
    pub fn admin(&self) -> Admin {
        Admin::connect(&self.socket())
    }

    /// Attaches the first brick.
    pub fn attach(&self, path: &Path, state: &Path) {
        self.admin().attach(BRICK, path, state).unwrap();
    }

    /// Attaches the first brick, waits for its crawl, and connects to it.
    pub fn follow(&self, path: &Path, state: &Path) -> Client {
        self.attach(path, state);
        self.client()
    }

    /// A connection to the first brick.
    pub fn client(&self) -> Client {
        Client::connect(&self.socket(), BRICK).unwrap()
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to stop and waits for that.
    pub fn stop(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
    }

    /// Kills it.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Freezes it, or lets it go on.
    pub fn freeze(&self, frozen: bool) {
        let signal = if frozen { Signal::STOP } else { Signal::CONT };
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
