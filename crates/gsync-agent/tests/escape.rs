//! Attacks on an agent over its real protocol: nothing outside of its root may be touched, and it must not die of them.

mod common;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::worker::*;
use common::*;
use protocol::agent::{Candidate, Examined, Item, Outcome, Request, Response, Seen as SeenFile};
use protocol::{Gfid, Kind, Object, Place, Version, Xattr};
use rustix::fs::RenameFlags;

const ROOT: Gfid = Gfid::ROOT;

/// How long the racing attack goes on.
const RACE: Duration = Duration::from_secs(3);

/// Inode, ctime and content (or target) of everything in the canary, by path.
type Canary = BTreeMap<PathBuf, (u64, i64, i64, Vec<u8>)>;

/// A root, a tree outside of it that nobody may touch, and another worker that goes on whatever happens.
struct Scene {
    _dir: tempfile::TempDir,
    root: AgentRoot,
    outside: PathBuf,
    canary: Canary,
    bystander: Worker,
    agent: Option<rustix::process::Pid>,
}

fn look_outside(path: &Path, seen: &mut Canary) {
    let stat = path.symlink_metadata().unwrap();
    let content = match stat.file_type() {
        kind if kind.is_file() => std::fs::read(path).unwrap(),
        kind if kind.is_symlink() => std::fs::read_link(path).unwrap().into_os_string().into_encoded_bytes(),
        _ => Vec::new(),
    };
    seen.insert(path.into(), (stat.ino(), stat.ctime(), stat.ctime_nsec(), content));
    if stat.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            look_outside(&entry.unwrap().path(), seen);
        }
    }
}

impl Scene {
    fn new() -> Scene {
        let dir = tempfile::tempdir().unwrap();
        let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
        std::fs::create_dir(&root).unwrap();
        std::fs::create_dir_all(outside.join("sub")).unwrap();
        std::fs::write(outside.join("secret"), "secret").unwrap();
        std::fs::write(outside.join("sub/file"), "file").unwrap();
        symlink("secret", outside.join("link")).unwrap();
        let mut canary = Canary::new();
        look_outside(&outside, &mut canary);
        let root = AgentRoot(root);
        let other = protocol::agent::WorkerHello { replica_set: 1, ..hello(1) };
        let bystander = Worker::try_connect(root.path(), &other).unwrap_or_else(|e| panic!("{e:?}"));
        let agent = root.agent();
        assert!(agent.is_some());
        Scene { _dir: dir, root, outside, canary, bystander, agent }
    }

    fn worker(&self) -> Worker {
        Worker::connect(self.root.path(), 1)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Nothing outside was touched, not even a time; the agent is the one that it was, and serves.
    #[track_caller]
    fn is_unharmed(&mut self, after: &str) {
        let mut now = Canary::new();
        look_outside(&self.outside, &mut now);
        assert_eq!(now, self.canary, "{after}");
        assert!(matches!(self.bystander.request(&Request::Ping), Ok(Response::Pong { .. })), "{after}");
        assert_eq!(self.root.agent(), self.agent, "{after}: the agent died");
        let log = std::fs::read_to_string(self.at(".gsync/agent.log")).unwrap();
        assert!(!log.contains("panicked"), "{after}: {log}");
    }
}

fn kinds() -> [Kind; 6] {
    [Kind::File, Kind::Directory, Kind::Symlink, Kind::Fifo, Kind::CharDevice, Kind::Socket]
}

#[test]
fn names_and_identities_that_no_object_has() {
    let mut scene = Scene::new();
    let mut worker = scene.worker();
    let mut channel = worker.stage_channel();
    let sent = send_file(&mut channel, gfid(1), b"evil").unwrap();
    assert_eq!(sent.errno, 0);
    let content = Item::Content { gfid: gfid(1), object: file_object(b"evil", 1), whole: false };
    let outcomes = worker.apply(vec![content, bind(ROOT, "d", gfid(2), Kind::Directory)], vec![]).unwrap().0;
    assert_eq!(outcomes, [Outcome::Done, Outcome::Done]);

    let long = [b'n'; 256];
    let up = b"../outside/planted".as_slice();
    let absolute = scene.outside.join("planted").into_os_string().into_encoded_bytes();
    let names: [&[u8]; 10] = [b"", b".", b"..", up, &absolute, b"a/b", b"d/", b"nul\0nul", &long, b"/"];
    let refused = |outcome: &Outcome| matches!(outcome, Outcome::Failed { errno: 0, .. });
    for name in names {
        for kind in kinds() {
            let evil = Place { parent: ROOT, name: name.into() };
            let good = place(ROOT, "good");
            let object = Object { target: b"x".to_vec(), ..object(kind) };
            let items = vec![
                Item::Bind { place: evil.clone(), gfid: gfid(1), from: None, object: object.clone() },
                Item::Bind { place: evil.clone(), gfid: gfid(3), from: None, object: object.clone() },
                Item::Bind { place: good, gfid: gfid(3), from: Some(evil.clone()), object },
                Item::Unbind { place: evil.clone(), gfid: gfid(1) },
            ];
            let outcomes = worker.apply(items, vec![]).unwrap().0;
            assert!(outcomes.iter().all(refused), "{:?} {kind:?}: {outcomes:?}", name.escape_ascii().to_string());
        }
    }
    scene.is_unharmed("names");

    for parent in [ROOT, gfid(2)] {
        for private in [ROOT, Gfid::PARKING, Gfid([0; 16])] {
            let here = place(parent, "x");
            let object = || object(Kind::Directory);
            let items = vec![
                Item::Bind { place: here.clone(), gfid: private, from: None, object: object() },
                Item::Unbind { place: here, gfid: private },
                Item::Content { gfid: private, object: file_object(b"evil", 1), whole: true },
            ];
            let (outcomes, gone) = worker.apply(items, vec![private]).unwrap();
            assert!(outcomes.iter().chain(&gone).all(refused), "{private}: {outcomes:?} {gone:?}");
        }
    }
    let private = [
        Place { parent: ROOT, name: b".gsync".to_vec() },
        Place { parent: Gfid::PARKING, name: b"x".to_vec() },
        Place { parent: Gfid([0; 16]), name: b"x".to_vec() },
    ];
    for place in private {
        let items = vec![
            Item::Bind { place: place.clone(), gfid: gfid(4), from: None, object: object(Kind::Directory) },
            Item::Bind { place: place.clone(), gfid: gfid(1), from: None, object: file_object(b"evil", 1) },
            Item::Unbind { place: place.clone(), gfid: gfid(2) },
            Item::LeftOver { place, gfid: None },
        ];
        let outcomes = worker.apply(items, vec![]).unwrap().0;
        assert!(outcomes.iter().all(refused), "{outcomes:?}");
    }
    // Below what has a stamp but no place in the tree.
    xattr::set(scene.at(".gsync/made"), "trusted.gfid", &gfid(9).0).unwrap();
    let outcomes = worker.apply(vec![bind(gfid(9), "x", gfid(5), Kind::Fifo)], vec![]).unwrap().0;
    assert_eq!(outcomes, [Outcome::ParentMissing]);
    scene.is_unharmed("identities");
}

/// A directory that is known is replaced by a link to the outside; files with several names, their contents, their
/// attributes and their removal are stated.
#[test]
fn links_in_the_place_of_directories() {
    let mut scene = Scene::new();
    let mut worker = scene.worker();
    let mut channel = worker.stage_channel();
    send_file(&mut channel, gfid(3), b"content").unwrap();
    let object_now = file_object(b"content", 1);
    let file = |parent, name: &str| Item::Bind {
        place: place(parent, name),
        gfid: gfid(3),
        from: None,
        object: object_now.clone(),
    };
    let items = vec![
        bind(ROOT, "d", gfid(1), Kind::Directory),
        bind(gfid(1), "sub", gfid(2), Kind::Directory),
        Item::Content { gfid: gfid(3), object: object_now.clone(), whole: false },
        file(gfid(1), "secret"),
        file(gfid(2), "file"),
        file(ROOT, "link"),
    ];
    assert_eq!(worker.apply(items, vec![]).unwrap().0, vec![Outcome::Done; 6]);
    // The agent has d open. It is moved away and a link is in its place, then in that of the file too.
    std::fs::rename(scene.at("d"), scene.at("moved")).unwrap();
    symlink(&scene.outside, scene.at("d")).unwrap();
    std::fs::remove_file(scene.at("link")).unwrap();
    symlink(scene.outside.join("secret"), scene.at("link")).unwrap();
    xattr::set(scene.at("link"), "trusted.gfid", &gfid(3).0).unwrap();
    for round in 2..5u32 {
        let content = format!("content {round}");
        assert_eq!(send_file(&mut channel, gfid(3), content.as_bytes()).unwrap().errno, 0);
        let object = file_object(content.as_bytes(), round);
        let items = vec![
            Item::Content { gfid: gfid(3), object: object.clone(), whole: false },
            Item::Attributes { gfid: gfid(3), object: object.clone() },
            bind(gfid(1), "planted", gfid(10 + round), Kind::Fifo),
            bind(gfid(2), "planted", gfid(20 + round), Kind::Symlink),
            rename((gfid(2), "file"), (gfid(1), "renamed"), gfid(3), Kind::File),
            unbind(gfid(1), "secret", gfid(3)),
            unbind(gfid(2), "file", gfid(3)),
            Item::Have { gfid: gfid(3), version: Version::of(&object) },
        ];
        worker.apply(items, vec![gfid(2)]).unwrap();
        worker.request(&Request::Prepare(vec![gfid(3), gfid(1), gfid(2)])).unwrap();
        let seen = SeenFile { place: Some(place(gfid(1), "secret")), inode: 1, version: Version::of(&object) };
        let adopt = Item::Adopt { gfid: gfid(40), object, seen, same: true };
        assert!(worker.apply(vec![adopt], vec![]).unwrap().0.iter().all(|o| *o != Outcome::Done));
        scene.is_unharmed(&format!("round {round}"));
    }
}

/// While statements are carried out, somebody exchanges a directory with a link to the outside all the time.
#[test]
fn a_directory_and_a_link_change_places_all_the_time() {
    let mut scene = Scene::new();
    std::fs::write(scene.at("copy"), "").unwrap();
    let adopt = br#"{"claim": {"session": "01010101-0101-0101-0101-010101010101", "name": "test", "primary": "here"},
        "holdings": "adopt", "force": false}"#;
    let mut door = Door::open(scene.root.path(), &["gsync", "prepare"]);
    door.input.take().unwrap().write_all(adopt).unwrap();
    let mut answer = String::new();
    door.output.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("\"error\":null"), "{answer}");

    let mut worker = scene.worker();
    assert!(worker.welcome.adopting);
    let mut channel = worker.stage_channel();
    assert_eq!(worker.apply(vec![bind(ROOT, "d", gfid(1), Kind::Directory)], vec![]).unwrap().0, [Outcome::Done]);
    symlink(&scene.outside, scene.at("swap")).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let swapper = {
        let (stop, d, swap) = (stop.clone(), scene.at("d"), scene.at("swap"));
        std::thread::spawn(move || {
            let mut swaps = 0u64;
            while !stop.load(Ordering::Relaxed) {
                let cwd = rustix::fs::CWD;
                let _ = rustix::fs::renameat_with(cwd, &d, cwd, &swap, RenameFlags::EXCHANGE);
                swaps += 1;
            }
            swaps
        })
    };
    let begin = Instant::now();
    let mut round = 0u32;
    while begin.elapsed() < RACE {
        round += 1;
        let number = 100 + 10 * round;
        let object = file_object(b"content", round);
        assert_eq!(send_file(&mut channel, gfid(number), b"content").unwrap().errno, 0);
        let below = |name: &str| place(gfid(1), name);
        let candidate = |name: &str| Candidate { gfid: gfid(number + 5), places: vec![below(name)], size: 6 };
        let examined = worker.request(&Request::Examine(vec![candidate("secret"), candidate("link")])).unwrap();
        let Response::Examined(examined) = examined else { panic!("{examined:?}") };
        assert!(!examined.iter().any(|e| matches!(e, Examined::Read(..) | Examined::Differs(..))), "{examined:?}");
        let mut items = vec![
            Item::Content { gfid: gfid(number), object: object.clone(), whole: false },
            Item::Bind { place: below("secret"), gfid: gfid(number), from: None, object: object.clone() },
            Item::Bind { place: below("second"), gfid: gfid(number), from: None, object: object.clone() },
            bind(gfid(1), "sub", gfid(number + 1), Kind::Directory),
            bind(gfid(number + 1), "file", gfid(number + 2), Kind::Fifo),
            bind(gfid(1), "link", gfid(number + 3), Kind::Symlink),
            Item::Attributes { gfid: gfid(number + 1), object: common::object(Kind::Directory) },
            Item::LeftOver { place: below("sub"), gfid: None },
            Item::LeftOver { place: below("secret"), gfid: None },
            unbind(gfid(1), "second", gfid(number)),
            rename((gfid(1), "secret"), (ROOT, "out"), gfid(number), Kind::File),
        ];
        // Directories are found anew, not in the cache of open ones.
        if round.is_multiple_of(3) {
            items.push(rename((ROOT, "d"), (ROOT, "d"), gfid(1), Kind::Directory));
        }
        worker.apply(items, vec![gfid(number + 2)]).unwrap();
        worker.request(&Request::Prepare(vec![gfid(number)])).unwrap();
        while let Response::Swept { done: false, .. } = worker.request(&Request::Sweep).unwrap() {}
    }
    stop.store(true, Ordering::Relaxed);
    let swaps = swapper.join().unwrap();
    println!("{round} rounds, {swaps} swaps");
    assert!(round > 3 && swaps > 100);
    scene.is_unharmed("the race");
}

#[test]
fn xattrs_outside_the_policy() {
    let mut scene = Scene::new();
    let mut worker = scene.worker();
    let xattrs = |names: &[&str]| {
        let mut all: Vec<Xattr> =
            names.iter().map(|n| Xattr { name: n.as_bytes().to_vec(), value: gfid(77).0.to_vec() }).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    };
    let names =
        ["trusted.gfid", "trusted.gsync.x", "trusted.overlay.opaque", "security.selinux", "trusted.glusterfs.x"];
    for kind in [Kind::Directory, Kind::Fifo, Kind::Symlink] {
        let number = 10 + kind as u32;
        let object = Object { xattrs: xattrs(&names), ..object(kind) };
        let name = format!("{kind:?}");
        let item = Item::Bind { place: place(ROOT, &name), gfid: gfid(number), from: None, object: object.clone() };
        worker.apply(vec![item, Item::Attributes { gfid: gfid(number), object }], vec![]).unwrap();
        let found: Vec<_> = xattr::list(scene.at(&name)).unwrap().collect();
        assert_eq!(found, ["trusted.gfid"], "{kind:?}");
        assert_eq!(xattr::get(scene.at(&name), "trusted.gfid").unwrap().unwrap(), gfid(number).0);
    }
    // Values and names that no xattr has are an error of their item.
    let many = Xattr { name: b"user.large".to_vec(), value: vec![1; 1 << 20] };
    for xattrs in [vec![many], xattrs(&["user."]), xattrs(&["user.nul\0nul"]), xattrs(&["system.posix_acl_access"])] {
        let object = Object { xattrs, ..object(Kind::Directory) };
        let item = Item::Bind { place: place(ROOT, "odd"), gfid: gfid(30), from: None, object };
        let outcomes = worker.apply(vec![item], vec![]).unwrap().0;
        assert!(matches!(outcomes[0], Outcome::Failed { .. }), "{outcomes:?}");
    }
    assert!(!scene.at("odd").exists());
    scene.is_unharmed("xattrs");
}

#[test]
fn archive_members_that_lead_elsewhere() {
    let mut scene = Scene::new();
    let worker = scene.worker();
    let evil = scene.outside.join("secret").display().to_string();
    let token = worker.welcome.stage_token.clone();
    let own = gfid(1);
    let mut members: Vec<(String, Vec<u8>)> = Vec::new();
    for name in [
        "../../../outside/secret",
        &evil,
        &format!("{own}/../../../../outside/secret"),
        &format!("{own}/-1"),
        &format!("{own}/18446744073709551615"),
        &format!("{own}/end/9223372036854775808"),
        &format!("{own}/end/../x"),
        &format!("stage/{token}/{own}/0"),
        ".gsync/lock",
        "",
    ] {
        members.push((name.to_owned(), entry(name, b"evil")));
    }
    for kind in [
        tar::EntryType::Symlink,
        tar::EntryType::Link,
        tar::EntryType::Directory,
        tar::EntryType::Char,
        tar::EntryType::GNULongName,
        tar::EntryType::GNUSparse,
        tar::EntryType::XHeader,
    ] {
        let mut header = tar::Header::new_ustar();
        header.set_path(format!("{own}/0")).unwrap();
        let _ = header.set_link_name(&evil);
        header.set_size(0);
        header.set_mode(0o777);
        header.set_entry_type(kind);
        header.set_cksum();
        members.push((format!("{kind:?}"), header.as_bytes().to_vec()));
    }
    let mut header = tar::Header::new_ustar();
    header.set_path(format!("{own}/0")).unwrap();
    header.set_size(8 << 30);
    header.set_cksum();
    members.push(("a size of 8 GiB".into(), header.as_bytes().to_vec()));
    for (what, bytes) in members {
        let mut channel = worker.stage_channel();
        let _ = channel.input.as_mut().unwrap().write_all(&bytes);
        drop(channel.input.take());
        let mut rest = Vec::new();
        let _ = channel.output.read_to_end(&mut rest);
        scene.is_unharmed(&what);
    }
    let staged = std::fs::read_dir(scene.at(".gsync/stage").join(&token)).unwrap().count();
    assert_eq!(staged, 0, "something was staged");
}

#[test]
fn doors_asked_for_nonsense() {
    let mut scene = Scene::new();
    let worker = scene.worker();
    let (token, outside) = (worker.welcome.stage_token.clone(), scene.outside.display().to_string());
    let lines = [
        format!("rsync --server --sender -tISe.LsfxCIvu . {token}/"),
        format!("rsync --server -logDtpre.iLsfxCIvu . {token}/"),
        format!("rsync --server -tISe.LsfxCIvu --inplace . {token}/../../../../outside/"),
        format!("rsync --server -tISe.LsfxCIvu --inplace . {outside}/"),
        format!("rsync --server -tISe.LsfxCIvu --inplace --log-file={outside}/secret . {token}/"),
        format!("rsync --server -tISe.LsfxCIvu --partial-dir={outside} . {token}/"),
        format!("rsync --server -tISe.LsfxCIvu --copy-dest={outside} . {token}/"),
        format!("rsync --daemon --config={outside}/secret . {token}/"),
        "gsync control ..".into(),
        "gsync manifest /".into(),
        "gsync prepare --root /".into(),
    ];
    for line in &lines {
        let words: Vec<&str> = line.split(' ').collect();
        let mut door = Door::open(scene.root.path(), &words);
        drop(door.input.take());
        assert!(!door.process.0.wait().unwrap().success(), "{line}");
    }
    scene.is_unharmed("words");

    // What is not a frame, is too long, is cut, or is not what was expected; on every channel.
    let mut rng = fastrand::Rng::with_seed(7);
    let mut noise = vec![0; 4096];
    rng.fill(&mut noise);
    let oversized = [u32::MAX.to_le_bytes(), [0; 4]].concat();
    let cut = [1000u32.to_le_bytes().to_vec(), vec![0; 4], vec![1; 10]].concat();
    let wrong = protocol::encode(&"something else").unwrap();
    let json =
        br#"{"claim": {"session": "../../x", "name": "\u0000", "primary": "\n"}, "holdings": "nothing"}"#.to_vec();
    for verb in ["control", "stage", "manifest", "prepare", "release"] {
        for (number, bytes) in [&noise, &oversized, &cut, &wrong, &json, &vec![]].into_iter().enumerate() {
            let mut door = Door::open(scene.root.path(), &["gsync", verb]);
            let input = door.input.as_mut().unwrap();
            if number % 2 == 0 {
                let _ = input.write_all(&protocol::hello::MAGIC);
            }
            let _ = input.write_all(bytes);
            drop(door.input.take());
            let mut rest = Vec::new();
            let _ = door.output.read_to_end(&mut rest);
            let _ = door.process.0.wait();
            assert!(!String::from_utf8_lossy(&rest).contains("secret"));
            scene.is_unharmed(&format!("{verb} {number}"));
        }
    }
    // A batch that is too large, and more candidates than may be held open.
    let mut worker = scene.worker();
    let items = vec![unbind(ROOT, "x", gfid(1)); protocol::agent::MAX_BATCH_ITEMS + 1];
    assert!(worker.apply(items, vec![]).unwrap().0.iter().all(|o| matches!(o, Outcome::Failed { .. })));
    let candidate = Candidate { gfid: gfid(1), places: vec![], size: 0 };
    let _ = worker.request(&Request::Examine(vec![candidate; protocol::agent::MAX_CANDIDATES + 1]));
    scene.is_unharmed("too much");
}
