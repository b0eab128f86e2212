//! What it costs, beside what is known: `make bench`. The results go to `docs/benchmarks.md`.
//!
//! Everything is on one ext4 in a file, in fresh directories, through the same sshd and the same loopback, with the
//! runs interleaved. What is compared with ends with `sync -f` of the target as ours ends with everything durable.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use gsync_tests::deployment::Deployment;
use gsync_tests::fs::{FileSystem, Mounted};
use gsync_tests::proxy::Proxy;
use gsync_tests::session::Session;
use gsync_tests::sshd::Sshd;
use gsync_tests::{need, require};

/// Every figure is the median of so many runs.
const RUNS: usize = 3;

/// First copies.
const SMALL_FILES: usize = 20_000;
const LARGE_BYTES: u64 = 1 << 30;

/// Operations of each load.
const OPERATIONS: usize = 10_000;
const LOAD_FILE_BYTES: usize = 4096;

/// Changes whose latency is taken.
const CHANGES: usize = 200;

/// For anything to arrive.
const LIMIT: Duration = Duration::from_secs(600);

/// How often it is looked whether a change is there: bounds the error of a latency.
const LOOK_EVERY: Duration = Duration::from_micros(500);

/// How many of the changed names are looked at before all are.
const SAMPLE: usize = 40;

/// Programs whose CPU time is told.
const PROGRAMS: [&str; 3] = ["gsync-recorder", "gsync-worker", "gsync-agent"];

/// The checkout.
const TOP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

const BEGIN: &str = "<!-- results:begin -->";
const END: &str = "<!-- results:end -->";

const OURS: &str = "gsync, tar engine";
const OURS_RSYNC: &str = "gsync, rsync engine";
const TAR: &str = "tar c \\| ssh tar x";
const RSYNC: &str = "rsync -aHAX";

/// Seconds of each run, by what was measured and with what.
#[derive(Default)]
struct Results(BTreeMap<(String, String), Vec<f64>>);

impl Results {
    fn add(&mut self, what: &str, with: &str, value: f64) {
        eprintln!("{what}, {with}: {value:.3}");
        self.0.entry((what.into(), with.into())).or_default().push(value);
    }

    fn median(&self, what: &str, with: &str) -> Option<f64> {
        let mut values = self.0.get(&(what.to_owned(), with.to_owned()))?.clone();
        values.sort_by(f64::total_cmp);
        Some(values[values.len() / 2])
    }
}

fn small_files(root: &Path, rng: &mut fastrand::Rng) -> std::io::Result<()> {
    let mut content = vec![0; 8 << 10];
    for number in 0..SMALL_FILES {
        let dir = root.join(format!("d{}", number / 200));
        if number % 200 == 0 {
            fs::create_dir(&dir)?;
        }
        let length = rng.usize(256..=content.len());
        rng.fill(&mut content[..length]);
        fs::write(dir.join(format!("f{number}")), &content[..length])?;
    }
    Ok(())
}

fn large_file(root: &Path, rng: &mut fastrand::Rng) -> std::io::Result<()> {
    let mut file = File::create(root.join("large"))?;
    let mut block = vec![0; 1 << 20];
    for _ in 0..LARGE_BYTES >> 20 {
        rng.fill(&mut block);
        file.write_all(&block)?;
    }
    Ok(())
}

/// A directory for one run, removed after it so that each run finds the same free space.
struct Scratch(PathBuf);

impl Scratch {
    fn new(mounted: &Mounted) -> anyhow::Result<Scratch> {
        let path = mounted.directory("run")?;
        Ok(Scratch(path))
    }

    fn dir(&self, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.0.join(name);
        fs::create_dir_all(&path)?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Writes everything out: what was written before a run is no part of it.
fn sync(path: &Path) -> anyhow::Result<()> {
    let status = Command::new("sync").arg("-f").arg(path).status()?;
    ensure!(status.success(), "sync: {status}");
    Ok(())
}

fn shell(script: &str) -> anyhow::Result<()> {
    let output = Command::new("bash").args(["-o", "pipefail", "-c", script]).output()?;
    ensure!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// ssh as a shell word, with what our own uses.
fn ssh(sshd: &Sshd) -> String {
    format!(
        "ssh -F none -o BatchMode=yes -o IdentitiesOnly=yes -o Compression=no -o Ciphers=aes128-gcm@openssh.com -p {} \
         -i {} -o UserKnownHostsFile={}",
        sshd.port(),
        sshd.identity().display(),
        sshd.known_hosts().display()
    )
}

/// One first copy with a tool: from a brick that lies there to a copy that is on the disk.
fn copy_with(tool: &str, from: &Path, to: &Path, sshd: &Sshd) -> anyhow::Result<f64> {
    let (from, to, ssh, user) = (from.display(), to.display(), ssh(sshd), sshd.user());
    let script = match tool {
        TAR => format!(
            "tar -C {from} --xattrs --acls -cf - . | {ssh} {user}@127.0.0.1 'tar -C {to} --xattrs --acls -xpf - && sync -f {to}'"
        ),
        _ => format!("rsync -aHAX -e '{ssh}' {from}/ {user}@127.0.0.1:{to}/ && sync -f {to}"),
    };
    let start = Instant::now();
    shell(&script)?;
    Ok(start.elapsed().as_secs_f64())
}

/// One first copy with ours: from `start` to the word that all is durably there.
fn copy_with_ours(base: &Path, engine: &str, sshd: &Sshd) -> anyhow::Result<f64> {
    let deployment = Deployment::new()?;
    let session = Session::create(&deployment, base, base, Some(sshd))?;
    session.config("sync-engine", engine)?;
    let start = Instant::now();
    session.start()?;
    settle(&session)?;
    let took = start.elapsed().as_secs_f64();
    session.must_be_equal()?;
    Ok(took)
}

/// The worker's socket may not be there yet.
fn settle(session: &Session<'_>) -> anyhow::Result<()> {
    gsync_tests::wait::wait_for("the worker", LIMIT, || session.settle(LIMIT).map_err(|e| format!("{e:#}")));
    Ok(())
}

fn first_copies(mounted: &Mounted, sshd: &Sshd, results: &mut Results) -> anyhow::Result<()> {
    type Fill = fn(&Path, &mut fastrand::Rng) -> std::io::Result<()>;
    let loads: [(&str, Fill); 2] = [
        ("first copy of 20,000 files of 256 B to 8 KiB", small_files),
        ("first copy of one file of 1 GiB", large_file),
    ];
    for (what, fill) in loads {
        for run in 0..RUNS {
            for tool in [TAR, OURS, RSYNC, OURS_RSYNC] {
                let scratch = Scratch::new(mounted)?;
                let brick = scratch.dir("brick")?;
                fill(&brick, &mut fastrand::Rng::with_seed(run as u64))?;
                sync(&brick)?;
                let took = match tool {
                    OURS => copy_with_ours(&scratch.0, "tar", sshd)?,
                    OURS_RSYNC => copy_with_ours(&scratch.0, "rsync", sshd)?,
                    _ => copy_with(tool, &brick, &scratch.dir("secondary")?, sshd)?,
                };
                results.add(what, tool, took);
            }
        }
    }
    Ok(())
}

/// Names with length and kind: equal trees for what the loads do, cheap enough to be asked often.
fn shape(root: &Path) -> std::io::Result<BTreeMap<PathBuf, u64>> {
    let (mut found, mut waiting) = (BTreeMap::new(), vec![PathBuf::new()]);
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(root.join(&dir))? {
            let entry = entry?;
            if entry.file_name() == ".gsync" {
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
fn sample(before: &BTreeMap<PathBuf, u64>, after: &BTreeMap<PathBuf, u64>) -> Vec<PathBuf> {
    let differs = |path: &&PathBuf| before.get(*path) != after.get(*path);
    let touched: Vec<&PathBuf> = before.keys().chain(after.keys()).filter(differs).collect();
    let step = (touched.len() / SAMPLE).max(1);
    touched.into_iter().step_by(step).cloned().collect()
}

/// Whether these names are as wanted.
fn is_there(root: &Path, names: &[PathBuf], wanted: &BTreeMap<PathBuf, u64>) -> bool {
    let found = |path: &PathBuf| {
        let metadata = fs::symlink_metadata(root.join(path)).ok();
        metadata.map(|metadata| if metadata.is_dir() { u64::MAX } else { metadata.len() })
    };
    names.iter().all(|path| found(path) == wanted.get(path).copied())
}

/// CPU time of each program so far.
fn cpu(deployment: &Deployment) -> [Duration; 3] {
    PROGRAMS.map(|name| deployment.processes(&[name]).iter().map(|process| process.cpu_time()).sum())
}

fn loads(mounted: &Mounted, sshd: &Sshd, results: &mut Results) -> anyhow::Result<()> {
    for _ in 0..RUNS {
        let (scratch, deployment) = (Scratch::new(mounted)?, Deployment::new()?);
        let proxy = Proxy::start(sshd.port())?;
        let through = Some((sshd, proxy.port()));
        let session = Session::create_through(&deployment, &scratch.0, &scratch.0, through)?;
        session.start()?;
        settle(&session)?;
        let brick = session.brick.clone();
        let name = |prefix: &str, number: usize| brick.join("load").join(format!("{prefix}{number}"));
        let content = vec![7; LOAD_FILE_BYTES];
        fs::create_dir(brick.join("load"))?;
        let each = |act: &dyn Fn(usize) -> std::io::Result<()>| (0..OPERATIONS).try_for_each(act);
        type Load<'a> = (&'a str, Box<dyn Fn() -> std::io::Result<()> + 'a>);
        let loads: [Load<'_>; 4] = [
            ("10,000 creates of 4 KiB", Box::new(|| each(&|n| fs::write(name("f", n), &content)))),
            ("10,000 renames", Box::new(|| each(&|n| fs::rename(name("f", n), name("g", n))))),
            (
                "rename of a directory with 10,000 files",
                Box::new(|| {
                    fs::rename(brick.join("load"), brick.join("moved"))?;
                    Ok(())
                }),
            ),
            ("10,000 unlinks", Box::new(|| each(&|n| fs::remove_file(brick.join("moved").join(format!("g{n}")))))),
        ];
        for (what, act) in loads {
            let (before, wire, cpu, begin) = (shape(&brick)?, proxy.wire(), cpu(&deployment), Instant::now());
            act()?;
            let end = Instant::now();
            results.add(what, "load", (end - begin).as_secs_f64());
            let wanted = shape(&brick)?;
            let touched = sample(&before, &wanted);
            // Looking at everything all the time would take the processor from what is measured.
            while !is_there(&session.secondary, &touched, &wanted)
                || shape(&session.secondary).ok().as_ref() != Some(&wanted)
            {
                ensure!(end.elapsed() < LIMIT, "{what}: not equal");
                std::thread::sleep(Duration::from_millis(5));
            }
            results.add(what, "equal", end.elapsed().as_secs_f64());
            settle(&session)?;
            results.add(what, "durable", end.elapsed().as_secs_f64());
            results.add(what, "bytes", proxy.wire().since(wire).total() as f64);
            for (name, (now, before)) in PROGRAMS.iter().zip(self::cpu(&deployment).iter().zip(cpu)) {
                results.add(what, name, now.saturating_sub(before).as_secs_f64());
            }
        }
        session.must_be_equal()?;
    }
    Ok(())
}

fn latency(mounted: &Mounted, sshd: &Sshd, results: &mut Results) -> anyhow::Result<()> {
    for _ in 0..RUNS {
        let (scratch, deployment) = (Scratch::new(mounted)?, Deployment::new()?);
        let session = Session::create(&deployment, &scratch.0, &scratch.0, Some(sshd))?;
        session.start()?;
        settle(&session)?;
        let mut rng = fastrand::Rng::with_seed(1);
        let mut took = Vec::new();
        for number in 0..CHANGES {
            let name = format!("f{}", number % 20);
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
        results.add("latency", "p50", took[CHANGES / 2]);
        results.add("latency", "p99", took[CHANGES * 99 / 100 - 1]);
        results.add("latency", "worst", took[CHANGES - 1]);
    }
    Ok(())
}

/// The first line that a program prints.
fn first_line(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map(|o| [o.stdout, o.stderr].concat()).unwrap_or_default();
    String::from_utf8_lossy(&text).lines().next().unwrap_or("unknown").trim().to_owned()
}

fn machine(size: &str) -> String {
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
    let dirty = if first_line("git", &["-C", TOP, "status", "--porcelain", "--untracked-files=no", "--", "crates"])
        .is_empty()
    {
        ""
    } else {
        " with changes"
    };
    let mut text = String::new();
    let mut line = |name: &str, value: String| writeln!(text, "| {name} | {value} |").expect("a string takes it");
    line("machine", format!("{}, {cores} cores, {} GiB; {size}", field("model name"), kib >> 20));
    line("kernel", first_line("uname", &["-sr"]));
    line("commit", format!("{}{dirty}", first_line("git", &["-C", TOP, "rev-parse", "--short=12", "HEAD"])));
    line("date", first_line("date", &["-u", "+%Y-%m-%d"]));
    line("load before the run", load.to_owned());
    line("rustc", first_line("rustc", &["--version"]));
    line("rsync", first_line("rsync", &["--version"]));
    line("tar", first_line("tar", &["--version"]));
    line("ssh", first_line("ssh", &["-V"]));
    text
}

fn seconds(value: Option<f64>) -> String {
    match value {
        None => "-".into(),
        Some(value) if value < 1.0 => format!("{:.0} ms", value * 1000.0),
        Some(value) => format!("{value:.2} s"),
    }
}

fn render(machine: &str, results: &Results) -> String {
    let mut text = format!("\n| | |\n|---|---|\n{machine}\nMedians of {RUNS} runs.\n\n");
    let mut out = |line: String| writeln!(text, "{line}").expect("a string takes everything");
    out(format!("| first copy | {TAR} | {RSYNC} | {OURS} | {OURS_RSYNC} | {OURS} / tar | {OURS} / rsync |"));
    out("|---|---|---|---|---|---|---|".into());
    let whats: Vec<&String> = results.0.keys().map(|(what, _)| what).collect();
    let mut copies: Vec<&String> = whats.iter().copied().filter(|what| what.starts_with("first copy")).collect();
    copies.dedup();
    for what in copies {
        let of = |with| results.median(what, with);
        let ratio = |other| match (of(OURS), of(other)) {
            (Some(ours), Some(other)) => format!("{:.2}", ours / other),
            _ => "-".into(),
        };
        let what_short = what.trim_start_matches("first copy of ");
        let row = [TAR, RSYNC, OURS, OURS_RSYNC].map(|with| seconds(of(with))).join(" | ");
        out(format!("| {what_short} | {row} | {} | {} |", ratio(TAR), ratio(RSYNC)));
    }
    out(String::new());
    out("| after this load | the load takes | equal trees after its end | durable after its end | on the wire | CPU of recorder, worker, agent |".into());
    out("|---|---|---|---|---|---|".into());
    let mut loads: Vec<&String> = results.0.keys().filter(|(_, with)| with == "equal").map(|(what, _)| what).collect();
    loads.sort();
    for what in loads {
        let of = |with| results.median(what, with);
        let cpu = PROGRAMS.map(|name| seconds(of(name))).join(", ");
        let bytes = of("bytes").map_or("-".into(), |bytes| format!("{:.1} KiB", bytes / 1024.0));
        out(format!(
            "| {what} | {} | {} | {} | {bytes} | {cpu} |",
            seconds(of("load")),
            seconds(of("equal")),
            seconds(of("durable"))
        ));
    }
    out(String::new());
    let of = |with| seconds(results.median("latency", with));
    out(format!(
        "Change to visible, {CHANGES} small files: p50 {}, p99 {}, worst {}.",
        of("p50"),
        of("p99"),
        of("worst")
    ));
    text
}

/// Replaces what is between the two marks of the page; makes the page where there is none.
fn publish(text: &str) -> anyhow::Result<PathBuf> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/benchmarks.md");
    let old = fs::read_to_string(&page).unwrap_or_else(|_| format!("# Benchmarks\n\n{BEGIN}\n{END}\n"));
    let (head, rest) = old.split_once(BEGIN).context("docs/benchmarks.md has no mark for the begin")?;
    let (_, tail) = rest.split_once(END).context("docs/benchmarks.md has no mark for the end")?;
    fs::write(&page, format!("{head}{BEGIN}\n{text}\n{END}{tail}"))?;
    Ok(page)
}

fn all() -> anyhow::Result<()> {
    let machine = machine("ext4 in a file, sshd on loopback");
    let (mounted, sshd) = (Mounted::new(FileSystem::Ext4, 8 << 10)?, Sshd::start_open()?);
    // Blocks of the image that were never written cost more than others: all are, once.
    warm(&mounted)?;
    let mut results = Results::default();
    latency(&mounted, &sshd, &mut results)?;
    loads(&mounted, &sshd, &mut results)?;
    first_copies(&mounted, &sshd, &mut results)?;
    let text = render(&machine, &results);
    println!("{text}");
    println!("written to {}", publish(&text)?.display());
    Ok(())
}

fn warm(mounted: &Mounted) -> anyhow::Result<()> {
    let path = mounted.root().join("warm");
    let file = File::create(&path)?;
    let block = vec![1; 4 << 20];
    for number in 0..(4 << 30) / block.len() as u64 {
        file.write_all_at(&block, number * block.len() as u64)?;
    }
    file.sync_all()?;
    fs::remove_file(path)?;
    sync(mounted.root())
}

#[test]
#[ignore = "long: make bench"]
fn bench_everything() {
    require!(need::root(), FileSystem::Ext4.available(), Sshd::available(), need::program("rsync"));
    all().unwrap_or_else(|error| panic!("{error:#}"));
}
