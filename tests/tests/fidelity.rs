//! Every kind of object and of change, on each file system with each engine: both sides must become equal, and the
//! secondary is looked at directly. The scenarios are in [`gsync_tests::fidelity`].
//!
//! `GSYNC_SCENARIO=name` runs one of them alone.

use std::panic::resume_unwind;
use std::thread;

use anyhow::{Context, ensure};
use gsync_tests::deployment::Deployment;
use gsync_tests::fidelity::{self, Ground, Half, Scenario, holes, slow};
use gsync_tests::fs::{FileSystem, Mounted};
use gsync_tests::proxy::Proxy;
use gsync_tests::session::Session;
use gsync_tests::sshd::Sshd;
use gsync_tests::{need, require};

/// Size of the file system, in MiB.
const SIZE_MIB: u64 = 2048;

/// A scenario and where it takes place.
type Act<'a> = (&'a Scenario, Ground<'a>);

fn acts<'a>(
    kind: FileSystem,
    session: &'a Session<'a>,
    proxy: &'a Proxy,
    scenarios: &[&'a Scenario],
) -> anyhow::Result<Vec<Act<'a>>> {
    let only = std::env::var("GSYNC_SCENARIO").ok();
    let wanted = scenarios.iter().filter(|scenario| only.as_deref().is_none_or(|name| name == scenario.name));
    wanted.map(|&scenario| Ok((scenario, Ground::new(kind, session, proxy, scenario.name)?))).collect()
}

/// Each act in a thread of its own.
fn at_once(acts: &[Act], run: impl Fn(&Act) -> anyhow::Result<()> + Sync) -> anyhow::Result<()> {
    thread::scope(|scope| {
        let run = &run;
        let threads: Vec<_> = acts.iter().map(|act| scope.spawn(move || run(act).context(act.0.name))).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, _>| thread.join().unwrap_or_else(|panic| resume_unwind(panic));
        let results: Vec<anyhow::Result<()>> = threads.into_iter().map(join).collect();
        all_good(results)
    })
}

/// All failures, not only the first.
fn all_good(results: impl IntoIterator<Item = anyhow::Result<()>>) -> anyhow::Result<()> {
    let failures: Vec<String> = results.into_iter().filter_map(Result::err).map(|error| format!("{error:#}")).collect();
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

fn check_all(session: &Session, acts: &[Act], half: Half) -> anyhow::Result<()> {
    let equal = session.must_be_equal();
    let checks = acts.iter().map(|(scenario, ground)| (scenario.check)(ground, half).context(scenario.name));
    all_good([equal].into_iter().chain(checks)).with_context(|| format!("{half:?}"))
}

/// One session: those `together` take place at the same time, each of `alone` afterwards on its own.
fn run(kind: FileSystem, engine: &str, together: &[&Scenario], alone: &[&Scenario]) -> anyhow::Result<()> {
    let mounted = Mounted::new(kind, SIZE_MIB)?;
    let (deployment, sshd) = (Deployment::new()?, Sshd::start_open()?);
    let proxy = Proxy::start(sshd.port())?;
    let through = Some((&sshd, proxy.port()));
    let session = Session::create_through(&deployment, mounted.root(), mounted.root(), through)?;
    session.config("sync-engine", engine)?;
    let mut all = acts(kind, &session, &proxy, together)?;
    at_once(&all, |(scenario, ground)| (scenario.before)(ground))?;
    session.start()?;
    check_all(&session, &all, Half::First)?;
    at_once(&all, |(scenario, ground)| (scenario.live)(ground))?;
    for (scenario, ground) in acts(kind, &session, &proxy, alone)? {
        (scenario.live)(&ground).context(scenario.name)?;
        all.push((scenario, ground));
    }
    check_all(&session, &all, Half::Both)
}

fn matrix(kind: FileSystem, engine: &str) {
    require!(need::root(), kind.available(), Sshd::available(), need::program("rsync"));
    let together: Vec<&Scenario> = fidelity::ALL.iter().copied().flatten().collect();
    run(kind, engine, &together, &[&holes::TERABYTE]).unwrap_or_else(|error| panic!("{kind}, {engine}: {error:#}"));
}

#[test]
fn ext4_with_tar() {
    matrix(FileSystem::Ext4, "tar");
}

#[test]
fn ext4_with_rsync() {
    matrix(FileSystem::Ext4, "rsync");
}

#[test]
fn xfs_with_tar() {
    matrix(FileSystem::Xfs, "tar");
}

#[test]
fn xfs_with_rsync() {
    matrix(FileSystem::Xfs, "rsync");
}

#[test]
fn btrfs_with_tar() {
    matrix(FileSystem::Btrfs, "tar");
}

#[test]
fn btrfs_with_rsync() {
    matrix(FileSystem::Btrfs, "rsync");
}

/// What mostly waits: all file systems at the same time.
fn patient(engine: &str) {
    require!(need::root(), Sshd::available(), need::program("rsync"), need::program("chattr"));
    for kind in FileSystem::ON_DISK {
        require!(kind.available());
    }
    let scenarios: Vec<&Scenario> = slow::SCENARIOS.iter().collect();
    let results: Vec<(FileSystem, anyhow::Result<()>)> = thread::scope(|scope| {
        let scenarios = &scenarios;
        let start = |kind| scope.spawn(move || run(kind, engine, scenarios, &[]));
        let threads: Vec<_> = FileSystem::ON_DISK.into_iter().map(|kind| (kind, start(kind))).collect();
        let join = |(kind, thread): (_, thread::ScopedJoinHandle<'_, _>)| {
            (kind, thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
        };
        threads.into_iter().map(join).collect()
    });
    for (kind, result) in results {
        result.unwrap_or_else(|error| panic!("{kind}, {engine}: {error:#}"));
    }
}

#[test]
fn patience_with_tar() {
    patient("tar");
}

#[test]
fn patience_with_rsync() {
    patient("rsync");
}
