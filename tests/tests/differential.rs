//! The differential test: four writers do everything to a small name space while it is replicated; then both trees
//! must be equal. The seed is printed; `GSYNC_SEED` repeats it.

use std::time::{Duration, Instant};

use gsync_tests::deployment::Deployment;
use gsync_tests::fs::{FileSystem, Mounted};
use gsync_tests::nasty::{Options, Writers};
use gsync_tests::session::Session;
use gsync_tests::sshd::Sshd;
use gsync_tests::{need, require};

/// How long the writers work in a short run; `GSYNC_SOAK_SECONDS` is for the long one.
const SHORT: Duration = Duration::from_secs(6);

/// Everything that can be killed.
const VICTIMS: [&str; 4] = ["gsync-recorder", "gsync-worker", "gsync-agent", "ssh"];

struct Case {
    kind: FileSystem,
    engine: &'static str,
    ssh: bool,
    kill: bool,
}

fn run(case: &Case, duration: Duration) -> anyhow::Result<()> {
    let mounted = Mounted::new(case.kind, 600)?;
    let deployment = Deployment::new()?;
    let sshd = if case.ssh { Some(Sshd::start_open()?) } else { None };
    let session = Session::create(&deployment, mounted.root(), mounted.root(), sshd.as_ref())?.without_brake()?;
    session.config("sync-engine", case.engine)?;
    session.start()?;
    let options = Options::new(&session.brick, &session.outside);
    let mut rng = fastrand::Rng::with_seed(options.seed);
    let writers = Writers::start(options);
    let end = Instant::now() + duration;
    let mut kills = 0;
    while Instant::now() < end {
        std::thread::sleep(Duration::from_millis(rng.u64(300..1500)).min(duration));
        if case.kill {
            kills += deployment.kill(&[VICTIMS[rng.usize(..VICTIMS.len())]]);
        }
    }
    let counts = writers.stop();
    assert!(counts.unexpected.is_empty(), "{:?}", counts.unexpected);
    eprintln!("{} calls of {} succeeded, {kills} processes killed", counts.done(), counts.tried());
    assert!(!case.kill || kills > 0, "nothing was killed");
    session.must_be_equal()
}

fn check(case: &Case) {
    require!(need::root(), case.kind.available());
    if case.ssh {
        require!(Sshd::available());
    }
    run(case, SHORT).unwrap_or_else(|error| panic!("{error:#}"));
}

#[test]
fn ext4_with_tar() {
    check(&Case { kind: FileSystem::Ext4, engine: "tar", ssh: false, kill: false });
}

#[test]
fn xfs_with_rsync() {
    check(&Case { kind: FileSystem::Xfs, engine: "rsync", ssh: false, kill: false });
}

#[test]
fn btrfs_with_tar() {
    check(&Case { kind: FileSystem::Btrfs, engine: "tar", ssh: false, kill: false });
}

#[test]
fn tmpfs_with_rsync() {
    check(&Case { kind: FileSystem::Tmpfs, engine: "rsync", ssh: false, kill: false });
}

#[test]
fn xfs_with_tar_through_ssh() {
    check(&Case { kind: FileSystem::Xfs, engine: "tar", ssh: true, kill: false });
}

#[test]
fn ext4_with_tar_and_kills() {
    check(&Case { kind: FileSystem::Ext4, engine: "tar", ssh: false, kill: true });
}

#[test]
fn btrfs_with_rsync_through_ssh_and_kills() {
    check(&Case { kind: FileSystem::Btrfs, engine: "rsync", ssh: true, kill: true });
}

/// The long run: all file systems, engines and ways in turn, with kills, until the time is over.
#[test]
#[ignore = "long: make soak"]
fn soak_differential() {
    require!(need::root(), Sshd::available());
    let seconds = std::env::var("GSYNC_SOAK_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(3600);
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut runs = 0;
    while Instant::now() < end {
        for kind in FileSystem::ON_DISK {
            for engine in ["tar", "rsync"] {
                let case = Case { kind, engine, ssh: runs % 2 == 1, kill: runs % 3 != 0 };
                run(&case, Duration::from_secs(20)).unwrap_or_else(|error| panic!("{error:#}"));
                runs += 1;
            }
        }
    }
    eprintln!("{runs} runs, all equal");
}
