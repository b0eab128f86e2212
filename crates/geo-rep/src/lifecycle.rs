//! Start, stop, pause, resume, delete.

use std::time::{Duration, Instant};

use cluster::{Desired, Secondary, Session, Transition};
use gsync_monitor::api::Request;
use gsync_monitor::status::SessionReport;

use crate::address::Declared;
use crate::cli::{Resume, Which};
use crate::door::Door;
use crate::exit::{Exit, problem};
use crate::monitor::{Link, Monitor};

/// How long `start` waits for the session to become active.
const ACTIVE_LIMIT: Duration = Duration::from_secs(15);

/// How often it looks.
const ACTIVE_POLL: Duration = Duration::from_millis(100);

/// Runs `geo-rep resume`.
pub fn resume(monitor: &Monitor, resume: &Resume) -> anyhow::Result<Exit> {
    let (mut link, declared) = monitor.reach_declared()?;
    let (session, force) = find(&declared, &resume.which)?;
    if !resume.accept_brick {
        let accept_removals = resume.accept_removals;
        let request = Request::Resume { session: session.name.clone(), force, accept_removals };
        return carry_out(link, session, &request, Transition::Resume);
    }
    link.change(&Request::AcceptBrick { session: session.name.clone() })?;
    println!("The brick of session {} is taken as it is now", session.name);
    match session.desired {
        Desired::Paused => run(monitor, &resume.which, Transition::Resume),
        Desired::Started => active_or_why(&mut link, &session.name),
        Desired::Created | Desired::Stopped => Ok(Exit::Done),
    }
}

/// Runs `geo-rep start|stop|pause`.
pub fn run(monitor: &Monitor, which: &Which, transition: Transition) -> anyhow::Result<Exit> {
    let (link, declared) = monitor.reach_declared()?;
    let (session, force) = find(&declared, which)?;
    let request = Request::Transition { session: session.name.clone(), transition, force };
    carry_out(link, session, &request, transition)
}

fn carry_out(mut link: Link, session: &Session, request: &Request, transition: Transition) -> anyhow::Result<Exit> {
    link.change(request)?;
    let doing = match transition {
        Transition::Start => "Starting",
        Transition::Stop => "Stopping",
        Transition::Pause => "Pausing",
        Transition::Resume => "Resuming",
        Transition::Delete => "Deleting",
    };
    println!("{doing} geo-replication session between {} & {} has been successful", session.primary, session.secondary);
    if !matches!(transition, Transition::Start | Transition::Resume) {
        return Ok(Exit::Done);
    }
    active_or_why(&mut link, &session.name)
}

/// Waits for a session to become active; tells what is wrong when it does not.
fn active_or_why(link: &mut Link, name: &str) -> anyhow::Result<Exit> {
    let report = wait_active(link, name, ACTIVE_LIMIT)?;
    if is_active(&report) {
        return Ok(Exit::Done);
    }
    eprintln!("The session is not active yet:");
    for row in report.bricks.iter().filter(|row| row.status != "Active") {
        let error = if row.error.is_empty() { "no error so far" } else { &row.error };
        eprintln!("  {}:{}: {}: {error}", row.primary_node, row.primary_brick, row.status);
    }
    eprintln!("hint: it is tried again by itself; 'geo-rep status {}' shows how it goes on", name);
    Ok(Exit::NotActive)
}

/// Runs `geo-rep resync`.
pub fn resync(monitor: &Monitor, which: &Which) -> anyhow::Result<Exit> {
    let (mut link, declared) = monitor.reach_declared()?;
    let (session, _) = find(&declared, which)?;
    link.ask(&Request::Resync { session: session.name.clone() })?;
    println!("Both sides of session {} are compared as a whole.", session.name);
    println!("'geo-rep status {} detail' shows how far it is; nothing that is equal is sent.", session.name);
    Ok(Exit::Done)
}

/// Runs `geo-rep delete`.
pub fn delete(monitor: &Monitor, which: &Which) -> anyhow::Result<Exit> {
    let (mut link, declared) = monitor.reach_declared()?;
    let (session, force) = find(&declared, which)?;
    // The key goes with the session; its line over there has to be taken out by hand.
    let key = std::fs::read_to_string(monitor.state.session_key(session.id).with_extension("pub")).ok();
    let door = Door::of_session(session, &monitor.state, monitor.programs.find("gsync-agent"))?;
    let transition = Transition::Delete;
    // While its key is still there; only when the deletion will be accepted.
    let may_delete = session.desired.after(transition, force).is_ok();
    let released = if may_delete { door.release(&session.id.to_string()) } else { Ok(()) };
    link.change(&Request::Transition { session: session.name.clone(), transition, force })?;
    println!(
        "Deleting geo-replication session between {} & {} has been successful",
        session.primary, session.secondary
    );
    println!("The data on {} stays as it is.", session.secondary);
    if let Err(error) = released {
        println!("{} could not be told ({error}); the next create there needs --force.", session.secondary);
    }
    if let (Secondary::Ssh { .. }, Some(key)) = (&session.secondary, key) {
        let key: Vec<&str> = key.split_whitespace().take(2).collect();
        let to = session.secondary.destination().unwrap_or_default();
        println!("Remove this key's line from authorized_keys of {to}:");
        println!("{} geo-rep {}", key.join(" "), session.name);
    }
    Ok(Exit::Done)
}

/// Waits until a session is active, or the time is over; returns how it is then.
pub fn wait_active(link: &mut Link, name: &str, limit: Duration) -> anyhow::Result<SessionReport> {
    let deadline = Instant::now() + limit;
    loop {
        let mut report = link.status(Some(name))?;
        let Some(session) = report.sessions.pop() else {
            return Err(problem(format!("the session '{name}' was deleted"), "geo-rep status"));
        };
        if is_active(&session) || Instant::now() > deadline {
            return Ok(session);
        }
        std::thread::sleep(ACTIVE_POLL);
    }
}

/// Whether every brick of a session is replicated, or would be by another node's worker.
pub fn is_active(report: &SessionReport) -> bool {
    !report.bricks.is_empty() && report.bricks.iter().all(|row| matches!(row.status.as_str(), "Active" | "Passive"))
}

/// The words behind the address may be GlusterFS's `force`.
fn find<'a>(declared: &'a Declared, which: &Which) -> anyhow::Result<(&'a Session, bool)> {
    match declared.find(&which.words)? {
        (session, []) => Ok((session, which.force)),
        (session, [word]) if word == "force" => Ok((session, true)),
        (_, [word, ..]) => Err(problem(format!("'{word}' is not understood"), "name one session")),
    }
}
