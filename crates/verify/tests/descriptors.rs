//! Alone in its process, because it counts the process's descriptors.

mod common;

use common::*;
use verify::{Request, Walk};

#[test]
fn a_deep_tree_needs_few_descriptors() {
    let trees = Trees::empty();
    make_deep(&trees.primary(), 500, b"x");
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = open();
    let mut most = 0;
    let mut objects = 0;
    for _ in Walk::open(&trees.primary(), Request::Whole).unwrap() {
        most = most.max(open());
        objects += 1;
    }
    assert_eq!(objects, 1001);
    assert!(most < before + 40, "{most} descriptors, {before} before");
}
