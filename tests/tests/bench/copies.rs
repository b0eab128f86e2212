//! First copies: from `start` to the word that all is durably there, beside tar and rsync.

use std::path::Path;
use std::time::Instant;

use gsync_tests::deployment::Deployment;
use gsync_tests::session::Session;
use gsync_tests::sshd::Sshd;

use crate::ground::{Ground, large_file, settle, small_files, sync};
use crate::results::Results;
use crate::size::{Size, grouped};
use crate::tools::{self, OURS, OURS_RSYNC, RSYNC, TAR, TAR_DEFAULT};
use crate::usage::{Usage, wire_bytes};

/// In turn, each run from another one on.
const TOOLS: [&str; 5] = [TAR, OURS, RSYNC, OURS_RSYNC, TAR_DEFAULT];

/// Measures all first copies.
pub fn measure(ground: &Ground, size: &Size, results: &mut Results) -> anyhow::Result<()> {
    type Fill = fn(&Path, &Size, &mut fastrand::Rng) -> std::io::Result<()>;
    let small = format!("{} files of 256 B to 8 KiB", grouped(size.small_files() as u64));
    let large = format!("one file of {} MiB", grouped(size.large_bytes() >> 20));
    let loads: [(String, Fill); 2] = [(small, small_files), (large, large_file)];
    for (what, fill) in loads {
        for run in 0..size.runs() {
            // One tree for all tools of a run: nobody changes it.
            let near = ground.near()?;
            let brick = near.dir("brick")?;
            fill(&brick, size, &mut fastrand::Rng::with_seed(run as u64))?;
            sync(&brick)?;
            for turn in 0..TOOLS.len() {
                let tool = TOOLS[(turn + run) % TOOLS.len()];
                let far = ground.far()?;
                let wire = wire_bytes();
                let took = match tool {
                    OURS => ours(near.path(), far.path(), "tar", &ground.sshd, &what, results)?,
                    OURS_RSYNC => ours(near.path(), far.path(), "rsync", &ground.sshd, &what, results)?,
                    _ => tools::copy(tool, &brick, &far.dir("secondary")?, &ground.sshd)?,
                };
                results.add(&what, tool, took);
                if !matches!(tool, OURS | OURS_RSYNC) {
                    results.add(&what, &format!("{tool} wire"), (wire_bytes() - wire) as f64);
                }
            }
        }
    }
    Ok(())
}

fn ours(near: &Path, far: &Path, engine: &str, sshd: &Sshd, what: &str, results: &mut Results) -> anyhow::Result<f64> {
    let deployment = Deployment::new()?;
    let session = Session::create(&deployment, near, far, Some(sshd))?;
    session.config("sync-engine", engine)?;
    let (wire, start) = (wire_bytes(), Instant::now());
    session.start()?;
    settle(&session);
    let took = start.elapsed().as_secs_f64();
    let tool = if engine == "tar" { OURS } else { OURS_RSYNC };
    results.add(what, &format!("{tool} wire"), (wire_bytes() - wire) as f64);
    if tool == OURS {
        Usage::of(&deployment, sshd).tell(&Usage::default(), what, results);
    }
    session.must_be_equal()?;
    Ok(took)
}
