//! How much an agent does in a second. Not a test: `cargo test --release -- --ignored --nocapture` prints figures.

mod common;

use std::io::Write;
use std::time::Instant;

use common::worker::{AgentRoot, Worker, entry};
use common::{bind, file_object, gfid, place};
use protocol::agent::{Item, Outcome, Stored};
use protocol::stage::Staged;
use protocol::{Gfid, Kind};

const BATCH: u32 = 1000;
const OBJECTS: u32 = 40_000;

fn measure(what: &str, count: u32, run: impl FnOnce()) {
    let start = Instant::now();
    run();
    println!("{what}: {:.0} /s", f64::from(count) / start.elapsed().as_secs_f64());
}

fn apply_all(worker: &mut Worker, make: impl Fn(u32) -> Vec<Item>) {
    for first in (0..OBJECTS).step_by(BATCH as usize) {
        let items = (first..first + BATCH).flat_map(&make).collect();
        assert!(worker.apply(items, vec![]).unwrap().0.iter().all(|o| *o == Outcome::Done));
    }
}

#[test]
#[ignore = "prints figures"]
fn figures() {
    let dir = tempfile::tempdir().unwrap();
    let root = AgentRoot(dir.path().into());
    let mut worker = Worker::connect(root.path(), 1);
    let parent = |n: u32| if n < 200 { Gfid::ROOT } else { gfid(n % 200) };
    measure("directories made", OBJECTS, || {
        apply_all(&mut worker, |n| vec![bind(parent(n), &format!("d{n}"), gfid(n), Kind::Directory)]);
    });
    measure("bindings that are true already", OBJECTS, || {
        apply_all(&mut worker, |n| vec![bind(parent(n), &format!("d{n}"), gfid(n), Kind::Directory)]);
    });
    measure("commit", 1, || worker.commit(Stored::default()).unwrap());
    measure("directories renamed", OBJECTS - BATCH, || {
        for first in (BATCH..OBJECTS).step_by(BATCH as usize) {
            let items =
                (first..first + BATCH).map(|n| bind(parent(n), &format!("r{n}"), gfid(n), Kind::Directory)).collect();
            worker.apply(items, vec![]).unwrap();
        }
    });
    let file = |n: u32| gfid(1_000_000 + n);
    let content = [9; 1024];
    measure("small files staged (1 channel)", OBJECTS, || {
        let mut channel = worker.stage_channel();
        let mut input = channel.input.take().unwrap();
        let writer = std::thread::spawn(move || {
            for n in 0..OBJECTS {
                let bytes = entry(&format!("{}/0/{}/0", file(n), content.len()), &content);
                input.write_all(&bytes).unwrap();
            }
            input
        });
        for _ in 0..OBJECTS {
            assert_eq!(channel.receive::<Staged>().unwrap().errno, 0);
        }
        drop(writer.join().unwrap());
    });
    measure("small files named", OBJECTS, || {
        apply_all(&mut worker, |n| {
            let object = file_object(&content, 1);
            vec![
                Item::Content { gfid: file(n), object: object.clone(), whole: false },
                Item::Bind { place: place(gfid(n % 200), &format!("f{n}")), gfid: file(n), from: None, object },
            ]
        });
    });
    measure("commit", 1, || worker.commit(Stored::default()).unwrap());
    let megabytes = 2048;
    measure("MiB staged of one large file", megabytes, || {
        let mut channel = worker.stage_channel();
        let piece = vec![7; 1 << 20];
        let input = channel.input.as_mut().unwrap();
        for i in 0..megabytes {
            input.write_all(&entry(&format!("{}/{}", gfid(5), u64::from(i) << 20), &piece)).unwrap();
        }
        input
            .write_all(&entry(&format!("{}/{size}/{size}/0", gfid(5), size = u64::from(megabytes) << 20), b""))
            .unwrap();
        assert_eq!(channel.receive::<Staged>().unwrap().errno, 0);
    });
    drop(worker);
    root.end_agent(rustix::process::Signal::KILL);
    measure("objects crawled after a kill", 2 * OBJECTS, || drop(Worker::connect(root.path(), 1)));
    root.end_agent(rustix::process::Signal::TERM);
    measure("clean starts", 1, || drop(Worker::connect(root.path(), 1)));
}
