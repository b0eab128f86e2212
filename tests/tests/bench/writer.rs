//! What the recorder costs those who write: the same work without it and with it, in turn.
//!
//! The session is paused: its recorder records, and nothing else of it runs.

use std::fs;
use std::path::Path;
use std::time::Instant;

use gsync_tests::deployment::Deployment;
use gsync_tests::session::{NAME, Session};

use crate::ground::{Ground, settle, sync};
use crate::results::Results;
use crate::size::{Size, grouped};

/// Writers that make files at a time.
const WRITERS: usize = 4;

/// Measures with and without the recorder.
pub fn measure(ground: &Ground, size: &Size, results: &mut Results) -> anyhow::Result<()> {
    for run in 0..size.runs() {
        for turn in 0..2 {
            let with_recorder = (run + turn) % 2 == 1;
            let with = if with_recorder { "with the recorder" } else { "without it" };
            let (near, far) = (ground.near()?, ground.far()?);
            let deployment = Deployment::new()?;
            let brick = near.dir("brick")?;
            if with_recorder {
                let session = Session::create(&deployment, near.path(), far.path(), Some(&ground.sshd))?;
                session.start()?;
                settle(&session);
                deployment.run(["pause", NAME])?;
            }
            let writes = format!("{} writes of 1 MiB", grouped(size.large_writes() as u64));
            results.add(&writes, with, large_writes(&brick, size)?);
            sync(&brick)?;
            let creates = format!("{} creates by {WRITERS} writers", grouped(size.creates() as u64));
            results.add(&creates, with, many_creates(&brick, size)?);
        }
    }
    Ok(())
}

/// Writes one block after the other into a file of its own, 16 in turn, as a copy does.
fn large_writes(brick: &Path, size: &Size) -> anyhow::Result<f64> {
    let block = vec![5; 1 << 20];
    let dir = brick.join("large");
    fs::create_dir(&dir)?;
    let start = Instant::now();
    for number in 0..size.large_writes() {
        fs::write(dir.join(format!("f{number}")), &block)?;
    }
    Ok(start.elapsed().as_secs_f64())
}

fn many_creates(brick: &Path, size: &Size) -> anyhow::Result<f64> {
    let share = size.creates() / WRITERS;
    let dirs: Vec<_> = (0..WRITERS).map(|writer| brick.join(format!("w{writer}"))).collect();
    dirs.iter().try_for_each(fs::create_dir)?;
    let start = Instant::now();
    let results: Vec<std::io::Result<()>> = std::thread::scope(|scope| {
        let write = |dir: &Path| (0..share).try_for_each(|number| fs::write(dir.join(format!("f{number}")), b"x"));
        let writers: Vec<_> = dirs.iter().map(|dir| scope.spawn(move || write(dir))).collect();
        writers.into_iter().map(|writer| writer.join().expect("a writer does not panic")).collect()
    });
    let took = start.elapsed().as_secs_f64();
    results.into_iter().collect::<std::io::Result<()>>()?;
    Ok(took)
}
