//! One session of a deployment: a brick, something beside it, and a secondary.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::deployment::Deployment;
use crate::sshd::Sshd;

/// How long a verify may wait for what is in flight.
const VERIFY_LIMIT: Duration = Duration::from_secs(120);

/// The name of a session that is the only one.
pub const NAME: &str = "t";

/// A started session.
#[derive(Debug)]
pub struct Session<'a> {
    deployment: &'a Deployment,
    /// Its name.
    pub name: String,
    /// The directory that is replicated.
    pub brick: PathBuf,
    /// A directory beside it on the same file system that is not.
    pub outside: PathBuf,
    /// The copy.
    pub secondary: PathBuf,
}

impl<'a> Session<'a> {
    /// Makes the directories `brick` and `outside` below `base` and `secondary` below `far`, and a session that
    /// replicates there: on this machine, or through a real sshd. It is not started.
    ///
    /// # Errors
    /// When a command fails, with what it said.
    pub fn create(
        deployment: &'a Deployment,
        base: &Path,
        far: &Path,
        sshd: Option<&Sshd>,
    ) -> anyhow::Result<Session<'a>> {
        Session::create_through(deployment, base, far, sshd.map(|sshd| (sshd, sshd.port())))
    }

    /// As [`Session::create`], with another port that leads to the sshd.
    ///
    /// # Errors
    /// When a command fails, with what it said.
    pub fn create_through(
        deployment: &'a Deployment,
        base: &Path,
        far: &Path,
        sshd: Option<(&Sshd, u16)>,
    ) -> anyhow::Result<Session<'a>> {
        std::fs::create_dir_all(base.join("outside"))?;
        Session::between(deployment, NAME, &base.join("brick"), &far.join("secondary"), sshd)
    }

    /// As [`Session::create_through`], one of several: with its own name and directories, which are made.
    ///
    /// # Errors
    /// When a command fails, with what it said.
    pub fn between(
        deployment: &'a Deployment,
        name: &str,
        brick: &Path,
        secondary: &Path,
        sshd: Option<(&Sshd, u16)>,
    ) -> anyhow::Result<Session<'a>> {
        for dir in [brick, secondary] {
            std::fs::create_dir_all(dir)?;
        }
        deployment.belongs(secondary);
        let outside = brick.with_file_name("outside");
        let (brick, secondary) = (brick.to_owned(), secondary.to_owned());
        let session = Session { deployment, name: name.into(), brick, outside, secondary };
        let mut words: Vec<String> = ["create", "--name", name].map(String::from).to_vec();
        let mut target = session.secondary.display().to_string();
        if let Some((sshd, port)) = sshd {
            words.extend(["--ssh-port".into(), port.to_string()]);
            words.extend(["--ssh-identity".into(), sshd.identity().display().to_string()]);
            words.extend(["--remote-agent".into(), crate::programs::path("gsync-agent").display().to_string()]);
            target = format!("{}@127.0.0.1:{target}", sshd.user());
        }
        words.extend([session.brick.display().to_string(), target]);
        deployment.run(&words)?;
        Ok(session)
    }

    /// Lets it remove whatever is removed on the primary, for writers that empty the brick.
    ///
    /// # Errors
    /// When a command fails, with what it said.
    pub fn without_brake(self) -> anyhow::Result<Session<'a>> {
        self.config("brake-share", "100")?;
        Ok(self)
    }

    /// Starts it.
    ///
    /// # Errors
    /// When it does not become active.
    pub fn start(&self) -> anyhow::Result<()> {
        self.deployment.run(["start", &self.name]).map(drop)
    }

    /// Sets an option.
    ///
    /// # Errors
    /// When it is refused.
    pub fn config(&self, name: &str, value: &str) -> anyhow::Result<()> {
        self.deployment.run(["config", &self.name, name, value]).map(drop)
    }

    /// Compares both sides.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn verify(&self) -> anyhow::Result<Output> {
        let limit = VERIFY_LIMIT.as_secs().to_string();
        self.deployment.output(["verify", &self.name, "--timeout", &limit])
    }

    /// Compares both sides; they must be equal.
    ///
    /// # Errors
    /// When they are not, with the differences.
    pub fn must_be_equal(&self) -> anyhow::Result<()> {
        let output = self.verify()?;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if !output.status.success() {
            let status = self.deployment.run(["status", &self.name, "detail"]).unwrap_or_default();
            if std::env::var_os("GSYNC_HOLD").is_some() {
                eprintln!("{out}{err}{status}");
                std::thread::sleep(Duration::from_secs(600));
            }
            anyhow::bail!("verify: {}\n{out}{err}{status}", output.status);
        }
        Ok(())
    }

    /// The one row of its status.
    ///
    /// # Errors
    /// When there is none.
    pub fn status(&self) -> anyhow::Result<serde_json::Value> {
        let status = self.deployment.json(["status", &self.name, "--json"])?;
        status.pointer("/sessions/0/bricks/0").cloned().context("no row")
    }

    /// Bytes and files whose content was sent since the worker started.
    ///
    /// # Errors
    /// As [`Session::status`].
    pub fn sent(&self) -> anyhow::Result<(u64, u64)> {
        let status = self.status()?;
        let number = |name: &str| status[name].as_u64().with_context(|| format!("no {name} in {status}"));
        Ok((number("sent_bytes")?, number("sent_files")?))
    }

    /// Waits until STATUS is this word.
    ///
    /// # Panics
    /// When it is not at the deadline.
    #[track_caller]
    pub fn wait_for_status(&self, word: &str, limit: Duration) -> serde_json::Value {
        crate::wait::wait_for(word, limit, || {
            let status = self.status().map_err(|e| format!("{e:#}"))?;
            if status["status"] == word { Ok(status) } else { Err(status.to_string()) }
        })
    }

    /// Waits until everything that was changed so far is durably on the secondary; compares nothing.
    ///
    /// # Errors
    /// When it is not in time.
    pub fn settle(&self, limit: Duration) -> anyhow::Result<()> {
        let status = self.deployment.json(["status", &self.name, "--json"])?;
        let id = status["sessions"][0]["id"].as_str().context("no id")?;
        let socket = worker_socket(&self.deployment.run_dir(), id).context("no worker's socket")?;
        let mut stream = UnixStream::connect(&socket).with_context(|| socket.display().to_string())?;
        stream.write_all(format!("{{\"cmd\":\"wait\",\"timeout_ms\":{}}}\n", limit.as_millis()).as_bytes())?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        let answer: serde_json::Value = serde_json::from_str(&line).with_context(|| line.clone())?;
        ensure!(answer["done"] == true && answer["pending"] == 0, "not settled: {line}");
        Ok(())
    }
}

/// The worker's socket has the begin of the session's identity in its name.
fn worker_socket(run: &Path, id: &str) -> Option<PathBuf> {
    let begin = format!("w-{}", id.get(..8)?);
    let paths = std::fs::read_dir(run).ok()?.flatten().map(|entry| entry.path());
    paths.into_iter().find(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(&begin) && name.ends_with(".sock")
    })
}
