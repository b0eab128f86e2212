//! Settings of a session: list, show, set, reset.

use std::collections::BTreeMap;
use std::path::Path;

use cluster::options::{self, OPTIONS, OptionError};
use cluster::{Session, Settings, SyncEngine, settings};
use gsync_monitor::api::Request;

use crate::assess;
use crate::checks;
use crate::cli::Config;
use crate::door::Door;
use crate::exit::{Exit, problem};
use crate::monitor::Monitor;

/// What is done with the settings.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Action<'a> {
    List,
    Show(&'a str),
    Set(&'a str, &'a str),
    Reset(&'a str),
}

/// Runs `geo-rep config`.
pub fn run(monitor: &Monitor, config: &Config) -> anyhow::Result<Exit> {
    let (mut link, declared) = monitor.reach_declared()?;
    let (session, words) = declared.find(&config.words)?;
    let change = match action(words, config.reset.as_deref())? {
        Action::List => return list(session, config.json),
        Action::Show(name) => {
            let spec = options::find(name).map_err(bad_option)?;
            let value = settings::text(&session.settings, spec.name).map_err(bad_option)?;
            println!("{value}");
            return Ok(Exit::Done);
        }
        Action::Set(name, value) => {
            let spec = options::find(name).map_err(bad_option)?;
            let value = spec.parse(value).map_err(bad_option)?;
            check_use(monitor, session, spec.name, &value)?;
            (spec.name.to_owned(), Some(value))
        }
        Action::Reset(name) => (options::find(name).map_err(bad_option)?.name.to_owned(), None),
    };
    link.change(&Request::Configure { session: session.name.clone(), changes: vec![change] })?;
    println!("geo-replication config updated successfully");
    Ok(Exit::Done)
}

fn action<'a>(words: &'a [String], reset: Option<&'a str>) -> anyhow::Result<Action<'a>> {
    Ok(match (words, reset) {
        ([], None) => Action::List,
        ([], Some(name)) => Action::Reset(name),
        ([name], None) => match name.strip_prefix('!') {
            Some(name) => Action::Reset(name),
            None => Action::Show(name),
        },
        ([name, value], None) => Action::Set(name, value),
        _ => {
            let hint = "geo-rep config SESSION [NAME [VALUE] | '!NAME' | --reset NAME]; quote a value with blanks";
            return Err(problem("the words behind the session are not understood", hint));
        }
    })
}

fn list(session: &Session, json: bool) -> anyhow::Result<Exit> {
    let mut values = BTreeMap::new();
    for spec in OPTIONS {
        values.insert(spec.name, settings::text(&session.settings, spec.name).map_err(bad_option)?);
    }
    if json {
        println!("{}", serde_json::to_string_pretty(&values)?);
        return Ok(Exit::Done);
    }
    for spec in OPTIONS {
        let changed = if session.settings.contains_key(spec.name) { "" } else { " (default)" };
        println!("{}:{}{changed}", spec.name, values.get(spec.name).map(String::as_str).unwrap_or_default());
        println!("    {}; {}", spec.doc, spec.expected());
    }
    Ok(Exit::Done)
}

/// Refuses what could not work, before it stops a running session.
fn check_use(monitor: &Monitor, session: &Session, name: &str, value: &str) -> anyhow::Result<()> {
    let mut changed = session.settings.clone();
    changed.insert(name.into(), value.into());
    let settings = Settings::resolve(&changed).map_err(bad_option)?;
    let missing = |program: &Path| {
        problem(format!("there is no program {}", program.display()), "install it, or name it by its absolute path")
    };
    match name {
        "ssh-command" if !checks::is_installed(&settings.ssh_command) => Err(missing(&settings.ssh_command)),
        "ssh-identity" if !Path::new(value).is_file() => {
            Err(problem(format!("there is no key {value}"), "name a private key"))
        }
        "rsync-command" | "sync-engine" if settings.sync_engine == SyncEngine::Rsync => {
            check_rsyncs(monitor, session, &settings.rsync_command)
        }
        _ => Ok(()),
    }
}

/// Refuses an rsync that is missing or too old, on either side. A secondary that cannot be reached now is no reason to
/// refuse.
fn check_rsyncs(monitor: &Monitor, session: &Session, command: &Path) -> anyhow::Result<()> {
    assess::refuse(assess::rsync_findings("on this machine", checks::rsync_version(command).as_deref()), false)?;
    let door = Door::of_session(session, &monitor.state, monitor.programs.find("gsync-agent"))?;
    let Ok(report) = door.check() else { return Ok(()) };
    let whose = format!("on the side of {}", session.secondary);
    assess::refuse(assess::rsync_findings(&whose, report.rsync.as_deref()), false)?;
    Ok(())
}

fn bad_option(error: OptionError) -> anyhow::Error {
    problem(error.to_string(), "'geo-rep config SESSION' lists all options with their values")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_become_actions() {
        let words = |line: &str| line.split_whitespace().map(String::from).collect::<Vec<_>>();
        for (line, reset, want) in [
            ("", None, Some(Action::List)),
            ("a", None, Some(Action::Show("a"))),
            ("a b", None, Some(Action::Set("a", "b"))),
            ("!a", None, Some(Action::Reset("a"))),
            ("", Some("a"), Some(Action::Reset("a"))),
            ("a", Some("b"), None),
            ("a b c", None, None),
        ] {
            assert_eq!(action(&words(line), reset).ok(), want, "{line}");
        }
    }
}
