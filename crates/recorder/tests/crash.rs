//! The recorder is killed at any moment; what it wrote and what it writes after the restart lead to the disk's tree.

mod common;

use std::time::{Duration, Instant};

use common::writers::{mess, mess_until};
use common::{FileSystem, Model, Recorder, check, seed};

#[test]
fn killed_under_load() {
    let seed = seed("killed under load");
    let mut random = fastrand::Rng::with_seed(seed);
    let rounds = std::env::var("GSYNC_FUZZ_RUNS").ok().and_then(|text| text.parse().ok()).unwrap_or(8);
    for kind in ["ext4", "xfs"] {
        let Some(filesystem) = FileSystem::new(kind) else { continue };
        let (brick, outside, state) = (filesystem.dir("brick"), filesystem.dir("outside"), filesystem.dir("state"));
        mess(&brick, &outside, 300, seed);
        // Records are replayed after a crash, so they are not always applicable; the result is the same.
        let mut model = Model { lenient: true, ..Model::default() };
        for round in 0..rounds {
            let recorder = Recorder::start(&[]);
            recorder.attach(&brick, &state);
            let until = Instant::now() + Duration::from_millis(random.u64(..700));
            std::thread::scope(|scope| {
                scope.spawn(|| mess_until(&brick, &outside, until, seed ^ round << 20));
                scope.spawn(|| {
                    std::thread::sleep(until.saturating_duration_since(Instant::now()) / 2);
                    recorder.kill();
                });
            });
            // A consumer reads what there is at any time: what is gone afterwards must be told to be gone.
            model.read(&state.join("changelogs"));
        }
        let recorder = Recorder::start(&[]);
        check(&mut model, &mut recorder.follow(&brick, &state), &brick);
        recorder.stop();
        model.read(&state.join("changelogs"));
        common::model::assert_index_fresh(&state.join("index.redb"), &brick, &model);
    }
}

/// The index was lost: the changelog tells what consumers believe, so that deletes are still found.
#[test]
fn a_lost_index_is_made_from_the_changelog() {
    let Some(filesystem) = FileSystem::new("ext4") else { return };
    let (brick, state) = (filesystem.dir("brick"), filesystem.dir("state"));
    for name in ["keep", "remove"] {
        std::fs::create_dir(brick.join(name)).unwrap();
        std::fs::write(brick.join(name).join("file"), "x").unwrap();
    }
    let mut model = Model { lenient: true, ..Model::default() };
    for damage in ["", "cut", "removed"] {
        match damage {
            "cut" => std::fs::write(state.join("index.redb"), "nonsense").unwrap(),
            "removed" => std::fs::remove_file(state.join("index.redb")).unwrap(),
            _ => {}
        }
        if !damage.is_empty() {
            std::fs::remove_dir_all(brick.join("remove")).unwrap();
        }
        let recorder = Recorder::start(&[]);
        let mut client = recorder.follow(&brick, &state);
        client.barrier();
        model.read(&client.journal);
        model.assert_equals_disk(&brick);
        std::fs::create_dir_all(brick.join("remove/deeper")).unwrap();
        std::fs::write(brick.join("remove/deeper/file"), "x").unwrap();
        client.barrier();
        model.read(&client.journal);
        model.assert_equals_disk(&brick);
        recorder.stop();
    }
}

/// The changelog was removed and the index was not: a changelog that tells only what happened since would be taken for
/// the whole, so everything is told again.
#[test]
fn a_lost_changelog_is_written_anew() {
    let Some(filesystem) = FileSystem::new("ext4") else { return };
    let (brick, state) = (filesystem.dir("brick"), filesystem.dir("state"));
    std::fs::create_dir(brick.join("dir")).unwrap();
    std::fs::write(brick.join("dir/file"), "x").unwrap();
    for _ in 0..2 {
        let recorder = Recorder::start(&[]);
        let mut client = recorder.follow(&brick, &state);
        client.barrier();
        let mut model = Model { lenient: true, ..Model::default() };
        model.read(&client.journal);
        model.assert_equals_disk(&brick);
        recorder.stop();
        std::fs::remove_dir_all(state.join("changelogs")).unwrap();
    }
}
