//! Declaring a session: everything is checked before anything is changed.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use cluster::options::{self, OptionError};
use cluster::{Secondary, Session, SessionId, Settings, SyncEngine};
use gsync_monitor::api::Request;
use protocol::check::{Claim, Holdings, Place, Prepare, Report};
use protocol::hello::Versions;

use crate::address::SECONDARY_HINT;
use crate::assess::{self, Finding, Needs};
use crate::checks;
use crate::cli::Create;
use crate::door::{Door, check_here};
use crate::exit::{Exit, problem};
use crate::monitor::{Link, Monitor, require_root};
use crate::pairing::Pairing;
use crate::usage::{self, Usage};

/// Runs `geo-rep create`.
pub fn run(monitor: &Monitor, wanted: &Create) -> anyhow::Result<Exit> {
    if wanted.dry_run {
        return dry_run(monitor, wanted);
    }
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
    let plan = Plan::make(monitor, wanted)?;
    match &plan.secondary {
        Secondary::Local { path } => create_local(monitor, wanted, &plan, path),
        Secondary::Ssh { .. } => create_ssh(monitor, wanted, &plan),
    }
}

/// What is to be done, from what was typed and this machine alone.
#[derive(Debug)]
struct Plan {
    id: SessionId,
    primary: PathBuf,
    secondary: Secondary,
    /// What was said about what the secondary holds.
    holdings: Option<Holdings>,
    settings: Vec<(String, String)>,
    engine: SyncEngine,
    /// As far as can be told without starting a monitor.
    name: String,
}

impl Plan {
    fn make(monitor: &Monitor, wanted: &Create) -> anyhow::Result<Plan> {
        require_root()?;
        let parsed = wanted.secondary.parse::<Secondary>();
        let mut secondary = parsed.map_err(|error| problem(error.to_string(), SECONDARY_HINT))?;
        wanted.name.as_deref().map_or(Ok(()), checks::is_possible_name)?;
        let primary = checks::primary(&wanted.primary)?;
        checks::is_apart_from_state("primary", &primary, &[monitor.state.path(), monitor.run.path()])?;
        let is_local = matches!(secondary, Secondary::Local { .. });
        if is_local
            && (wanted.ssh_port.is_some()
                || wanted.ssh_identity.is_some()
                || wanted.no_push
                || wanted.remote_agent.is_some())
        {
            let text = "the options for ssh have no meaning for a directory of this machine";
            return Err(problem(text, "leave them out, or name a secondary as [user@]host:/directory"));
        }
        if let Secondary::Local { path } = &mut secondary {
            *path = checks::local_secondary(path)?;
            checks::are_apart(&primary, path)?;
            checks::is_apart_from_state("secondary", path, &[monitor.state.path(), monitor.run.path()])?;
        }
        let settings = settings(wanted)?;
        let engine = Settings::resolve(&settings.iter().cloned().collect()).map_err(bad_option)?.sync_engine;
        let holdings = match (wanted.adopt, wanted.quarantine) {
            (true, _) => Some(Holdings::Adopt),
            (_, true) => Some(Holdings::Quarantine),
            _ => None,
        };
        // A monitor that does not run yet is started when everything was checked.
        let declared = monitor.declared_now()?;
        let name = checks::name(wanted.name.as_deref(), &primary, &declared)?;
        checks::is_free(&secondary, &declared)?;
        Ok(Plan { id: SessionId::random(), primary, secondary, holdings, settings, engine, name })
    }

    /// What stands in the way; `report` says what the secondary is like.
    fn assess(&self, report: &Report, asked_ms: (u64, u64)) -> Vec<Finding> {
        let rsync = (self.engine == SyncEngine::Rsync).then(|| checks::rsync_version(Path::new("rsync")));
        let needs = Needs {
            shown: self.secondary.to_string(),
            ours: Versions::ours(),
            boot_id: posix::location::boot_id().unwrap_or_default(),
            primary: checks::located(&self.primary),
            usage: self.usage(report),
            holdings: self.holdings,
            rsync,
            asked_ms,
        };
        assess::assess(&needs, report)
    }

    /// What the primary holds, counted only where it matters.
    fn usage(&self, report: &Report) -> Usage {
        let all = usage::of_file_system(&self.primary).unwrap_or_default();
        let fits = |free: Option<u64>, used: u64| free.is_none_or(|free| free >= used);
        if fits(report.free_bytes, all.bytes) && fits(report.free_inodes, all.inodes) {
            return all;
        }
        usage::of_directory(&self.primary).ok().flatten().unwrap_or(all)
    }

    /// What becomes of what the secondary holds: what a former session left is adopted without a word.
    fn holdings(&self, report: &Report) -> Holdings {
        match (self.holdings, report.place) {
            (Some(holdings), Place::Ours | Place::Filled) => holdings,
            (None, Place::Ours) => Holdings::Adopt,
            _ => Holdings::None,
        }
    }

    fn claim(&self, name: &str, node: &str) -> Claim {
        let primary = format!("{node}:{}", self.primary.display());
        Claim { session: self.id.to_string(), name: name.into(), primary }
    }

    fn declare(&self, link: &mut Link, name: String) -> anyhow::Result<Session> {
        let (primary, secondary) = (self.primary.clone(), self.secondary.clone());
        link.change(&Request::Create { id: self.id, name, primary, secondary, settings: self.settings.clone() })
    }
}

fn settings(wanted: &Create) -> anyhow::Result<Vec<(String, String)>> {
    let mut settings = Vec::new();
    if let Some(port) = wanted.ssh_port {
        settings.push(("ssh-port".to_owned(), port.to_string()));
    }
    if let Some(engine) = &wanted.sync_engine {
        let spec = options::find("sync-engine").map_err(bad_option)?;
        settings.push((spec.name.to_owned(), spec.parse(engine).map_err(bad_option)?));
    }
    Ok(settings)
}

fn bad_option(error: OptionError) -> anyhow::Error {
    problem(error.to_string(), "'geo-rep help create' lists all options")
}

fn create_local(monitor: &Monitor, wanted: &Create, plan: &Plan, path: &Path) -> anyhow::Result<Session> {
    let agent = monitor.programs.find("gsync-agent");
    let (report, asked) = timed(|| check_here(&agent, path))?;
    overruled(assess::refuse(plan.assess(&report, asked), wanted.force)?);
    // The monitor comes last: a mistake that shows without it does not even start it.
    let (mut link, declared) = monitor.reach_declared()?;
    let name = checks::name(wanted.name.as_deref(), &plan.primary, &declared)?;
    checks::is_free(&plan.secondary, &declared)?;
    if report.place == Place::Missing {
        fs::create_dir(path).with_context(|| format!("cannot create {}", path.display()))?;
    }
    let door = Door::Local { agent, root: path.to_path_buf() };
    let declared =
        prepare(&door, plan, &report, &name, &link.node, wanted.force).and_then(|()| plan.declare(&mut link, name));
    if declared.is_err() {
        let _ = door.release(&plan.id.to_string());
        if report.place == Place::Missing {
            let _ = fs::remove_dir(path);
        }
    }
    declared
}

fn create_ssh(monitor: &Monitor, wanted: &Create, plan: &Plan) -> anyhow::Result<Session> {
    let mut pairing = Pairing::begin(monitor, wanted, plan.id, &plan.secondary)?;
    if wanted.no_push {
        return create_unpushed(monitor, wanted, plan, pairing);
    }
    let (report, asked) = timed(|| pairing.probe())?;
    overruled(assess::refuse(plan.assess(&report, asked), wanted.force)?);
    let (mut link, declared) = monitor.reach_declared()?;
    let name = checks::name(wanted.name.as_deref(), &plan.primary, &declared)?;
    checks::is_free(&plan.secondary, &declared)?;
    let door = pairing.push(&name)?;
    pairing.prepared();
    prepare(&door, plan, &report, &name, &link.node, wanted.force)?;
    let session = plan.declare(&mut link, name)?;
    pairing.keep();
    Ok(session)
}

fn create_unpushed(monitor: &Monitor, wanted: &Create, plan: &Plan, mut pairing: Pairing) -> anyhow::Result<Session> {
    let (mut link, declared) = monitor.reach_declared()?;
    let name = checks::name(wanted.name.as_deref(), &plan.primary, &declared)?;
    checks::is_free(&plan.secondary, &declared)?;
    let line = pairing.prepare_unpushed(&name)?;
    let session = plan.declare(&mut link, name)?;
    pairing.keep();
    println!("Append this line to authorized_keys of {}:", plan.secondary.destination().unwrap_or_default());
    println!("{line}");
    Ok(session)
}

fn prepare(door: &Door, plan: &Plan, report: &Report, name: &str, node: &str, force: bool) -> anyhow::Result<()> {
    let holdings = plan.holdings(report);
    let moved = door.prepare(&Prepare { claim: plan.claim(name, node), holdings, force })?;
    match (holdings, moved) {
        (Holdings::Adopt, _) => println!("What {} holds is adopted when the session starts", plan.secondary),
        (_, Some(moved)) => println!("What {} held is in {moved} over there", plan.secondary),
        _ => {}
    }
    Ok(())
}

/// Runs `geo-rep create --dry-run`.
fn dry_run(monitor: &Monitor, wanted: &Create) -> anyhow::Result<Exit> {
    let plan = Plan::make(monitor, wanted)?;
    let (report, asked) = match &plan.secondary {
        Secondary::Local { path } => timed(|| check_here(&monitor.programs.find("gsync-agent"), path))?,
        Secondary::Ssh { .. } => {
            let mut pairing = Pairing::begin(monitor, wanted, plan.id, &plan.secondary)?;
            timed(|| pairing.probe())?
        }
    };
    let findings = plan.assess(&report, asked);
    println!("{}", describe(&plan, &report));
    overruled(assess::refuse(findings, wanted.force)?);
    println!("Nothing stands in the way. Nothing was changed.");
    Ok(Exit::Done)
}

/// What would be done, for `--dry-run`.
fn describe(plan: &Plan, report: &Report) -> String {
    let (name, primary, secondary) = (&plan.name, plan.primary.display(), &plan.secondary);
    let mut lines = vec![format!("Session {name}: {primary} to {secondary}")];
    lines.push(format!(
        "gsync-agent {}, Linux {}, {}, {} bytes and {} inodes free, rsync {}",
        assess::or_unknown(&report.software),
        assess::or_unknown(&report.kernel),
        report.file_system.as_deref().unwrap_or("no file system"),
        report.free_bytes.map_or("unknown".into(), |free| free.to_string()),
        report.free_inodes.map_or("any number of".into(), |free| free.to_string()),
        report.rsync.as_deref().unwrap_or("not there"),
    ));
    if let Some(destination) = secondary.destination() {
        lines.push(format!(
            "- a key for the session is made, and one line appended to authorized_keys of {destination}"
        ));
    }
    match (report.place, plan.holdings(report)) {
        (Place::Missing, _) => lines.push(format!("- {} is made", report.path)),
        (_, Holdings::Adopt) => lines.push(format!(
            "- what {} holds is adopted: equal files stay, others are sent, the rest goes to quarantine",
            report.path
        )),
        (_, Holdings::Quarantine) => lines.push(format!("- what {} holds goes to .gsync/quarantine", report.path)),
        _ => {}
    }
    lines.push("- the session is declared".into());
    lines.join("\n")
}

fn overruled(findings: Vec<Finding>) {
    for finding in findings {
        eprintln!("overruled by --force: {}", finding.text);
    }
}

/// Runs a question to the secondary, with the time before and after it, milliseconds since 1970.
fn timed(ask: impl FnOnce() -> anyhow::Result<Report>) -> anyhow::Result<(Report, (u64, u64))> {
    let now_ms = || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
    };
    let before = now_ms();
    let report = ask()?;
    Ok((report, (before, now_ms())))
}
