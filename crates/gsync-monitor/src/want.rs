//! What should run on this node, from what is declared. Pure.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cluster::registry::Declared;
use cluster::{BrickId, Desired, LogLevel, Secondary, Session, SessionId, Settings, SyncEngine, Volume};
use gsync_worker::config::{EngineKind, SecondaryConfig, Settings as WorkerSettings};

use crate::paths::StateDir;
use crate::programs::Programs;

/// Everything that should run here.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Want {
    /// Bricks whose changes are to be recorded.
    pub bricks: BTreeMap<BrickId, WantedBrick>,
    /// Workers.
    pub workers: BTreeMap<WorkerKey, WorkerSpec>,
    /// What cannot be run because its declaration is not understood, with the reason.
    pub broken: BTreeMap<WorkerKey, String>,
}

/// A brick to be recorded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WantedBrick {
    /// Its directory.
    pub path: PathBuf,
    /// The file system that it is on, or why that is not known.
    pub device: Result<u64, String>,
}

/// One worker: a session and a brick.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct WorkerKey {
    /// The session.
    pub session: SessionId,
    /// The brick.
    pub brick: BrickId,
}

/// Everything that a worker is started with, except what is new at each start. Another spec means another worker.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WorkerSpec {
    /// Name of the session.
    pub session_name: String,
    /// The brick's directory.
    pub brick_path: PathBuf,
    /// Number of the replica set.
    pub replica_set: u32,
    /// Number of the brick in its volume, from 0.
    pub number: usize,
    /// Where to.
    pub secondary: SecondaryConfig,
    /// Settings that the worker heeds.
    pub settings: WorkerSettings,
    /// How much it logs.
    pub log_level: LogLevel,
}

/// What this node is and has.
#[derive(Clone, Debug)]
pub struct Node<'a> {
    /// Its name.
    pub name: &'a str,
    /// Where keys are.
    pub state: &'a StateDir,
    /// Where programs are.
    pub programs: &'a Programs,
}

impl Want {
    /// Derives what should run. `probe` tells the device of a directory.
    pub fn derive(declared: &Declared, node: &Node<'_>, probe: impl Fn(&Path) -> Result<u64, String>) -> Want {
        let mut want = Want::default();
        for session in declared.sessions.iter().filter(|session| session.desired.is_recorded()) {
            let Some(volume) = declared.volumes.iter().find(|volume| volume.name == session.primary) else { continue };
            want.add_session(session, volume, node, &probe);
        }
        want
    }

    fn add_session(
        &mut self,
        session: &Session,
        volume: &Volume,
        node: &Node<'_>,
        probe: impl Fn(&Path) -> Result<u64, String>,
    ) {
        for (number, brick) in volume.bricks.iter().enumerate().filter(|(_, brick)| brick.node == node.name) {
            self.bricks
                .entry(brick.id)
                .or_insert_with(|| WantedBrick { path: brick.path.clone(), device: probe(&brick.path) });
            if session.desired != Desired::Started {
                continue;
            }
            let key = WorkerKey { session: session.id, brick: brick.id };
            match Settings::resolve(&session.settings) {
                Ok(settings) => {
                    let spec = WorkerSpec {
                        session_name: session.name.clone(),
                        brick_path: brick.path.clone(),
                        replica_set: brick.replica_set,
                        number,
                        secondary: secondary(session, &settings, node),
                        settings: worker_settings(&settings),
                        log_level: settings.log_level,
                    };
                    self.workers.insert(key, spec);
                }
                Err(error) => {
                    self.broken.insert(key, error.to_string());
                }
            }
        }
    }
}

fn secondary(session: &Session, settings: &Settings, node: &Node<'_>) -> SecondaryConfig {
    match &session.secondary {
        Secondary::Local { path } => {
            SecondaryConfig::Local { path: path.clone(), agent: node.programs.find("gsync-agent") }
        }
        Secondary::Ssh { user, host, path } => {
            let own_key = || node.state.session_key(session.id);
            SecondaryConfig::Ssh {
                user: user.clone(),
                host: host.clone(),
                path: path.clone(),
                port: settings.ssh_port,
                identity: Some(settings.ssh_identity.clone().unwrap_or_else(own_key)),
                known_hosts: Some(node.state.known_hosts(session.id)),
                options: settings.ssh_options.clone(),
                command: settings.ssh_command.clone(),
            }
        }
    }
}

fn worker_settings(settings: &Settings) -> WorkerSettings {
    WorkerSettings {
        sync_engine: match settings.sync_engine {
            SyncEngine::Rsync => EngineKind::Rsync,
            SyncEngine::Tar => EngineKind::Tar,
            SyncEngine::Auto => EngineKind::Auto,
        },
        sync_jobs: settings.sync_jobs,
        rsync_command: settings.rsync_command.clone(),
        brake_share: settings.brake_share,
        brake_count: settings.brake_count,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cluster::Brick;

    fn session(name: &str, desired: Desired, secondary: &str, settings: &[(&str, &str)]) -> Session {
        Session {
            id: SessionId::random(),
            name: name.into(),
            primary: "v".into(),
            secondary: secondary.parse().unwrap(),
            settings: settings.iter().map(|&(name, value)| (name.into(), value.into())).collect(),
            desired,
            version: 1,
        }
    }

    fn derive(sessions: Vec<Session>) -> Want {
        let brick = |node: &str, path: &str, replica_set| Brick {
            id: BrickId::random(),
            node: node.into(),
            path: path.into(),
            replica_set,
        };
        let bricks = vec![brick("here", "/b0", 0), brick("there", "/b1", 0), brick("here", "/b2", 1)];
        let volumes = vec![Volume { name: "v".into(), bricks }];
        let (state, programs) = (StateDir::new("/state"), Programs::in_dir("/bin".into()));
        let node = Node { name: "here", state: &state, programs: &programs };
        let probe = |path: &Path| if path == Path::new("/b0") { Ok(7) } else { Err("not there".into()) };
        Want::derive(&Declared { volumes, sessions }, &node, probe)
    }

    #[test]
    fn bricks_of_this_node_are_recorded_once_a_session_was_started() {
        for (desired, bricks, workers) in
            [(Desired::Created, 0, 0), (Desired::Started, 2, 2), (Desired::Paused, 2, 0), (Desired::Stopped, 2, 0)]
        {
            let want = derive(vec![session("s", desired, "/copy", &[])]);
            assert_eq!((want.bricks.len(), want.workers.len()), (bricks, workers), "{desired}");
        }
        let two =
            derive(vec![session("s", Desired::Started, "/copy", &[]), session("t", Desired::Started, "/copy2", &[])]);
        assert_eq!((two.bricks.len(), two.workers.len()), (2, 4), "two sessions share a brick");
        let devices: Vec<_> = two.bricks.values().map(|brick| brick.device.clone()).collect();
        assert!(devices.contains(&Ok(7)) && devices.contains(&Err("not there".into())));
    }

    #[test]
    fn every_setting_has_an_effect() {
        let one = session("s", Desired::Started, "geo@far:/copy", &[]);
        let spec = |changes: &[(&str, &str)]| {
            let settings = changes.iter().map(|&(name, value)| (name.into(), value.into())).collect();
            let want = derive(vec![Session { settings, ..one.clone() }]);
            want.workers.values().find(|spec| spec.number == 0).unwrap().clone()
        };
        let default = spec(&[]);
        // The recorder is told of the budget, not the worker.
        for option in cluster::options::OPTIONS.iter().filter(|option| option.name != "changelog-budget") {
            let other = match option.name {
                "log-level" => "DEBUG",
                "ssh-port" => "2222",
                "sync-engine" => "rsync",
                "sync-jobs" | "brake-count" | "brake-share" => "7",
                "ssh-options" => "-4",
                _ => "/other",
            };
            assert_ne!(spec(&[(option.name, other)]), default, "{} does nothing", option.name);
        }
    }

    #[test]
    fn a_declaration_of_another_release_stops_only_its_session() {
        let want = derive(vec![
            session("s", Desired::Started, "/copy", &[("future", "1")]),
            session("t", Desired::Started, "/copy2", &[]),
        ]);
        assert_eq!((want.workers.len(), want.broken.len()), (2, 2));
    }
}
