//! Machine, tables, and the page.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use crate::results::{Results, mebibytes, ratio, seconds};
use crate::size::Size;
use crate::tools::{LSYNCD, OURS, OURS_RSYNC, RSYNC, TAR, TAR_DEFAULT};
use crate::usage::PROGRAMS;

/// The checkout.
const TOP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

const BEGIN: &str = "<!-- results:begin -->";
const END: &str = "<!-- results:end -->";

/// The first line that a program prints.
fn first_line(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map(|o| [o.stdout, o.stderr].concat()).unwrap_or_default();
    String::from_utf8_lossy(&text).lines().next().unwrap_or("not installed").trim().to_owned()
}

/// Whether the programs differ from what is committed.
fn has_changes() -> bool {
    let status = Command::new("git")
        .args(["-C", TOP, "status", "--porcelain", "--untracked-files=no", "--", "crates", "Cargo.lock"])
        .output();
    status.is_ok_and(|output| !output.stdout.is_empty())
}

/// What the figures were taken on, as rows of a table.
pub fn machine(ground: &str) -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = info.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib: u64 = memory.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    let dirty = if has_changes() { " with changes" } else { "" };
    let mut text = String::new();
    let mut line = |name: &str, value: String| writeln!(text, "| {name} | {value} |").expect("a string takes it");
    line("machine", format!("{}, {cores} cores, {} GiB; {ground}", field("model name"), kib >> 20));
    line("kernel", first_line("uname", &["-sr"]));
    line("commit", format!("{}{dirty}", first_line("git", &["-C", TOP, "rev-parse", "--short=12", "HEAD"])));
    line("date", first_line("date", &["-u", "+%Y-%m-%d"]));
    line("load before the run", load.to_owned());
    line("rustc", first_line("rustc", &["--version"]));
    line("rsync", first_line("rsync", &["--version"]));
    line("tar", first_line("tar", &["--version"]));
    line("ssh", first_line("ssh", &["-V"]));
    line("lsyncd", first_line("lsyncd", &["-version"]));
    text
}

/// All tables.
pub fn render(machine: &str, size: &Size, results: &Results) -> String {
    let mut text = format!("\n| | |\n|---|---|\n{machine}\nMedians of {} runs.\n", size.runs());
    let mut out = |line: String| writeln!(text, "{line}").expect("a string takes everything");
    copies(results, &mut out);
    loads(results, &mut out);
    usage(results, &mut out);
    writer(results, &mut out);
    let of = |with| seconds(results.median("latency", with));
    let (p50, p99, worst) = (of("p50"), of("p99"), of("worst"));
    out(format!("\nChange to visible, {} small files: p50 {p50}, p99 {p99}, worst {worst}.", size.changes()));
    text
}

fn table(out: &mut impl FnMut(String), head: &[&str]) {
    out(format!("\n| {} |", head.join(" | ")));
    out(format!("|{}", "---|".repeat(head.len())));
}

fn copies(results: &Results, out: &mut impl FnMut(String)) {
    let tools = [TAR, RSYNC, OURS, OURS_RSYNC, TAR_DEFAULT];
    let by_tar = format!("{OURS} / tar");
    table(out, &["first copy", TAR, RSYNC, OURS, OURS_RSYNC, TAR_DEFAULT, &by_tar]);
    for what in results.measured_with(TAR) {
        let of = |with: &str| results.median(what, with);
        let times = tools.map(|with| seconds(of(with))).join(" | ");
        out(format!("| {what} | {times} | {} |", ratio(of(OURS), of(TAR))));
    }
    for what in results.measured_with(TAR) {
        let wire = tools.map(|with| mebibytes(results.median(what, &format!("{with} wire")))).join(" | ");
        out(format!("| {what}, on the wire | {wire} | |"));
    }
}

fn loads(results: &Results, out: &mut impl FnMut(String)) {
    let head = [
        "after this load",
        "the load takes",
        "equal trees after its end",
        "the same, lsyncd",
        "durable after its end",
        "on the wire",
        "the same, lsyncd",
    ];
    table(out, &head);
    for what in results.measured_with("durable") {
        let of = |with: &str| results.median(what, with);
        let times = ["load", OURS, LSYNCD, "durable"].map(|with| seconds(of(with))).join(" | ");
        let wire = [OURS, LSYNCD].map(|with| mebibytes(of(&format!("{with} wire")))).join(" | ");
        out(format!("| {what} | {times} | {wire} |"));
    }
}

/// Processor time and memory of every program.
fn usage(results: &Results, out: &mut impl FnMut(String)) {
    let mut head = vec!["CPU time; peak memory"];
    head.extend(PROGRAMS);
    table(out, &head);
    for what in results.measured_with(&format!("{} CPU", PROGRAMS[0])) {
        let cell = |name: &str| {
            let of = |kind: &str| results.median(what, &format!("{name} {kind}"));
            format!("{}; {}", seconds(of("CPU")), mebibytes(of("memory")))
        };
        out(format!("| {what} | {} |", PROGRAMS.map(cell).join(" | ")));
    }
}

fn writer(results: &Results, out: &mut impl FnMut(String)) {
    table(out, &["a writer's time", "without the recorder", "with it", "slower by"]);
    for what in results.measured_with("without it") {
        let (without, with) = (results.median(what, "without it"), results.median(what, "with the recorder"));
        let slower = match (without, with) {
            (Some(without), Some(with)) => format!("{:.1} %", (with / without - 1.0) * 100.0),
            _ => "-".into(),
        };
        out(format!("| {what} | {} | {} | {slower} |", seconds(without), seconds(with)));
    }
}

/// Replaces what is between the two marks of the page; makes the page where there is none.
pub fn publish(text: &str) -> anyhow::Result<PathBuf> {
    let page = Path::new(TOP).join("docs/benchmarks.md");
    let old = fs::read_to_string(&page).unwrap_or_else(|_| format!("# Benchmarks\n\n{BEGIN}\n{END}\n"));
    let (head, rest) = old.split_once(BEGIN).context("docs/benchmarks.md has no mark for the begin")?;
    let (_, tail) = rest.split_once(END).context("docs/benchmarks.md has no mark for the end")?;
    fs::write(&page, format!("{head}{BEGIN}\n{text}\n{END}{tail}"))?;
    Ok(page)
}
