//! The agent as a process: doors, channels, epochs, rsync, readers, attacks, damages.

mod common;

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use changelog::Position;
use common::filesystem::on_each;
use common::worker::*;
use common::*;
use protocol::agent::{
    AgentHello, Item, MAX_PENDING_ITEMS, Mark, Numbered, Outcome, Pending, Refusal, Request, Response, Stored, Subject,
    WorkerHello,
};
use protocol::hello::Versions;
use protocol::stage::Staged;
use protocol::{Gfid, Kind, Object, Time, Version};
use rustix::process::Signal;

const ROOT: Gfid = Gfid::ROOT;

fn scratch() -> (tempfile::TempDir, AgentRoot) {
    let dir = tempfile::tempdir().unwrap();
    let root = AgentRoot(dir.path().into());
    (dir, root)
}

fn stored(n: u64) -> Stored {
    let mark = Mark { brick: [2; 16], position: Position { after: n, offset: 3 }, synced_until: n };
    let pending = Pending { subject: Subject::Content(gfid(5)), reason: "because".into(), since: 9 };
    Stored { mark: Some(mark), pending: vec![pending], rescan: None }
}

fn new_file(worker: &mut Worker, channel: &mut Door, name: &str, gfid: Gfid, content: &[u8], version: u32) {
    assert_eq!(send_file(channel, gfid, content).unwrap(), Staged { gfid, errno: 0 });
    let object = file_object(content, version);
    let items = vec![
        Item::Content { gfid, object: object.clone(), whole: false },
        Item::Bind { place: place(ROOT, name), gfid, from: None, object },
    ];
    assert_eq!(worker.apply(items, vec![]).unwrap().0, [Outcome::Done, Outcome::Done]);
}

#[test]
fn mark_and_pending_list_survive_every_way_to_stop() {
    let (_dir, root) = scratch();
    let mut worker = Worker::connect(root.path(), 3);
    assert_eq!(worker.welcome.stored, Stored::default());
    assert!(matches!(worker.request(&Request::Ping).unwrap(), Response::Pong { free_bytes: 1.., .. }));
    worker.commit(stored(1)).unwrap();
    drop(worker);
    for signal in [Signal::TERM, Signal::KILL, Signal::TERM] {
        assert!(root.end_agent(signal));
        assert_eq!(root.path().join(".gsync/clean").exists(), signal == Signal::TERM);
        assert_eq!(Worker::connect(root.path(), 3).welcome.stored, stored(1));
    }
    root.end_agent(Signal::TERM);
    for name in ["index.redb", "clean"] {
        std::fs::remove_file(root.path().join(".gsync").join(name)).unwrap();
    }
    assert_eq!(Worker::connect(root.path(), 3).welcome.stored, stored(1));
}

#[test]
fn one_damaged_state_file_costs_one_commit_at_most() {
    for damage in 0..3 {
        for newest in [true, false] {
            let (_dir, root) = scratch();
            let mut worker = Worker::connect(root.path(), 3);
            worker.commit(stored(1)).unwrap();
            worker.commit(stored(2)).unwrap();
            drop(worker);
            root.end_agent(Signal::KILL);
            let mut slots: Vec<_> = ["a", "b"]
                .map(|slot| root.path().join(format!(".gsync/state-{}-0.{slot}", Gfid([1; 16]))))
                .map(|path| (std::fs::read(&path).unwrap(), path))
                .into();
            slots.sort_by_key(|(bytes, _)| u64::from_le_bytes(bytes[8..16].try_into().unwrap()));
            let (mut bytes, path) = slots.swap_remove(usize::from(newest));
            match damage {
                0 => bytes.truncate(bytes.len() / 2),
                1 => bytes[30] ^= 1,
                _ => bytes.clear(),
            }
            std::fs::write(path, bytes).unwrap();
            let worker = Worker::connect(root.path(), 3);
            assert_eq!(worker.welcome.stored, if newest { stored(1) } else { stored(2) }, "{damage} {newest}");
        }
    }
}

#[test]
fn an_older_worker_is_refused_also_on_an_open_connection() {
    let (_dir, root) = scratch();
    let mut old = Worker::connect(root.path(), 5);
    let mut channel = old.stage_channel();
    new_file(&mut old, &mut channel, "f", gfid(1), b"old", 1);
    let try_hello = |hello: &WorkerHello| match Worker::try_connect(root.path(), hello).err().flatten().map(|b| *b) {
        Some(AgentHello::Refused { reason, .. }) => reason,
        other => panic!("{other:?}"),
    };
    let refusal = |epoch| try_hello(&hello(epoch));
    assert_eq!(refusal(4), Refusal::Fenced { current: 5 });
    assert_eq!(old.apply(vec![], vec![]).unwrap(), (vec![], vec![]));

    // A newer one takes over: whatever the older one says, also what is under way, is not carried out.
    let mut new = Worker::connect(root.path(), 6);
    let item = bind(ROOT, "late", gfid(2), Kind::Directory);
    let body = Request::Apply(protocol::agent::Batch { items: vec![item], gone: vec![] });
    let _ = old.door.send(&Numbered { number: 9, body });
    let refused = old.door.receive::<Numbered<Response>>().unwrap();
    assert_eq!(refused.number, 0);
    assert_eq!(refused.body, Response::Refused(Refusal::Fenced { current: 6 }));
    assert!(old.door.receive::<Numbered<Response>>().is_err());
    assert!(!root.path().join("late").exists());
    assert!(send_file(&mut channel, gfid(3), b"late").is_err());
    assert!(old.try_stage_channel().is_err());
    assert!(!root.path().join(".gsync/stage").join(&old.welcome.stage_token).exists());
    new.commit(stored(1)).unwrap();
    assert_eq!(refusal(5), Refusal::Fenced { current: 6 });

    // The same epoch again is the same worker after a lost connection.
    let again = Worker::connect(root.path(), 6);
    assert_eq!(
        new.door.receive::<Numbered<Response>>().unwrap().body,
        Response::Refused(Refusal::Fenced { current: 6 })
    );
    assert!(new.door.receive::<Response>().is_err());
    assert_eq!(again.welcome.stored, stored(1));

    // Epochs outlive the agent; other sessions and replica sets have their own.
    drop((old, new, again));
    root.end_agent(Signal::KILL);
    assert_eq!(refusal(5), Refusal::Fenced { current: 6 });
    let mut other = hello(1);
    other.replica_set = 1;
    assert!(Worker::try_connect(root.path(), &other).is_ok());
    let mut foreign = hello(9);
    foreign.versions = Versions { min: 900, max: 901, software: "future".into() };
    assert_eq!(try_hello(&foreign), Refusal::Version);
}

#[test]
fn a_worker_of_another_release_is_told_so() {
    let (_dir, root) = scratch();
    let mut door = Door::open(root.path(), &["gsync", "control"]);
    door.exchange_magic();
    // Its hello has other fields behind the versions.
    let versions = Versions { min: 900, max: 901, software: "9.0".into() };
    door.send(&(versions, "something", 7u8)).unwrap();
    let AgentHello::Refused { versions, reason } = door.receive().unwrap() else { panic!("not refused") };
    assert_eq!((versions, reason), (Versions::ours(), Refusal::Version));
}

#[test]
fn many_doors_start_one_agent() {
    let (_dir, root) = scratch();
    let doors: Vec<_> = (0..8)
        .map(|i| {
            let path = root.path().to_path_buf();
            std::thread::spawn(move || {
                let mut hello = hello(1);
                hello.replica_set = i;
                Worker::try_connect(&path, &hello).map_err(|_| "refused").unwrap()
            })
        })
        .collect();
    let mut workers: Vec<Worker> = doors.into_iter().map(|d| d.join().unwrap()).collect();
    for (i, worker) in workers.iter_mut().enumerate() {
        let item = bind(ROOT, &i.to_string(), gfid(i as u32), Kind::Directory);
        assert_eq!(worker.apply(vec![item], vec![]).unwrap().0, [Outcome::Done]);
    }
    assert_eq!(names(root.path()).len(), 8);
}

#[test]
fn doors_end_when_their_peer_ends_and_agents_notice_dead_doors() {
    let (_dir, root) = scratch();
    let mut worker = Worker::connect(root.path(), 1);
    let stage = root.path().join(".gsync/stage").join(&worker.welcome.stage_token);
    assert!(stage.exists());
    drop(worker.door.input.take());
    wait_until("the door ends", || worker.door.process.0.try_wait().unwrap().is_some());
    wait_until("the stage is removed", || !stage.exists());
    let mut worker = Worker::connect(root.path(), 1);
    let stage = root.path().join(".gsync/stage").join(&worker.welcome.stage_token);
    worker.door.process.0.kill().unwrap();
    wait_until("the stage is removed", || !stage.exists());
}

#[test]
fn an_idle_agent_ends_cleanly() {
    let (_dir, root) = scratch();
    let mut command = Command::new(AGENT);
    command.args(["serve", "--idle-exit-seconds", "1", "--root"]).arg(root.path()).stderr(Stdio::null());
    let mut agent = Process(command.spawn().unwrap());
    wait_until("it ends", || agent.0.try_wait().unwrap().is_some());
    assert!(agent.0.wait().unwrap().success());
    assert!(root.path().join(".gsync/clean").exists());
    assert!(!root.path().join(".gsync/agent.sock").exists());
}

#[test]
fn files_with_holes_and_errors_come_through_a_stage_channel() {
    let Some(small) = SmallTmpfs::mount() else { return };
    let root = AgentRoot(small.path().into());
    let mut worker = Worker::connect(root.path(), 1);
    let mut channel = worker.stage_channel();
    // A piece far behind a hole, and a hole at the end.
    let (hole, size): (u64, u64) = (3 << 30, (3 << 30) + 5_000_000);
    let mut bytes = entry(&format!("{}/0", gfid(1)), b"start");
    bytes.extend(entry(&format!("{}/{hole}", gfid(1)), b"far"));
    bytes.extend(entry(&format!("{}/{size}/{size}/0", gfid(1)), b""));
    channel.input.as_mut().unwrap().write_all(&bytes).unwrap();
    assert_eq!(channel.receive::<Staged>().unwrap(), Staged { gfid: gfid(1), errno: 0 });
    let object = Object { size, ..file_object(b"", 1) };
    let items = vec![
        Item::Content { gfid: gfid(1), object: object.clone(), whole: false },
        Item::Bind { place: place(ROOT, "sparse"), gfid: gfid(1), from: None, object: object.clone() },
        Item::Have { gfid: gfid(1), version: Version::of(&object) },
    ];
    assert_eq!(worker.apply(items, vec![]).unwrap().0, vec![Outcome::Done; 3]);
    let meta = root.path().join("sparse").metadata().unwrap();
    assert!(meta.len() == size && meta.blocks() < 100, "{meta:?}");

    // The file system is full: this file fails, the next one does not, the name keeps what it had.
    new_file(&mut worker, &mut channel, "f", gfid(2), b"before", 1);
    let piece = vec![7; protocol::stage::MAX_PIECE_BYTES];
    let mut bytes = Vec::new();
    for i in 0..40 {
        bytes.extend(entry(&format!("{}/{}", gfid(2), i << 20), &piece));
    }
    bytes.extend(entry(&format!("{}/{size}/{size}/0", gfid(2), size = 40 << 20), b""));
    channel.input.as_mut().unwrap().write_all(&bytes).unwrap();
    assert_eq!(channel.receive::<Staged>().unwrap(), Staged { gfid: gfid(2), errno: 28 });
    let content =
        Item::Content { gfid: gfid(2), object: Object { size: 40 << 20, ..file_object(b"", 2) }, whole: false };
    assert_eq!(worker.apply(vec![content], vec![]).unwrap().0, [Outcome::NeedContent]);
    assert_eq!(std::fs::read(root.path().join("f")).unwrap(), b"before");
    new_file(&mut worker, &mut channel, "g", gfid(3), b"", 1);
    // A file that is given up in the middle for another one is not staged.
    let unfinished = entry(&format!("{}/0", gfid(4)), b"unfinished");
    channel.input.as_mut().unwrap().write_all(&unfinished).unwrap();
    new_file(&mut worker, &mut channel, "h", gfid(5), b"whole", 1);
    let content = Item::Content { gfid: gfid(4), object: file_object(b"unfinished", 1), whole: false };
    assert_eq!(worker.apply(vec![content], vec![]).unwrap().0, [Outcome::NeedContent]);
}

#[test]
fn a_file_looks_as_it_came_or_as_it_is_stated() {
    let (_dir, root) = scratch();
    let mut worker = Worker::connect(root.path(), 1);
    let mut channel = worker.stage_channel();
    let came = Object {
        mode: 0o4751,
        uid: 5,
        gid: 6,
        mtime: Time { secs: 7, nanos: 123_456_789 },
        ..file_object(b"content", 1)
    };
    let xattr = protocol::Xattr { name: b"user.x".into(), value: b"y".into() };
    let stated = Object {
        mode: 0o2644,
        uid: 7,
        gid: 8,
        mtime: Time { secs: -5, nanos: 1 },
        xattrs: vec![xattr],
        ..came.clone()
    };
    for (number, object) in [came, stated].iter().enumerate() {
        let (gfid, name) = (gfid(number as u32 + 1), format!("f{number}"));
        let bytes = entry_with(&format!("{gfid}/0/7/123456789"), b"content", |header| {
            header.set_mode(0o4751);
            header.set_uid(5);
            header.set_gid(6);
            header.set_mtime(7);
        });
        channel.input.as_mut().unwrap().write_all(&bytes).unwrap();
        assert_eq!(channel.receive::<Staged>().unwrap(), Staged { gfid, errno: 0 });
        let items = vec![
            Item::Content { gfid, object: object.clone(), whole: false },
            Item::Bind { place: place(ROOT, &name), gfid, from: None, object: object.clone() },
        ];
        assert_eq!(worker.apply(items, vec![]).unwrap().0, vec![Outcome::Done; 2]);
        let file = std::fs::File::open(root.path().join(&name)).unwrap();
        let found = Object::read(file.as_fd()).unwrap();
        assert_eq!(Object { ctime: object.ctime, nlink: object.nlink, ..found }, *object);
        assert_eq!(gsync_agent::stamp::of(file.as_fd()).unwrap(), Some(gfid));
    }
    assert!(list(&root.path().join(".gsync/stage").join(&worker.welcome.stage_token)).is_empty());
}

#[test]
fn a_large_file_arrives_byte_for_byte() {
    let (_dir, root) = scratch();
    let mut worker = Worker::connect(root.path(), 1);
    let mut channel = worker.stage_channel();
    let mut content = vec![0; (5 << 20) + 77];
    fastrand::Rng::with_seed(1).fill(&mut content);
    // Pieces of all lengths, so that some are read, some carried by the kernel, and some both.
    let mut bytes = entry(&format!("{}/0", gfid(1)), &content[..1000]);
    let mut offset = 1000;
    for length in [1 << 20, 77, 200_000, 1 << 20, 131_071, 1 << 20] {
        bytes.extend(entry(&format!("{}/{offset}", gfid(1)), &content[offset..offset + length]));
        offset += length;
    }
    let (size, last) = (content.len(), content.len() - (1 << 20));
    bytes.extend(entry(&format!("{}/{offset}", gfid(1)), &content[offset..last]));
    bytes.extend(entry(&format!("{}/{last}/{size}/0", gfid(1)), &content[last..]));
    channel.input.as_mut().unwrap().write_all(&bytes).unwrap();
    assert_eq!(channel.receive::<Staged>().unwrap(), Staged { gfid: gfid(1), errno: 0 });
    let object = file_object(&content, 1);
    let items = vec![
        Item::Content { gfid: gfid(1), object: object.clone(), whole: false },
        Item::Bind { place: place(ROOT, "large"), gfid: gfid(1), from: None, object },
    ];
    assert_eq!(worker.apply(items, vec![]).unwrap().0, vec![Outcome::Done; 2]);
    assert!(std::fs::read(root.path().join("large")).unwrap() == content, "another content");
}

#[test]
fn malformed_streams_end_their_channel_and_nothing_else() {
    let (_dir, root) = scratch();
    let mut worker = Worker::connect(root.path(), 1);
    let one = gfid(1);
    let mut wrong_type = entry(&format!("{one}/0"), b"");
    wrong_type[156] = b'2';
    let sum: u32 = wrong_type[..148].iter().chain(&wrong_type[156..512]).map(|&b| u32::from(b)).sum::<u32>() + 256;
    wrong_type[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut damaged = entry(&format!("{one}/0"), b"x");
    damaged[3] ^= 1;
    let mut streams = vec![wrong_type, damaged, vec![0x55; 4096]];
    for name in ["../x/0", "x", "etc/passwd", "0/0"] {
        streams.push(entry(name, b"x"));
    }
    for rest in
        ["", "-1", "+1", "1/2", "1/2/x", "1/2/", "1/1/0", "99999999999999999999", "9223372036854775807", "0/../.."]
    {
        let name = format!("{one}/{rest}");
        streams.push(entry(&name, b"x"));
    }
    streams.push(entry(&format!("{one}/0"), &vec![1; protocol::stage::MAX_PIECE_BYTES + 1]));
    for (i, stream) in streams.iter().enumerate() {
        let mut channel = worker.stage_channel();
        let _ = channel.input.as_mut().unwrap().write_all(stream);
        let mut rest = Vec::new();
        let _ = channel.output.read_to_end(&mut rest);
        assert!(rest.is_empty(), "stream {i}");
        wait_until("the door ends", || channel.process.0.try_wait().unwrap().is_some());
    }
    assert!(list(&root.path().join(".gsync/stage").join(&worker.welcome.stage_token)).is_empty());
    assert!(names(root.path()).is_empty());
    let mut channel = worker.stage_channel();
    new_file(&mut worker, &mut channel, "f", one, b"fine", 1);
}

#[test]
fn garbage_on_a_control_channel_ends_it() {
    let (_dir, root) = scratch();
    let mut good = Worker::connect(root.path(), 1);
    for garbage in [
        b"GET / HTTP/1.0\r\n\r\n".to_vec(),
        [&protocol::hello::MAGIC[..], &[0xff; 64]].concat(),
        [&protocol::hello::MAGIC[..], &[4, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]].concat(),
    ] {
        let mut door = Door::open(root.path(), &["gsync", "control"]);
        let _ = door.input.as_mut().unwrap().write_all(&garbage);
        wait_until("the door ends", || door.process.0.try_wait().unwrap().is_some());
    }
    // Too long, after a good hello.
    let mut other = hello(1);
    other.replica_set = 2;
    let mut worker = Worker::try_connect(root.path(), &other).map_err(|_| ()).unwrap();
    let header = [(protocol::MAX_FRAME_BYTES as u32 + 1).to_le_bytes(), [0; 4]].concat();
    worker.door.input.as_mut().unwrap().write_all(&header).unwrap();
    assert!(worker.door.receive::<Response>().is_err());
    let pending = vec![stored(1).pending[0].clone(); MAX_PENDING_ITEMS + 1];
    let too_much = good.request(&Request::Commit(Stored { mark: None, pending, rescan: None })).unwrap();
    assert!(matches!(too_much, Response::Refused(Refusal::Root(_))));
}

#[test]
fn doors_do_nothing_else() {
    let (_dir, root) = scratch();
    for words in [&["sh"][..], &["gsync", "control", "x"], &["rsync", "--server", "--sender", ".", "/"]] {
        let output = Command::new(AGENT).args(["door", "--root"]).arg(root.path()).arg("--").args(words).output();
        let output = output.unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), error.lines().count()), (Some(1), 1), "{error}");
    }
    let asked = |line: &str| {
        let mut command = Command::new(AGENT);
        command.args(["door", "--root"]).arg(root.path()).env("SSH_ORIGINAL_COMMAND", line);
        command.output().unwrap()
    };
    assert_eq!(asked("gsync check; id").status.code(), Some(1));
    let check: serde_json::Value = serde_json::from_slice(&asked("gsync  check").stdout).unwrap();
    for key in ["is_root", "is_writable"] {
        assert_eq!(check[key], true, "{check}");
    }
    assert_eq!(check["place"], "empty", "{check}");
    assert!(list(root.path()).is_empty(), "a check leaves nothing behind");
    assert!(check["free_bytes"].as_u64().unwrap() > 0 && check["error"].is_null() && check["rsync"].is_string());
}

#[test]
fn a_link_planted_at_a_directory_leads_nowhere() {
    let (_dir, root) = scratch();
    let outside = tempfile::tempdir().unwrap();
    let mut worker = Worker::connect(root.path(), 1);
    let items = vec![bind(ROOT, "d", gfid(1), Kind::Directory), bind(gfid(1), "e", gfid(2), Kind::Directory)];
    assert_eq!(worker.apply(items, vec![]).unwrap().0, vec![Outcome::Done; 2]);
    drop(worker);
    root.end_agent(Signal::TERM);
    for (i, stamp) in [None, Some(gfid(1))].into_iter().enumerate() {
        // In the place of the directory, with and without its stamp; the agent has not opened it yet.
        let _ = std::fs::rename(root.path().join("d"), outside.path().join("d"));
        let _ = std::fs::remove_file(root.path().join("d"));
        std::os::unix::fs::symlink(outside.path().join("d"), root.path().join("d")).unwrap();
        if let Some(stamp) = stamp {
            xattr::set(root.path().join("d"), "trusted.gfid", &stamp.0).unwrap();
        }
        let mut worker = Worker::connect(root.path(), 1);
        let items = vec![bind(gfid(1), "x", gfid(3), Kind::Fifo), bind(gfid(2), "y", gfid(4), Kind::Fifo)];
        let outcomes = worker.apply(items, vec![]).unwrap().0;
        assert!(outcomes.iter().all(|o| *o != Outcome::Done), "{outcomes:?}");
        drop(worker);
        assert_eq!(list(&outside.path().join("d")), ["e"]);
        assert!(list(&outside.path().join("d/e")).is_empty());
        root.end_agent(if i == 0 { Signal::TERM } else { Signal::KILL });
    }
}

#[test]
fn another_directory_in_the_place_of_one_is_not_taken_for_it() {
    let (_dir, root) = scratch();
    for stamp in [None, Some(gfid(2)), Some(gfid(9))] {
        let mut worker = Worker::connect(root.path(), 1);
        let items = vec![bind(ROOT, "d", gfid(1), Kind::Directory), bind(ROOT, "e", gfid(2), Kind::Directory)];
        assert_eq!(worker.apply(items, vec![]).unwrap().0, vec![Outcome::Done; 2]);
        drop(worker);
        root.end_agent(Signal::TERM);
        std::fs::remove_dir(root.path().join("d")).unwrap();
        std::fs::create_dir(root.path().join("d")).unwrap();
        if let Some(stamp) = stamp {
            xattr::set(root.path().join("d"), "trusted.gfid", &stamp.0).unwrap();
        }
        let mut worker = Worker::connect(root.path(), 1);
        let into = bind(gfid(1), "x", gfid(3), Kind::Fifo);
        assert_eq!(worker.apply(vec![into], vec![]).unwrap().0, [Outcome::ParentMissing], "{stamp:?}");
        assert!(list(&root.path().join("d")).is_empty());
    }
}

/// What is done to an index file, with its name.
type Damage = (&'static str, fn(&Path));

#[test]
fn a_lost_or_damaged_index_is_made_again() {
    on_each(|root| {
        let damages: [Damage; 6] = [
            ("removed", |path| std::fs::remove_file(path).unwrap()),
            ("emptied", |path| std::fs::write(path, b"").unwrap()),
            ("garbage", |path| std::fs::write(path, vec![0xa5; 300_000]).unwrap()),
            ("cut", |path| {
                let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
                file.set_len(file.metadata().unwrap().len() / 2).unwrap();
            }),
            ("flipped all over", |path| {
                let mut bytes = std::fs::read(path).unwrap();
                bytes.iter_mut().step_by(61).skip(20).for_each(|byte| *byte ^= 0x24);
                std::fs::write(path, bytes).unwrap();
            }),
            ("zeroed head", |path| {
                let mut file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
                file.write_all(&[0; 512]).unwrap();
            }),
        ];
        for (what, damage) in damages {
            for clean in [true, false] {
                let dir = root.join(format!("{what}-{clean}"));
                std::fs::create_dir(&dir).unwrap();
                let root = AgentRoot(dir);
                let mut worker = Worker::connect(root.path(), 1);
                let mut channel = worker.stage_channel();
                let items =
                    vec![bind(ROOT, "d", gfid(1), Kind::Directory), bind(gfid(1), "e", gfid(2), Kind::Directory)];
                assert_eq!(worker.apply(items, vec![]).unwrap().0, vec![Outcome::Done; 2]);
                new_file(&mut worker, &mut channel, "f", gfid(3), b"content", 1);
                worker.commit(stored(4)).unwrap();
                drop((worker, channel));
                root.end_agent(if clean { Signal::TERM } else { Signal::KILL });
                damage(&root.path().join(".gsync/index.redb"));
                // What is noticed only by use ends the agent; the next one makes a new index.
                let mut worker = connect_again_and_again(root.path());
                assert_eq!(worker.welcome.stored, stored(4), "{what}");
                let items = vec![
                    rename((gfid(1), "e"), (ROOT, "e"), gfid(2), Kind::Directory),
                    bind(ROOT, "g", gfid(3), Kind::File),
                ];
                assert_eq!(worker.apply(items, vec![]).unwrap().0, vec![Outcome::Done; 2], "{what} {clean}");
                let expected = [("d", 1), ("e", 2), ("f", 3), ("g", 3)].map(|(n, g)| (n.to_string(), Some(gfid(g))));
                assert_eq!(names(root.path()), expected, "{what}");
            }
        }
    });
}

fn connect_again_and_again(root: &Path) -> Worker {
    for _ in 0..3 {
        if let Ok(mut worker) = Worker::try_connect(root, &hello(1))
            && worker.apply(vec![bind(ROOT, "d", gfid(1), Kind::Directory)], vec![]).is_ok()
        {
            return worker;
        }
        std::thread::sleep(std::time::Duration::from_millis(700));
    }
    panic!("no agent");
}

#[test]
fn a_version_outlives_a_crash_while_the_file_is_the_same() {
    let (_dir, root) = scratch();
    let mut worker = Worker::connect(root.path(), 1);
    let mut channel = worker.stage_channel();
    new_file(&mut worker, &mut channel, "same", gfid(1), b"content", 1);
    new_file(&mut worker, &mut channel, "other", gfid(2), b"content", 1);
    worker.commit(stored(1)).unwrap();
    root.end_agent(Signal::KILL);
    std::fs::write(root.path().join("other"), b"CONTENT").unwrap();
    let mut worker = Worker::connect(root.path(), 1);
    let version = Version::of(&file_object(b"content", 1));
    let have = |n| Item::Have { gfid: gfid(n), version };
    let outcomes = worker.apply(vec![have(1), have(2), have(3)], vec![]).unwrap().0;
    assert_eq!(outcomes, [Outcome::Done, Outcome::NeedContent, Outcome::NeedContent]);
    // Nor when it looks the same again.
    let attributes = Item::Attributes { gfid: gfid(2), object: file_object(b"content", 1) };
    let outcomes = worker.apply(vec![attributes, have(2)], vec![]).unwrap().0;
    assert_eq!(outcomes, [Outcome::Done, Outcome::NeedContent]);
}

/// A clone that was patched and renamed may have the old content with the new size and times after a power cut: the file
/// system wrote the inode and not the data.
#[test]
fn a_version_does_not_outlive_a_power_cut() {
    let (_dir, root) = scratch();
    let mut worker = Worker::connect(root.path(), 1);
    let mut channel = worker.stage_channel();
    new_file(&mut worker, &mut channel, "file", gfid(1), b"content", 1);
    worker.commit(stored(1)).unwrap();
    root.end_agent(Signal::KILL);
    let file = std::fs::File::options().write(true).open(root.path().join("file")).unwrap();
    let mtime = file.metadata().unwrap().modified().unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"CONTENT", 0).unwrap();
    file.set_modified(mtime).unwrap();
    std::fs::write(root.path().join(".gsync/boot"), "00000000-0000-0000-0000-000000000000\n").unwrap();
    let have = || vec![Item::Have { gfid: gfid(1), version: Version::of(&file_object(b"content", 1)) }];
    // Not after another start either.
    for _ in 0..2 {
        let mut worker = Worker::connect(root.path(), 1);
        assert_eq!(worker.apply(have(), vec![]).unwrap().0, [Outcome::NeedContent]);
        drop(worker);
        root.end_agent(Signal::KILL);
    }
    let mut worker = Worker::connect(root.path(), 1);
    let mut channel = worker.stage_channel();
    assert_eq!(send_file(&mut channel, gfid(1), b"content").unwrap(), Staged { gfid: gfid(1), errno: 0 });
    let object = file_object(b"content", 1);
    worker.apply(vec![Item::Content { gfid: gfid(1), object, whole: false }], vec![]).unwrap();
    assert_eq!(worker.apply(have(), vec![]).unwrap().0, [Outcome::Done]);
}

#[test]
fn of_two_objects_with_one_stamp_the_second_is_unknown() {
    let (_dir, root) = scratch();
    let mut worker = Worker::connect(root.path(), 1);
    let items = vec![bind(ROOT, "d", gfid(1), Kind::Directory), bind(gfid(1), "s", gfid(2), Kind::Symlink)];
    assert_eq!(worker.apply(items, vec![]).unwrap().0, vec![Outcome::Done; 2]);
    drop(worker);
    root.end_agent(Signal::KILL);
    let copied = Command::new("cp").arg("-a").arg("d").arg("copy").current_dir(root.path()).status().unwrap();
    assert!(copied.success());
    for name in ["copy", "copy/s"] {
        // cp leaves trusted.* out.
        let original = xattr::get(root.path().join(name.replace("copy", "d")), "trusted.gfid").unwrap().unwrap();
        xattr::set(root.path().join(name), "trusted.gfid", &original).unwrap();
    }
    let mut worker = Worker::connect(root.path(), 1);
    assert_eq!(worker.apply(vec![], vec![]).unwrap(), (vec![], vec![]));
    let seen = names(root.path());
    let stamped = |n: u32| seen.iter().filter(|(_, g)| *g == Some(gfid(n))).count();
    assert_eq!(stamped(1), 1, "{seen:?}");
    let place_of = seen.iter().find(|(_, g)| *g == Some(gfid(1))).unwrap().0.clone();
    let items = vec![bind(gfid(1), "new", gfid(3), Kind::Fifo)];
    assert_eq!(worker.apply(items, vec![]).unwrap().0, [Outcome::Done]);
    assert!(root.path().join(place_of).join("new").symlink_metadata().is_ok());
}

#[test]
fn the_real_rsync_sends_new_files_and_differences() {
    on_each(|dir| {
        let root = AgentRoot(dir.join("root"));
        std::fs::create_dir(root.path()).unwrap();
        let sources = tempfile::tempdir().unwrap();
        let mut worker = Worker::connect(root.path(), 1);
        let mut random = fastrand::Rng::with_seed(5);
        let mut content: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(8 << 20).collect();
        let source = sources.path().join(gfid(1).to_string());
        let send = |worker: &mut Worker, content: &[u8], version: u32| -> u64 {
            std::fs::write(&source, content).unwrap();
            let file = std::fs::File::open(&source).unwrap();
            let object = file_object(content, version);
            posix::object::set_mtime(std::os::fd::AsFd::as_fd(&file), object.mtime).unwrap();
            let sent = rsync(root.path(), sources.path(), &worker.welcome.stage_token, gfid(1));
            let items = vec![
                Item::Content { gfid: gfid(1), object: object.clone(), whole: false },
                Item::Bind { place: place(ROOT, "f"), gfid: gfid(1), from: None, object },
            ];
            assert_eq!(worker.apply(items, vec![]).unwrap().0, vec![Outcome::Done; 2]);
            assert!(std::fs::read(root.path().join("f")).unwrap() == content);
            sent
        };
        let whole = send(&mut worker, &content, 1);
        assert!(whole >= 8 << 20, "{whole}");
        content[4_000_000..4_000_100].fill(1);
        content.extend_from_slice(b"and a little more");
        assert_eq!(worker.request(&Request::Prepare(vec![gfid(1)])).unwrap(), Response::Prepared(vec![true]));
        let difference = send(&mut worker, &content, 2);
        assert!(difference < 200_000, "{difference} bytes for a small change");
        println!("whole {whole}, difference {difference}");
        // An unknown token opens nothing.
        let stranger = "0123456789abcdef0123456789abcdef";
        assert!(try_rsync(root.path(), sources.path(), stranger, gfid(1)).is_none());
    });
}

#[test]
fn an_rsync_dies_with_its_token() {
    let (_dir, root) = scratch();
    let worker = Worker::connect(root.path(), 1);
    let target = format!("{}/", worker.welcome.stage_token);
    let words = ["rsync", "--server", "-tISe.LsfxCIvu", "--inplace", ".", &target];
    let mut door = Door::open(root.path(), &words);
    // rsync greets with its protocol version: it runs.
    door.input.as_mut().unwrap().write_all(&[31, 0, 0, 0]).unwrap();
    let mut greeting = [0; 4];
    door.output.read_exact(&mut greeting).unwrap();
    let mut next = Worker::connect(root.path(), 2);
    // All its descriptors are closed by now; the process is gone a moment later.
    wait_until("rsync has ended", || door.process.0.try_wait().unwrap().is_some());
    assert_eq!(next.apply(vec![], vec![]).unwrap(), (vec![], vec![]));
}

/// Bytes that rsync sent.
fn rsync(root: &Path, sources: &Path, token: &str, gfid: Gfid) -> u64 {
    try_rsync(root, sources, token, gfid).expect("rsync works")
}

fn try_rsync(root: &Path, sources: &Path, token: &str, gfid: Gfid) -> Option<u64> {
    let mut command = Command::new("rsync");
    command.args(protocol::rsync::CLIENT_OPTIONS).arg("--files-from=-").arg("--stats");
    command.arg("-e").arg(format!("{AGENT} door --root {} --", root.display()));
    command.arg(format!("{}/", sources.display())).arg(format!("{}:{token}/", protocol::rsync::LOCAL_HOST));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Fails when the door refuses before.
    let _ = child.stdin.take().unwrap().write_all(format!("{gfid}\0").as_bytes());
    let output = child.wait_with_output().unwrap();
    if !output.status.success() {
        eprintln!("rsync: {}", String::from_utf8_lossy(&output.stderr));
        return None;
    }
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find(|line| line.starts_with("Total bytes sent:")).unwrap();
    line.chars().filter(char::is_ascii_digit).collect::<String>().parse().ok()
}

#[test]
fn a_reader_sees_old_or_new_content_and_nothing_between() {
    on_each(|dir| {
        let root = AgentRoot(dir.join("root"));
        std::fs::create_dir(root.path()).unwrap();
        let mut worker = Worker::connect(root.path(), 1);
        let mut channel = worker.stage_channel();
        let content = |n: u32| format!("{n:08}").repeat(20_000).into_bytes();
        new_file(&mut worker, &mut channel, "f", gfid(1), &content(0), 1);
        new_file(&mut worker, &mut channel, "single", gfid(2), &content(0), 1);
        let link = Item::Bind { place: place(ROOT, "g"), gfid: gfid(1), from: None, object: file_object(b"", 1) };
        assert_eq!(worker.apply(vec![link], vec![]).unwrap().0, [Outcome::Done]);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let readers: Vec<_> = ["f", "g", "single"]
                .map(|name| {
                    let (path, stop) = (root.path().join(name), &stop);
                    scope.spawn(move || {
                        let mut reads = 0;
                        while !stop.load(Ordering::Relaxed) {
                            let seen = std::fs::read(&path).expect("the name is never missing");
                            assert_eq!(seen.len(), 160_000);
                            assert!(seen.chunks(8).all(|part| *part == seen[..8]), "mixed");
                            reads += 1;
                        }
                        reads
                    })
                })
                .into();
            for i in 1..100 {
                new_file(&mut worker, &mut channel, "single", gfid(2), &content(i), i);
                if i % 3 == 0 {
                    // Another object takes the name, by a new file or over by rename.
                    let other = gfid(1000 + i);
                    new_file(&mut worker, &mut channel, "f", other, &content(i), i);
                    let back =
                        Item::Bind { place: place(ROOT, "f"), gfid: gfid(1), from: None, object: file_object(b"", 1) };
                    let (done, _) = worker.apply(vec![back], vec![other]).unwrap();
                    assert_eq!(done, [Outcome::Done]);
                } else {
                    send_file(&mut channel, gfid(1), &content(i)).unwrap();
                    let item = Item::Content { gfid: gfid(1), object: file_object(&content(i), i), whole: false };
                    assert_eq!(worker.apply(vec![item], vec![]).unwrap().0, [Outcome::Done]);
                }
            }
            stop.store(true, Ordering::Relaxed);
            for reader in readers {
                assert!(reader.join().unwrap() > 0);
            }
        });
    });
}

/// A file system that is soon full.
struct SmallTmpfs(tempfile::TempDir);

impl SmallTmpfs {
    fn mount() -> Option<SmallTmpfs> {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"]).arg(dir.path());
        if command.status().is_ok_and(|s| s.success()) {
            return Some(SmallTmpfs(dir));
        }
        eprintln!("SKIPPED: tmpfs cannot be mounted");
        None
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallTmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}
