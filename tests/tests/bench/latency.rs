//! From a change until it is visible.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::ensure;
use gsync_tests::deployment::Deployment;
use gsync_tests::session::Session;

use crate::ground::{Ground, settle};
use crate::results::Results;
use crate::size::{LIMIT, Size};

/// How often it is looked whether a change is there: bounds the error.
const LOOK_EVERY: Duration = Duration::from_micros(500);

/// Files that are written to in turn.
const FILES: usize = 20;

/// Measures latency at rest: one change at a time.
pub fn measure(ground: &Ground, size: &Size, results: &mut Results) -> anyhow::Result<()> {
    for _ in 0..size.runs() {
        let (near, far, deployment) = (ground.near()?, ground.far()?, Deployment::new()?);
        let session = Session::create(&deployment, near.path(), far.path(), Some(&ground.sshd))?;
        session.start()?;
        settle(&session);
        let mut rng = fastrand::Rng::with_seed(1);
        let mut took = Vec::new();
        for number in 0..size.changes() {
            let name = format!("f{}", number % FILES);
            let content = format!("change {number}");
            let far = session.secondary.join(&name);
            let start = Instant::now();
            fs::write(session.brick.join(&name), &content)?;
            while !fs::read(&far).is_ok_and(|found| found == content.as_bytes()) {
                ensure!(start.elapsed() < LIMIT, "{name} never came");
                std::thread::sleep(LOOK_EVERY);
            }
            took.push(start.elapsed().as_secs_f64());
            std::thread::sleep(Duration::from_millis(rng.u64(10..100)));
        }
        took.sort_by(f64::total_cmp);
        results.add("latency", "p50", took[took.len() / 2]);
        results.add("latency", "p99", took[took.len() * 99 / 100 - 1]);
        results.add("latency", "worst", took[took.len() - 1]);
    }
    Ok(())
}
