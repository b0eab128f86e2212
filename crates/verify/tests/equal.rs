//! Equal trees are equal, and what is no part of a tree is not looked at.

mod common;

use std::fs;
use std::path::Path;

use common::*;
use verify::{Look, Options, Request, Side, TreePath, Walk};

/// How many objects the full tree has, its root included.
const OBJECTS: u64 = 28;

#[test]
fn copies_of_everything_are_equal() {
    if !is_root("copies_of_everything_are_equal") {
        return;
    }
    let trees = Trees::full();
    let report = trees.compare();
    assert_eq!(lines(&report), [""; 0]);
    assert!(report.equal && report.rounds == 1 && report.objects == OBJECTS, "{report:?}");
    assert!(report.bytes > 3 << 20);
}

#[test]
fn private_state_is_no_part_of_a_tree() {
    let trees = Trees::empty();
    fs::create_dir_all(trees.primary().join(".gsync/stage")).unwrap();
    fs::write(trees.secondary().join(".gsync"), "a file, even").unwrap();
    trees.align(Path::new(""));
    if rustix::process::geteuid().is_root() {
        xattr::set(trees.primary(), "trusted.gfid", &[1; 16]).unwrap();
        xattr::set(trees.secondary(), "trusted.gsync.mark", b"x").unwrap();
    }
    assert_eq!(lines(&trees.compare()), [""; 0]);
    // Not even when it is asked for by name.
    let looks = vec![Look { path: TreePath::from_bytes(b".gsync/stage".to_vec()).unwrap(), deep: true }];
    assert_eq!(Walk::open(&trees.primary(), Request::Some(looks)).unwrap().count(), 0);
}

#[test]
fn trees_deeper_than_path_max_are_compared() {
    let trees = Trees::empty();
    make_deep(&trees.primary(), 100, b"same");
    make_deep(&trees.secondary(), 100, b"same");
    let report = trees.compare();
    assert_eq!(lines(&report), [""; 0]);
    assert_eq!(report.objects, 201);

    let other = Trees::empty();
    make_deep(&other.primary(), 100, b"same");
    make_deep(&other.secondary(), 100, b"SAME");
    let report = other.compare();
    assert_eq!(report.differing, 100);
    assert!(report.differences.iter().all(|d| matches!(d.what, verify::What::Content(_))));
    // The same again, by asking for each path alone.
    let (mut primary, mut secondary) = (Side::local(other.primary()), Side::local(other.secondary()));
    let again = verify::recheck(&report, &mut primary, &mut secondary, &Options::default()).unwrap();
    assert_eq!(again.differences, report.differences);
}

#[test]
fn the_walk_is_in_the_order_of_paths() {
    if !is_root("the_walk_is_in_the_order_of_paths") {
        return;
    }
    let trees = Trees::full();
    let paths: Vec<_> = Walk::open(&trees.primary(), Request::Whole).unwrap().map(|entry| entry.path).collect();
    assert!(paths.is_sorted_by(|a, b| a < b), "{paths:?}");
    assert_eq!(paths.len() as u64, OBJECTS);
}

#[test]
fn differences_beyond_the_limit_are_counted() {
    let trees = Trees::empty();
    for number in 0..30 {
        fs::create_dir_all(trees.primary().join(format!("{number:02}/below"))).unwrap();
    }
    trees.align(Path::new(""));
    let report = trees.compare_with(&Options { differences_max: 10, ..Options::default() });
    assert_eq!((report.differing, report.differences.len()), (30, 10));
    assert!(report.is_truncated() && !report.equal);
    assert!(lines(&report).iter().all(|line| line.contains("with 1 objects below")));
}

#[test]
fn a_root_that_is_not_there_is_an_error() {
    let trees = Trees::empty();
    fs::remove_dir(trees.secondary()).unwrap();
    let (mut primary, mut secondary) = (Side::local(trees.primary()), Side::local(trees.secondary()));
    let result = verify::compare(&mut primary, &mut secondary, &Options::default());
    assert!(matches!(result, Err(verify::VerifyError::Root { path, .. }) if path == trees.secondary()));
}

#[test]
fn what_another_file_system_holds_is_not_compared_and_said_so() {
    if !is_root("what_another_file_system_holds_is_not_compared_and_said_so") {
        return;
    }
    let trees = Trees::empty();
    for root in [trees.primary(), trees.secondary()] {
        fs::create_dir_all(root.join("mnt/below")).unwrap();
        set_mtime(&root.join("mnt"), 3, 3);
        set_mtime(&root.join("mnt/below"), 3, 3);
    }
    trees.align(Path::new(""));
    assert_eq!(lines(&trees.compare()), [""; 0]);
    let mounted = Mount::tmpfs(&trees.primary().join("mnt"));
    let report = trees.compare();
    drop(mounted);
    assert_eq!(lines(&report), ["mnt: not compared: another file system on the primary, readable on the secondary"]);
}

/// Unmounts also when the test fails.
struct Mount(std::path::PathBuf);

impl Mount {
    fn tmpfs(at: &Path) -> Mount {
        run("mount", &["-t".as_ref(), "tmpfs".as_ref(), "none".as_ref(), at.as_os_str()]);
        Mount(at.to_owned())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        run("umount", &["-l".as_ref(), self.0.as_os_str()]);
    }
}
