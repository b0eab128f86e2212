//! The status table.

use std::io::IsTerminal;
use std::time::Duration;

use comfy_table::{ContentArrangement, Table, presets};
use gsync_monitor::status::{BrickRow, NOT_APPLICABLE, StatusReport};

use crate::cli::Look;
use crate::exit::{Exit, problem};
use crate::monitor::{Link, Monitor};

/// How often `--watch` prints.
const WATCH_EVERY: Duration = Duration::from_secs(2);

/// What needs no word: the kernel reports everything.
const BEST_LEVEL: &str = "full";

/// Moves to the top left and clears.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Columns of GlusterFS's table.
const COLUMNS: [&str; 9] = [
    "PRIMARY NODE",
    "PRIMARY VOL",
    "PRIMARY BRICK",
    "SECONDARY USER",
    "SECONDARY",
    "SECONDARY NODE",
    "STATUS",
    "CRAWL STATUS",
    "LAST_SYNCED",
];

/// Further columns with `detail`.
const DETAIL_COLUMNS: [&str; 4] = ["ENTRY", "DATA", "META", "FAILURES"];

/// What is printed when there is nothing.
const NO_SESSIONS: &str = "No active geo-replication sessions";

/// Runs `geo-rep status`.
pub fn run(monitor: &Monitor, look: &Look) -> anyhow::Result<Exit> {
    let (words, detail) = match look.words.split_last() {
        Some((last, rest)) if last == "detail" => (rest, true),
        _ => (look.words.as_slice(), false),
    };
    if !monitor.was_ever_used() && words.is_empty() {
        print(&StatusReport::default(), detail, look.json)?;
        return Ok(Exit::Done);
    }
    let (mut link, declared) = monitor.reach_declared()?;
    let name = match words {
        [] => None,
        words => match declared.find(words)? {
            (session, []) => Some(session.name.clone()),
            (_, [word, ..]) => {
                return Err(problem(format!("'{word}' is not understood"), "geo-rep status [SESSION] [detail]"));
            }
        },
    };
    loop {
        let report = link.status(name.as_deref())?;
        if look.watch && std::io::stdout().is_terminal() {
            print!("{CLEAR}");
        }
        print(&report, detail, look.json)?;
        if !look.watch {
            return Ok(Exit::Done);
        }
        std::thread::sleep(WATCH_EVERY);
    }
}

/// Prints the table of one session.
pub fn show(link: &mut Link, session: &str) -> anyhow::Result<()> {
    print(&link.status(Some(session))?, true, false)
}

fn print(report: &StatusReport, detail: bool, json: bool) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(report)?);
    } else if report.sessions.is_empty() {
        println!("{NO_SESSIONS}");
    } else {
        print!("{}", render(report, detail, &local_time));
        print!("{}", levels(report, detail));
        print!("{}", rescans(report));
        print!("{}", troubles(report));
    }
    Ok(())
}

/// Lays the table out: a header, a line of dashes, a row for each brick.
fn render(report: &StatusReport, detail: bool, time: &dyn Fn(u64) -> String) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    let more: &[&str] = if detail { &DETAIL_COLUMNS } else { &[] };
    table.set_header(COLUMNS.iter().chain(more));
    for row in report.sessions.iter().flat_map(|session| &session.bricks) {
        table.add_row(cells(row, detail, time));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    let lines: Vec<String> = table.to_string().lines().map(|line| line.trim_end().to_owned()).collect();
    let width = lines.iter().map(|line| line.chars().count()).max().unwrap_or_default();
    let mut text = String::new();
    for (index, line) in lines.iter().enumerate() {
        text.push_str(line);
        text.push('\n');
        if index == 0 {
            text.push_str(&"-".repeat(width));
            text.push('\n');
        }
    }
    text
}

fn cells(row: &BrickRow, detail: bool, time: &dyn Fn(u64) -> String) -> Vec<String> {
    let mut cells = vec![
        row.primary_node.clone(),
        row.primary_vol.clone(),
        row.primary_brick.clone(),
        row.secondary_user.clone(),
        row.secondary.clone(),
        row.secondary_node.clone(),
        row.status.clone(),
        row.crawl_status.clone(),
        row.last_synced.map_or(NOT_APPLICABLE.into(), time),
    ];
    if detail {
        let is_up = row.status == "Active";
        let count = |number: u64| if is_up { number.to_string() } else { NOT_APPLICABLE.into() };
        cells.extend([row.entry, row.data, row.meta, row.failures].map(count));
    }
    cells
}

/// How much the kernel reports of each brick, where that is asked for or is not everything.
fn levels(report: &StatusReport, detail: bool) -> String {
    let mut text = String::new();
    for session in &report.sessions {
        for row in &session.bricks {
            let (name, node, brick) = (&session.name, &row.primary_node, &row.primary_brick);
            let Some(level) = row.level.as_ref().filter(|level| detail || *level != BEST_LEVEL) else { continue };
            let crawls = row.crawls.unwrap_or_default();
            text.push_str(&format!(
                "\n{name} {node}:{brick}: recorded at level {level}, {crawls} crawls since the recorder started\n"
            ));
        }
    }
    text
}

/// Which sides are compared as a whole, and why.
fn rescans(report: &StatusReport) -> String {
    let mut text = String::new();
    for session in &report.sessions {
        for row in session.bricks.iter().filter(|row| !row.rescan.is_empty()) {
            let (name, node, brick) = (&session.name, &row.primary_node, &row.primary_brick);
            text.push_str(&format!("\n{name} {node}:{brick}: comparing both sides as a whole: {}\n", row.rescan));
        }
    }
    text
}

/// What is wrong, below the table.
fn troubles(report: &StatusReport) -> String {
    let mut text = String::new();
    for session in &report.sessions {
        for row in session.bricks.iter().filter(|row| row.is_troubled()) {
            text.push_str(&format!("\n{} {}:{}: ", session.name, row.primary_node, row.primary_brick));
            match (row.error.is_empty(), row.failures) {
                (false, 0) => text.push_str(&row.error),
                (false, failures) => text.push_str(&format!("{}; {failures} not applied yet", row.error)),
                (true, failures) => text.push_str(&format!("{failures} not applied yet")),
            }
            text.push('\n');
            for reason in &row.failure_reasons {
                text.push_str(&format!("  {reason}\n"));
            }
            if !row.hint.is_empty() {
                text.push_str(&format!("hint: {}\n", row.hint));
            }
        }
    }
    text
}

fn local_time(seconds: u64) -> String {
    let second = i64::try_from(seconds).unwrap_or(i64::MAX);
    match jiff::Timestamp::from_second(second) {
        Ok(time) => time.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
        Err(_) => NOT_APPLICABLE.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> StatusReport {
        let row = serde_json::json!({
            "primary_node": "n1", "primary_vol": "data", "primary_brick": "/srv/data", "secondary_user": "root",
            "secondary": "far::/copy", "secondary_node": "far", "status": "Active", "crawl_status": "Changelog Crawl",
            "last_synced": 7, "entry": 1, "data": 2, "meta": 3, "failures": 4, "failure_reasons": ["a: no space"],
            "error": "", "hint": "look", "mark": "", "sent_bytes": 0, "sent_files": 0, "objects": null,
            "worker_pid": null, "recorder_pid": null, "epoch": null,
        });
        let session = serde_json::json!({
            "name": "s", "id": "i", "desired": "started", "config_version": 1, "bricks": [row],
        });
        serde_json::from_value(serde_json::json!({ "sessions": [session] })).unwrap()
    }

    #[test]
    fn the_table_looks_like_gluster_s() {
        let text = render(&report(), true, &|_| "2026-01-02 03:04:05".into());
        let want = "\
PRIMARY NODE   PRIMARY VOL   PRIMARY BRICK   SECONDARY USER   SECONDARY    SECONDARY NODE   STATUS   CRAWL STATUS      LAST_SYNCED           ENTRY   DATA   META   FAILURES
------------------------------------------------------------------------------------------------------------------------------------------------------------------------------
n1             data          /srv/data       root             far::/copy   far              Active   Changelog Crawl   2026-01-02 03:04:05   1       2      3      4
";
        let squeezed = |text: &str| text.lines().map(|l| l.trim_end_matches('-').to_owned()).collect::<Vec<_>>();
        assert_eq!(squeezed(&text), squeezed(want), "{text}");
        assert!(!render(&report(), false, &|_| String::new()).contains("FAILURES"));
    }

    #[test]
    fn a_level_is_told_in_detail_or_when_it_is_not_the_best() {
        let mut report = report();
        assert_eq!(levels(&report, true), "", "nothing is known of it");
        let set = |report: &mut StatusReport, level: &str| {
            (report.sessions[0].bricks[0].level, report.sessions[0].bricks[0].crawls) = (Some(level.into()), Some(2));
        };
        set(&mut report, "full");
        assert_eq!(levels(&report, false), "");
        let text = levels(&report, true);
        assert_eq!(text, "\ns n1:/srv/data: recorded at level full, 2 crawls since the recorder started\n");
        set(&mut report, "full-moved");
        assert!(levels(&report, false).contains("level full-moved"));
    }

    #[test]
    fn failures_are_explained_below() {
        let text = troubles(&report());
        assert_eq!(text, "\ns n1:/srv/data: 4 not applied yet\n  a: no space\nhint: look\n");
    }
}
