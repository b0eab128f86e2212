//! The rows of the status table. Plain data; the command only renders it.

use cluster::{Brick, Desired, Secondary, Session};
use gsync_worker::control::{CrawlState, Halted, WorkerState, WorkerStatus};
use protocol::brick::BrickStatus;
use serde::{Deserialize, Serialize};

/// A worker that was just started gets this long before a silent control socket is a fault.
const SILENT_MS: u64 = 10_000;

/// Stands in a column that has no value, as in GlusterFS.
pub const NOT_APPLICABLE: &str = "N/A";

/// What to do about a session that halted; `SESSION` stands for its name.
const HALTED_HINT: &str = "nothing of it was done. If this is an accident, restore the data on the primary, then \
                           'geo-rep resume SESSION'; if it is meant, 'geo-rep resume SESSION --accept-removals'";

/// Everything that `geo-rep status --json` prints. Fields are only ever added.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct StatusReport {
    /// One for each session, by name.
    pub sessions: Vec<SessionReport>,
}

/// One session.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SessionReport {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub id: String,
    /// `created`, `started`, `paused` or `stopped`.
    pub desired: Desired,
    /// Counts the changes of its settings.
    pub config_version: u64,
    /// One for each brick.
    pub bricks: Vec<BrickRow>,
}

/// One brick of a session: a row of the table. Texts are as the table shows them, times are seconds since 1970.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BrickRow {
    /// PRIMARY NODE
    pub primary_node: String,
    /// PRIMARY VOL
    pub primary_vol: String,
    /// PRIMARY BRICK
    pub primary_brick: String,
    /// SECONDARY USER
    pub secondary_user: String,
    /// SECONDARY
    pub secondary: String,
    /// SECONDARY NODE; `N/A` unless the worker is connected.
    pub secondary_node: String,
    /// STATUS
    pub status: String,
    /// CRAWL STATUS
    pub crawl_status: String,
    /// LAST_SYNCED; absent while nothing was synced or the row is not active.
    pub last_synced: Option<u64>,
    /// ENTRY: name changes that are read and not yet on the secondary.
    pub entry: u64,
    /// DATA: likewise objects with changed content.
    pub data: u64,
    /// META: likewise objects with changed attributes.
    pub meta: u64,
    /// FAILURES: what could not be applied and is tried again with back-off.
    pub failures: u64,
    /// The oldest of them with their reasons.
    pub failure_reasons: Vec<String>,
    /// What is wrong; empty if nothing is.
    pub error: String,
    /// What to do about it; may be empty.
    pub hint: String,
    /// Position in the changelog before which everything is on the secondary.
    pub mark: String,
    /// Bytes of content sent since the worker started.
    pub sent_bytes: u64,
    /// Files whose content was sent since the worker started.
    pub sent_files: u64,
    /// Why both sides are being compared as a whole; empty if they are not.
    #[serde(default)]
    pub rescan: String,
    /// Objects of the brick, once it is recorded.
    pub objects: Option<u64>,
    /// The worker's process.
    pub worker_pid: Option<u32>,
    /// The recorder's process.
    pub recorder_pid: Option<u32>,
    /// The worker's fencing number.
    pub epoch: Option<u64>,
    /// How often the whole brick was compared with the index since the recorder's process started.
    #[serde(default)]
    pub crawls: Option<u64>,
    /// How much the kernel reports of the brick: `full` or `full-moved`.
    #[serde(default)]
    pub level: Option<String>,
    /// What the brake asks about, when STATUS is `Halted`.
    #[serde(default)]
    pub halted: Option<Halted>,
}

/// What is known of one brick of a session.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// How long the worker's process has been running.
    pub running_ms: Option<u64>,
    /// Its process id.
    pub worker_pid: Option<u32>,
    /// The recorder's process id.
    pub recorder_pid: Option<u32>,
    /// The worker's epoch.
    pub epoch: Option<u64>,
    /// Why the worker, its brick or its recorder is not up.
    pub trouble: Option<String>,
    /// What the worker says.
    pub worker: Option<WorkerStatus>,
    /// What the recorder says of the brick.
    pub recorder: Option<BrickStatus>,
    /// Where its log is.
    pub log: String,
}

impl BrickRow {
    /// Makes a row. Pure.
    pub fn new(session: &Session, brick: &Brick, facts: Facts) -> BrickRow {
        let (status, error) = status_and_error(session.desired, &facts);
        let is_up = matches!(status, "Active" | "Passive");
        let worker = facts.worker.unwrap_or_else(WorkerStatus::unknown);
        let is_crawling = facts.recorder.as_ref().is_some_and(|brick| brick.crawling);
        let crawl = if is_crawling && status == "Active" { CrawlState::HybridCrawl } else { worker.crawl };
        let local = || brick.node.clone();
        let node = match &session.secondary {
            Secondary::Ssh { host, .. } => host.clone(),
            Secondary::Local { .. } => local(),
        };
        BrickRow {
            primary_node: brick.node.clone(),
            primary_vol: session.primary.clone(),
            primary_brick: brick.path.display().to_string(),
            secondary_user: session.secondary.user().into(),
            secondary: session.secondary.to_string(),
            secondary_node: if is_up { node } else { NOT_APPLICABLE.into() },
            status: status.into(),
            crawl_status: if is_up { crawl_words(crawl) } else { NOT_APPLICABLE }.into(),
            last_synced: Some(worker.last_synced).filter(|&time| is_up && time > 0),
            entry: worker.entry,
            data: worker.data,
            meta: worker.meta,
            failures: worker.failures,
            failure_reasons: worker.failure_reasons,
            hint: hint(&session.name, &error, status, worker.failures, &facts.log),
            error,
            mark: worker.mark,
            sent_bytes: worker.sent_bytes,
            sent_files: worker.sent_files,
            rescan: worker.rescan,
            objects: facts.recorder.as_ref().map(|brick| brick.objects),
            crawls: facts.recorder.as_ref().map(|brick| brick.crawls),
            level: facts.recorder.as_ref().map(|brick| brick.level.clone()),
            worker_pid: facts.worker_pid,
            recorder_pid: facts.recorder_pid,
            epoch: facts.epoch,
            halted: worker.halted,
        }
    }

    /// Whether an operator should look at it.
    pub fn is_troubled(&self) -> bool {
        !self.error.is_empty() || self.failures > 0
    }
}

fn status_and_error(desired: Desired, facts: &Facts) -> (&'static str, String) {
    match desired {
        Desired::Created => return ("Created", String::new()),
        Desired::Paused => return ("Paused", String::new()),
        Desired::Stopped => return ("Stopped", String::new()),
        Desired::Started => {}
    }
    let recorder_error = facts.recorder.as_ref().map(|brick| brick.error.clone()).unwrap_or_default();
    match (&facts.worker, facts.running_ms, &facts.trouble) {
        (Some(worker), _, _) => {
            // An idle worker asks its recorder nothing, and does not notice that there is no brick.
            let is_unrecorded = worker.state == WorkerState::Active && !recorder_error.is_empty();
            let error = if worker.error.is_empty() { recorder_error } else { worker.error.clone() };
            let status = match worker.state {
                _ if is_unrecorded => "Faulty",
                WorkerState::Initializing => "Initializing...",
                WorkerState::Active => "Active",
                WorkerState::Passive => "Passive",
                WorkerState::Faulty => "Faulty",
                WorkerState::Halted => "Halted",
            };
            (status, error)
        }
        (None, _, Some(trouble)) => ("Faulty", trouble.clone()),
        (None, Some(running), None) if running > SILENT_MS => ("Faulty", "the worker does not answer".into()),
        (None, _, None) => ("Initializing...", recorder_error),
    }
}

fn crawl_words(crawl: CrawlState) -> &'static str {
    match crawl {
        CrawlState::NotApplicable => NOT_APPLICABLE,
        CrawlState::HybridCrawl => "Hybrid Crawl",
        CrawlState::HistoryCrawl => "History Crawl",
        CrawlState::ChangelogCrawl => "Changelog Crawl",
    }
}

fn hint(session: &str, error: &str, status: &str, failures: u64, log: &str) -> String {
    match (error.is_empty(), status, failures) {
        (true, _, 0) => String::new(),
        (false, "Halted", _) => HALTED_HINT.replace("SESSION", session),
        (false, "Faulty", _) => format!("it is tried again by itself; details are in {log}"),
        (false, ..) => format!("details are in {log}"),
        (true, ..) => format!("what failed is tried again by itself; details are in {log}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cluster::{BrickId, SessionId};

    fn row(desired: Desired, facts: Facts) -> BrickRow {
        let session = Session {
            id: SessionId::random(),
            name: "s".into(),
            primary: "v".into(),
            secondary: "geo@far:/copy".parse().unwrap(),
            settings: Default::default(),
            desired,
            version: 1,
        };
        let brick = Brick { id: BrickId::random(), node: "n".into(), path: "/b".into(), replica_set: 0 };
        BrickRow::new(&session, &brick, facts)
    }

    fn worker(state: WorkerState, error: &str) -> Option<WorkerStatus> {
        let crawl = CrawlState::ChangelogCrawl;
        Some(WorkerStatus { state, crawl, last_synced: 9, error: error.into(), ..WorkerStatus::unknown() })
    }

    fn crawling(crawling: bool) -> Option<BrickStatus> {
        Some(BrickStatus {
            brick: [0; 16],
            crawling,
            objects: 1,
            error: String::new(),
            crawls: 0,
            level: "full".into(),
        })
    }

    fn unmounted() -> Option<BrickStatus> {
        crawling(true).map(|brick| BrickStatus { error: "not there".into(), ..brick })
    }

    #[test]
    fn status_follows_from_what_is_known() {
        use WorkerState::{Active, Faulty, Initializing};
        let none = Facts::default;
        let died = || Facts { trouble: Some("it died".into()), ..none() };
        let up = |state, error| Facts { worker: worker(state, error), ..none() };
        let table = [
            (Desired::Created, none(), "Created", "N/A", ""),
            (Desired::Paused, died(), "Paused", "N/A", ""),
            (Desired::Stopped, none(), "Stopped", "N/A", ""),
            (Desired::Started, none(), "Initializing...", "N/A", ""),
            (Desired::Started, died(), "Faulty", "N/A", "it died"),
            (Desired::Started, Facts { running_ms: Some(50), ..none() }, "Initializing...", "N/A", ""),
            (
                Desired::Started,
                Facts { running_ms: Some(60_000), ..none() },
                "Faulty",
                "N/A",
                "the worker does not answer",
            ),
            (Desired::Started, up(Initializing, ""), "Initializing...", "N/A", ""),
            (Desired::Started, up(Active, ""), "Active", "Changelog Crawl", ""),
            (Desired::Started, Facts { recorder: crawling(true), ..up(Active, "") }, "Active", "Hybrid Crawl", ""),
            (Desired::Started, Facts { recorder: crawling(false), ..up(Active, "") }, "Active", "Changelog Crawl", ""),
            (Desired::Started, up(Faulty, "no route"), "Faulty", "N/A", "no route"),
            (Desired::Started, Facts { recorder: unmounted(), ..up(Active, "") }, "Faulty", "N/A", "not there"),
            (Desired::Started, Facts { recorder: unmounted(), ..up(Faulty, "no route") }, "Faulty", "N/A", "no route"),
            (Desired::Started, up(WorkerState::Halted, "too much"), "Halted", "N/A", "too much"),
        ];
        for (desired, facts, status, crawl, error) in table {
            let row = row(desired, facts.clone());
            let found = (row.status.as_str(), row.crawl_status.as_str(), row.error.as_str());
            assert_eq!(found, (status, crawl, error), "{desired} {facts:?}");
            assert_eq!(row.hint.is_empty(), error.is_empty());
            let connected = status == "Active";
            assert_eq!(row.secondary_node, if connected { "far" } else { "N/A" });
            assert_eq!(row.last_synced.is_some(), connected);
        }
    }
}
