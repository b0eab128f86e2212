//! A child process: its log, its signals, its end.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

use crate::sys::die_with_parent;

/// A log that is longer at the start of its process is put aside as `<log>.1`.
const LOG_MAX_BYTES: u64 = 50 << 20;

/// How much of a log's end is read to learn what the process said last.
const TAIL_BYTES: u64 = 8 << 10;

/// The longest last line that is kept, in characters.
const LAST_LINE_MAX: usize = 400;

/// What to start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Program {
    /// The program.
    pub path: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Where its standard output and error go.
    pub log: PathBuf,
}

/// A handle on a running child. Signals go through the task that waits for it, so that they never reach another
/// process that got its number.
#[derive(Clone, Debug)]
pub struct Handle {
    signals: mpsc::UnboundedSender<Signal>,
}

impl Handle {
    /// Sends a signal, if the process still runs.
    pub fn signal(&self, signal: Signal) {
        let _ = self.signals.send(signal);
    }
}

/// Starts a program and calls `ended` with the way it ended and the last line of its log.
///
/// To be called on a thread that lives as long as this process: the child dies with it.
///
/// # Errors
/// When the log cannot be opened or the program not be started.
pub fn start(program: &Program, ended: impl FnOnce(String) + Send + 'static) -> io::Result<(u32, Handle)> {
    let log = open_log(&program.log)?;
    let begin = log.metadata()?.len();
    let mut command = Command::new(&program.path);
    command.args(&program.args).current_dir("/").stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    // The log is read by people and by us.
    command.env("NO_COLOR", "1").kill_on_drop(true);
    die_with_parent(&mut command);
    let child = command.spawn()?;
    let pid = child.id().unwrap_or_default();
    let (signals, queue) = mpsc::unbounded_channel();
    let log = program.log.clone();
    tokio::spawn(async move {
        let status = follow(child, queue).await;
        let said = last_line(&log, begin);
        ended(describe(status, said));
    });
    Ok((pid, Handle { signals }))
}

/// Waits for the end and passes signals on.
async fn follow(mut child: Child, mut queue: mpsc::UnboundedReceiver<Signal>) -> io::Result<ExitStatus> {
    loop {
        tokio::select! {
            status = child.wait() => return status,
            Some(signal) = queue.recv() => {
                let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
                if let Some(pid) = pid {
                    let _ = kill_process(pid, signal);
                }
            }
        }
    }
}

fn describe(status: io::Result<ExitStatus>, said: Option<String>) -> String {
    let how = match status {
        Ok(status) => status.to_string(),
        Err(error) => error.to_string(),
    };
    match said {
        Some(line) => format!("{line} ({how})"),
        None => how,
    }
}

fn open_log(path: &Path) -> io::Result<File> {
    if std::fs::metadata(path).is_ok_and(|metadata| metadata.len() > LOG_MAX_BYTES) {
        let mut aside = path.as_os_str().to_owned();
        aside.push(".1");
        std::fs::rename(path, aside)?;
    }
    OpenOptions::new().append(true).create(true).open(path)
}

/// What was said last, of what was written after `begin`: the last line that tells of an error, else the last one that
/// is not empty.
fn last_line(path: &Path, begin: u64) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(begin.max(length.saturating_sub(TAIL_BYTES)))).ok()?;
    let mut tail = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut tail).ok()?;
    let text = String::from_utf8_lossy(&tail);
    let tells_of_error = |line: &&str| line.starts_with("error:") || line.contains(" ERROR ");
    let lines = || text.lines().rev().map(str::trim);
    let line = lines().find(tells_of_error).or_else(|| lines().find(|line| !line.is_empty()))?;
    Some(line.chars().take(LAST_LINE_MAX).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn outcome(script: &str, log: &Path, signal: Option<Signal>) -> String {
        let args = vec!["-c".into(), script.into()];
        let (done, wait) = tokio::sync::oneshot::channel();
        let program = Program { path: "/bin/sh".into(), args, log: log.into() };
        let (_, handle) = start(&program, move |end| drop(done.send(end))).unwrap();
        if let Some(signal) = signal {
            handle.signal(signal);
        }
        wait.await.unwrap()
    }

    #[tokio::test]
    async fn the_end_tells_what_was_said_last() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        assert_eq!(outcome("echo one; echo two >&2; echo; exit 3", &log, None).await, "two (exit status: 3)");
        assert_eq!(outcome("exit 0", &log, None).await, "exit status: 0", "what an earlier process said is not told");
        let hinted = outcome("echo error: no; echo hint: yes; exit 1", &log, None).await;
        assert_eq!(hinted, "error: no (exit status: 1)");
        let killed = outcome("exec sleep 1000", &log, Some(Signal::KILL)).await;
        assert_eq!(killed, "signal: 9 (SIGKILL)");
        let missing = Program { path: "/nonexistent".into(), args: vec![], log: log.clone() };
        assert!(start(&missing, |_| {}).is_err());
    }

    #[test]
    fn a_long_log_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        File::create(&log).unwrap().set_len(LOG_MAX_BYTES + 1).unwrap();
        open_log(&log).unwrap();
        assert_eq!(std::fs::metadata(&log).unwrap().len(), 0);
        assert!(dir.path().join("log.1").exists());
    }
}
