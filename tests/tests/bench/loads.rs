//! Catching up: from the end of a load to equal trees, beside lsyncd.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::ensure;
use gsync_tests::deployment::Deployment;
use gsync_tests::session::Session;

use crate::ground::{Ground, random_file, settle};
use crate::results::Results;
use crate::size::{LIMIT, LIMIT_OF_OTHERS, Size, grouped};
use crate::tools::{LSYNCD, Lsyncd, OURS};
use crate::usage::{Usage, wire_bytes};

/// Bytes of a file that a load makes.
const FILE_BYTES: usize = 4096;

/// How many of the changed names are looked at before all are.
const SAMPLE: usize = 40;

/// How often it is looked whether the trees are equal: bounds the error.
const LOOK_EVERY: Duration = Duration::from_millis(5);

type Act = Box<dyn Fn(&Path) -> std::io::Result<()>>;

/// Measures all loads, in fresh trees for each run and tool.
pub fn measure(ground: &Ground, size: &Size, results: &mut Results) -> anyhow::Result<()> {
    for _ in 0..size.runs() {
        ours(ground, size, results)?;
        if Lsyncd::available() {
            lsyncd(ground, size, results)?;
        } else {
            eprintln!("lsyncd is not installed: not compared with");
        }
    }
    Ok(())
}

fn ours(ground: &Ground, size: &Size, results: &mut Results) -> anyhow::Result<()> {
    let (near, far, deployment) = (ground.near()?, ground.far()?, Deployment::new()?);
    let session = Session::create(&deployment, near.path(), far.path(), Some(&ground.sshd))?.without_brake()?;
    prepare(&session.brick, size)?;
    session.start()?;
    settle(&session);
    for (what, act) in loads(size) {
        let (before, wire) = (Usage::of(&deployment, &ground.sshd), wire_bytes());
        let end = carry_out(&what, &act, (&session.brick, &session.secondary), (OURS, LIMIT), results)?;
        settle(&session);
        results.add(&what, "durable", end.elapsed().as_secs_f64());
        results.add(&what, &format!("{OURS} wire"), (wire_bytes() - wire) as f64);
        Usage::of(&deployment, &ground.sshd).tell(&before, &what, results);
    }
    session.must_be_equal()
}

fn lsyncd(ground: &Ground, size: &Size, results: &mut Results) -> anyhow::Result<()> {
    let (near, far) = (ground.near()?, ground.far()?);
    let (brick, secondary) = (near.dir("brick")?, far.dir("secondary")?);
    prepare(&brick, size)?;
    let _running = Lsyncd::start(&brick, &secondary, &ground.sshd, near.path())?;
    wait_for_shape(&secondary, &[], &shape(&brick)?, Instant::now(), LIMIT_OF_OTHERS)?;
    for (what, act) in loads(size) {
        let wire = wire_bytes();
        if let Err(error) = carry_out(&what, &act, (&brick, &secondary), (LSYNCD, LIMIT_OF_OTHERS), results) {
            // What it has not done would be counted to the next load.
            eprintln!("{LSYNCD}: {error:#}; the loads after this one are left out");
            return Ok(());
        }
        results.add(&what, &format!("{LSYNCD} wire"), (wire_bytes() - wire) as f64);
    }
    Ok(())
}

/// What is there before the first load.
fn prepare(brick: &Path, size: &Size) -> anyhow::Result<()> {
    fs::create_dir_all(brick.join("load"))?;
    fs::create_dir_all(brick.join("links"))?;
    random_file(&brick.join("log"), size.appended_bytes(), &mut fastrand::Rng::with_seed(1))?;
    Ok(())
}

fn loads(size: &Size) -> Vec<(String, Act)> {
    let (operations, appends) = (size.operations(), size.appends());
    let each = move |act: &dyn Fn(usize) -> std::io::Result<()>| (0..operations).try_for_each(act);
    let count = grouped(operations as u64);
    let name = |brick: &Path, dir: &str, prefix: &str, number: usize| brick.join(dir).join(format!("{prefix}{number}"));
    let content = vec![7; FILE_BYTES];
    let creates: Act = Box::new(move |brick| each(&|n| fs::write(name(brick, "load", "f", n), &content)));
    let renames: Act =
        Box::new(move |brick| each(&|n| fs::rename(name(brick, "load", "f", n), name(brick, "load", "g", n))));
    let links: Act =
        Box::new(move |brick| each(&|n| fs::hard_link(name(brick, "load", "g", n), name(brick, "links", "h", n))));
    let moved: Act = Box::new(|brick| fs::rename(brick.join("load"), brick.join("moved")));
    let unlinks: Act = Box::new(move |brick| each(&|n| fs::remove_file(name(brick, "moved", "g", n))));
    let appended: Act = Box::new(move |brick| {
        let block = vec![9; 1 << 20];
        (0..appends).try_for_each(|_| fs::File::options().append(true).open(brick.join("log"))?.write_all(&block))
    });
    vec![
        (format!("{count} creates of 4 KiB"), creates),
        (format!("{count} renames"), renames),
        (format!("{count} hard links"), links),
        (format!("rename of a directory with {count} files"), moved),
        (format!("{count} unlinks"), unlinks),
        (format!("{appends} appends of 1 MiB to a file of {} MiB", size.appended_bytes() >> 20), appended),
    ]
}

/// Carries a load out and waits for equal trees; when it ended.
fn carry_out(
    what: &str,
    act: &Act,
    (brick, secondary): (&Path, &Path),
    (tool, limit): (&str, Duration),
    results: &mut Results,
) -> anyhow::Result<Instant> {
    let (before, begin) = (shape(brick)?, Instant::now());
    act(brick)?;
    let end = Instant::now();
    let wanted = shape(brick)?;
    wait_for_shape(secondary, &sample(&before, &wanted), &wanted, end, limit)?;
    if tool == OURS {
        results.add(what, "load", (end - begin).as_secs_f64());
    }
    results.add(what, tool, end.elapsed().as_secs_f64());
    Ok(end)
}

/// Looking at everything all the time would take the processor from what is measured, so a few names are looked at first.
fn wait_for_shape(
    root: &Path,
    first: &[PathBuf],
    wanted: &Shape,
    since: Instant,
    limit: Duration,
) -> anyhow::Result<()> {
    while !is_there(root, first, wanted) || shape(root).ok().as_ref() != Some(wanted) {
        ensure!(since.elapsed() < limit, "not equal after {} s", limit.as_secs());
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

/// Names with length and kind: equal trees for what the loads do, cheap enough to be asked often.
type Shape = BTreeMap<PathBuf, u64>;

fn shape(root: &Path) -> std::io::Result<Shape> {
    let (mut found, mut waiting) = (BTreeMap::new(), vec![PathBuf::new()]);
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(root.join(&dir))? {
            let entry = entry?;
            // Ours, and the files that rsync has not completed.
            if entry.file_name() == ".gsync" || entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let (path, metadata) = (dir.join(entry.file_name()), entry.metadata()?);
            found.insert(path.clone(), if metadata.is_dir() { u64::MAX } else { metadata.len() });
            if metadata.is_dir() {
                waiting.push(path);
            }
        }
    }
    Ok(found)
}

/// A few of the names that a load changed.
fn sample(before: &Shape, after: &Shape) -> Vec<PathBuf> {
    let differs = |path: &&PathBuf| before.get(*path) != after.get(*path);
    let touched: Vec<&PathBuf> = before.keys().chain(after.keys()).filter(differs).collect();
    let step = (touched.len() / SAMPLE).max(1);
    touched.into_iter().step_by(step).cloned().collect()
}

/// Whether these names are as wanted.
fn is_there(root: &Path, names: &[PathBuf], wanted: &Shape) -> bool {
    let found = |path: &PathBuf| {
        let metadata = fs::symlink_metadata(root.join(path)).ok();
        metadata.map(|metadata| if metadata.is_dir() { u64::MAX } else { metadata.len() })
    };
    names.iter().all(|path| found(path) == wanted.get(path).copied())
}
