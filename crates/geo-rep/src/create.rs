//! Declaring a session: everything is checked before anything is changed.

use std::fs;
use std::path::Path;

use anyhow::Context;
use cluster::{Secondary, Session, SessionId};
use gsync_monitor::api::Request;

use crate::address::SECONDARY_HINT;
use crate::checks::{self, Place};
use crate::cli::Create;
use crate::exit::{Exit, problem};
use crate::monitor::{Link, Monitor, require_root};
use crate::pairing::Pairing;

/// Runs `geo-rep create`.
pub fn run(monitor: &Monitor, wanted: &Create) -> anyhow::Result<Exit> {
    let session = create(monitor, wanted)?;
    println!(
        "Creating geo-replication session between {} & {} has been successful",
        session.primary, session.secondary
    );
    println!("Session {}; next: geo-rep start {}", session.name, session.name);
    Ok(Exit::Done)
}

/// Checks, prepares the secondary and declares the session.
pub fn create(monitor: &Monitor, wanted: &Create) -> anyhow::Result<Session> {
    require_root()?;
    let parsed = wanted.secondary.parse::<Secondary>();
    let secondary = parsed.map_err(|error| problem(error.to_string(), SECONDARY_HINT))?;
    wanted.name.as_deref().map_or(Ok(()), checks::is_possible_name)?;
    let primary = checks::primary(&wanted.primary)?;
    checks::is_apart_from_state("primary", &primary, &[monitor.state.path(), monitor.run.path()])?;
    match &secondary {
        Secondary::Local { path } => create_local(monitor, wanted, &primary, path),
        Secondary::Ssh { .. } => create_ssh(monitor, wanted, &primary, &secondary),
    }
}

fn create_local(monitor: &Monitor, wanted: &Create, primary: &Path, path: &Path) -> anyhow::Result<Session> {
    if wanted.ssh_port.is_some() || wanted.ssh_identity.is_some() || wanted.no_push || wanted.remote_agent.is_some() {
        let text = "the options for ssh have no meaning for a directory of this machine";
        return Err(problem(text, "leave them out, or name a secondary as [user@]host:/directory"));
    }
    let (path, place) = checks::local_secondary(path)?;
    checks::are_apart(primary, &path)?;
    checks::is_apart_from_state("secondary", &path, &[monitor.state.path(), monitor.run.path()])?;
    checks::is_usable(place, &path.display().to_string(), wanted.force)?;
    let secondary = Secondary::Local { path: path.clone() };
    // The monitor comes last: a mistake that shows without it does not even start it.
    let (mut link, declared) = monitor.reach_declared()?;
    let name = checks::name(wanted.name.as_deref(), primary, &declared)?;
    checks::is_free(&secondary, &declared)?;
    if place == Place::Missing {
        fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
    }
    let declared = declare(&mut link, SessionId::random(), name, primary, secondary, Vec::new());
    if declared.is_err() && place == Place::Missing {
        let _ = fs::remove_dir(&path);
    }
    declared
}

fn create_ssh(monitor: &Monitor, wanted: &Create, primary: &Path, secondary: &Secondary) -> anyhow::Result<Session> {
    let (mut link, declared) = monitor.reach_declared()?;
    let name = checks::name(wanted.name.as_deref(), primary, &declared)?;
    checks::is_free(secondary, &declared)?;
    let id = SessionId::random();
    let mut pairing = Pairing::begin(monitor, wanted, id, &name, secondary)?;
    let settings: Vec<(String, String)> =
        wanted.ssh_port.iter().map(|port| ("ssh-port".to_owned(), port.to_string())).collect();
    if wanted.no_push {
        let line = pairing.prepare_unpushed()?;
        let session = declare(&mut link, id, name, primary, secondary.clone(), settings)?;
        pairing.keep();
        println!("Append this line to authorized_keys of {}:", secondary.destination().unwrap_or_default());
        println!("{line}");
        return Ok(session);
    }
    pairing.probe(primary, wanted.force)?;
    pairing.push()?;
    let session = declare(&mut link, id, name, primary, secondary.clone(), settings)?;
    pairing.keep();
    Ok(session)
}

fn declare(
    link: &mut Link,
    id: SessionId,
    name: String,
    primary: &Path,
    secondary: Secondary,
    settings: Vec<(String, String)>,
) -> anyhow::Result<Session> {
    link.change(&Request::Create { id, name, primary: primary.into(), secondary, settings })
}
