//! Which session is meant: a name, or primary and secondary.

use std::path::Path;

use cluster::secondary::looks_like_secondary;
use cluster::{Secondary, Session, Volume};

use crate::exit::problem;

/// What is declared, for look-ups.
#[derive(Debug, Default)]
pub struct Declared {
    /// All volumes.
    pub volumes: Vec<Volume>,
    /// All sessions.
    pub sessions: Vec<Session>,
}

impl Declared {
    /// Takes the address off the front of the words; returns the session and the words behind it.
    pub fn find<'a>(&self, words: &'a [String]) -> anyhow::Result<(&Session, &'a [String])> {
        match words {
            [primary, secondary, rest @ ..] if looks_like_secondary(secondary) => {
                Ok((self.find_pair(primary, secondary)?, rest))
            }
            [name, rest @ ..] => {
                let found = self.sessions.iter().find(|session| session.name == *name);
                found.map(|session| (session, rest)).ok_or_else(|| {
                    problem(format!("there is no session named '{name}'"), "'geo-rep status' lists all sessions")
                })
            }
            [] => Err(problem("no session was named", "'geo-rep status' lists all sessions")),
        }
    }

    /// The volume that a session replicates.
    pub fn volume(&self, session: &Session) -> Option<&Volume> {
        self.volumes.iter().find(|volume| volume.name == session.primary)
    }

    fn find_pair(&self, primary: &str, secondary: &str) -> anyhow::Result<&Session> {
        let target: Secondary = secondary
            .parse()
            .map_err(|error: cluster::secondary::SecondaryError| problem(error.to_string(), SECONDARY_HINT))?;
        let directory = std::fs::canonicalize(primary).ok();
        let is_primary = |session: &Session| {
            let is_brick = |path: &Path| {
                let bricks = self.volume(session).map(|volume| volume.bricks.as_slice()).unwrap_or_default();
                bricks.iter().any(|brick| brick.path == path)
            };
            session.primary == primary || is_brick(Path::new(primary)) || directory.as_deref().is_some_and(is_brick)
        };
        let found = self.sessions.iter().find(|session| session.secondary.is_same(&target) && is_primary(session));
        found.ok_or_else(|| {
            let text = format!("there is no session between {primary} and {secondary}");
            problem(text, "'geo-rep status' lists all sessions")
        })
    }
}

/// What a secondary may look like.
pub const SECONDARY_HINT: &str = "give an absolute directory of this machine, or [user@]host:/directory";

#[cfg(test)]
mod tests {
    use super::*;
    use cluster::{Desired, SessionId};

    fn declared() -> Declared {
        let session = |name: &str, primary: &str, secondary: &str| Session {
            id: SessionId::random(),
            name: name.into(),
            primary: primary.into(),
            secondary: secondary.parse().unwrap(),
            settings: Default::default(),
            desired: Desired::Created,
            version: 1,
        };
        Declared {
            volumes: vec![Volume::single("data".into(), "n".into(), "/srv/data".into())],
            sessions: vec![session("one", "data", "/copy"), session("two", "data", "far:/copy")],
        }
    }

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(Into::into).collect()
    }

    #[test]
    fn a_session_has_several_addresses() {
        let declared = declared();
        for (line, name, rest) in [
            ("one", "one", 0),
            ("two sync-jobs 4", "two", 2),
            ("one ssh-identity /key", "one", 2),
            ("data /copy", "one", 0),
            ("/srv/data /copy", "one", 0),
            ("/srv/data root@far::/copy sync-jobs", "two", 1),
        ] {
            let words = words(line);
            let (session, left) = declared.find(&words).unwrap();
            assert_eq!((session.name.as_str(), left.len()), (name, rest), "{line}");
        }
        for line in ["three", "/srv/data", "data /other", "/srv/other /copy", ""] {
            assert!(declared.find(&words(line)).is_err(), "{line}");
        }
    }
}
