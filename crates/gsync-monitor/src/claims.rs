//! Tells recorders what sessions still need of the changelogs: each session's mark, also of those that do not run.
//!
//! A mark is written into the store before a recorder hears of it: after a restart of the monitor none is older than what
//! was removed.

use std::sync::Arc;
use std::time::Duration;

use changelog::Position;
use cluster::{Session, Settings};
use tokio::sync::watch;

use crate::effects::Tools;
use crate::machine::Machine;
use crate::unit::Phase;
use crate::want::WorkerKey;
use crate::{recorder, worker};

/// How often.
const EVERY: Duration = Duration::from_secs(5);

/// A setting's unit.
const MIB: u64 = 1 << 20;

/// Does it until it is dropped.
pub async fn keep(tools: Arc<Tools>, machine: watch::Receiver<Arc<Machine>>) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = tell(&tools, &machine).await {
            tracing::warn!(%error, "it cannot be told what is needed of the changelogs; all is kept");
        }
    }
}

async fn tell(tools: &Tools, machine: &watch::Receiver<Arc<Machine>>) -> Result<(), cluster::RegistryError> {
    let declared = tools.registry.declared().await?;
    let recorded = |session: &&Session| session.desired.is_recorded();
    for volume in &declared.volumes {
        let sessions: Vec<&Session> =
            declared.sessions.iter().filter(recorded).filter(|session| session.primary == volume.name).collect();
        for (number, brick) in volume.bricks.iter().enumerate() {
            let machine = Arc::clone(&machine.borrow());
            let Some(device) = machine.recorder_of(brick.id) else { continue };
            let (mut marks, mut budget) = (Vec::new(), 0);
            for session in &sessions {
                let key = WorkerKey { session: session.id, brick: brick.id };
                let process = machine.workers.get(&key).map(|worker| worker.process.phase);
                let mut live = None;
                if let Some(Phase::Running(_)) = process {
                    let socket = tools.run.worker_socket(session.id, number);
                    live = worker::status(&socket).await.ok().and_then(|status| status.mark.parse::<Position>().ok());
                }
                marks.push(mark(tools, key, live).await?);
                let settings = Settings::resolve(&session.settings);
                // One that is not understood may be larger than anything.
                budget = budget.max(settings.map_or(u64::MAX, |s| u64::from(s.changelog_budget).saturating_mul(MIB)));
            }
            let socket = tools.run.recorder_socket(device);
            if let Err(error) = recorder::retain(&socket, brick.id, marks, budget).await {
                tracing::debug!(%error, "a recorder cannot be told what is needed");
            }
        }
    }
    Ok(())
}

/// The mark of a session that is in the store, after the live one was put there; `0:0` where there is none.
async fn mark(tools: &Tools, key: WorkerKey, live: Option<Position>) -> Result<Position, cluster::RegistryError> {
    let stored = tools.registry.mark(key.session, key.brick).await?.and_then(|text| text.parse().ok());
    match live {
        Some(live) if stored != Some(live) => {
            tools.registry.set_mark(key.session, key.brick, &live.to_string()).await?;
            Ok(live)
        }
        _ => Ok(stored.unwrap_or(Position::START)),
    }
}
