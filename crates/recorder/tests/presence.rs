//! The brick goes away, comes back, is empty or another one: that is noticed, and never taken for removals.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use changelog::{EntryOp, Record};
use common::{Client, FileSystem, Model, Recorder, wait_for};
use protocol::brick::{ACCEPT_FILE, BrickRequest, BrickResponse};
use protocol::{Gfid, Place};

/// A recorded brick whose state is on another file system.
struct Bench {
    filesystem: FileSystem,
    brick: PathBuf,
    state: PathBuf,
    recorder: Recorder,
    model: Model,
}

impl Bench {
    fn new(kind: &str) -> Option<Bench> {
        let filesystem = FileSystem::new(kind)?;
        let (brick, state) = (filesystem.dir("brick"), filesystem.outside().join("state"));
        for number in 0..20 {
            fs::create_dir_all(brick.join(format!("d{}", number % 3))).unwrap();
            fs::write(brick.join(format!("d{}/f{number}", number % 3)), format!("content {number}")).unwrap();
        }
        let recorder = Recorder::start(&[]);
        recorder.attach(&brick, &state);
        let mut bench = Bench { filesystem, brick, state, recorder, model: Model::default() };
        bench.catch_up();
        Some(bench)
    }

    /// Waits for the recorder and compares with the disk; what it recorded.
    fn catch_up(&mut self) -> Vec<Record> {
        self.recorder.client().barrier();
        let records = self.model.read(&self.state.join("changelogs"));
        self.model.assert_equals_disk(&self.brick);
        self.model.assert_data_announced(&self.brick);
        records
    }

    fn error(&self) -> String {
        self.recorder.admin().status().first().map(|brick| brick.error.clone()).unwrap_or_default()
    }

    /// Waits until the status tells of this, and nothing is said about what is in the brick.
    fn wait_for_error(&mut self, text: &str) {
        wait_for(text, || self.error().contains(text));
        let mut client = self.recorder.client();
        let place = Place { parent: Gfid::ROOT, name: b"d0".to_vec() };
        for question in [
            BrickRequest::Look(vec![place]),
            BrickRequest::Names(self.model.kinds.keys().copied().collect()),
            BrickRequest::Barrier,
        ] {
            let answer = client.ask(&question);
            assert!(matches!(&answer, BrickResponse::Failed(why) if why.contains(text)), "{question:?}: {answer:?}");
        }
        let records = self.model.read(&self.state.join("changelogs"));
        assert!(!records.iter().any(is_removal), "{records:?}");
    }

    fn wait_for_return(&mut self) -> Vec<Record> {
        wait_for("the brick's return", || self.error().is_empty());
        self.catch_up()
    }

    fn is_busy(&self) -> bool {
        let fds = fs::read_dir(format!("/proc/{}/fd", self.recorder.pid())).unwrap();
        let root = self.filesystem.root();
        fds.flatten().any(|fd| fs::read_link(fd.path()).is_ok_and(|path| path.starts_with(&root)))
    }
}

fn is_removal(record: &Record) -> bool {
    matches!(record, Record::Entry(_, EntryOp::Unlink(..) | EntryOp::Rmdir(..)))
}

#[test]
fn unmounted_and_mounted_again() {
    for kind in ["ext4", "xfs", "btrfs"] {
        let Some(mut bench) = Bench::new(kind) else { continue };
        for round in 0..if kind == "xfs" { 2 } else { 1 } {
            assert!(bench.is_busy(), "{kind}: the test looks at the wrong thing");
            bench.filesystem.unmount_lazily();
            bench.wait_for_error("is not there");
            assert!(!bench.is_busy(), "{kind}: the file system cannot be given up");
            if round == 1 {
                // What is below the mount looks like a brick that is empty, or another one.
                fs::create_dir_all(&bench.brick).unwrap();
                bench.wait_for_error(" is another ");
                fs::remove_dir(&bench.brick).unwrap();
            }
            bench.filesystem.mount();
            // Nobody watches yet.
            fs::write(bench.brick.join("d1/meanwhile"), format!("{round}")).unwrap();
            fs::remove_file(bench.brick.join(format!("d0/f{}", round * 3))).unwrap();
            let records = bench.wait_for_return();
            assert_eq!(records.iter().filter(|record| is_removal(record)).count(), 1, "{kind}: {records:?}");
            // It watches again.
            fs::write(bench.brick.join(format!("d1/watched{round}")), "x").unwrap();
            let records = bench.catch_up();
            assert!(!records.is_empty(), "{kind}: events do not come");
        }
    }
}

#[test]
fn renamed_away_replaced_and_mounted_over() {
    let Some(mut bench) = Bench::new("ext4") else { return };
    let away = bench.filesystem.root().join("away");
    fs::rename(&bench.brick, &away).unwrap();
    bench.wait_for_error("is not there");
    fs::write(away.join("d0/changed"), "x").unwrap();
    fs::rename(&away, &bench.brick).unwrap();
    bench.wait_for_return();

    fs::rename(&bench.brick, &away).unwrap();
    fs::create_dir(&bench.brick).unwrap();
    fs::write(bench.brick.join("another"), "x").unwrap();
    bench.wait_for_error("another directory");
    fs::remove_dir_all(&bench.brick).unwrap();
    fs::rename(&away, &bench.brick).unwrap();
    bench.wait_for_return();

    run(Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(&bench.brick));
    bench.wait_for_error("another file system");
    run(Command::new("umount").arg(&bench.brick));
    bench.wait_for_return();
}

#[test]
fn shut_down() {
    for kind in ["ext4", "xfs"] {
        let Some(mut bench) = Bench::new(kind) else { continue };
        fs::write(bench.brick.join("d0/last"), "x").unwrap();
        rustix::fs::sync();
        bench.catch_up();
        let root = bench.filesystem.root();
        // Events that are on their way make the recorder look at what cannot be looked at any more.
        bench.recorder.freeze(true);
        for number in 0..20 {
            fs::write(bench.brick.join(format!("d{}/f{number}", number % 3)), "changed").unwrap();
        }
        run(Command::new("xfs_io").args(["-x", "-c", "shutdown"]).arg(&root));
        drop(fs::write("/proc/sys/vm/drop_caches", "2"));
        bench.recorder.freeze(false);
        bench.wait_for_error("is not there");
        run(Command::new("umount").arg("-l").arg(&root));
        wait_for("the descriptors' end", || !bench.is_busy());
        bench.filesystem.mount();
        bench.wait_for_return();
    }
}

/// Freezing stops writers. A recorder with its state elsewhere goes on; one with its state there waits as they do.
#[test]
fn frozen() {
    let Some(mut bench) = Bench::new("xfs") else { return };
    let root = bench.filesystem.root();
    fs::write(bench.brick.join("before"), "x").unwrap();
    run(Command::new("fsfreeze").arg("-f").arg(&root));
    let thaw = Thaw(&root);
    bench.catch_up();
    assert_eq!(bench.error(), "");
    drop(thaw);
    fs::write(bench.brick.join("after"), "x").unwrap();
    bench.catch_up();

    let Some(filesystem) = FileSystem::new("ext4") else { return };
    let (brick, state) = (filesystem.dir("brick"), filesystem.dir("state"));
    let recorder = Recorder::start(&[]);
    let mut client = recorder.follow(&brick, &state);
    client.barrier();
    fs::write(brick.join("before"), "x").unwrap();
    let root = filesystem.root();
    run(Command::new("fsfreeze").arg("-f").arg(&root));
    let thaw = Thaw(&root);
    // Answers about how it is do not wait.
    for _ in 0..20 {
        std::thread::sleep(std::time::Duration::from_millis(100));
        recorder.admin().status();
    }
    drop(thaw);
    client.barrier();
    let mut model = Model::default();
    model.read(&client.journal);
    model.assert_equals_disk(&brick);
    assert_eq!(recorder.admin().status()[0].error, "");
}

struct Thaw<'a>(&'a Path);

impl Drop for Thaw<'_> {
    fn drop(&mut self) {
        run(Command::new("fsfreeze").arg("-u").arg(self.0));
    }
}

/// At the start: the brick is empty, not mounted, or made anew. Only the operator can say that this is right.
#[test]
fn another_or_empty_at_the_start() {
    for kind in ["ext4", "xfs", "btrfs"] {
        let Some(bench) = Bench::new(kind) else { continue };
        let Bench { mut filesystem, brick, state, recorder, mut model } = bench;
        recorder.stop();
        let refused = |text: &str| {
            let (before, recorder) = (removals(&state), Recorder::start(&[]));
            let error = recorder.admin().attach(common::process::BRICK, &brick, &state).unwrap_err();
            assert!(error.contains(text), "{kind}: {error}");
            assert_eq!(removals(&state), before, "{kind}: {text}");
        };
        let consent = || fs::write(state.join(ACCEPT_FILE), "").unwrap();

        filesystem.unmount_lazily();
        refused("is not there");
        fs::create_dir_all(&brick).unwrap();
        refused(" is another ");
        fs::remove_dir(&brick).unwrap();
        filesystem.mount();

        for dir in ["d0", "d1", "d2"] {
            fs::rename(brick.join(dir), filesystem.root().join(dir)).unwrap();
        }
        refused("is empty, but 23 objects were recorded");
        for dir in ["d0", "d1", "d2"] {
            fs::rename(filesystem.root().join(dir), brick.join(dir)).unwrap();
        }
        let recorder = Recorder::start(&[]);
        recorder.follow(&brick, &state).barrier();
        model.read(&state.join("changelogs"));
        model.assert_equals_disk(&brick);
        recorder.stop();

        for dir in ["d0", "d1", "d2"] {
            fs::rename(brick.join(dir), filesystem.root().join(dir)).unwrap();
        }
        consent();
        // A consent that was given for something else long ago does not count.
        let old = fs::File::open(state.join(ACCEPT_FILE)).unwrap();
        old.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(3600)).unwrap();
        refused("is empty");
        consent();
        let recorder = Recorder::start(&[]);
        recorder.follow(&brick, &state).barrier();
        model.read(&state.join("changelogs"));
        assert!(model.entries.is_empty(), "{kind}");
        assert!(!state.join(ACCEPT_FILE).exists(), "a consent counts once");
        fs::rename(filesystem.root().join("d0"), brick.join("d0")).unwrap();
        recorder.client().barrier();
        recorder.stop();
        model.read(&state.join("changelogs"));

        // The same directory of a file system that was made anew: its root may have the same handle.
        filesystem.make_anew(kind);
        fs::create_dir_all(brick.join("d0")).unwrap();
        fs::write(brick.join("d0/f0"), "restored").unwrap();
        refused("another file system");
        consent();
        let recorder = Recorder::start(&[]);
        let mut client: Client = recorder.follow(&brick, &state);
        client.barrier();
        model.read(&state.join("changelogs"));
        model.assert_equals_disk(&brick);
        model.assert_data_announced(&brick);
        recorder.stop();
        // And that is the brick from now on.
        let recorder = Recorder::start(&[]);
        recorder.follow(&brick, &state).barrier();
        assert!(!model.read(&state.join("changelogs")).iter().any(is_removal));
    }
}

/// How many removals a changelog tells of.
fn removals(state: &Path) -> usize {
    let mut model = Model { lenient: true, ..Model::default() };
    model.read(&state.join("changelogs")).iter().filter(|record| is_removal(record)).count()
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
