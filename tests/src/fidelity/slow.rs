//! What takes its time: files that are written for long or while they are sent, and objects that nobody may change.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use super::{Ground, Half, Scenario, look};
use crate::readers::Readers;
use crate::stamped::{self, Style};

/// What this module has; all of it may take place at the same time.
pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "never-closed", before: make_open, live: write_on, check: check_open },
    Scenario { name: "changes-while-sent", before: make_stamped, live: rewrite, check: check_stamped },
    Scenario { name: "immutable", before: make_immutable, live: block, check: check_immutable },
];

/// How long one thing may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(180);

/// How often is looked or written.
const PAUSE: Duration = Duration::from_millis(50);

/// How many times new content has to arrive while the file is open all the time.
const ARRIVALS: usize = 2;

/// Size of a file that takes some time to be sent.
const STAMPED_BYTES: usize = 2 << 20;

/// Versions that are written one after the other, with a pause between them. That ends well before the worker loses
/// patience (5 s) and sends the file as it is.
const BURST: u64 = 6;
const BURST_LIMIT: Duration = Duration::from_secs(4);

fn make_open(ground: &Ground) -> anyhow::Result<()> {
    fs::write(ground.near.join("log"), "begin\n")?;
    fs::write(ground.near.join("database"), vec![0; 1 << 20])?;
    Ok(())
}

/// Appends to a log and patches a database, both open from the beginning to the end.
fn write_on(ground: &Ground) -> anyhow::Result<()> {
    let mut log = File::options().append(true).open(ground.near.join("log"))?;
    let database = File::options().write(true).open(ground.near.join("database"))?;
    let (mut lines, mut arrived) = (0u64, Vec::new());
    let mut size = log.metadata()?.len();
    let start = Instant::now();
    while arrived.len() < ARRIVALS {
        ensure!(start.elapsed() < LIMIT, "new content arrived {} times in {:?}", arrived.len(), start.elapsed());
        lines += 1;
        writeln!(log, "line {lines}")?;
        database.write_all_at(&lines.to_le_bytes(), lines * 8191 % (1 << 20))?;
        std::thread::sleep(PAUSE);
        // Recent: more than what had been written when the last one arrived.
        let now = fs::metadata(ground.far.join("log"))?.len();
        if now > size {
            size = fs::metadata(ground.near.join("log"))?.len();
            arrived.push(start.elapsed());
        }
    }
    eprintln!("{}: while it was open, new content arrived after {arrived:?}", ground.far.display());
    Ok(())
}

fn check_open(ground: &Ground, _: Half) -> anyhow::Result<()> {
    look::all_same(ground, ["log", "database"])
}

/// One that is rewritten in place, and one that is replaced by a rename.
const STAMPED: [(&str, Style); 2] = [("rewritten", Style::Rewrite), ("replaced", Style::Replace)];

fn stamped_name(ground: &Ground, name: &str) -> String {
    let dir = ground.near.file_name().unwrap_or_default().to_string_lossy();
    format!("{dir}/{name}")
}

fn make_stamped(ground: &Ground) -> anyhow::Result<()> {
    let root = ground.near.parent().context("a directory below the brick")?;
    for (name, style) in STAMPED {
        stamped::write(root, &stamped_name(ground, name), style, 1, STAMPED_BYTES)?;
    }
    Ok(())
}

/// Writes one version after the other, waits until the last one is there, and again. A reader over there must never
/// see anything but a whole version.
fn rewrite(ground: &Ground) -> anyhow::Result<()> {
    let root = ground.far.parent().context("a directory below the secondary")?;
    let names: Vec<String> = STAMPED.iter().map(|(name, _)| stamped_name(ground, name)).collect();
    for first in [2, 2 + BURST] {
        let versions = first..first + BURST;
        let contents: Vec<_> = versions
            .clone()
            .flat_map(|version| names.iter().map(move |name| stamped::compose(name, version, STAMPED_BYTES)))
            .collect();
        let readers = Readers::start(root, names.clone(), 1);
        let start = Instant::now();
        for both in contents.chunks(names.len()) {
            for ((name, style), content) in STAMPED.iter().zip(both) {
                write_whole(&ground.near.join(name), *style, content)?;
            }
            std::thread::sleep(PAUSE);
        }
        let took = start.elapsed();
        for name in &names {
            wait_for_version(&root.join(name), name, versions.end - 1)?;
        }
        let seen = readers.stop();
        if took > BURST_LIMIT {
            eprintln!("{}: the machine is too slow to tell: a burst took {took:?}", ground.far.display());
        } else {
            ensure!(seen.found == 0, "readers saw {:?}", seen.findings);
        }
        ensure!(seen.reads > 0);
    }
    Ok(())
}

fn write_whole(path: &Path, style: Style, content: &[u8]) -> anyhow::Result<()> {
    match style {
        Style::Rewrite => Ok(fs::write(path, content)?),
        Style::Replace => {
            let aside = path.with_extension("aside");
            fs::write(&aside, content)?;
            Ok(fs::rename(aside, path)?)
        }
    }
}

fn wait_for_version(path: &Path, name: &str, version: u64) -> anyhow::Result<()> {
    let start = Instant::now();
    loop {
        let found = stamped::check(name, &fs::read(path)?);
        if found == Ok(version) {
            return Ok(());
        }
        ensure!(start.elapsed() < LIMIT, "{name}: {found:?} instead of version {version}");
        std::thread::sleep(PAUSE);
    }
}

fn check_stamped(ground: &Ground, _: Half) -> anyhow::Result<()> {
    for (name, _) in STAMPED {
        ensure!(fs::read(ground.near.join(name))? == fs::read(ground.far.join(name))?, "{name}");
    }
    Ok(())
}

/// Takes a chattr flag away again, whatever becomes of the test.
struct Flag<'a>(&'static str, &'a Path);

impl<'a> Flag<'a> {
    fn set(flag: &'static str, path: &'a Path) -> anyhow::Result<Flag<'a>> {
        chattr(&format!("+{flag}"), path)?;
        Ok(Flag(flag, path))
    }
}

impl Drop for Flag<'_> {
    fn drop(&mut self) {
        let _ = chattr(&format!("-{}", self.0), self.1);
    }
}

fn chattr(change: &str, path: &Path) -> anyhow::Result<()> {
    let output = Command::new("chattr").arg(change).arg(path).output()?;
    ensure!(output.status.success(), "chattr {change}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// What is immutable or append-only on the primary is an ordinary object over there.
fn make_immutable(ground: &Ground) -> anyhow::Result<()> {
    for name in ["i", "a", "frozen", "frozen-dir/f", "appended"] {
        let path = ground.near.join(name);
        fs::create_dir_all(path.parent().unwrap_or(&ground.near))?;
        fs::write(path, name)?;
    }
    chattr("+i", &ground.near.join("i"))?;
    chattr("+a", &ground.near.join("a"))
}

/// Waits until each of these pending reasons names the flag and the way out.
fn wait_for_reasons(ground: &Ground, count: usize) -> anyhow::Result<()> {
    let start = Instant::now();
    loop {
        let status = ground.session.status()?;
        let reasons = status["failure_reasons"].as_array().cloned().unwrap_or_default();
        let told = reasons.iter().filter(|reason| reason.as_str().is_some_and(|r| r.contains("chattr -"))).count();
        if told >= count {
            eprintln!("{}: {reasons:?}", ground.far.display());
            return Ok(());
        }
        if start.elapsed() > LIMIT {
            bail!("{told} of {count} reasons name chattr: {status}");
        }
        std::thread::sleep(PAUSE);
    }
}

/// Immutable and append-only objects stand in the way over there: that is told, and mends itself without them.
fn block(ground: &Ground) -> anyhow::Result<()> {
    let mut log = File::options().append(true).open(ground.near.join("a"))?;
    log.write_all(b", appended to")?;
    let (frozen, dir) = (ground.far.join("frozen"), ground.far.join("frozen-dir"));
    let appended = ground.far.join("appended");
    let flags = [Flag::set("i", &frozen)?, Flag::set("i", &dir)?, Flag::set("a", &appended)?];
    fs::write(ground.near.join("frozen"), "changed")?;
    fs::write(ground.near.join("frozen-dir/new"), "new")?;
    fs::remove_file(ground.near.join("appended"))?;
    // What has nothing to do with them goes on.
    fs::write(ground.near.join("beside"), "beside")?;
    crate::wait::wait_until("what is beside", LIMIT, || ground.far.join("beside").exists());
    wait_for_reasons(ground, flags.len())?;
    drop(flags);
    // By itself: nothing changes on the primary.
    crate::wait::wait_until("the changes", LIMIT, || {
        fs::read(&frozen).is_ok_and(|content| content == b"changed") && dir.join("new").exists() && !appended.exists()
    });
    Ok(())
}

fn check_immutable(ground: &Ground, half: Half) -> anyhow::Result<()> {
    look::all_same(ground, ["i", "a", "frozen", "frozen-dir/f"])?;
    // An ordinary file: it can be written and removed.
    for name in ["i", "a"] {
        let output = Command::new("lsattr").arg("-d").arg(ground.far.join(name)).output()?;
        let line = String::from_utf8_lossy(&output.stdout).into_owned();
        let flags = line.split_whitespace().next().unwrap_or_default();
        ensure!(output.status.success() && !flags.contains(['i', 'a']), "{line}");
    }
    if half == Half::Both {
        look::only(&ground.far, &["i", "a", "frozen", "frozen-dir", "beside"])?;
    }
    Ok(())
}
