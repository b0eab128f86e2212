//! What is in flight is waited for, and what stands still is reported.

mod common;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::*;
use verify::{Options, Report, Request, Side, Walk};

/// Compares with a step of a script before each look.
fn settle(trees: &Trees, steps: &mut dyn FnMut(u32) -> bool) -> Report {
    let (mut primary, mut secondary) = (Side::local(trees.primary()), Side::local(trees.secondary()));
    let mut step = 0;
    let wait = || {
        step += 1;
        Ok(steps(step))
    };
    verify::compare_settled(&mut primary, &mut secondary, &Options::default(), wait).unwrap()
}

/// Makes a file on one side, with times that do not differ.
fn make(root: &Path, path: &str, content: &str) {
    fs::write(root.join(path), content).unwrap();
    set_mtime(&root.join(path), 9, 9);
    set_mtime(root.join(path).parent().unwrap(), 1_000_000, 1);
}

#[test]
fn what_arrives_late_is_no_difference() {
    let trees = Trees::empty();
    for name in ["a", "b", "c"] {
        make(&trees.primary(), name, name);
    }
    let report = settle(&trees, &mut |step| {
        if let Some(name) = ["a", "b", "c"].get(step as usize - 1) {
            make(&trees.secondary(), name, name);
        }
        true
    });
    assert!(report.equal, "{report:?}");
    assert_eq!(report.rounds, 3);
}

#[test]
fn a_real_difference_ends_the_wait() {
    let trees = Trees::empty();
    make(&trees.primary(), "a", "a");
    let mut steps = 0;
    let report = settle(&trees, &mut |_| {
        steps += 1;
        true
    });
    assert_eq!((report.differing, report.in_flight, report.rounds, steps), (1, 0, 2, 2));
}

#[test]
fn what_never_stands_still_is_in_flight() {
    let trees = Trees::empty();
    make(&trees.primary(), "quiet", "");
    make(&trees.secondary(), "busy", "");
    let report = settle(&trees, &mut |step| {
        make(&trees.primary(), "busy", &step.to_string());
        true
    });
    assert_eq!(report.rounds, Options::default().rounds_max);
    assert_eq!((report.differing, report.in_flight), (2, 1));
    let busy: Vec<_> = report.differences.iter().filter(|d| d.in_flight).map(|d| d.path.to_string()).collect();
    assert_eq!(busy, ["busy"]);
    assert!(lines(&report)[0].ends_with("(in flight)"));
}

#[test]
fn a_caller_that_cannot_wait_gets_one_look() {
    let trees = Trees::empty();
    make(&trees.primary(), "a", "a");
    let report = settle(&trees, &mut |_| false);
    assert_eq!((report.differing, report.rounds), (1, 1));
}

#[test]
fn only_what_differed_is_looked_at_again() {
    let trees = Trees::empty();
    for name in ["a", "b"] {
        make(&trees.primary(), name, name);
        make(&trees.secondary(), name, name);
    }
    make(&trees.primary(), "c", "c");
    let report = settle(&trees, &mut |step| {
        if step == 2 {
            // Nobody looks at `b` again: this is not the whole comparison once more.
            make(&trees.secondary(), "b", "other");
            make(&trees.secondary(), "c", "c");
        }
        true
    });
    assert!(report.equal && report.objects == 4, "{report:?}");
    assert!(!trees.compare().equal);
}

#[test]
fn a_name_that_arrives_with_the_wrong_inode_is_found() {
    // The second look sees `b` alone, which is equal as such; that it is a link of `a` on the primary only shows when
    // `a` is looked at, too.
    let trees = Trees::empty();
    make(&trees.primary(), "a", "x");
    make(&trees.secondary(), "a", "x");
    fs::hard_link(trees.primary().join("a"), trees.primary().join("b")).unwrap();
    trees.align(Path::new(""));
    let report = settle(&trees, &mut |step| {
        if step == 2 {
            make(&trees.secondary(), "b", "x");
        }
        true
    });
    assert_eq!(kinds(&report), [("a".to_owned(), "links".to_owned())]);
}

#[test]
fn a_directory_that_arrives_is_looked_at_with_all_below() {
    let trees = Trees::empty();
    fs::create_dir_all(trees.primary().join("d/e")).unwrap();
    make(&trees.primary(), "d/e/f", "f");
    set_mtime(&trees.primary().join("d"), 4, 4);
    trees.align(Path::new(""));
    let report = settle(&trees, &mut |step| {
        if step == 2 {
            fs::create_dir_all(trees.secondary().join("d/e")).unwrap();
            make(&trees.secondary(), "d/e/f", "F");
            set_mtime(&trees.secondary().join("d"), 4, 4);
            trees.align(Path::new(""));
        }
        true
    });
    assert_eq!(kinds(&report), [("d/e/f".to_owned(), "content".to_owned())]);
}

#[test]
fn a_directory_that_gains_a_name_is_looked_at_again_too() {
    let trees = Trees::empty();
    make(&trees.primary(), "a", "a");
    let report = settle(&trees, &mut |step| {
        if step == 2 {
            // The file arrives, but the root's mtime is wrong from now on.
            make(&trees.secondary(), "a", "a");
            set_mtime(&trees.secondary(), 2, 2);
        }
        true
    });
    assert_eq!(kinds(&report), [(".".to_owned(), "mtime".to_owned())]);
}

#[test]
fn what_changes_while_it_is_looked_at_is_marked() {
    let trees = Trees::empty();
    let path = trees.primary().join("f");
    fs::write(&path, vec![b'x'; 4 << 20]).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // The size stays: only its times tell.
        scope.spawn(|| {
            let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
            while !stop.load(Ordering::Relaxed) {
                file.write_all_at(b"y", 1 << 20).unwrap();
            }
        });
        let deadline = Instant::now() + Duration::from_secs(20);
        let marked = || {
            let mut walk = Walk::open(&trees.primary(), Request::Whole).unwrap();
            walk.any(|entry| entry.facts().is_some_and(|facts| facts.unstable))
        };
        let mut found = false;
        while !found && Instant::now() < deadline {
            found = marked();
        }
        stop.store(true, Ordering::Relaxed);
        assert!(found);
    });
}

#[test]
fn a_load_that_goes_on_does_not_fail_the_walk() {
    let trees = Trees::empty();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let load = |seed: u64| {
            let (root, stop) = (trees.primary(), &stop);
            move || {
                let mut random = fastrand::Rng::with_seed(seed);
                while !stop.load(Ordering::Relaxed) {
                    let name =
                        |random: &mut fastrand::Rng| root.join(format!("d{}/f{}", random.u8(0..3), random.u8(0..5)));
                    let (a, b) = (name(&mut random), name(&mut random));
                    let _ = match random.u8(0..6) {
                        0 => fs::create_dir(a.parent().unwrap()),
                        1 => fs::rename(a.parent().unwrap(), b),
                        2 => fs::rename(a, b),
                        3 => fs::remove_dir_all(a.parent().unwrap()),
                        4 => fs::hard_link(a, b),
                        _ => fs::write(a, vec![0; random.usize(0..100_000)]),
                    };
                }
            }
        };
        let threads = [scope.spawn(load(1)), scope.spawn(load(2))];
        for _ in 0..30 {
            trees.compare();
        }
        stop.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().unwrap();
        }
    });
    fs::remove_dir(trees.secondary()).unwrap();
    run("cp", &["--archive".as_ref(), trees.primary().as_os_str(), trees.secondary().as_os_str()]);
    assert_eq!(lines(&trees.compare()), [""; 0]);
}
