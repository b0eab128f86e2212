//! What must not cost in proportion: renaming a large directory or a large file, and removing many files.
//!
//! Bytes are counted by a TCP proxy between ssh and sshd, so they are all that ssh sends, its own packets and
//! keepalives included. Listings are counted by the kernel (fanotify) on the file system that holds both the brick
//! and the secondary: a crawl anywhere would be seen.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use gsync_tests::deployment::Deployment;
use gsync_tests::fs::{FileSystem, Mounted};
use gsync_tests::listings::Listings;
use gsync_tests::proxy::Proxy;
use gsync_tests::session::Session;
use gsync_tests::sshd::Sshd;
use gsync_tests::{need, require};

/// Files of the large directory in a short run, and in a long one.
const FEW: usize = 20_000;
const MANY: usize = 100_000;

/// They lie in subdirectories of so many.
const FILES_PER_DIRECTORY: usize = 1000;

/// Length of the large file.
const LARGE_BYTES: u64 = 2 << 30;

/// What a rename may cost on the wire.
const RENAME_BYTES_MAX: u64 = 10_000;

/// For everything to arrive.
const LIMIT: Duration = Duration::from_secs(300);

/// Programs whose CPU time is told.
const PROGRAMS: [&str; 3] = ["gsync-recorder", "gsync-worker", "gsync-agent"];

/// A started session through sshd and a counting proxy, with brick and secondary on one ext4.
struct Bench<'a> {
    deployment: &'a Deployment,
    session: Session<'a>,
    proxy: Proxy,
    listings: Listings,
}

impl<'a> Bench<'a> {
    fn start(deployment: &'a Deployment, mounted: &Mounted, sshd: &Sshd) -> anyhow::Result<Bench<'a>> {
        let proxy = Proxy::start(sshd.port())?;
        let through = Some((sshd, proxy.port()));
        let session = Session::create_through(deployment, mounted.root(), mounted.root(), through)?.without_brake()?;
        session.start()?;
        session.settle(LIMIT)?;
        let listings = Listings::watch(mounted.root())?;
        Ok(Bench { deployment, session, proxy, listings })
    }

    /// Does something, waits until it has arrived and tells what it took: bytes on the wire.
    fn measure(&self, what: &str, act: impl FnOnce() -> std::io::Result<()>) -> anyhow::Result<u64> {
        let (wire, cpu, start) = (self.proxy.wire(), self.cpu(), Instant::now());
        act()?;
        let acted = start.elapsed();
        self.session.settle(LIMIT)?;
        let (settled, wire) = (start.elapsed(), self.proxy.wire().since(wire));
        let used: Vec<String> = self.cpu().iter().zip(cpu).map(|(now, before)| seconds(*now - before)).collect();
        eprintln!(
            "{what}: done in {}, arrived after {}; {} bytes there, {} back; CPU of recorder, worker, agent: {}",
            seconds(acted),
            seconds(settled),
            wire.up_bytes,
            wire.down_bytes,
            used.join(", ")
        );
        Ok(wire.total())
    }

    fn cpu(&self) -> [Duration; 3] {
        PROGRAMS.map(|name| self.deployment.processes(&[name]).iter().map(|process| process.cpu_time()).sum())
    }

    /// How often a crawl began, by the logs of the recorder and the agent.
    fn crawls(&self) -> usize {
        let logs = fs::read_dir(self.deployment.state_dir().join("log")).into_iter().flatten().flatten();
        let recorders = logs.map(|entry| entry.path()).filter(|path| path.to_string_lossy().contains("/recorder-"));
        let agent = self.session.secondary.join(".gsync/agent.log");
        let text: String = recorders.chain([agent]).map(|path| fs::read_to_string(path).unwrap_or_default()).collect();
        text.matches("crawl begins").count() + text.matches("the index is made again").count()
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.2} s", duration.as_secs_f64())
}

fn available() -> Result<(), String> {
    need::root()?;
    FileSystem::Ext4.available()?;
    Sshd::available()
}

fn fill(dir: &Path, count: usize) -> std::io::Result<()> {
    for number in 0..count {
        let below = dir.join(format!("sub-{}", number / FILES_PER_DIRECTORY));
        if number % FILES_PER_DIRECTORY == 0 {
            fs::create_dir_all(&below)?;
        }
        File::create(below.join(format!("file-{number}")))?;
    }
    Ok(())
}

fn many_files(count: usize) -> anyhow::Result<()> {
    let (mounted, sshd) = (Mounted::new(FileSystem::Ext4, 4096)?, Sshd::start_open()?);
    let deployment = Deployment::new()?;
    let bench = Bench::start(&deployment, &mounted, &sshd)?;
    let brick = &bench.session.brick;
    bench.measure(&format!("creating {count} files"), || fill(&brick.join("a"), count))?;
    bench.listings.take();
    let crawls = bench.crawls();
    let sent = bench.session.sent()?;
    assert_eq!(crawls, 2, "each side begins with one; is the log worded otherwise?");

    let wire = bench.measure("renaming their directory", || fs::rename(brick.join("a"), brick.join("b")))?;
    bench.listings.assert_none("renaming a directory");
    assert!(wire < RENAME_BYTES_MAX, "renaming a directory cost {wire} bytes");
    let there = |name: &str| bench.session.secondary.join(name).join("sub-1/file-1001").exists();
    assert!(there("b") && !there("a"));
    // Into another directory: what is above it changes for all of them.
    bench.measure("making two directories", || fs::create_dir_all(brick.join("deep/er")))?;
    bench.listings.take();
    let wire = bench.measure("moving their directory", || fs::rename(brick.join("b"), brick.join("deep/er/c")))?;
    bench.listings.assert_none("moving a directory");
    assert!(wire < RENAME_BYTES_MAX, "moving a directory cost {wire} bytes");
    assert!(there("deep/er/c") && !there("b"));

    bench.measure("removing them all", || fs::remove_dir_all(brick.join("deep/er/c")))?;
    bench.listings.assert_none("removing all files");
    assert!(!bench.session.secondary.join("deep/er/c").exists());
    assert_eq!(bench.crawls(), crawls, "a crawl");
    assert_eq!(bench.session.sent()?, sent, "content was sent");
    bench.session.must_be_equal()
}

fn large_file(data_bytes: u64) -> anyhow::Result<()> {
    let size_mib = 2 * (data_bytes >> 20) + 1024;
    let (mounted, sshd) = (Mounted::new(FileSystem::Ext4, size_mib)?, Sshd::start_open()?);
    let deployment = Deployment::new()?;
    let bench = Bench::start(&deployment, &mounted, &sshd)?;
    let brick = &bench.session.brick;
    let wire = bench.measure("writing a file of 2 GiB", || {
        let file = File::create(brick.join("large"))?;
        file.set_len(LARGE_BYTES)?;
        // Spread over the whole length, and nothing that a compressor would make small.
        let (mut rng, mut block) = (fastrand::Rng::with_seed(1), vec![0; 1 << 20]);
        let blocks = data_bytes >> 20;
        (0..blocks).try_for_each(|number| {
            rng.fill(&mut block);
            file.write_all_at(&block, number * (LARGE_BYTES / blocks))
        })
    })?;
    assert!(wire >= data_bytes, "only {wire} bytes were counted: is the proxy in the way of the data?");
    let before = bench.session.sent()?;
    for (from, to) in [("large", "renamed"), ("renamed", "dir/moved"), ("dir/moved", "large")] {
        fs::create_dir_all(brick.join("dir"))?;
        let wire = bench.measure("renaming it", || fs::rename(brick.join(from), brick.join(to)))?;
        assert!(wire < RENAME_BYTES_MAX, "renaming a file cost {wire} bytes");
        let there = bench.session.secondary.join(to);
        assert_eq!(fs::metadata(&there)?.len(), LARGE_BYTES, "{}", there.display());
    }
    assert_eq!(bench.session.sent()?, before);
    bench.session.must_be_equal()
}

#[test]
fn a_large_directory_is_renamed_and_removed_without_a_look_at_what_is_in_it() {
    require!(available());
    many_files(FEW).unwrap_or_else(|error| panic!("{error:#}"));
}

#[test]
fn a_large_file_is_renamed_without_its_data() {
    require!(available());
    large_file(64 << 20).unwrap_or_else(|error| panic!("{error:#}"));
}

#[test]
#[ignore = "long: make soak"]
fn soak_100000_files() {
    require!(available());
    many_files(MANY).unwrap_or_else(|error| panic!("{error:#}"));
}

#[test]
#[ignore = "long: make soak"]
fn soak_a_file_of_2_gib_without_holes() {
    require!(available());
    large_file(LARGE_BYTES).unwrap_or_else(|error| panic!("{error:#}"));
}
