//! Readers on the secondary while writers replace what they read: each read gives one whole version, old or new.

use std::time::Duration;

use gsync_tests::deployment::Deployment;
use gsync_tests::fs::{FileSystem, Mounted};
use gsync_tests::readers::Readers;
use gsync_tests::session::Session;
use gsync_tests::stamped::{Style, Writer, names};
use gsync_tests::{need, require, wait};

/// How long the readers of a short run read.
const SHORT: Duration = Duration::from_secs(20);

/// How long they have to according to the promise.
const LONG: Duration = Duration::from_secs(60);

/// Files, half of them replaced by rename, half rewritten in place.
const FILES: usize = 8;

/// Large enough for several reads of a reader and several writes of a writer.
const SIZE_BYTES: usize = 60_000;

/// Between two versions: what is rewritten in place is whole in between, so that there is something to send.
const PAUSE: Duration = Duration::from_millis(7);

/// How often a version has to change under a reader's eyes for the run to count.
const CHANGES_MIN: u64 = 50;

fn run(kind: FileSystem, engine: &str, duration: Duration) -> anyhow::Result<()> {
    let mounted = Mounted::new(kind, 600)?;
    let deployment = Deployment::new()?;
    let session = Session::create(&deployment, mounted.root(), mounted.root(), None)?;
    session.config("sync-engine", engine)?;
    let files = names(FILES);
    Writer::create(&session.brick, &files, SIZE_BYTES)?;
    session.start()?;
    session.must_be_equal()?;
    let readers = Readers::start(&session.secondary, files.iter().map(|f| f.0.clone()).collect(), 2);
    let writer = Writer::start(&session.brick, files.clone(), SIZE_BYTES, PAUSE);
    std::thread::sleep(duration);
    let written = writer.stop()?;
    session.must_be_equal()?;
    // The last versions are there: the readers have to see them, too.
    let newest = written / FILES as u64 + 1;
    wait::wait_until("the last versions", Duration::from_secs(10), || {
        readers.seen().newest.values().all(|version| *version >= newest)
    });
    let seen = readers.stop();
    eprintln!("{kind}, {engine}: {written} versions written, {} reads, {} changes seen", seen.reads, seen.changes);
    seen.assert_whole();
    assert_eq!(seen.newest.len(), FILES);
    assert!(seen.changes >= CHANGES_MIN, "only {} changes were seen", seen.changes);
    Ok(())
}

fn check(kind: FileSystem, engine: &str, duration: Duration) {
    require!(need::root(), need::program("rsync"), kind.available());
    run(kind, engine, duration).unwrap_or_else(|error| panic!("{error:#}"));
}

#[test]
fn whole_versions_on_ext4_with_tar() {
    check(FileSystem::Ext4, "tar", SHORT);
}

#[test]
fn whole_versions_on_xfs_with_rsync() {
    check(FileSystem::Xfs, "rsync", SHORT);
}

/// A file that is rewritten without a pause never stands still: it is sent as it is, with either engine.
fn check_restless(engine: &str) {
    require!(need::root(), need::program("rsync"), FileSystem::Xfs.available());
    let mounted = Mounted::new(FileSystem::Xfs, 600).unwrap();
    let deployment = Deployment::new().unwrap();
    let session = Session::create(&deployment, mounted.root(), mounted.root(), None).unwrap();
    session.config("sync-engine", engine).unwrap();
    let files = vec![("restless".to_owned(), Style::Rewrite)];
    Writer::create(&session.brick, &files, SIZE_BYTES).unwrap();
    session.start().unwrap();
    session.must_be_equal().unwrap();
    let old = std::fs::metadata(session.secondary.join("restless")).unwrap().modified().unwrap();
    let writer = Writer::start(&session.brick, files, SIZE_BYTES, Duration::ZERO);
    wait::wait_until("something of a file that is being written", Duration::from_secs(60), || {
        std::fs::metadata(session.secondary.join("restless")).unwrap().modified().unwrap() > old
    });
    writer.stop().unwrap();
    session.must_be_equal().unwrap();
}

#[test]
fn a_restless_file_arrives_with_tar() {
    check_restless("tar");
}

#[test]
fn a_restless_file_arrives_with_rsync() {
    check_restless("rsync");
}

#[test]
#[ignore = "long: make soak"]
fn soak_whole_versions() {
    for kind in [FileSystem::Ext4, FileSystem::Xfs] {
        for engine in ["tar", "rsync"] {
            check(kind, engine, LONG);
        }
    }
}
