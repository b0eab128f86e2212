//! Looking into changelogs.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use changelog::encoding::Tail;
use changelog::{History, SliceReader, SliceStep, record_json};

use crate::exit::{Exit, problem};
use crate::monitor::Monitor;

/// Name of our own journal's directory in the state of a brick.
const JOURNAL_DIR: &str = "changelogs";

/// Runs `geo-rep changelog dump`: one JSON object a line and record, see [`record_json`].
pub fn dump(files: &[PathBuf]) -> anyhow::Result<Exit> {
    let mut exit = Exit::Done;
    let mut out = io::BufWriter::new(io::stdout().lock());
    for file in files {
        match dump_file(file, &mut out) {
            Ok(Tail::Complete) => {}
            Ok(Tail::Torn) => {
                eprintln!("{}: ends inside a record: it is being written, or its writer died", file.display());
            }
            Ok(Tail::Damaged { offset, reason }) => {
                eprintln!("{}: damaged at byte {offset}: {reason}", file.display());
                exit = Exit::Different;
            }
            // Somebody like head(1) has seen enough.
            Err(error) if is_broken_pipe(&error) => return Ok(exit),
            Err(error) => return Err(error),
        }
    }
    match out.flush() {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(exit),
    }
}

fn dump_file(file: &Path, out: &mut impl Write) -> anyhow::Result<Tail> {
    let unreadable = || format!("cannot read the changelog {}", file.display());
    let mut reader = SliceReader::open(file).with_context(unreadable)?;
    loop {
        match reader.read().with_context(unreadable)? {
            SliceStep::Record(_, record) => writeln!(out, "{}", record_json(&record))?,
            SliceStep::End(tail) => return Ok(tail),
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Runs `geo-rep changelog history`.
pub fn history(monitor: &Monitor, brick: &Path, json: bool) -> anyhow::Result<Exit> {
    let dir = locate(monitor, brick)?;
    let history = History::read(&dir)?;
    if json {
        println!("{}", serde_json::to_string_pretty(&history)?);
        return Ok(Exit::Done);
    }
    println!("Changelog {}", history.dir.display());
    for htime in &history.htimes {
        println!(
            "{}: {} slices, {} of them empty, up to {}{}",
            htime.name,
            htime.records,
            htime.empty,
            htime.newest,
            if htime.unreadable > 0 || htime.torn_bytes > 0 { ", damaged" } else { "" }
        );
    }
    let missing = history.slices.iter().filter(|slice| slice.path.is_none()).count();
    println!("{} slices with records, {missing} of them missing", history.slices.len());
    match history.open_bytes {
        Some(bytes) => println!("The open slice has {bytes} bytes"),
        None => println!("There is no open slice: nothing is being recorded"),
    }
    for span in &history.proven {
        println!("complete   {} - {}", span.from, span.to);
    }
    for gap in &history.unproven {
        let to = gap.to.map_or("now".to_owned(), |to| to.to_string());
        let reason = serde_json::to_value(gap.reason)?;
        let reason = reason.get("reason").and_then(|reason| reason.as_str()).unwrap_or("unknown").to_owned();
        println!("incomplete {} - {to}: {reason}", gap.from);
    }
    Ok(Exit::Done)
}

/// Finds the journal: of a GlusterFS brick, of one of our bricks, or the directory itself.
fn locate(monitor: &Monitor, brick: &Path) -> anyhow::Result<PathBuf> {
    let given = std::fs::canonicalize(brick).with_context(|| format!("cannot look at {}", brick.display()))?;
    let inside = [changelog::locate(&given), given.join(JOURNAL_DIR), given.clone()];
    if let Some(found) = inside.into_iter().find(|dir| is_journal(dir)) {
        return Ok(found);
    }
    if monitor.was_ever_used() {
        let (_, declared) = monitor.reach_declared()?;
        let bricks = declared.volumes.iter().flat_map(|volume| &volume.bricks);
        let mut journals = bricks.filter(|b| b.path == given).map(|b| monitor.state.brick(b.id).join(JOURNAL_DIR));
        if let Some(found) = journals.find(|dir| is_journal(dir)) {
            return Ok(found);
        }
    }
    let hint = "name a brick of a GlusterFS volume or of a started session, or a directory of changelogs";
    Err(problem(format!("there is no changelog of {}", brick.display()), hint))
}

fn is_journal(dir: &Path) -> bool {
    dir.join(changelog::layout::HTIME_DIR).is_dir() || dir.join(changelog::layout::OPEN_SLICE).is_file()
}
