//! A session's settings, parsed: defaults and what the operator changed.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::options::{self, OptionError};
use crate::words;

/// What carries file data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SyncEngine {
    /// Whole files over open streams.
    Tar,
    /// Differences, by rsync on both ends.
    Rsync,
    /// Differences of large files that are there already, all others whole.
    Auto,
}

/// How much is logged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum LogLevel {
    /// What went wrong.
    Error,
    /// And what looks wrong.
    Warn,
    /// And changes of state.
    Info,
    /// And what leads to them.
    Debug,
}

/// All settings of a session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// `brake-count`
    pub brake_count: u32,
    /// `brake-share`
    pub brake_share: u32,
    /// `sync-engine`
    pub sync_engine: SyncEngine,
    /// `sync-jobs`
    pub sync_jobs: u32,
    /// `rsync-command`
    pub rsync_command: PathBuf,
    /// `ssh-command`
    pub ssh_command: PathBuf,
    /// `ssh-port`
    pub ssh_port: u16,
    /// `ssh-identity`; absent: the session's own key.
    pub ssh_identity: Option<PathBuf>,
    /// `ssh-options`, split.
    pub ssh_options: Vec<String>,
    /// `log-level`
    pub log_level: LogLevel,
    /// `changelog-budget`, MiB
    pub changelog_budget: u32,
}

impl Settings {
    /// Parses the settings of a session over the defaults.
    ///
    /// # Errors
    /// [`OptionError`]: the store has a setting that this release does not know or allow.
    pub fn resolve(changed: &BTreeMap<String, String>) -> Result<Settings, OptionError> {
        for name in changed.keys() {
            options::find(name)?;
        }
        let number = |name| -> Result<u32, OptionError> {
            let value = text(changed, name)?;
            Ok(value.parse().unwrap_or_default())
        };
        let identity = text(changed, "ssh-identity")?;
        Ok(Settings {
            brake_count: number("brake-count")?,
            brake_share: number("brake-share")?,
            sync_engine: match text(changed, "sync-engine")?.as_str() {
                "rsync" => SyncEngine::Rsync,
                "auto" => SyncEngine::Auto,
                _ => SyncEngine::Tar,
            },
            sync_jobs: number("sync-jobs")?,
            rsync_command: text(changed, "rsync-command")?.into(),
            ssh_command: text(changed, "ssh-command")?.into(),
            ssh_port: u16::try_from(number("ssh-port")?).unwrap_or(u16::MAX),
            ssh_identity: (!identity.is_empty()).then(|| identity.into()),
            ssh_options: words::split(&text(changed, "ssh-options")?).unwrap_or_default(),
            log_level: LogLevel::parse(&text(changed, "log-level")?),
            changelog_budget: number("changelog-budget")?,
        })
    }
}

/// The value of a setting: what the operator gave, checked again, or its default. Empty: not set.
///
/// # Errors
/// [`OptionError`].
pub fn text(changed: &BTreeMap<String, String>, name: &str) -> Result<String, OptionError> {
    let spec = options::find(name)?;
    match changed.get(spec.name) {
        Some(value) => spec.parse(value),
        None => Ok(spec.default.to_owned()),
    }
}

impl LogLevel {
    /// Takes the spelling of the option table; anything else is `Info`.
    pub fn parse(text: &str) -> LogLevel {
        match text {
            "ERROR" => LogLevel::Error,
            "WARN" => LogLevel::Warn,
            "DEBUG" => LogLevel::Debug,
            _ => LogLevel::Info,
        }
    }
}

impl fmt::Display for LogLevel {
    /// As log filters spell it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(changed: &[(&str, &str)]) -> Result<Settings, OptionError> {
        Settings::resolve(&changed.iter().map(|&(name, value)| (name.into(), value.into())).collect())
    }

    #[test]
    fn defaults_hold_where_nothing_was_changed() {
        let settings = resolve(&[]).unwrap();
        assert_eq!(settings.sync_engine, SyncEngine::Tar);
        assert_eq!((settings.sync_jobs, settings.ssh_port), (3, 22));
        assert_eq!(settings.ssh_identity, None);
        assert_eq!(settings.log_level, LogLevel::Info);
    }

    #[test]
    fn every_setting_arrives() {
        let settings = resolve(&[
            ("brake-count", "5"),
            ("brake-share", "6"),
            ("log-level", "DEBUG"),
            ("rsync-command", "/r"),
            ("ssh-command", "/s"),
            ("ssh-identity", "/i"),
            ("ssh-options", "-4 -o 'A=b c'"),
            ("ssh-port", "2222"),
            ("sync-engine", "rsync"),
            ("sync-jobs", "8"),
        ])
        .unwrap();
        let want = Settings {
            brake_count: 5,
            brake_share: 6,
            sync_engine: SyncEngine::Rsync,
            sync_jobs: 8,
            rsync_command: "/r".into(),
            ssh_command: "/s".into(),
            ssh_port: 2222,
            ssh_identity: Some("/i".into()),
            ssh_options: vec!["-4".into(), "-o".into(), "A=b c".into()],
            changelog_budget: 2048,
            log_level: LogLevel::Debug,
        };
        assert_eq!(settings, want);
    }

    #[test]
    fn a_setting_of_another_release_is_an_error() {
        assert!(resolve(&[("future", "1")]).is_err());
        assert!(resolve(&[("sync-jobs", "100")]).is_err());
    }
}
