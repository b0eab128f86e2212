//! Showing it: a session from nothing, live changes, the status, a comparison.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use cluster::{Secondary, SessionId, Transition};
use gsync_monitor::api::Request;
use gsync_monitor::paths::{DEFAULT_RUN_DIR, DEFAULT_STATE_DIR};

use crate::cli::{Create, Quickstart};
use crate::exit::{Exit, problem};
use crate::monitor::{Link, Monitor, require_root};
use crate::sample::{self, CHANGES};
use crate::{create, lifecycle, status, verifying};

/// How long the session may take to become active.
const ACTIVE_LIMIT: Duration = Duration::from_secs(30);

/// How long the first copy, and the comparison, may take.
const SYNC_LIMIT: Duration = Duration::from_secs(60);

/// How long one change may take until it is seen.
const SEEN_LIMIT: Duration = Duration::from_secs(15);

/// How often the secondary is looked at for a change.
const SEEN_POLL: Duration = Duration::from_millis(2);

/// Runs `geo-rep quickstart`.
pub fn run(monitor: &Monitor, wanted: &Quickstart) -> anyhow::Result<Exit> {
    require_root()?;
    let tag: String = SessionId::random().to_string().chars().take(6).collect();
    let base = std::env::temp_dir().join(format!("geo-rep-quickstart-{tag}"));
    let primary = match &wanted.primary {
        Some(primary) => primary.clone(),
        None => make_sample(&base)?,
    };
    let secondary = match &wanted.secondary {
        Some(secondary) => secondary.clone(),
        None => {
            make_dir(&base)?;
            base.join("secondary").display().to_string()
        }
    };
    let name = format!("quickstart-{tag}");
    println!("Replicating {} to {secondary}", primary.display());
    let session = create::create(monitor, &options(primary.clone(), secondary, &name))?;
    let (mut link, declared) = monitor.reach_declared()?;
    println!("Session {name} is declared; starting it");
    link.change(&Request::Transition { session: name.clone(), transition: Transition::Start, force: false })?;
    let started = Instant::now();
    let report = lifecycle::wait_active(&mut link, &name, ACTIVE_LIMIT)?;
    if !lifecycle::is_active(&report) {
        status::show(&mut link, &name)?;
        return Err(problem("the session does not become active", format!("geo-rep status {name}")));
    }
    let (done, _) = link.wait(&name, SYNC_LIMIT)?;
    if !done {
        status::show(&mut link, &name)?;
        return Err(problem("the first copy is not complete yet", format!("geo-rep status {name} --watch")));
    }
    println!("Active, and the first copy is complete after {:.1} s", started.elapsed().as_secs_f64());
    let primary = fs::canonicalize(&primary)?;
    change_and_watch(&mut link, &name, &primary, &session.secondary)?;
    println!();
    status::show(&mut link, &name)?;
    println!();
    let compared = verifying::compare_session(monitor, &mut link, &declared, &session, SYNC_LIMIT)?;
    compared.print(false)?;
    print_next(monitor, &name, &primary, wanted.primary.is_none() || wanted.secondary.is_none(), &base);
    Ok(if compared.report.equal { Exit::Done } else { Exit::Different })
}

fn make_sample(base: &Path) -> anyhow::Result<PathBuf> {
    make_dir(base)?;
    let primary = base.join("primary");
    make_dir(&primary)?;
    sample::make(&primary).with_context(|| format!("cannot make a sample in {}", primary.display()))?;
    println!("Made a sample of some 300 files with links and attributes");
    Ok(primary)
}

fn make_dir(path: &Path) -> anyhow::Result<()> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o755).create(path);
    made.with_context(|| format!("cannot create {}", path.display()))
}

fn options(primary: PathBuf, secondary: String, name: &str) -> Create {
    Create {
        primary,
        secondary,
        name: Some(name.to_owned()),
        ssh_port: None,
        ssh_identity: None,
        remote_agent: None,
        no_push: false,
        sync_engine: None,
        adopt: false,
        quarantine: false,
        dry_run: false,
        force: false,
    }
}

/// Makes the changes one by one and says how long each took to be seen over there; where the secondary is on another
/// machine, how long until the worker knows that it is there.
fn change_and_watch(link: &mut Link, name: &str, primary: &Path, secondary: &Secondary) -> anyhow::Result<()> {
    let here = sample::playground(primary);
    make_dir(&here)?;
    let there = match secondary {
        Secondary::Local { path } => Some(sample::playground(path)),
        Secondary::Ssh { .. } => None,
    };
    link.wait(name, SYNC_LIMIT)?;
    println!("\nChanging things below {}:", here.display());
    for change in CHANGES {
        (change.make)(&here).with_context(|| format!("cannot {}", change.said))?;
        let begun = Instant::now();
        let is_seen = match &there {
            Some(there) => wait_seen(|| (change.is_seen)(there)),
            None => link.wait(name, SEEN_LIMIT)?.0,
        };
        if !is_seen {
            let text = format!("'{}' was not seen within {} s", change.said, SEEN_LIMIT.as_secs());
            return Err(problem(text, format!("geo-rep status {name} detail")));
        }
        println!("  {:<42} on the secondary after {:>6.3} s", change.said, begun.elapsed().as_secs_f64());
    }
    Ok(())
}

fn wait_seen(is_seen: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + SEEN_LIMIT;
    while !is_seen() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(SEEN_POLL);
    }
    true
}

fn print_next(monitor: &Monitor, name: &str, primary: &Path, has_sample: bool, base: &Path) {
    let command = command_line(monitor);
    println!("\nThe session goes on. Change something below {} and look:", primary.display());
    for words in ["status {} detail", "status --watch", "verify {}", "config {}", "pause {}", "resume {}"] {
        println!("  {command} {}", words.replace("{}", name));
    }
    println!("To end it:");
    println!("  {command} stop {name} && {command} delete {name}");
    if has_sample {
        println!("  rm -r {}", base.display());
    }
}

/// How this program was called, so that what is printed can be copied: not everybody has it in PATH.
fn command_line(monitor: &Monitor) -> String {
    let program = std::env::args_os().next().map_or_else(|| "geo-rep".into(), PathBuf::from);
    let mut command = program.display().to_string();
    for (flag, directory, default) in
        [("--state-dir", monitor.state.path(), DEFAULT_STATE_DIR), ("--run-dir", monitor.run.path(), DEFAULT_RUN_DIR)]
    {
        if directory != Path::new(default) {
            command = format!("{command} {flag} {}", directory.display());
        }
    }
    command
}
