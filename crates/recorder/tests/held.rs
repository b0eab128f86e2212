//! The queue of events survives the recorder: nothing is lost and nothing is crawled.

mod common;

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use common::writers::{mess, mess_from_four, mess_until};
use common::{Client, FileSystem, Holders, KINDS, Model, check, seed, wait_for};

fn rounds() -> u64 {
    std::env::var("GSYNC_FUZZ_RUNS").ok().and_then(|text| text.parse().ok()).unwrap_or(5)
}

fn ops() -> usize {
    std::env::var("GSYNC_FUZZ_OPS").ok().and_then(|text| text.parse().ok()).unwrap_or(2000)
}

/// The recorder is killed at any moment under load. The next one goes on where it was.
#[test]
fn killed_under_load_it_goes_on_without_a_crawl() {
    let seed = seed("killed under load, queue held");
    let mut random = fastrand::Rng::with_seed(seed);
    for kind in KINDS {
        let Some(filesystem) = FileSystem::new(kind) else { continue };
        let holders = Holders::new();
        let (brick, outside, state) = (filesystem.dir("brick"), filesystem.dir("outside"), filesystem.dir("state"));
        mess(&brick, &outside, 300, seed);
        let mut model = Model { lenient: true, ..Model::default() };
        let recorder = holders.recorder();
        check(&mut model, &mut recorder.follow(&brick, &state), &brick);
        recorder.kill();
        for round in 0..rounds() {
            let recorder = holders.recorder();
            recorder.attach(&brick, &state);
            let until = Instant::now() + Duration::from_millis(random.u64(..900));
            std::thread::scope(|scope| {
                scope.spawn(|| mess_until(&brick, &outside, until, seed ^ round << 20));
                scope.spawn(|| {
                    std::thread::sleep(until.saturating_duration_since(Instant::now()) * 2 / 3);
                    assert_eq!(recorder.crawls(), 0, "{kind} round {round}");
                    recorder.kill();
                });
            });
            model.read(&state.join("changelogs"));
            if round % 2 == 1 {
                let recorder = holders.recorder();
                check(&mut model, &mut recorder.follow(&brick, &state), &brick);
                assert_eq!(recorder.crawls(), 0, "{kind} round {round}");
                if random.bool() { recorder.stop() } else { recorder.kill() }
            }
        }
        let recorder = holders.recorder();
        check(&mut model, &mut recorder.follow(&brick, &state), &brick);
        assert_eq!(recorder.crawls(), 0, "{kind}");
        recorder.stop();
        model.read(&state.join("changelogs"));
        common::model::assert_index_fresh(&state.join("index.redb"), &brick, &model);
    }
}

/// Only the holder is there while everything changes; the changelog is strictly applicable all the same.
#[test]
fn what_changes_while_no_recorder_runs_is_told_without_a_crawl() {
    let seed = seed("changes while nobody reads");
    for kind in KINDS {
        let Some(filesystem) = FileSystem::new(kind) else { continue };
        let holders = Holders::new();
        let (brick, outside, state) = (filesystem.dir("brick"), filesystem.dir("outside"), filesystem.dir("state"));
        mess_from_four(&brick, &outside, 200, seed);
        let mut model = Model::default();
        for round in 0..3 {
            let recorder = holders.recorder();
            check(&mut model, &mut recorder.follow(&brick, &state), &brick);
            assert_eq!(recorder.crawls(), u64::from(round == 0), "{kind} round {round}");
            recorder.stop();
            mess_from_four(&brick, &outside, ops(), seed + round);
        }
        let recorder = holders.recorder();
        let mut client = recorder.follow(&brick, &state);
        check(&mut model, &mut client, &brick);
        mess_from_four(&brick, &outside, ops(), seed + 9);
        check(&mut model, &mut client, &brick);
        assert_eq!(recorder.crawls(), 0, "{kind}");
        recorder.stop();
        assert!(model.read(&state.join("changelogs")).is_empty(), "something was recorded after the barrier");
        common::model::assert_index_fresh(&state.join("index.redb"), &brick, &model);
    }
}

/// Killed in the middle of a crawl, the recorder goes on with it and does not begin another one.
#[test]
fn a_crawl_is_gone_on_with() {
    let Some(filesystem) = FileSystem::new("tmpfs") else { return };
    let holders = Holders::new();
    let (brick, state) = (filesystem.dir("brick"), filesystem.dir("state"));
    for dir in 0..300 {
        std::fs::create_dir_all(brick.join(format!("d{dir}"))).unwrap();
        for file in 0..40 {
            std::fs::write(brick.join(format!("d{dir}/f{file}")), "x").unwrap();
        }
    }
    // Nothing happens but the kill.
    let first = filesystem.dir("first");
    let recorder = holders.recorder();
    recorder.attach(&brick, &first);
    assert!(recorder.admin().status()[0].crawling, "the crawl has ended already");
    recorder.kill();
    let recorder = holders.recorder();
    let mut model = Model { lenient: true, ..Model::default() };
    check(&mut model, &mut recorder.follow(&brick, &first), &brick);
    assert_eq!(recorder.crawls(), 0);
    recorder.stop();

    // Again from the beginning, while everything changes.
    let mut model = Model { lenient: true, ..Model::default() };
    let mut unfinished = 0;
    for pause in [0, 30, 60, 90] {
        let recorder = holders.recorder();
        recorder.attach(&brick, &state);
        std::thread::sleep(Duration::from_millis(pause));
        std::fs::rename(brick.join("d7"), brick.join("d7-moved")).unwrap();
        std::fs::write(brick.join(format!("d9/while-{pause}")), "x").unwrap();
        unfinished += u32::from(recorder.admin().status()[0].crawling);
        recorder.kill();
        std::fs::rename(brick.join("d7-moved"), brick.join("d7")).unwrap();
        std::fs::remove_dir_all(brick.join(format!("d1{pause}"))).unwrap();
        model.read(&state.join("changelogs"));
    }
    assert!(unfinished > 0, "no crawl was interrupted");
    let recorder = holders.recorder();
    check(&mut model, &mut recorder.follow(&brick, &state), &brick);
    assert_eq!(recorder.crawls(), 0);
    recorder.stop();
    common::model::assert_index_fresh(&state.join("index.redb"), &brick, &model);
}

/// More than the ring holds waits in the kernel, while nobody reads and while somebody does.
#[test]
fn more_events_than_the_ring_holds() {
    let seed = seed("a small ring");
    let Some(filesystem) = FileSystem::new("tmpfs") else { return };
    let holders = Holders::new();
    let (brick, outside, state) = (filesystem.dir("brick"), filesystem.dir("outside"), filesystem.dir("state"));
    let start = || holders.recorder_with(&["--ring-bytes", "70000"]);
    let mut model = Model { lenient: true, ..Model::default() };
    let mut recorder = start();
    check(&mut model, &mut recorder.follow(&brick, &state), &brick);
    for round in 0..4 {
        mess_from_four(&brick, &outside, 2 * ops(), seed + round);
        if round % 2 == 0 {
            recorder.kill()
        } else {
            recorder.stop()
        }
        mess_from_four(&brick, &outside, 2 * ops(), seed + 10 + round);
        recorder = start();
        check(&mut model, &mut recorder.follow(&brick, &state), &brick);
        assert_eq!(recorder.crawls(), 0, "round {round}");
    }
    recorder.stop();
    model.read(&state.join("changelogs"));
    common::model::assert_index_fresh(&state.join("index.redb"), &brick, &model);
}

#[test]
fn without_the_holder_there_is_a_crawl() {
    let Some(filesystem) = FileSystem::new("ext4") else { return };
    let mut holders = Holders::new();
    let (brick, state) = (filesystem.dir("brick"), filesystem.dir("state"));
    let mut model = Model::default();
    let name = |text: &str| brick.join(text);

    // Killed together with the recorder.
    let recorder = holders.recorder();
    check(&mut model, &mut recorder.follow(&brick, &state), &brick);
    recorder.kill();
    holders.kill();
    std::fs::write(name("first"), "x").unwrap();
    let recorder = holders.recorder();
    model.lenient = true;
    check(&mut model, &mut recorder.follow(&brick, &state), &brick);
    assert_eq!(recorder.crawls(), 1);

    // Killed while the recorder runs: another one takes its place.
    let before = holders.pids();
    holders.kill();
    wait_for("another holder", || !holders.pids().is_empty());
    assert_ne!(holders.pids(), before);
    recorder.stop();
    std::fs::write(name("second"), "x").unwrap();
    let recorder = holders.recorder();
    check(&mut model, &mut recorder.follow(&brick, &state), &brick);
    assert_eq!(recorder.crawls(), 0);

    // Too many events: they are thrown away, and that is not forgotten.
    holders.kill();
    holders.start(&brick, 1000);
    std::thread::sleep(Duration::from_secs(8));
    recorder.stop();
    for number in 0..2000 {
        std::fs::write(name(&format!("many-{number}")), "x").unwrap();
    }
    std::thread::sleep(Duration::from_millis(2500));
    std::fs::write(name("third"), "x").unwrap();
    let recorder = holders.recorder();
    check(&mut model, &mut recorder.follow(&brick, &state), &brick);
    assert_eq!(recorder.crawls(), 1);
    // And only once.
    recorder.kill();
    let recorder = holders.recorder();
    check(&mut model, &mut recorder.follow(&brick, &state), &brick);
    assert_eq!(recorder.crawls(), 0);

    // Somebody who does not need the brick any more needs no holder.
    recorder.admin().detach(common::process::BRICK).unwrap();
    wait_for("the end of the holder", || holders.pids().is_empty());
    recorder.stop();
}

/// An older index than what was acknowledged is crawled; so is a brick that was attached elsewhere meanwhile.
#[test]
fn an_index_that_missed_something_is_crawled() {
    let Some(filesystem) = FileSystem::new("ext4") else { return };
    let holders = Holders::new();
    let (brick, state) = (filesystem.dir("brick"), filesystem.dir("state"));
    let mut model = Model { lenient: true, ..Model::default() };
    let recorder = holders.recorder();
    check(&mut model, &mut recorder.follow(&brick, &state), &brick);
    recorder.stop();
    std::fs::copy(state.join("index.redb"), filesystem.root().join("old")).unwrap();
    std::fs::write(brick.join("a"), "x").unwrap();
    let recorder = holders.recorder();
    check(&mut model, &mut recorder.follow(&brick, &state), &brick);
    assert_eq!(recorder.crawls(), 0);
    recorder.stop();
    std::fs::copy(filesystem.root().join("old"), state.join("index.redb")).unwrap();
    std::fs::write(brick.join("b"), "x").unwrap();
    let recorder = holders.recorder();
    check(&mut model, &mut recorder.follow(&brick, &state), &brick);
    assert_eq!(recorder.crawls(), 1);
    recorder.stop();
}

/// Two bricks share one queue; neither misses anything because the other one is attached first.
#[test]
fn bricks_of_one_file_system_go_on_together() {
    let seed = seed("two bricks");
    let Some(filesystem) = FileSystem::new("xfs") else { return };
    let holders = Holders::new();
    let bricks = [1u8, 2].map(|id| {
        let (brick, state) = (filesystem.dir(&format!("brick{id}")), filesystem.dir(&format!("state{id}")));
        (id, brick, state, Model { lenient: true, ..Model::default() })
    });
    let mut bricks = bricks.to_vec();
    for round in 0..4 {
        let recorder = holders.recorder();
        for (id, brick, state, _) in &bricks {
            recorder.admin().attach([*id; 16], brick, state).unwrap();
            // What happens now is read while the other brick is not attached yet.
            mess_from_four(brick, &filesystem.dir("outside"), 400, seed + round);
            Client::connect(&recorder.socket(), [*id; 16]).unwrap().barrier();
            if (*id, round) == (1, 1) {
                // The first has written everything down for good by then; its events are kept for the second.
                std::thread::sleep(Duration::from_secs(6));
            }
        }
        for (id, brick, _, model) in &mut bricks {
            check(model, &mut Client::connect(&recorder.socket(), [*id; 16]).unwrap(), brick);
        }
        assert_eq!(recorder.crawls(), if round == 0 { 2 } else { 0 }, "round {round}");
        if round % 2 == 0 {
            recorder.stop()
        } else {
            recorder.kill()
        }
        for (_, brick, ..) in &bricks {
            mess_from_four(brick, &filesystem.dir("outside"), 400, seed + 100 + round);
        }
    }
}

/// The holder does not keep the file system from being unmounted, notices it, and ends.
#[test]
fn the_file_system_can_be_unmounted() {
    for kind in KINDS {
        let Some(filesystem) = FileSystem::new(kind) else { continue };
        let holders = Holders::new();
        let state = tempfile::tempdir().unwrap();
        let brick = filesystem.dir("brick");
        std::fs::write(brick.join("f"), "x").unwrap();
        let recorder = holders.recorder();
        recorder.follow(&brick, state.path()).barrier();
        recorder.stop();
        assert_eq!(holders.pids().len(), 1, "{kind}");
        filesystem.unmount();
        wait_for("the end of the holder", || holders.pids().is_empty());
    }
    // Mounted again at once, before the holder has noticed.
    let Some(filesystem) = FileSystem::new("ext4") else { return };
    let (holders, state) = (Holders::new(), tempfile::tempdir().unwrap());
    let brick = filesystem.dir("brick");
    let mut model = Model { lenient: true, ..Model::default() };
    let recorder = holders.recorder();
    check(&mut model, &mut recorder.follow(&brick, state.path()), &brick);
    recorder.stop();
    filesystem.remount();
    std::fs::write(brick.join("f"), "x").unwrap();
    let recorder = holders.recorder();
    check(&mut model, &mut recorder.follow(&brick, state.path()), &brick);
    assert_eq!(recorder.crawls(), 1);
    recorder.stop();
}

/// systemd's file descriptor store, played by this test.
#[test]
fn the_service_manager_can_hold_the_queue() {
    let Some(filesystem) = FileSystem::new("ext4") else { return };
    let run = tempfile::tempdir().unwrap();
    let notify = UnixDatagram::bind(run.path().join("notify")).unwrap();
    notify.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let (brick, state) = (filesystem.dir("brick"), filesystem.dir("state"));
    let mut model = Model { lenient: true, ..Model::default() };
    let mut stored: Vec<(String, OwnedFd)> = Vec::new();
    for round in 0..3 {
        let mut service = Service::start(run.path(), &stored);
        let admin_socket = run.path().join("socket");
        let mut admin = common::client::Admin::connect(&admin_socket);
        admin.attach(common::process::BRICK, &brick, &state).unwrap();
        if round == 0 {
            stored = receive(&notify);
        }
        let mut client = Client::connect(&admin_socket, common::process::BRICK).unwrap();
        check(&mut model, &mut client, &brick);
        assert_eq!(admin.status()[0].crawls, u64::from(round == 0), "round {round}");
        service.0.kill().unwrap();
        service.0.wait().unwrap();
        mess(&brick, &filesystem.dir("outside"), 300, round);
    }
}

/// A recorder as a unit of its own.
struct Service(Child);

impl Service {
    fn start(run: &Path, stored: &[(String, OwnedFd)]) -> Service {
        let names: Vec<&str> = stored.iter().map(|(name, _)| name.as_str()).collect();
        // A copy that programs inherit, each of which gets the number at which systemd passes it.
        let copies: Vec<OwnedFd> =
            stored.iter().map(|(_, fd)| rustix::io::fcntl_dupfd_cloexec(fd, 50).unwrap()).collect();
        let mut script = String::new();
        for (number, copy) in copies.iter().enumerate() {
            rustix::io::fcntl_setfd(copy, rustix::io::FdFlags::empty()).unwrap();
            script += &format!("exec {}<&{} {}<&-; ", 3 + number, copy.as_raw_fd(), copy.as_raw_fd());
        }
        script += "LISTEN_PID=$$ exec \"$0\" --socket \"$1\" --log-level warn";
        let socket = run.join("socket");
        let child = Command::new("bash")
            .args(["-c", &script, env!("CARGO_BIN_EXE_gsync-recorder")])
            .arg(&socket)
            .env("NOTIFY_SOCKET", run.join("notify"))
            .env("LISTEN_FDS", stored.len().to_string())
            .env("LISTEN_FDNAMES", names.join(":"))
            .spawn()
            .unwrap();
        let service = Service(child);
        wait_for("the socket", || std::os::unix::net::UnixStream::connect(&socket).is_ok());
        service
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// What the recorder gives its manager.
fn receive(notify: &UnixDatagram) -> Vec<(String, OwnedFd)> {
    let mut stored = Vec::new();
    while stored.len() < 2 {
        let mut buffer = [0; 1000];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = rustix::net::RecvAncillaryBuffer::new(&mut space);
        let mut slices = [std::io::IoSliceMut::new(&mut buffer)];
        let flags = rustix::net::RecvFlags::CMSG_CLOEXEC;
        let length = rustix::net::recvmsg(notify, &mut slices, &mut control, flags).unwrap().bytes;
        let fds: Vec<OwnedFd> = control
            .drain()
            .filter_map(|part| match part {
                rustix::net::RecvAncillaryMessage::ScmRights(fds) => Some(fds.collect::<Vec<_>>()),
                _ => None,
            })
            .flatten()
            .collect();
        let text = std::str::from_utf8(&buffer[..length]).unwrap();
        let name = text.lines().find_map(|line| line.strip_prefix("FDNAME=")).unwrap();
        let is_store = text.lines().any(|line| line == "FDSTORE=1");
        assert_eq!((is_store, !is_store), (fds.len() == 1, text.contains("FDSTOREREMOVE=1")), "{text}");
        stored.extend(fds.into_iter().map(|fd| (name.to_owned(), fd)));
    }
    stored
}
