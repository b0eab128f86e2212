//! What a change costs, what a start costs and how much memory is used does not depend on how many files there are.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use gsync_tests::deployment::Deployment;
use gsync_tests::fs::{FileSystem, Mounted};
use gsync_tests::listings::Listings;
use gsync_tests::proc::{self, Process};
use gsync_tests::session::Session;
use gsync_tests::{need, require, wait};
use rustix::process::Signal;

/// Sizes of the trees that are compared.
const SIZES: [usize; 3] = [10_000, 100_000, 1_000_000];

const FILES_PER_DIRECTORY: usize = 200;

/// Directories of its own that a program may list when it starts.
const OWN_LISTINGS_MAX: u64 = 20;

/// One file of so many has content.
const CONTENT_EVERY: usize = 10;

/// Single changes that are measured.
const CHANGES: usize = 500;

/// What each process may use at its peak.
const MEMORY_MAX_BYTES: u64 = 256 << 20;

/// How much more a change in the largest tree may cost than in the smallest, in CPU time.
const COST_FACTOR_MAX: f64 = 3.0;

/// For the first copy of the largest tree.
const LIMIT: Duration = Duration::from_secs(3600);

const PROGRAMS: [&str; 3] = ["gsync-recorder", "gsync-worker", "gsync-agent"];

/// What was measured in a tree.
struct Cost {
    files: usize,
    first_copy: Duration,
    /// Peak resident memory of recorder, worker, agent.
    peak_bytes: [u64; 3],
    /// CPU time of the three processes together, for one change.
    change_cpu: Duration,
    /// From the change to its sight on the secondary, median.
    change_latency: Duration,
    restart: Duration,
}

fn fill(dir: &Path, count: usize) -> std::io::Result<()> {
    for number in 0..count {
        let below = dir.join(format!("d{}", number / FILES_PER_DIRECTORY));
        if number % FILES_PER_DIRECTORY == 0 {
            fs::create_dir_all(&below)?;
        }
        let content = if number % CONTENT_EVERY == 0 { format!("content {number}") } else { String::new() };
        fs::write(below.join(format!("file-{number}")), content)?;
    }
    Ok(())
}

/// The measured processes that run; not the doors, and not what keeps the recorder's queue.
fn running(deployment: &Deployment) -> Vec<Process> {
    let mut found = deployment.processes(&PROGRAMS);
    found.retain(|process| !process.arguments.iter().any(|argument| argument == "hold" || argument == "door"));
    found
}

fn processes(deployment: &Deployment) -> [Process; 3] {
    let running = running(deployment);
    PROGRAMS.map(|name| {
        let mut found = running.iter().filter(|process| process.name() == name);
        let first = found.next().unwrap_or_else(|| panic!("{name} does not run"));
        assert!(found.next().is_none(), "{name} runs twice");
        first.clone()
    })
}

/// Changes files all over the tree one by one; returns CPU time for one, and the median of the latencies.
fn change_one_by_one(
    session: &Session,
    processes: &[Process; 3],
    files: usize,
) -> std::io::Result<(Duration, Duration)> {
    let cpu = || processes.iter().map(Process::cpu_time).sum::<Duration>();
    let before = cpu();
    let mut took = Vec::new();
    for number in 0..CHANGES {
        let file = number * (files / CHANGES);
        let name = format!("d{}/file-{file}", file / FILES_PER_DIRECTORY);
        let content = format!("changed {number}");
        let start = Instant::now();
        fs::write(session.brick.join(&name), &content)?;
        let far = session.secondary.join(&name);
        wait::wait_until("a change", Duration::from_secs(60), || {
            fs::read_to_string(&far).is_ok_and(|found| found == content)
        });
        took.push(start.elapsed());
    }
    took.sort();
    Ok(((cpu() - before) / CHANGES as u32, took[CHANGES / 2]))
}

/// Ends everything in order, starts it again, and waits for a change that was made meanwhile.
fn restart(deployment: &Deployment, session: &Session) -> anyhow::Result<Duration> {
    let monitor = deployment.monitor().expect("a monitor");
    monitor.signal(Signal::TERM);
    wait::wait_until("the end of all processes", Duration::from_secs(120), || {
        !proc::is_running(monitor.pid) && running(deployment).is_empty()
    });
    fs::write(session.brick.join("meanwhile"), "changed while nothing ran")?;
    let start = Instant::now();
    session.status()?;
    let far = session.secondary.join("meanwhile");
    wait::wait_until("the change that was made meanwhile", LIMIT, || far.exists());
    Ok(start.elapsed())
}

fn measure(files: usize) -> anyhow::Result<Cost> {
    let mounted = Mounted::new(FileSystem::Xfs, 16 << 10)?;
    let deployment = Deployment::new()?;
    let session = Session::create(&deployment, mounted.root(), mounted.root(), None)?.without_brake()?;
    fill(&session.brick, files)?;
    let start = Instant::now();
    session.start()?;
    session.settle(LIMIT)?;
    let first_copy = start.elapsed();
    let running = processes(&deployment);
    let (change_cpu, change_latency) = change_one_by_one(&session, &running, files)?;
    session.settle(LIMIT)?;
    let peak_bytes = running.map(|process| process.peak_memory_bytes());
    let listings = Listings::watch(mounted.root())?;
    let restart = restart(&deployment, &session)?;
    for (program, count) in listings.take() {
        assert!(count <= OWN_LISTINGS_MAX, "{program} listed {count} directories at its start");
    }
    session.must_be_equal()?;
    Ok(Cost { files, first_copy, peak_bytes, change_cpu, change_latency, restart })
}

fn compare(sizes: &[usize]) -> anyhow::Result<()> {
    let costs = sizes.iter().map(|files| measure(*files)).collect::<anyhow::Result<Vec<Cost>>>()?;
    for cost in &costs {
        let mib = cost.peak_bytes.map(|bytes| bytes >> 20);
        eprintln!(
            "{} files: first copy {:.1?}; a change costs {:.0?} of CPU and is there after {:.1?}; \
             a start takes {:.1?}; peak MiB of recorder, worker, agent: {mib:?}",
            cost.files, cost.first_copy, cost.change_cpu, cost.change_latency, cost.restart
        );
    }
    for cost in &costs {
        for (program, peak) in PROGRAMS.iter().zip(cost.peak_bytes) {
            assert!(peak <= MEMORY_MAX_BYTES, "{program} used {peak} bytes with {} files", cost.files);
        }
    }
    let [first, .., last] = costs.as_slice() else { return Ok(()) };
    let factor = last.change_cpu.as_secs_f64() / first.change_cpu.as_secs_f64();
    assert!(factor <= COST_FACTOR_MAX, "a change costs {factor:.1} times as much in the largest tree");
    Ok(())
}

fn check(sizes: &[usize]) {
    require!(need::root(), FileSystem::Xfs.available());
    compare(sizes).unwrap_or_else(|error| panic!("{error:#}"));
}

#[test]
#[ignore = "long: make soak"]
fn soak_cost_does_not_depend_on_size() {
    check(&SIZES);
}
