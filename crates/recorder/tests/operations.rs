//! What single operations of applications become, on every file system.

mod common;

use std::fs::{self, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use changelog::{EntryOp, Gfid, Record};
use common::client::Client;
use common::{FileSystem, KINDS, Model, Recorder};
use protocol::brick::Look;
use rustix::fs::{CWD, Mode, OFlags, RenameFlags, renameat_with};

const EPOCH: SystemTime = SystemTime::UNIX_EPOCH;

struct Bench {
    brick: std::path::PathBuf,
    outside: std::path::PathBuf,
    state: std::path::PathBuf,
    recorder: Recorder,
    client: Client,
    model: Model,
    /// Kept until the end: dropping it unmounts.
    _filesystem: FileSystem,
}

impl Bench {
    fn new(kind: &str) -> Option<Bench> {
        let filesystem = FileSystem::new(kind)?;
        let (brick, outside, state) = (filesystem.dir("brick"), filesystem.dir("outside"), filesystem.dir("state"));
        let recorder = Recorder::start(&[]);
        let client = recorder.follow(&brick, &state);
        let mut bench =
            Bench { brick, outside, state, recorder, client, model: Model::default(), _filesystem: filesystem };
        bench.news();
        Some(bench)
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.brick.join(name)
    }

    fn news(&mut self) -> Vec<Record> {
        self.client.barrier();
        let records = self.model.read(&self.client.journal);
        self.model.assert_equals_disk(&self.brick);
        records
    }

    /// What is recorded of `act`: one word a record, M records of directories left out.
    fn told(&mut self, act: impl FnOnce(&Path)) -> String {
        act(&self.brick);
        let records = self.news();
        let words = records.iter().filter_map(|record| {
            let word = match record {
                Record::Entry(_, op) => {
                    let name = |entry: &changelog::EntryName| {
                        let name = String::from_utf8_lossy(&entry.name).into_owned();
                        if entry.parent == Gfid::PARKING { "parking".into() } else { name }
                    };
                    match op.new_entry() {
                        Some(to) => format!("{} {}>{}", op.fop(), name(op.entry()), name(to)),
                        None => format!("{} {}", op.fop(), name(op.entry())),
                    }
                }
                Record::Data(_) => "D".into(),
                Record::Meta(gfid, _) if *gfid == Gfid::ROOT || self.model.kinds.get(gfid) == Some(&'d') => {
                    return None;
                }
                Record::Meta(..) => "M".into(),
            };
            Some(word)
        });
        let mut words: Vec<String> = words.collect();
        // A file may be looked at between its write and its close: each is told then.
        words.dedup_by(|later, earlier| later == "D" && earlier == "D");
        words.join(", ")
    }
}

#[test]
fn every_operation_is_recorded() {
    for kind in KINDS {
        let Some(mut bench) = Bench::new(kind) else { continue };
        let write =
            |name: &'static str, text: &'static str| move |brick: &Path| fs::write(brick.join(name), text).unwrap();
        let rename =
            |a: &'static str, b: &'static str| move |brick: &Path| fs::rename(brick.join(a), brick.join(b)).unwrap();
        assert_eq!(bench.told(write("f", "hello")), "CREATE f, D", "{kind}");
        assert_eq!(bench.told(|brick| fs::create_dir(brick.join("d")).unwrap()), "MKDIR d", "{kind}");
        assert_eq!(
            bench.told(|brick| std::os::unix::fs::symlink("f", brick.join("s")).unwrap()),
            "SYMLINK s",
            "{kind}"
        );
        let fifo = |brick: &Path| {
            rustix::fs::mknodat(CWD, brick.join("p"), rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
        };
        assert_eq!(bench.told(fifo), "MKNOD p", "{kind}");
        assert_eq!(bench.told(|brick| fs::hard_link(brick.join("f"), brick.join("l")).unwrap()), "LINK l, M", "{kind}");
        assert_eq!(bench.told(|brick| fs::remove_file(brick.join("l")).unwrap()), "UNLINK l, M", "{kind}");
        assert_eq!(bench.told(rename("f", "d/g")), "RENAME f>g, M", "{kind}");
        bench.told(write("v", "victim"));
        assert_eq!(bench.told(rename("d/g", "v")), "UNLINK v, RENAME g>v, M", "{kind}");
        bench.told(write("w", "other"));
        let swapped = bench.told(|brick| {
            renameat_with(CWD, brick.join("v"), CWD, brick.join("w"), RenameFlags::EXCHANGE).unwrap();
        });
        assert!(swapped.contains(">parking") && swapped.contains("parking>"), "{kind}: {swapped}");
        for (what, act) in [
            (
                "chmod",
                Box::new(|brick: &Path| fs::set_permissions(brick.join("w"), Permissions::from_mode(0o640)).unwrap())
                    as Box<dyn Fn(&Path)>,
            ),
            ("chown", Box::new(|brick: &Path| std::os::unix::fs::chown(brick.join("w"), Some(5), Some(6)).unwrap())),
            ("setxattr", Box::new(|brick: &Path| xattr::set(brick.join("w"), "user.a", b"b").unwrap())),
            ("removexattr", Box::new(|brick: &Path| xattr::remove(brick.join("w"), "user.a").unwrap())),
        ] {
            assert_eq!(bench.told(act), "M", "{kind} {what}");
        }
        let patch = |brick: &Path| {
            OpenOptions::new().write(true).open(brick.join("w")).unwrap().write_all_at(b"X", 1).unwrap();
        };
        assert_eq!(bench.told(patch), "D", "{kind}");
        let truncate = |brick: &Path| OpenOptions::new().write(true).open(brick.join("w")).unwrap().set_len(2).unwrap();
        assert_eq!(bench.told(truncate), "D", "{kind}");
        let unnamed = |brick: &Path| {
            let flags = OFlags::TMPFILE | OFlags::RDWR;
            let file = rustix::fs::openat(CWD, brick, flags, Mode::RUSR | Mode::WUSR).unwrap();
            rustix::io::write(&file, b"content").unwrap();
            let path = posix::fd_path(std::os::fd::AsFd::as_fd(&file));
            rustix::fs::linkat(CWD, path, CWD, brick.join("t"), rustix::fs::AtFlags::SYMLINK_FOLLOW).unwrap();
        };
        assert_eq!(bench.told(unnamed), "CREATE t, D", "{kind}");
        assert_eq!(bench.told(|brick| fs::remove_dir(brick.join("d")).unwrap()), "RMDIR d", "{kind}");
        let outside = bench.outside.clone();
        assert_eq!(bench.told(|brick| fs::rename(brick.join("w"), outside.join("w")).unwrap()), "UNLINK w", "{kind}");
        assert_eq!(
            bench.told(|brick| fs::rename(outside.join("w"), brick.join("w")).unwrap()),
            "CREATE w, D",
            "{kind}"
        );
        assert_eq!(bench.told(|_| fs::write(outside.join("elsewhere"), "x").unwrap()), "", "{kind}");
        let private = |brick: &Path| {
            fs::create_dir_all(brick.join(".gsync/stage")).unwrap();
            fs::write(brick.join(".gsync/stage/file"), "x").unwrap();
        };
        assert_eq!(bench.told(private), "", "{kind}: private state");
        assert_eq!(bench.told(rename(".gsync/stage", "stage")), "MKDIR stage, CREATE file, D", "{kind}");
    }
}

#[test]
fn birth_is_that_of_the_file() {
    let Some(mut bench) = Bench::new("ext4") else { return };
    fs::write(bench.path("f"), "x").unwrap();
    fs::set_permissions(bench.path("f"), Permissions::from_mode(0o4751)).unwrap();
    std::os::unix::fs::chown(bench.path("f"), Some(12), Some(13)).unwrap();
    fs::set_permissions(bench.path("f"), Permissions::from_mode(0o4751)).unwrap();
    let records = bench.news();
    let births: Vec<_> = records
        .iter()
        .filter_map(|record| match record {
            Record::Entry(_, EntryOp::Create(birth, _)) => Some(*birth),
            _ => None,
        })
        .collect();
    assert_eq!(births.len(), 1);
    // The look may have been ahead of the later calls or not; the type is there in any case.
    assert_eq!(births[0].mode & 0o170000, 0o100000);
}

/// Changes inside of a directory change the directory: without looking at it again, its times in the index were stale
/// in nearly every run of the fuzz.
#[test]
fn a_changed_entry_is_told_of_its_directory_too() {
    for kind in KINDS {
        let Some(mut bench) = Bench::new(kind) else { continue };
        fs::create_dir(bench.path("d")).unwrap();
        bench.news();
        let dir = bench.client.gfid("d");
        fs::write(bench.path("d/f"), "x").unwrap();
        let records = bench.news();
        assert!(
            records.iter().any(|record| matches!(record, Record::Meta(gfid, _) if *gfid == dir)),
            "{kind} {records:?}"
        );
    }
}

#[test]
fn a_file_that_stays_open_is_told_after_a_while() {
    let Some(mut bench) = Bench::new("tmpfs") else { return };
    fs::write(bench.path("log"), "line\n").unwrap();
    bench.news();
    let before = bench.model.data.values().sum::<u64>();
    let mut log = OpenOptions::new().append(true).open(bench.path("log")).unwrap();
    let begin = Instant::now();
    log.write_all(b"line\n").unwrap();
    let mut model = bench.model.clone();
    let journal = bench.client.journal.clone();
    common::wait_for("a D record", || {
        model.read(&journal);
        model.data.values().sum::<u64>() > before
    });
    assert!(begin.elapsed() > Duration::from_secs(8), "it was waited for a close");
    // A barrier does not wait.
    log.write_all(b"line\n").unwrap();
    bench.model = model;
    let news = bench.news();
    assert!(news.iter().any(|record| matches!(record, Record::Data(_))), "{news:?}");
    // Setting times owes no content (of the modification time alone the kernel tells as of a write).
    drop(log);
    bench.news();
    let times = std::fs::FileTimes::new().set_modified(EPOCH).set_accessed(EPOCH);
    let touched = bench.told(|brick| fs::File::open(brick.join("log")).unwrap().set_times(times).unwrap());
    assert_eq!(touched, "M");
}

#[test]
fn whole_trees_come_and_go() {
    for kind in KINDS {
        let Some(mut bench) = Bench::new(kind) else { continue };
        let outside = bench.outside.clone();
        for dir in 0..40 {
            let path = outside.join(format!("tree/{}/{dir}", dir % 7));
            fs::create_dir_all(&path).unwrap();
            for file in 0..150 {
                fs::write(path.join(format!("f{file}")), "x").unwrap();
            }
        }
        fs::hard_link(outside.join("tree/0/0/f0"), outside.join("tree/1/1/link")).unwrap();
        fs::rename(outside.join("tree"), bench.path("tree")).unwrap();
        bench.news();
        bench.model.assert_data_announced(&bench.brick);
        assert_eq!(bench.model.entries.len(), 1 + 7 + 40 + 40 * 150 + 1, "{kind}");
        // Out, and in again under another name while the first is being recorded.
        fs::rename(bench.path("tree"), outside.join("tree")).unwrap();
        fs::rename(outside.join("tree"), bench.path("again")).unwrap();
        bench.news();
        fs::rename(bench.path("again"), outside.join("tree")).unwrap();
        std::thread::sleep(Duration::from_millis(30));
        fs::rename(outside.join("tree"), bench.path("third")).unwrap();
        fs::write(bench.path("third/0/0/f0"), "changed").unwrap();
        bench.news();
        assert_eq!(bench.model.entries.len(), 1 + 7 + 40 + 40 * 150 + 1, "{kind}");
        fs::rename(bench.path("third"), outside.join("tree")).unwrap();
        bench.news();
        assert!(bench.model.entries.is_empty(), "{kind}");
        fs::rename(outside.join("tree"), bench.path("tree")).unwrap();
        fs::remove_dir_all(bench.path("tree")).unwrap();
        bench.news();
        assert!(bench.model.entries.is_empty(), "{kind}");
    }
}

/// One file thrown to and fro between two directories is seen at both places, or at none; it never becomes a delete.
#[test]
fn a_bouncing_file_is_never_deleted() {
    for kind in KINDS {
        let Some(mut bench) = Bench::new(kind) else { continue };
        for dir in ["a", "b"] {
            fs::create_dir(bench.path(dir)).unwrap();
        }
        fs::write(bench.path("a/ball"), "x").unwrap();
        fs::create_dir(bench.path("a/box")).unwrap();
        bench.news();
        let until = Instant::now() + Duration::from_millis(1500);
        let brick = bench.brick.clone();
        std::thread::scope(|scope| {
            for name in ["ball", "box"] {
                let (a, b) = (brick.join("a").join(name), brick.join("b").join(name));
                scope.spawn(move || {
                    while Instant::now() < until {
                        fs::rename(&a, &b).unwrap();
                        fs::rename(&b, &a).unwrap();
                    }
                });
            }
        });
        let records = bench.news();
        let deletes = records.iter().filter(|record| {
            matches!(
                record,
                Record::Entry(_, EntryOp::Unlink(..) | EntryOp::Rmdir(..) | EntryOp::Create(..) | EntryOp::Mkdir(..))
            )
        });
        assert_eq!(deletes.count(), 0, "{kind}");
        eprintln!("{kind}: {} records while bouncing", records.len());
    }
}

/// Changelog and index are on the same file system: writing them must not cause more to write.
#[test]
fn the_recorder_does_not_record_itself() {
    for kind in KINDS {
        let Some(mut bench) = Bench::new(kind) else { continue };
        for number in 0..200 {
            fs::write(bench.path(&format!("f{number}")), "x").unwrap();
        }
        bench.news();
        std::thread::sleep(Duration::from_millis(2500));
        let position = bench.client.barrier();
        std::thread::sleep(Duration::from_millis(1500));
        assert_eq!(bench.client.barrier(), position, "{kind}");
        let cpu = |pid: u32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            let fields: Vec<u64> =
                stat.rsplit(')').next().unwrap().split_whitespace().filter_map(|f| f.parse().ok()).collect();
            fields[9] + fields[10]
        };
        let before = cpu(bench.recorder.pid());
        std::thread::sleep(Duration::from_millis(1000));
        assert!(cpu(bench.recorder.pid()) - before < 5, "{kind}: an idle recorder is idle");
        assert!(bench.state.join("index.redb").exists());
    }
}

#[test]
fn looks_see_what_is_there_now() {
    let Some(mut bench) = Bench::new("ext4") else { return };
    fs::write(bench.path("f"), "x").unwrap();
    bench.news();
    assert!(matches!(bench.client.look(Gfid::ROOT, "f"), Look::Present(_, object) if object.size == 1));
    bench.recorder.freeze(false);
}
