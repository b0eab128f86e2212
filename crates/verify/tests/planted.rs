//! Every kind of difference, planted alone on each side: it is found, and nothing else is.

mod common;

use std::fs;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;

use common::*;
use rustix::fs::{AtFlags, CWD, FileType, Gid, Uid, makedev};

/// A path, what is done there, and what must be reported.
struct Case {
    path: &'static str,
    what: &'static str,
    plant: fn(&Path),
}

const fn case(path: &'static str, what: &'static str, plant: fn(&Path)) -> Case {
    Case { path, what, plant }
}

/// What is done to a path without adding or removing names.
const CHANGES: &[Case] = &[
    case("dir/file", "mode", |p| set_mode(p, 0o600)),
    case("plain", "mode", |p| set_mode(p, 0o755)),
    case("plain", "mode", |p| set_mode(p, 0o6755)),
    case("empty", "mode", |p| set_mode(p, 0o2775)),
    case("fifo", "mode", |p| set_mode(p, 0o600)),
    case(".", "mode", |p| set_mode(p, 0o700)),
    case("dir/file", "owner", |p| chown(p, Some(77), None)),
    case("dir/file", "owner", |p| chown(p, None, Some(77))),
    case("link", "owner", |p| chown(p, Some(13), None)),
    case("socket", "owner", |p| chown(p, Some(13), None)),
    case(".", "owner", |p| chown(p, Some(13), None)),
    case("file", "size", |p| fs::write(p, "content, longer").unwrap()),
    case("sparse", "size", |p| fs::OpenOptions::new().write(true).open(p).unwrap().set_len((3 << 20) + 2).unwrap()),
    case("dir/sub/deep", "size", |p| fs::write(p, "x").unwrap()),
    case("file", "content", |p| fs::write(p, "cOntent").unwrap()),
    case("sparse", "content", |p| fs::OpenOptions::new().write(true).open(p).unwrap().write_all_at(b"x", 1).unwrap()),
    case("dir/sub/.gsync/data", "content", |p| fs::write(p, "is Compared").unwrap()),
    case("file", "mtime", |p| set_mtime(p, 1, 1)),
    case("same-a", "mtime", |p| set_mtime(p, 5, 6)),
    case("link", "mtime", |p| set_mtime(p, 1, 1)),
    case("dir", "mtime", |p| set_mtime(p, 1, 1)),
    case("fifo", "mtime", |p| set_mtime(p, 1, 1)),
    case("dir/sub/.gsync", "mtime", |p| set_mtime(p, 1, 1)),
    case(".", "mtime", |p| set_mtime(p, 1, 1)),
    case("file", "xattr", |p| set_xattr(p, "user.a", b"other")),
    case("file", "xattr", |p| set_xattr(p, "user.new", b"")),
    case("file", "xattr", |p| xattr::remove(p, "trusted.b").unwrap()),
    case("link", "xattr", |p| set_xattr(p, "trusted.link", b"x")),
    case("socket", "xattr", |p| set_xattr(p, "trusted.x", b"x")),
    case(".", "xattr", |p| set_xattr(p, "user.root", b"x")),
    case("dir", "xattr", |p| set_xattr(p, "user.big", &[[b'x'; 1999].as_slice(), b"y"].concat())),
    case("file", "acl", |p| setfacl(p, "-m", "u:1001:r--")),
    case("file", "acl", |p| setfacl(p, "-m", "u:1000:-w-,m::r--")),
    case("dir/file", "acl", |p| setfacl(p, "-m", "u:1000:r--")),
    case("empty", "default-acl", |p| setfacl(p, "-m", "d:g:1000:r-x")),
    case("dir", "default-acl", |p| setfacl(p, "-m", "d:u:1000:r-x")),
];

/// What is done to a directory's names.
const REPLACEMENTS: &[Case] = &[
    case("file", "type", |p| {
        fs::remove_file(p).unwrap();
        fs::create_dir(p).unwrap();
        fs::write(p.join("below"), "").unwrap();
    }),
    case("dir", "type", |p| {
        fs::remove_dir_all(p.join("sub")).unwrap();
        fs::remove_file(p.join("file")).unwrap();
        fs::rename(p.join("hard-c"), p.parent().unwrap().join("dir-z")).unwrap();
        fs::remove_dir(p).unwrap();
        fs::rename(p.parent().unwrap().join("dir-z"), p).unwrap();
    }),
    case("fifo", "type", |p| {
        fs::remove_file(p).unwrap();
        make_node(p, FileType::Socket, 0);
    }),
    case("char", "type", |p| {
        fs::remove_file(p).unwrap();
        make_node(p, FileType::BlockDevice, makedev(1, 3));
    }),
    case("char", "device", |p| replace(p, |p| make_node(p, FileType::CharacterDevice, makedev(1, 5)))),
    case("block", "device", |p| replace(p, |p| make_node(p, FileType::BlockDevice, makedev(8, 200)))),
    case("dangling", "target", |p| replace(p, |p| symlink("/elsewhere", p).unwrap())),
    // A group of three that loses one, with equal content: it is the same to a reader, but not to a writer.
    case("dir/hard-c", "links", |p| {
        replace(p, |p| {
            fs::write(p, "hard").unwrap();
        })
    }),
    // Two files of equal content that become one.
    case("same-a", "links", |p| {
        fs::remove_file(p).unwrap();
        fs::hard_link(p.with_file_name("same-b"), p).unwrap();
    }),
];

/// What only the planted side has afterwards, or has no more.
const NAMES: &[(Case, bool)] = &[
    (case("new", "", |p| fs::write(p, "").unwrap()), true),
    (case("dir/sub/new", "", |p| symlink("x", p).unwrap()), true),
    (case("newdir", "", |p| fs::create_dir_all(p.join("a/b/c")).unwrap()), true),
    // Linked to an existing group: the name is extra, the group of the others is as it was.
    (case("hard-d", "", |p| fs::hard_link(p.with_file_name("hard-a"), p).unwrap()), true),
    (case("dir/.gsync", "", |p| fs::create_dir(p).unwrap()), true),
    (case(".gsync2", "", |p| fs::create_dir(p).unwrap()), true),
    (case("file", "", |p| fs::remove_file(p).unwrap()), false),
    (case("link", "", |p| fs::remove_file(p).unwrap()), false),
    (case("socket", "", |p| fs::remove_file(p).unwrap()), false),
    (case("dir/sub", "", |p| fs::remove_dir_all(p).unwrap()), false),
    (case("hard-b", "", |p| fs::remove_file(p).unwrap()), false),
];

#[test]
fn each_change_is_found_alone() {
    if !is_root("each_change_is_found_alone") {
        return;
    }
    let trees = Trees::full();
    assert_eq!(lines(&trees.compare()), [""; 0]);
    for (index, case) in CHANGES.iter().enumerate() {
        for planted_on in ["primary", "secondary"] {
            // A tree of its own for each: what one plants must not hide another.
            let trees = Trees::full();
            let at = trees.aside(planted_on).join(case.path);
            if case.what == "mtime" {
                (case.plant)(&at);
            } else {
                keeping_mtime(&at, || (case.plant)(&at));
            }
            let report = trees.compare();
            let expected = [(case.path.to_owned(), case.what.to_owned())];
            assert_eq!(kinds(&report), expected, "case {index} on the {planted_on}: {:?}", lines(&report));
            assert!(!report.equal && report.differing == 1 && report.in_flight == 0);
        }
    }
}

#[test]
fn each_replacement_is_found_alone() {
    if !is_root("each_replacement_is_found_alone") {
        return;
    }
    for case in REPLACEMENTS {
        for planted_on in ["primary", "secondary"] {
            let trees = Trees::full();
            let at = trees.aside(planted_on).join(case.path);
            let old = fs::symlink_metadata(&at).unwrap();
            keeping_mtime(at.parent().unwrap(), || (case.plant)(&at));
            if case.what == "links" {
                use std::os::unix::fs::MetadataExt;
                set_mtime(&at, old.mtime(), old.mtime_nsec());
            }
            let report = trees.compare();
            // A link group is reported at its first path.
            let path = if case.path == "dir/hard-c" { "dir/hard-c" } else { case.path };
            let expected = [(path.to_owned(), case.what.to_owned())];
            assert_eq!(kinds(&report), expected, "on the {planted_on}: {:?}", lines(&report));
        }
    }
}

#[test]
fn each_missing_and_extra_name_is_found_alone() {
    if !is_root("each_missing_and_extra_name_is_found_alone") {
        return;
    }
    for (case, adds) in NAMES {
        for planted_on in ["primary", "secondary"] {
            let trees = Trees::full();
            let at = trees.aside(planted_on).join(case.path);
            keeping_mtime(at.parent().unwrap(), || (case.plant)(&at));
            let report = trees.compare();
            let what = if *adds == (planted_on == "primary") { "missing" } else { "extra" };
            let expected = [(case.path.to_owned(), what.to_owned())];
            assert_eq!(kinds(&report), expected, "on the {planted_on}: {:?}", lines(&report));
        }
    }
}

#[test]
fn the_lines_say_it_all() {
    if !is_root("the_lines_say_it_all") {
        return;
    }
    let trees = Trees::full();
    let (primary, secondary) = (trees.primary(), trees.secondary());
    keeping_mtime(&secondary, || {
        keeping_mtime(&secondary.join("dir"), || fs::remove_dir_all(secondary.join("dir/sub")).unwrap());
        keeping_mtime(&secondary.join("file"), || set_mode(&secondary.join("file"), 0o600));
        keeping_mtime(&secondary.join("hard-a"), || {
            fs::remove_file(secondary.join("hard-b")).unwrap();
            fs::write(secondary.join("hard-b"), "hard").unwrap();
        });
        fs::write(secondary.join(bytes_name(b"%\n")), "").unwrap();
    });
    let (seconds, nanos) = {
        use std::os::unix::fs::MetadataExt;
        let old = fs::metadata(primary.join("hard-a")).unwrap();
        (old.mtime(), old.mtime_nsec())
    };
    set_mtime(&secondary.join("hard-b"), seconds, nanos);
    xattr::set(primary.join("same-a"), "user.n", b"1\0").unwrap();
    let report = trees.compare();
    assert_eq!(
        lines(&report),
        [
            "%25%0A: missing on the primary, file on the secondary",
            "dir/hard-c: hard links {dir/hard-c, hard-a, hard-b} on the primary, {dir/hard-c, hard-a} {hard-b} on the \
             secondary",
            "dir/sub: missing on the secondary, directory with 3 objects below it on the primary",
            "file: mode 0644 on the primary, 0600 on the secondary",
            "file: ACL u::rw-,u:1000:r--,g::r--,m::r--,o::r-- on the primary, u::rw-,u:1000:r--,g::r--,m::---,o::--- \
             on the secondary",
            "same-a: xattr user.n \"1%00\" on the primary, absent on the secondary",
        ]
    );
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["equal"], false);
    assert_eq!(json["differing"], 6);
    assert_eq!(json["differences"][3]["primary"], "0644");
    assert_eq!(json["differences"][2]["below"], 3);
    assert_eq!(json["differences"][2]["kind"], "directory");
    assert_eq!(json["differences"][5]["name"], "user.n");
    assert_eq!(json["differences"][5]["secondary"], "absent");
    assert_eq!(json["differences"][1]["secondary"][1][0], "hard-b");
}

fn chown(path: &Path, uid: Option<u32>, gid: Option<u32>) {
    let mode = fs::symlink_metadata(path).unwrap();
    rustix::fs::chownat(CWD, path, uid.map(Uid::from_raw), gid.map(Gid::from_raw), AtFlags::SYMLINK_NOFOLLOW).unwrap();
    if !mode.is_symlink() {
        fs::set_permissions(path, mode.permissions()).unwrap();
    }
}

fn setfacl(path: &Path, action: &str, entry: &str) {
    run("setfacl", &[action.as_ref(), entry.as_ref(), path.as_os_str()]);
}

/// Replaces an object by another one with the same metadata.
fn replace(path: &Path, make: fn(&Path)) {
    use std::os::unix::fs::MetadataExt;
    let old = fs::symlink_metadata(path).unwrap();
    fs::remove_file(path).unwrap();
    make(path);
    chown(path, Some(old.uid()), Some(old.gid()));
    if !old.is_symlink() {
        fs::set_permissions(path, old.permissions()).unwrap();
    }
    set_mtime(path, old.mtime(), old.mtime_nsec());
}
