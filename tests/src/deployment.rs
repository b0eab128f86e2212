//! A primary machine with its state, driven by `geo-rep`.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, ensure};
use rustix::process::Signal;

use crate::fs::Mounted;
use crate::proc::{self, Process};
use crate::{programs, wait};

/// How long the monitor has to end by itself.
const STOP_LIMIT: Duration = Duration::from_secs(15);

/// Gives the command after `$1` another boot id, and keeps none of the mounts that are not its own: another test could
/// not unmount its file systems.
const REBOOTED: &str = r#"
mount --bind "$1" /proc/sys/kernel/random/boot_id || exit
temporary=$(dirname "$(dirname "$1")")
awk '{print $5}' /proc/self/mountinfo | grep "^$temporary/" | grep -vFf "$1.mounts" | while read -r other; do
    umount -l "$other"
done
shift
exec "$@"
"#;

/// How much of each log is shown when a test fails.
const LOG_LINES: usize = 60;

/// State of a primary machine in a temporary directory. On drop everything that runs in it is ended; when the test
/// panics, the ends of its logs are shown.
#[derive(Debug)]
pub struct Deployment {
    dir: tempfile::TempDir,
    /// What the arguments of its processes may name besides the directory.
    elsewhere: Mutex<Vec<String>>,
    /// What is started from now on finds this in the place of the kernel's boot id.
    boot_id: Mutex<Option<PathBuf>>,
    /// Where the command finds the other programs, if not beside it.
    programs: Mutex<Option<PathBuf>>,
}

impl Deployment {
    /// Makes empty directories; nothing runs yet.
    ///
    /// # Errors
    /// What the system says.
    pub fn new() -> anyhow::Result<Deployment> {
        // Short, because Unix sockets lie in it, whose paths may have 107 bytes.
        let dir = tempfile::Builder::new().prefix("gs-").rand_bytes(5).tempdir()?;
        let deployment =
            Deployment { dir, elsewhere: Mutex::default(), boot_id: Mutex::default(), programs: Mutex::default() };
        fs::create_dir(deployment.state_dir())?;
        fs::create_dir(deployment.run_dir())?;
        Ok(deployment)
    }

    /// Where sessions, settings and indexes are kept.
    pub fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// Where sockets and pid files are.
    pub fn run_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    /// The directory that holds both, for what else a test keeps; its path is in the arguments of all processes.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The command with its directories set; the rest is still to be added.
    pub fn command(&self) -> Command {
        let program = programs::path("geo-rep");
        let mut command = match &*self.boot_id.lock().unwrap_or_else(|e| e.into_inner()) {
            None => Command::new(program),
            Some(id) => {
                let mut command = Command::new("unshare");
                command.args(["--mount", "sh", "-c", REBOOTED, "sh"]).arg(id).arg(program);
                command
            }
        };
        if let Some(programs) = &*self.programs.lock().unwrap_or_else(|e| e.into_inner()) {
            command.env("GSYNC_BIN_DIR", programs);
        }
        command.arg("--state-dir").arg(self.state_dir()).arg("--run-dir").arg(self.run_dir());
        if self.cluster_file().exists() {
            command.arg("--cluster-file").arg(self.cluster_file());
        }
        command
    }

    /// Whatever is started from now on finds that the machine was booted meanwhile. It also has mounts of its own: it sees
    /// those of `mounts`, and not what is mounted later.
    ///
    /// # Errors
    /// What the system says.
    pub fn reboot(&self, mounts: &[&Mounted]) -> anyhow::Result<()> {
        let (random, file) = (fastrand::u64(..), self.dir.path().join("boot_id"));
        fs::write(&file, format!("00000000-0000-4000-8000-{:012x}\n", random >> 16))?;
        let roots: Vec<String> = mounts.iter().map(|mounted| format!("{}\n", mounted.root().display())).collect();
        fs::write(self.dir.path().join("boot_id.mounts"), roots.concat())?;
        *self.boot_id.lock().unwrap_or_else(|e| e.into_inner()) = Some(file);
        Ok(())
    }

    /// Lets recorders start with one more argument.
    ///
    /// # Errors
    /// What the system says.
    pub fn with_recorder_argument(&self, argument: &str) -> anyhow::Result<()> {
        let dir = self.dir.path().join("bin");
        fs::create_dir(&dir)?;
        for name in programs::ALL {
            std::os::unix::fs::symlink(programs::path(name), dir.join(name))?;
        }
        let script = format!("#!/bin/sh\nexec {} \"$@\" {argument}\n", programs::path("gsync-recorder").display());
        fs::remove_file(dir.join("gsync-recorder"))?;
        fs::write(dir.join("gsync-recorder"), script)?;
        fs::set_permissions(dir.join("gsync-recorder"), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        *self.programs.lock().unwrap_or_else(|e| e.into_inner()) = Some(dir);
        Ok(())
    }

    /// Ends the monitor and all that it started, in order.
    pub fn shut_down(&self) {
        for monitor in self.processes(&["gsync-monitor"]) {
            monitor.signal(Signal::TERM);
        }
        let primary = ["gsync-monitor", "gsync-recorder", "gsync-worker"];
        wait::wait_until("the monitor's end", Duration::from_secs(60), || self.processes(&primary).is_empty());
    }

    /// Once this file exists, monitors are started with it.
    pub fn cluster_file(&self) -> PathBuf {
        self.dir.path().join("cluster.toml")
    }

    /// Runs a command to its end, whatever comes of it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn output<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> anyhow::Result<Output> {
        self.command().args(arguments).output().context("cannot start geo-rep")
    }

    /// Runs a command that must succeed; what it printed.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> anyhow::Result<String> {
        let arguments: Vec<S> = arguments.into_iter().collect();
        let output = self.output(&arguments)?;
        let words: Vec<_> = arguments.iter().map(|a| a.as_ref().to_string_lossy()).collect();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "geo-rep {}: {}\n{out}{err}", words.join(" "), output.status);
        Ok(out.into_owned())
    }

    /// Runs a command that prints JSON.
    ///
    /// # Errors
    /// When it fails or prints something else.
    pub fn json<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> anyhow::Result<serde_json::Value> {
        let text = self.run(arguments)?;
        serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))
    }

    /// Counts processes that name this path to the deployment, too: of a secondary that lies elsewhere, whose agents
    /// know nothing of the primary.
    pub fn belongs(&self, path: &Path) {
        let path = path.to_string_lossy().into_owned();
        self.elsewhere.lock().unwrap_or_else(|e| e.into_inner()).push(path);
    }

    /// The monitor, while it runs.
    pub fn monitor(&self) -> Option<Process> {
        let process = Process::read(proc::read_pid_file(&self.run_dir().join("monitor.pid"))?)?;
        programs::ALL.contains(&process.name()).then_some(process)
    }

    /// The processes of these programs that belong to this deployment, e.g. `["gsync-worker"]` or `["ssh"]`. The
    /// [holders](Deployment::holders) are none of them.
    pub fn processes(&self, programs: &[&str]) -> Vec<Process> {
        let mut found = self.all_processes(programs);
        found.retain(|process| !is_holder(process));
        found
    }

    /// The processes that hold the events of a file system; they outlive monitor and recorder.
    pub fn holders(&self) -> Vec<Process> {
        let mut found = self.all_processes(&["gsync-recorder"]);
        found.retain(is_holder);
        found
    }

    fn all_processes(&self, programs: &[&str]) -> Vec<Process> {
        let own = self.dir.path().to_string_lossy();
        let elsewhere = self.elsewhere.lock().unwrap_or_else(|e| e.into_inner());
        let mut found = proc::all();
        found.retain(|process| {
            let mentions = process.mentions(&own) || elsewhere.iter().any(|path| process.mentions(path));
            mentions && programs.contains(&process.name())
        });
        found
    }

    /// Kills all processes of these programs at once, as a crash would: how many there were.
    pub fn kill(&self, programs: &[&str]) -> usize {
        self.processes(programs).iter().filter(|process| process.kill()).count()
    }

    fn end(&self) {
        if let Some(monitor) = self.monitor() {
            monitor.signal(Signal::TERM);
            let start = std::time::Instant::now();
            while proc::is_running(monitor.pid) && start.elapsed() < STOP_LIMIT {
                std::thread::sleep(Duration::from_millis(20));
            }
            // With the monitor all that it started ends; what does not is a leftover, and so is the monitor then.
            for process in proc::tree(monitor.pid) {
                process.kill();
            }
        }
        let leftovers: Vec<&str> = programs::ALL.into_iter().chain(["ssh", "rsync"]).collect();
        self.kill(&leftovers);
        for holder in self.holders() {
            holder.kill();
        }
    }

    fn show_logs(&self) {
        let mut out = std::io::stderr().lock();
        for path in logs_below(self.dir.path()) {
            let text = fs::read(&path).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let lines: Vec<&str> = text.lines().collect();
            let last = &lines[lines.len().saturating_sub(LOG_LINES)..];
            let _ = writeln!(out, "==> {} <==\n{}", path.display(), last.join("\n"));
        }
    }

    /// Waits until no process of this deployment runs any more, holders excepted.
    ///
    /// # Panics
    /// When some still do at the deadline.
    #[track_caller]
    pub fn wait_for_end(&self, limit: Duration) {
        wait::wait_for("the end of all processes", limit, || {
            let running = self.processes(&programs::ALL);
            if running.is_empty() { Ok(()) } else { Err(format!("running: {running:?}")) }
        });
    }
}

impl Drop for Deployment {
    fn drop(&mut self) {
        self.end();
        if std::thread::panicking() {
            self.show_logs();
        }
    }
}

fn is_holder(process: &Process) -> bool {
    process.name() == "gsync-recorder" && process.arguments.get(1).is_some_and(|word| word == "hold")
}

fn logs_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(logs_below(&path));
        } else if path.extension().is_some_and(|extension| extension == "log") {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_of_a_deployment_end_with_it() {
        let deployment = Deployment::new().unwrap();
        // Stands for ssh: a program of a name that is looked for, with the directory in its arguments.
        let program = deployment.dir().join("ssh");
        fs::copy("/bin/sleep", &program).unwrap();
        // A test beside this one that starts a program just now may hold the copy open for a moment: ETXTBSY.
        let start = || Command::new(&program).arg("1000").spawn().map_err(|e| e.to_string());
        let mut child = wait::wait_for("a start", Duration::from_secs(10), start);
        wait::wait_until("its start", Duration::from_secs(10), || deployment.processes(&["ssh"]).len() == 1);
        assert!(deployment.run_dir().to_string_lossy().len() < 60, "no room for the names of sockets");
        drop(deployment);
        assert!(!child.wait().unwrap().success());
    }
}
