//! Comparing both trees of a session.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use cluster::{Desired, Session};
use serde::Serialize;
use verify::{Options, Report, Side, compare_settled};

use crate::address::Declared;
use crate::cli::Verify;
use crate::exit::{Exit, problem};
use crate::monitor::{Link, Monitor};
use crate::pairing::ssh::Login;

/// How long a comparison of two plain directories pauses before it looks again at what differs.
const PAUSE: Duration = Duration::from_millis(200);

/// What `verify --json` prints. Fields are only ever added.
#[derive(Debug, Serialize)]
struct VerifyJson<'a> {
    /// The primary directory.
    primary: String,
    /// The secondary, as the status shows it.
    secondary: String,
    /// Whether everything that was changed before was waited for; `false` after the time-out or without a running
    /// session.
    waited: bool,
    /// What could not be applied so far.
    pending: u64,
    /// What was found.
    #[serde(flatten)]
    report: &'a Report,
}

/// A comparison that was made.
#[derive(Debug)]
pub struct Compared {
    primary: PathBuf,
    secondary: String,
    waited: bool,
    pending: u64,
    /// What was found.
    pub report: Report,
}

/// Runs `geo-rep verify`.
pub fn run(monitor: &Monitor, wanted: &Verify) -> anyhow::Result<Exit> {
    let limit = Duration::from_secs(wanted.timeout);
    let compared = if wanted.paths {
        let [primary, secondary] = wanted.words.as_slice() else {
            return Err(problem("--paths needs two directories", "geo-rep verify --paths PRIMARY SECONDARY"));
        };
        compare_paths(Path::new(primary), Path::new(secondary))?
    } else {
        let (mut link, declared) = monitor.reach_declared()?;
        let (session, rest) = declared.find(&wanted.words)?;
        if let [word, ..] = rest {
            return Err(problem(format!("'{word}' is not understood"), "geo-rep verify SESSION"));
        }
        if session.desired != Desired::Started {
            eprintln!("The session is not running; both sides are compared as they are.");
        }
        compare_session(monitor, &mut link, &declared, session, limit)?
    };
    compared.print(wanted.json)?;
    Ok(if compared.report.equal { Exit::Done } else { Exit::Different })
}

/// Compares the trees of a session; waits for what is in flight while it runs.
pub fn compare_session(
    monitor: &Monitor,
    link: &mut Link,
    declared: &Declared,
    session: &Session,
    limit: Duration,
) -> anyhow::Result<Compared> {
    let bricks = declared.volume(session).map(|volume| volume.bricks.as_slice()).unwrap_or_default();
    let [brick] = bricks else {
        return Err(problem("a volume of several bricks cannot be compared from here", "compare on each node"));
    };
    if brick.node != link.node {
        let text = format!("the brick {} is on the node {}", brick.path.display(), brick.node);
        return Err(problem(text, "run the command there"));
    }
    let mut channel = Peer::open(monitor, session)?;
    let mut primary = Side::local(&brick.path);
    let deadline = Instant::now() + limit;
    let (mut waited, mut pending) = (false, 0);
    let is_running = session.desired == Desired::Started;
    let wait = || -> io::Result<bool> {
        if !is_running {
            return Ok(false);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        (waited, pending) = link.wait(&session.name, left).map_err(io::Error::other)?;
        Ok(waited && Instant::now() < deadline)
    };
    let report = compare_settled(&mut primary, &mut channel.side, &Options::default(), wait);
    let report = report.context("the comparison could not be made")?;
    let (primary, secondary) = (brick.path.clone(), session.secondary.to_string());
    Ok(Compared { primary, secondary, waited, pending, report })
}

/// Compares two directories of this machine.
fn compare_paths(primary: &Path, secondary: &Path) -> anyhow::Result<Compared> {
    let (mut first, mut second) = (Side::local(primary), Side::local(secondary));
    let mut looks = 0;
    let wait = || {
        if looks > 0 {
            std::thread::sleep(PAUSE);
        }
        looks += 1;
        Ok(looks < 3)
    };
    let report = compare_settled(&mut first, &mut second, &Options::default(), wait)?;
    let secondary = secondary.display().to_string();
    Ok(Compared { primary: primary.into(), secondary, waited: false, pending: 0, report })
}

impl Compared {
    /// Prints what was found: a line for each difference, then a summary.
    pub fn print(&self, json: bool) -> anyhow::Result<()> {
        let report = &self.report;
        if json {
            let json = VerifyJson {
                primary: self.primary.display().to_string(),
                secondary: self.secondary.clone(),
                waited: self.waited,
                pending: self.pending,
                report,
            };
            println!("{}", serde_json::to_string_pretty(&json)?);
            return Ok(());
        }
        for difference in &report.differences {
            println!("{difference}");
        }
        let size = format!("{} objects, {} bytes, {:.1} s", report.objects, report.bytes, report.seconds);
        if report.equal {
            println!("{} and {} are equal ({size})", self.primary.display(), self.secondary);
        } else {
            println!("{} differences ({size})", report.differing);
        }
        if self.pending > 0 {
            println!("{} changes could not be applied so far; 'geo-rep status' says why", self.pending);
        }
        Ok(())
    }
}

/// The secondary's side, with the process that serves it where it is on another machine.
#[derive(Debug)]
struct Peer {
    side: Side,
    child: Option<Child>,
}

impl Peer {
    fn open(monitor: &Monitor, session: &Session) -> anyhow::Result<Peer> {
        let Some(login) = Login::of_session(session, &monitor.state)? else {
            return Ok(Peer { side: Side::local(session.secondary.path()), child: None });
        };
        let line = login.line(&["gsync", "manifest"]);
        let mut child = Command::new(&line[0])
            .args(&line[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", login.command.display()))?;
        let (Some(output), Some(input)) = (child.stdin.take(), child.stdout.take()) else {
            anyhow::bail!("the ssh process has no pipes");
        };
        match Side::channel(input, output) {
            Ok(side) => Ok(Peer { side, child: Some(child) }),
            Err(error) => {
                let _ = child.wait();
                Err(anyhow::Error::from(error).context(format!("the secondary {} cannot be read", session.secondary)))
            }
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
