//! The changelog under load, applied strictly, gives the tree of the disk.

mod common;

use common::model::assert_index_fresh;
use common::writers::mess_from_four;
use common::{FileSystem, KINDS, Model, Recorder, check, seed};

fn runs() -> u64 {
    std::env::var("GSYNC_FUZZ_RUNS").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

fn ops() -> usize {
    std::env::var("GSYNC_FUZZ_OPS").ok().and_then(|text| text.parse().ok()).unwrap_or(3000)
}

/// How recorder and writers run beside each other.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Mode {
    Live,
    /// The recorder sleeps while the writers work: everything that can be merged is.
    Lazy,
    /// The recorder is stopped while the writers work.
    Outage,
    /// As lazy, with a queue that overflows.
    Overflow,
    /// As lazy, then live, with what kernels before 5.17 report.
    Moved,
}

fn fuzz(kind: &str, mode: Mode) {
    let seed = seed(&format!("fuzz {kind} {mode:?}"));
    for run in 0..runs() {
        let Some(filesystem) = FileSystem::new(kind) else { return };
        let (brick, outside) = (filesystem.dir("brick"), filesystem.dir("outside"));
        let state = filesystem.dir("state");
        let seed = seed + run;
        mess_from_four(&brick, &outside, 200, seed);
        let arguments: &[&str] = match mode {
            Mode::Overflow => &["--limited-queue"],
            Mode::Moved => &["--level", "full-moved"],
            _ => &[],
        };
        let mut recorder = Recorder::start(arguments);
        let mut client = recorder.follow(&brick, &state);
        let mut model = Model::default();
        let level = if mode == Mode::Moved { "full-moved" } else { "full" };
        assert_eq!(recorder.admin().status()[0].level, level);
        for round in 0..2 {
            let seed = seed.wrapping_add(round << 32);
            match mode {
                Mode::Live => mess_from_four(&brick, &outside, ops(), seed),
                Mode::Moved if round == 1 => mess_from_four(&brick, &outside, ops(), seed),
                Mode::Lazy | Mode::Overflow | Mode::Moved => {
                    client.barrier();
                    recorder.freeze(true);
                    let count = if mode == Mode::Overflow { ops() * 8 } else { ops() };
                    mess_from_four(&brick, &outside, count, seed);
                    recorder.freeze(false);
                }
                Mode::Outage => {
                    client.barrier();
                    recorder.stop();
                    mess_from_four(&brick, &outside, ops(), seed);
                    // Where a file is the kernel knows only while it remembers the name.
                    filesystem.remount();
                    recorder = Recorder::start(arguments);
                    client = recorder.follow(&brick, &state);
                }
            }
            check(&mut model, &mut client, &brick);
        }
        eprintln!("{kind} {mode:?}: {} records, {} parked", model.records, model.parks);
        recorder.stop();
        assert!(model.read(&state.join("changelogs")).is_empty(), "something was recorded after the barrier");
        assert_index_fresh(&state.join("index.redb"), &brick, &model);
    }
}

#[test]
fn live() {
    KINDS.into_iter().for_each(|kind| fuzz(kind, Mode::Live));
}

#[test]
fn lazy() {
    KINDS.into_iter().for_each(|kind| fuzz(kind, Mode::Lazy));
}

#[test]
fn outage() {
    KINDS.into_iter().for_each(|kind| fuzz(kind, Mode::Outage));
}

#[test]
fn full_moved() {
    KINDS.into_iter().for_each(|kind| fuzz(kind, Mode::Moved));
}

#[test]
fn overflow() {
    ["ext4", "tmpfs"].into_iter().for_each(|kind| fuzz(kind, Mode::Overflow));
}

/// A directory that moves from where the crawl has not been yet to where it has been must be listed all the same.
#[test]
fn directories_move_while_they_are_crawled() {
    let seed = seed("moves during the crawl");
    let Some(filesystem) = FileSystem::new("tmpfs") else { return };
    let (brick, state) = (filesystem.dir("brick"), filesystem.dir("state"));
    let place = |side: &str, number: usize| brick.join(format!("{side}{}/d{number}", number % 10));
    for number in 0..600 {
        for side in ["l", "r"] {
            std::fs::create_dir_all(brick.join(format!("{side}{}", number % 10))).unwrap();
        }
        std::fs::create_dir_all(place("l", number).join("deep/er")).unwrap();
    }
    let recorder = Recorder::start(&[]);
    recorder.follow(&brick, &state).barrier();
    recorder.stop();
    for number in 0..600 {
        for file in 0..10 {
            std::fs::write(place("l", number).join(format!("deep/er/offline{file}")), "x").unwrap();
        }
    }
    let recorder = Recorder::start(&[]);
    let mut client = recorder.follow(&brick, &state);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut order: Vec<usize> = (0..600).collect();
    random.shuffle(&mut order);
    for number in order {
        std::fs::rename(place("l", number), place("r", number)).unwrap();
    }
    let crawling = recorder.admin().status()[0].crawling;
    check(&mut Model::default(), &mut client, &brick);
    assert!(crawling, "the crawl had ended before the moves did");
}
