//! The socket: questions about a brick, administration, and peers that mean no good.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use changelog::Gfid;
use common::client::{Client, greet};
use common::process::BRICK;
use common::{FileSystem, Recorder};
use protocol::Place;
use protocol::brick::{
    BrickHello, BrickRequest, BrickResponse, BrickWelcome, Look, MAX_ASKED, MAX_OPEN, Names, Opened,
};
use protocol::hello::{MAGIC, Versions};

fn content(client: &mut Client, gfid: Gfid) -> String {
    let mut text = String::new();
    fs::File::from(client.open(gfid).unwrap()).read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_brick_answers() {
    let Some(filesystem) = FileSystem::new("xfs") else { return };
    let (brick, state, outside) = (filesystem.dir("brick"), filesystem.dir("state"), filesystem.dir("outside"));
    fs::create_dir(brick.join("d")).unwrap();
    fs::write(brick.join("d/f"), "hello").unwrap();
    std::os::unix::fs::symlink("target", brick.join("s")).unwrap();
    xattr::set(brick.join("d/f"), "user.note", b"yes").unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, brick.join("p"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let recorder = Recorder::start(&[]);
    let mut client = recorder.follow(&brick, &state);
    assert_eq!(client.journal, state.join("changelogs"));
    client.barrier();

    let (dir, file) = (client.gfid("d"), client.gfid("d/f"));
    let Look::Present(_, object) = client.look(dir, "f") else { panic!() };
    assert_eq!((object.size, object.xattrs[0].name.as_slice()), (5, b"user.note".as_slice()));
    let Look::Present(_, link) = client.look(Gfid::ROOT, "s") else { panic!() };
    assert_eq!((link.target.as_slice(), link.size), (b"target".as_slice(), 0));
    assert_eq!(client.look(Gfid::ROOT, "none"), Look::Absent);
    assert_eq!(client.look(Gfid([9; 16]), "f"), Look::Absent);
    assert_eq!(client.look(Gfid::PARKING, "f"), Look::Absent);
    assert_eq!(client.look(Gfid::ROOT, ".."), Look::Failed(libc::EINVAL));
    assert_eq!(client.look(Gfid::ROOT, "d/f"), Look::Failed(libc::EINVAL));
    assert_eq!(client.stat(file).unwrap().size, 5);
    assert_eq!(client.stat(Gfid([9; 16])), None);
    assert!(matches!(client.names(Gfid::ROOT), Names::Alive(_, places) if places.is_empty()));
    assert_eq!(content(&mut client, file), "hello");
    assert_eq!(client.open(dir).unwrap_err(), libc::EINVAL);
    let fifo = client.gfid("p");
    assert_eq!(client.open(fifo).unwrap_err(), libc::EINVAL);
    assert_eq!(client.open(Gfid([9; 16])).unwrap_err(), libc::ENOENT);

    // The recorder sleeps over the events, not over the questions.
    fs::hard_link(brick.join("d/f"), brick.join("second")).unwrap();
    client.barrier();
    let Names::Alive(object, mut places) = client.names(file) else { panic!() };
    places.sort();
    assert_eq!(object.nlink, 2);
    assert_eq!(
        places,
        [Place { parent: Gfid::ROOT, name: b"second".into() }, Place { parent: dir, name: b"f".into() }]
    );
    let held = client.open(file).unwrap();
    fs::remove_file(brick.join("second")).unwrap();
    fs::rename(brick.join("d/f"), outside.join("f")).unwrap();
    client.barrier();
    assert_eq!(client.names(file), Names::Gone);
    assert_eq!(client.open(file).unwrap_err(), libc::ENOENT);
    fs::rename(outside.join("f"), brick.join("f")).unwrap();
    client.barrier();
    assert_eq!(client.gfid("f"), file, "an object that comes back is the same");
    fs::remove_file(brick.join("f")).unwrap();
    assert_eq!(client.stat(file), None, "also before that is recorded, and while somebody has it open");
    assert_eq!(client.open(file).unwrap_err(), libc::ENOENT);
    drop(held);
}

#[test]
fn what_is_not_recorded_yet_is_called_so() {
    let Some(filesystem) = FileSystem::new("tmpfs") else { return };
    let (brick, state) = (filesystem.dir("brick"), filesystem.dir("state"));
    let recorder = Recorder::start(&[]);
    let mut client = recorder.follow(&brick, &state);
    client.barrier();
    let mut unrecorded = 0;
    for number in 0..300 {
        let name = format!("f{number}");
        fs::write(brick.join(&name), "x").unwrap();
        match client.look(Gfid::ROOT, &name) {
            Look::Unrecorded => unrecorded += 1,
            Look::Present(..) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(unrecorded > 0);
    // Whoever has read a record is never told that the object is not recorded.
    let mut model = common::Model::default();
    let mut known = 0;
    for number in 300..600 {
        fs::write(brick.join(format!("f{number}")), "x").unwrap();
        for record in model.read(&client.journal) {
            if let changelog::Record::Entry(_, op) = &record {
                let name = String::from_utf8(op.entry().name.clone()).unwrap();
                assert!(matches!(client.look(Gfid::ROOT, &name), Look::Present(..)), "{name}");
                known += 1;
            }
        }
    }
    assert!(known > 300);
}

#[test]
fn many_files_at_once() {
    let Some(filesystem) = FileSystem::new("ext4") else { return };
    let (brick, state) = (filesystem.dir("brick"), filesystem.dir("state"));
    for number in 0..3000 {
        fs::write(brick.join(format!("f{number}")), format!("{number}")).unwrap();
    }
    let recorder = Recorder::start(&[]);
    let mut client = recorder.follow(&brick, &state);
    client.barrier();
    let begin = std::time::Instant::now();
    let places =
        (0..3000).map(|number| Place { parent: Gfid::ROOT, name: format!("f{number}").into_bytes() }).collect();
    let BrickResponse::Looked(looks) = client.ask(&BrickRequest::Look(places)) else { panic!() };
    let gfids: Vec<Gfid> = looks
        .iter()
        .map(|look| match look {
            Look::Present(gfid, _) => *gfid,
            other => panic!("{other:?}"),
        })
        .collect();
    for (share, wanted) in gfids.chunks(MAX_OPEN).enumerate() {
        let response = client.ask(&BrickRequest::Open(wanted.to_vec()));
        assert_eq!(response, BrickResponse::Opened(vec![Opened::Open { doubted: false }; wanted.len()]));
        for number in 0..wanted.len() {
            let mut text = String::new();
            fs::File::from(client.stream.take_fd().unwrap()).read_to_string(&mut text).unwrap();
            assert_eq!(text, format!("{}", share * MAX_OPEN + number));
        }
    }
    eprintln!("3000 files looked at and opened in {:?}", begin.elapsed());
    let too_many = vec![Gfid::ROOT; MAX_ASKED + 1];
    assert!(matches!(client.ask(&BrickRequest::Stat(too_many.clone())), BrickResponse::Failed(_)));
    assert!(matches!(client.ask(&BrickRequest::Open(too_many[..=MAX_OPEN].to_vec())), BrickResponse::Failed(_)));
    assert!(client.stat(Gfid::ROOT).is_some(), "and the connection goes on");
}

#[test]
fn hostile_peers_do_no_harm() {
    let Some(filesystem) = FileSystem::new("tmpfs") else { return };
    let (brick, state) = (filesystem.dir("brick"), filesystem.dir("state"));
    let recorder = Recorder::start(&[]);
    let mut client = recorder.follow(&brick, &state);
    let socket = recorder.socket();
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(socket.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
    let hello = protocol::encode(&BrickHello::Brick { versions: Versions::ours(), brick: BRICK }).unwrap();
    let mut random = fastrand::Rng::with_seed(3);
    for round in 0..200 {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(&hello);
        match round % 4 {
            0 => bytes = (0..random.usize(..200)).map(|_| random.u8(..)).collect(),
            1 => {
                let at = random.usize(..bytes.len());
                bytes[at] ^= 1 << random.u8(..8);
            }
            2 => bytes.extend(u32::MAX.to_le_bytes().iter().chain(&[0; 4])),
            _ => {
                let request = protocol::encode(&BrickRequest::Stat(vec![Gfid::ROOT; 3])).unwrap();
                bytes.extend(&request[..random.usize(..request.len())]);
            }
        }
        let mut stream = UnixStream::connect(&socket).unwrap();
        drop(stream.write_all(&bytes));
        stream.shutdown(std::net::Shutdown::Write).ok();
        let mut rest = Vec::new();
        drop(stream.read_to_end(&mut rest));
    }
    assert!(client.stat(Gfid::ROOT).is_some());
    let other = Versions { min: 900, max: 901, software: "future".into() };
    let (_, welcome) = greet(&socket, &BrickHello::Admin { versions: other });
    assert!(matches!(welcome, BrickWelcome::Refused(_)), "{welcome:?}");
    assert!(Client::connect(&socket, [1; 16]).is_err());
}

#[test]
fn only_suitable_bricks_are_attached() {
    let Some(filesystem) = FileSystem::new("ext4") else { return };
    let (brick, state) = (filesystem.dir("brick"), filesystem.dir("state"));
    let recorder = Recorder::start(&[]);
    let mut admin = recorder.admin();
    fs::write(filesystem.root().join("file"), "x").unwrap();
    for (path, state, reason) in [
        (brick.clone(), brick.join("state"), "inside of the brick"),
        (filesystem.root().join("file"), state.clone(), "not a directory"),
        (filesystem.root().join("none"), state.clone(), "No such file"),
        (state.join("x/y").parent().unwrap().parent().unwrap().to_owned(), state.clone(), "inside of the brick"),
        ("relative".into(), state.clone(), "absolute"),
    ] {
        let error = admin.attach(BRICK, &path, &state).unwrap_err();
        assert!(error.contains(reason), "{error}");
    }
    assert!(!brick.join("state").exists());
    admin.attach(BRICK, &brick, &state).unwrap();
    admin.attach(BRICK, &brick, &state).unwrap();
    assert!(admin.attach(BRICK, &filesystem.dir("other"), &state).is_err());
    fs::create_dir(brick.join("below")).unwrap();
    let error = admin.attach([2; 16], &brick.join("below"), &filesystem.dir("state2")).unwrap_err();
    assert!(error.contains("overlap"), "{error}");
    let error = admin.attach([2; 16], &filesystem.dir("brick2"), &state).unwrap_err();
    assert!(error.contains("belongs to another brick"), "{error}");

    // Two bricks on one file system; what moves between them is told to both.
    admin.attach([2; 16], &filesystem.dir("brick2"), &filesystem.dir("state2")).unwrap();
    let mut first = recorder.client();
    let mut second = Client::connect(&recorder.socket(), [2; 16]).unwrap();
    fs::write(brick.join("f"), "x").unwrap();
    first.barrier();
    let before = first.gfid("f");
    fs::rename(brick.join("f"), filesystem.root().join("brick2/f")).unwrap();
    first.barrier();
    second.barrier();
    assert_eq!(first.look(Gfid::ROOT, "f"), Look::Absent);
    assert_ne!(second.gfid("f"), before, "each brick has its own identities");
    assert_eq!(admin.status().len(), 2);
    common::wait_for("the end of the crawls", || admin.status().iter().all(|status| !status.crawling));
    assert!(admin.status().iter().all(|status| status.error.is_empty()));
    assert_eq!(admin.status()[1].objects, 2);

    // Detached and attached again, it goes on; another directory in its place is refused.
    admin.detach([2; 16]).unwrap();
    assert!(admin.detach([2; 16]).is_err());
    assert!(matches!(second.ask(&BrickRequest::Stat(vec![Gfid::ROOT])), BrickResponse::Failed(_)));
    admin.attach([2; 16], &filesystem.dir("brick2"), &filesystem.dir("state2")).unwrap();
    admin.detach([2; 16]).unwrap();
    fs::rename(filesystem.dir("brick2"), filesystem.root().join("away")).unwrap();
    let error = admin.attach([2; 16], &filesystem.dir("brick2"), &filesystem.dir("state2")).unwrap_err();
    assert!(error.contains("another directory than the one that was recorded"), "{error}");
    recorder.stop();
}

#[test]
fn a_btrfs_subvolume_is_refused_with_the_remedy() {
    let Some(filesystem) = FileSystem::new("btrfs") else { return };
    let sub = filesystem.root().join("sub");
    let made = std::process::Command::new("btrfs").args(["subvolume", "create"]).arg(&sub).output();
    if !made.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: no subvolume could be made");
        return;
    }
    let recorder = Recorder::start(&[]);
    let error = recorder.admin().attach(BRICK, &sub, &filesystem.dir("state")).unwrap_err();
    assert!(error.contains("subvolid=5"), "{error}");
    recorder.admin().attach(BRICK, &filesystem.dir("brick"), &filesystem.dir("state")).unwrap();
}
