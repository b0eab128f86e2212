//! Each statement, and what gives way to it.

mod common;

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use common::filesystem::on_each;
use common::*;
use protocol::agent::{Item, Outcome};
use protocol::{Gfid, Kind, Object, Version, Xattr};

const ROOT: Gfid = Gfid::ROOT;

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn every_kind_is_made_with_its_attributes() {
    on_each(|root| {
        let mut local = Local::open(root);
        let kinds = [Kind::Directory, Kind::Symlink, Kind::Fifo, Kind::Socket, Kind::CharDevice, Kind::BlockDevice];
        for (i, kind) in kinds.into_iter().enumerate() {
            let mut wanted = object(kind);
            wanted.xattrs = vec![Xattr { name: b"trusted.mine".to_vec(), value: b"yes".to_vec() }];
            wanted.rdev = if matches!(kind, Kind::CharDevice | Kind::BlockDevice) { 0x0103 } else { 0 };
            let place = place(ROOT, &format!("{kind:?}"));
            local.done(vec![Item::Bind { place, gfid: gfid(i as u32), from: None, object: wanted.clone() }]);
            let meta = root.join(format!("{kind:?}")).symlink_metadata().unwrap();
            assert_eq!((meta.uid(), meta.gid()), (12, 34), "{kind:?}");
            assert_eq!((meta.mtime(), meta.mtime_nsec()), (1_000_000_000, 123_456_789), "{kind:?}");
            if kind != Kind::Symlink {
                assert_eq!(meta.mode() & 0o7777, 0o750, "{kind:?}");
            }
            let xattr = xattr::get(root.join(format!("{kind:?}")), "trusted.mine").unwrap();
            assert_eq!(xattr.as_deref(), Some(b"yes".as_slice()), "{kind:?}");
        }
        assert!(root.join("CharDevice").symlink_metadata().unwrap().file_type().is_char_device());
        assert_eq!(root.join("BlockDevice").symlink_metadata().unwrap().rdev(), 0x0103);
        assert_eq!(std::fs::read_link(root.join("Symlink")).unwrap(), Path::new("to/nowhere"));
        assert!(list(&root.join(".gsync/made")).is_empty());
    });
}

#[test]
fn a_file_needs_its_content_first() {
    on_each(|root| {
        let mut local = Local::open(root);
        let object = file_object(b"hello", 1);
        let bind = Item::Bind { place: place(ROOT, "f"), gfid: gfid(1), from: None, object: object.clone() };
        let content = Item::Content { gfid: gfid(1), object: object.clone(), whole: false };
        let have = Item::Have { gfid: gfid(1), version: Version::of(&object) };
        let all = vec![bind.clone(), content.clone(), have.clone()];
        assert_eq!(local.apply(all), vec![Outcome::NeedContent; 3]);
        local.stage(gfid(1), b"hello");
        local.done(vec![content.clone(), have.clone(), bind.clone(), have.clone(), bind, content, have]);
        assert_eq!(std::fs::read(root.join("f")).unwrap(), b"hello");
        let meta = root.join("f").metadata().unwrap();
        assert_eq!((meta.uid(), meta.permissions().mode() & 0o7777, meta.mtime_nsec()), (12, 0o750, 5));
        std::fs::write(root.join("f"), b"other").unwrap();
        let have = Item::Have { gfid: gfid(1), version: Version::of(&object) };
        assert_eq!(local.apply(vec![have]), vec![Outcome::NeedContent]);
    });
}

#[test]
fn new_content_reaches_every_name_and_parked_files() {
    on_each(|root| {
        let mut local = Local::open(root);
        local.done(vec![bind(ROOT, "d", gfid(9), Kind::Directory)]);
        local.new_file(ROOT, "a", gfid(1), b"old");
        let old = Item::Bind { place: place(gfid(9), "b"), gfid: gfid(1), from: None, object: file_object(b"old", 1) };
        local.done(vec![old]);
        assert_eq!(root.join("a").metadata().unwrap().nlink(), 2);
        local.stage(gfid(1), b"newer");
        let object = file_object(b"newer", 2);
        local.done(vec![Item::Content { gfid: gfid(1), object, whole: false }]);
        for path in ["a", "d/b"] {
            assert_eq!(std::fs::read(root.join(path)).unwrap(), b"newer");
        }
        assert_eq!(root.join("a").metadata().unwrap().ino(), root.join("d/b").metadata().unwrap().ino());
        assert_eq!(root.join("a").metadata().unwrap().nlink(), 2);
        assert!(list(&root.join(".gsync/relink")).is_empty());
        // Parked: the next name has the content that came meanwhile.
        local.done(vec![unbind(ROOT, "a", gfid(1)), unbind(gfid(9), "b", gfid(1))]);
        local.stage(gfid(1), b"newest");
        let object = file_object(b"newest", 3);
        local.done(vec![Item::Content { gfid: gfid(1), object: object.clone(), whole: false }]);
        local.done(vec![Item::Bind { place: place(ROOT, "c"), gfid: gfid(1), from: None, object }]);
        assert_eq!(std::fs::read(root.join("c")).unwrap(), b"newest");
        assert!(list(&root.join(".gsync/parked")).is_empty());
    });
}

#[test]
fn names_are_exchanged_by_two_bindings() {
    on_each(|root| {
        for kind in [Kind::Symlink, Kind::Directory] {
            let root = root.join(format!("{kind:?}"));
            std::fs::create_dir(&root).unwrap();
            let mut local = Local::open(&root);
            local.done(vec![bind(ROOT, "a", gfid(1), kind), bind(ROOT, "b", gfid(2), kind)]);
            local.done(vec![
                rename((ROOT, "a"), (ROOT, "b"), gfid(1), kind),
                rename((ROOT, "b"), (ROOT, "a"), gfid(2), kind),
            ]);
            assert_eq!(names(&root), [("a".into(), Some(gfid(2))), ("b".into(), Some(gfid(1)))]);
            // A cycle of three, without knowing the old names.
            local.done(vec![bind(ROOT, "c", gfid(3), kind)]);
            local.done(vec![
                bind(ROOT, "b", gfid(2), kind),
                unbind(ROOT, "a", gfid(2)),
                bind(ROOT, "c", gfid(1), kind),
                bind(ROOT, "a", gfid(3), kind),
            ]);
            let expected = [("a", 3), ("b", 2), ("c", 1)].map(|(n, g)| (n.to_string(), Some(gfid(g))));
            assert_eq!(names(&root), expected);
            assert!(list(&root.join(".gsync/parked")).is_empty());
        }
    });
}

#[test]
fn everything_gives_way_to_everything() {
    on_each(|root| {
        let kinds = [Kind::Directory, Kind::Fifo];
        for (i, (old, new)) in kinds.iter().flat_map(|&a| kinds.iter().map(move |&b| (a, b))).enumerate() {
            for from in [None, Some("from")] {
                let root = root.join(format!("{i}-{}", from.is_some()));
                std::fs::create_dir(&root).unwrap();
                let mut local = Local::open(&root);
                local.done(vec![bind(ROOT, "x", gfid(1), old), bind(ROOT, "from", gfid(2), new)]);
                if old == Kind::Directory {
                    local.done(vec![bind(gfid(1), "inside", gfid(3), Kind::Fifo)]);
                }
                local.done(vec![Item::Bind {
                    place: place(ROOT, "x"),
                    gfid: gfid(2),
                    from: from.map(|name| place(ROOT, name)),
                    object: object(new),
                }]);
                assert_eq!(look(&root)["x"].1, Some(gfid(2)), "{old:?} {new:?} {from:?}");
                assert_eq!(list(&root.join(".gsync/parked")), [gfid(1).to_string()]);
                // What was displaced takes its next name with everything in it.
                local.done(vec![bind(ROOT, "y", gfid(1), old)]);
                assert_eq!(look(&root)["y"].1, Some(gfid(1)));
                assert_eq!(look(&root).contains_key("y/inside"), old == Kind::Directory);
                assert!(list(&root.join(".gsync/parked")).is_empty());
                // And is removed when it is gone.
                let gone = local.apply_gone(
                    vec![unbind(ROOT, "y", gfid(1)), unbind(gfid(1), "inside", gfid(3))],
                    vec![gfid(1), gfid(3)],
                );
                assert_eq!(gone.1, [Outcome::Done, Outcome::Done]);
                assert!(list(&root.join(".gsync/parked")).is_empty());
            }
        }
    });
}

#[test]
fn a_directory_changes_places_with_its_parent() {
    on_each(|root| {
        let mut local = Local::open(root);
        local.done(vec![
            bind(ROOT, "a", gfid(1), Kind::Directory),
            bind(gfid(1), "b", gfid(2), Kind::Directory),
            bind(gfid(2), "deep", gfid(3), Kind::Fifo),
        ]);
        // b/a: the wrong order first.
        let a_below_b = rename((ROOT, "a"), (gfid(2), "a"), gfid(1), Kind::Directory);
        let before = names(root);
        assert_eq!(local.apply(vec![a_below_b.clone()]), [Outcome::Loop]);
        let own = bind(gfid(1), "self", gfid(1), Kind::Directory);
        assert_eq!(local.apply(vec![own]), [Outcome::Loop]);
        assert_eq!(names(root), before);
        local.done(vec![rename((gfid(1), "b"), (ROOT, "b"), gfid(2), Kind::Directory), a_below_b]);
        let expected = [("b", 2), ("b/a", 1), ("b/deep", 3)].map(|(n, g)| (n.to_string(), Some(gfid(g))));
        assert_eq!(names(root), expected);
        // The child takes the parent's own name.
        local.done(vec![rename((gfid(2), "a"), (ROOT, "b"), gfid(1), Kind::Directory)]);
        assert_eq!(names(root), [("b".to_string(), Some(gfid(1)))]);
        local.done(vec![bind(gfid(1), "a", gfid(2), Kind::Directory)]);
        let expected = [("b", 1), ("b/a", 2), ("b/a/deep", 3)].map(|(n, g)| (n.to_string(), Some(gfid(g))));
        assert_eq!(names(root), expected);
    });
}

#[test]
fn hard_links_are_made_renamed_and_dropped() {
    on_each(|root| {
        let mut local = Local::open(root);
        local.new_file(ROOT, "a", gfid(1), b"one");
        local.new_file(ROOT, "b", gfid(2), b"two");
        let link = |from: Option<&str>, to: &str, g| Item::Bind {
            place: place(ROOT, to),
            gfid: gfid(g),
            from: from.map(|f| place(ROOT, f)),
            object: file_object(b"one", 1),
        };
        local.done(vec![link(None, "c", 1), link(None, "b", 1)]);
        assert_eq!(root.join("a").metadata().unwrap().nlink(), 3);
        assert_eq!(list(&root.join(".gsync/parked")), [gfid(2).to_string()]);
        // rename(2) between two names of one file does nothing by itself.
        local.done(vec![link(Some("a"), "b", 1)]);
        assert!(!root.join("a").exists());
        assert_eq!(root.join("b").metadata().unwrap().nlink(), 2);
        // A link over a directory.
        local.done(vec![bind(ROOT, "d", gfid(5), Kind::Directory), link(None, "d", 1)]);
        assert_eq!(std::fs::read(root.join("d")).unwrap(), b"one");
        let parked = [gfid(2), gfid(5)].map(|g| g.to_string());
        assert_eq!(list(&root.join(".gsync/parked")), parked);
        // The last name parks, the others do not.
        local.done(vec![unbind(ROOT, "b", gfid(1)), unbind(ROOT, "c", gfid(1))]);
        assert_eq!(list(&root.join(".gsync/parked")), parked);
        let gone = vec![gfid(1), gfid(2), gfid(5), gfid(77)];
        let outcomes = local.apply_gone(vec![unbind(ROOT, "d", gfid(1))], gone);
        assert_eq!(outcomes, (vec![Outcome::Done], vec![Outcome::Done; 4]));
        assert!(list(&root.join(".gsync/parked")).is_empty());
        assert!(names(root).is_empty());
    });
}

#[test]
fn what_is_not_so_is_left_alone() {
    let root = scratch();
    let mut local = Local::open(root.path());
    local.done(vec![bind(ROOT, "a", gfid(1), Kind::Fifo), bind(ROOT, "d", gfid(2), Kind::Directory)]);
    let before = names(root.path());
    local.done(vec![
        unbind(ROOT, "a", gfid(7)),
        unbind(ROOT, "nothing", gfid(1)),
        unbind(gfid(99), "a", gfid(1)),
        bind(ROOT, "a", gfid(1), Kind::Fifo),
    ]);
    assert_eq!(local.apply_gone(vec![], vec![gfid(1), gfid(2), gfid(99)]).1, vec![Outcome::Done; 3]);
    assert_eq!(names(root.path()), before);
    assert_eq!(local.apply(vec![bind(gfid(99), "x", gfid(5), Kind::Fifo)]), [Outcome::ParentMissing]);
    let unknown = Item::Attributes { gfid: gfid(99), object: object(Kind::Fifo) };
    assert_eq!(local.apply(vec![unknown]), [Outcome::Unknown]);
    for wrong in [
        Item::Attributes { gfid: gfid(1), object: object(Kind::Directory) },
        bind(ROOT, "b", gfid(1), Kind::Directory),
        bind(gfid(1), "x", gfid(5), Kind::Fifo),
    ] {
        let outcomes = local.apply(vec![wrong.clone()]);
        assert!(matches!(outcomes[0], Outcome::Failed { .. }), "{wrong:?} {outcomes:?}");
    }
    assert_eq!(names(root.path()), before);
}

#[test]
fn forbidden_names_and_objects_are_refused() {
    let root = scratch();
    let mut local = Local::open(root.path());
    local.done(vec![bind(ROOT, "d", gfid(2), Kind::Directory)]);
    let long = "x".repeat(256);
    let names_refused = ["", ".", "..", "a/b", "../x", "/etc/x", "a\0b", ".gsync", &long];
    for name in names_refused {
        for item in [bind(ROOT, name, gfid(1), Kind::Fifo), unbind(ROOT, name, gfid(2))] {
            assert!(matches!(local.apply(vec![item.clone()])[0], Outcome::Failed { .. }), "{item:?}");
        }
        let from = Item::Bind {
            place: place(ROOT, "ok"),
            gfid: gfid(2),
            from: Some(place(ROOT, name)),
            object: object(Kind::Directory),
        };
        assert!(matches!(local.apply(vec![from])[0], Outcome::Failed { .. }), "{name}");
    }
    for wrong in [ROOT, Gfid::PARKING, Gfid([0; 16])] {
        let refused = local.apply(vec![bind(ROOT, "x", wrong, Kind::Directory), unbind(ROOT, "d", wrong)]);
        assert!(refused.iter().all(|o| matches!(o, Outcome::Failed { .. })), "{wrong} {refused:?}");
        let gone = local.apply_gone(vec![], vec![wrong]).1;
        assert!(matches!(gone[0], Outcome::Failed { .. }), "{wrong}");
    }
    let parking = local.apply(vec![bind(Gfid::PARKING, "x", gfid(1), Kind::Fifo)]);
    assert!(matches!(parking[0], Outcome::Failed { .. }));
    // Below another directory the name is like any other.
    local.done(vec![bind(gfid(2), ".gsync", gfid(3), Kind::Directory)]);
    let many = vec![unbind(ROOT, "q", gfid(1)); protocol::agent::MAX_BATCH_ITEMS + 1];
    assert!(local.apply(many).iter().all(|o| matches!(o, Outcome::Failed { .. })));
}

#[test]
fn unknown_objects_go_to_quarantine() {
    on_each(|root| {
        let mut local = Local::open(root);
        local.done(vec![bind(ROOT, "d", gfid(2), Kind::Directory)]);
        std::fs::write(root.join("a"), b"precious").unwrap();
        std::fs::create_dir(root.join("b")).unwrap();
        std::fs::write(root.join("b/c"), b"precious").unwrap();
        std::fs::write(root.join("d/stray"), b"precious").unwrap();
        local.done(vec![bind(ROOT, "a", gfid(1), Kind::Symlink), bind(ROOT, "b", gfid(3), Kind::Directory)]);
        assert_eq!(look(root)["a"].1, Some(gfid(1)));
        assert_eq!(look(root)["b"].1, Some(gfid(3)));
        let (_, gone) = local.apply_gone(vec![unbind(ROOT, "d", gfid(2))], vec![gfid(2)]);
        assert_eq!(gone, [Outcome::Done]);
        let kept = list(&root.join(".gsync/quarantine"));
        assert_eq!(kept.len(), 3, "{kept:?}");
        for (name, file) in [("-a", ""), ("-b", "/c"), ("-stray", "")] {
            let found = kept.iter().find(|k| k.ends_with(name)).unwrap();
            let content = std::fs::read(root.join(format!(".gsync/quarantine/{found}{file}"))).unwrap();
            assert_eq!(content, b"precious");
        }
        // A known child keeps a gone directory.
        local.done(vec![bind(ROOT, "e", gfid(4), Kind::Directory), bind(gfid(4), "f", gfid(5), Kind::Fifo)]);
        let (_, gone) = local.apply_gone(vec![unbind(ROOT, "e", gfid(4))], vec![gfid(4)]);
        assert_eq!(gone, [Outcome::NotEmpty]);
        local.done(vec![unbind(gfid(4), "f", gfid(5))]);
        assert_eq!(local.apply_gone(vec![], vec![gfid(4), gfid(5)]).1, vec![Outcome::Done; 2]);
    });
}

#[test]
fn directories_keep_the_mtime_of_the_primary() {
    on_each(|root| {
        let mut local = Local::open(root);
        let wanted = object(Kind::Directory);
        local.done(vec![
            Item::Attributes { gfid: ROOT, object: wanted.clone() },
            bind(ROOT, "d", gfid(2), Kind::Directory),
            bind(gfid(2), "x", gfid(3), Kind::Fifo),
        ]);
        let later = Object { mtime: protocol::Time { secs: 2_000_000_000, nanos: 7 }, ..wanted };
        local.done(vec![Item::Attributes { gfid: gfid(2), object: later }, unbind(gfid(2), "x", gfid(3))]);
        assert_eq!(root.metadata().unwrap().mtime(), 1_000_000_000);
        let meta = root.join("d").metadata().unwrap();
        assert_eq!((meta.mtime(), meta.mtime_nsec()), (2_000_000_000, 7));
    });
}

#[test]
fn a_basis_is_prepared_for_each_file() {
    on_each(|root| {
        let mut local = Local::open(root);
        local.new_file(ROOT, "small", gfid(1), b"content");
        local.done(vec![bind(ROOT, "d", gfid(2), Kind::Directory)]);
        let asked = [gfid(1), gfid(2), gfid(3)];
        let prepared = gsync_agent::apply::prepare::prepare(&mut local.tree, &local.staging, &asked).unwrap();
        assert_eq!(prepared, [true, false, false]);
        let stage = root.join(".gsync/stage").join(&local.staging.stage.token);
        let basis = stage.join(gfid(1).to_string());
        assert_eq!(std::fs::read(&basis).unwrap(), b"content");
        assert_ne!(basis.metadata().unwrap().ino(), root.join("small").metadata().unwrap().ino());
        // A basis is not a complete file.
        let content = Item::Content { gfid: gfid(1), object: file_object(b"CONTENT", 2), whole: false };
        assert_eq!(local.apply(vec![content]), [Outcome::NeedContent]);
        assert_eq!(std::fs::read(root.join("small")).unwrap(), b"content");
    });
}

#[test]
fn a_large_file_is_patched_in_place_where_nothing_clones() {
    let root = scratch();
    let mut local = Local::open(root.path());
    local.tree.can_clone = false;
    local.new_file(ROOT, "large", gfid(1), b"x");
    let size = gsync_agent::apply::prepare::MAX_COPY_BYTES + 1;
    let live = std::fs::OpenOptions::new().write(true).open(root.path().join("large")).unwrap();
    live.set_len(size).unwrap();
    let object = Object { size, ..file_object(b"", 2) };
    let version = Version::of(&object);
    let row = local.tree.index.get(gfid(1)).unwrap().unwrap();
    local.tree.index.put(gfid(1), &gsync_agent::index::Row { version: Some(version), ..row }).unwrap();
    local.done(vec![Item::Attributes { gfid: gfid(1), object: object.clone() }, Item::Have { gfid: gfid(1), version }]);
    let prepared = gsync_agent::apply::prepare::prepare(&mut local.tree, &local.staging, &[gfid(1)]).unwrap();
    assert_eq!(prepared, [true]);
    let basis = root.path().join(".gsync/stage").join(&local.staging.stage.token).join(gfid(1).to_string());
    let inode = root.path().join("large").metadata().unwrap().ino();
    assert_eq!(basis.metadata().unwrap().ino(), inode);
    assert_eq!(local.tree.index.get(gfid(1)).unwrap().unwrap().version, None);
    // Whatever the attributes say: not complete before rsync says so by the mtime, and nobody has a version of it.
    let content = Item::Content { gfid: gfid(1), object: object.clone(), whole: false };
    let attributes = Item::Attributes { gfid: gfid(1), object: object.clone() };
    let have = Item::Have { gfid: gfid(1), version };
    let outcomes = local.apply(vec![attributes, content.clone(), have.clone()]);
    assert_eq!(outcomes, [Outcome::Done, Outcome::NeedContent, Outcome::NeedContent]);
    posix::object::set_mtime(std::os::fd::AsFd::as_fd(&live), object.mtime).unwrap();
    local.done(vec![content, have]);
    assert_eq!(root.path().join("large").metadata().unwrap().ino(), inode);
    assert_eq!(root.path().join("large").metadata().unwrap().nlink(), 1);
}

#[test]
fn a_tree_deeper_than_a_path_can_be_is_followed() {
    let root = scratch();
    let mut local = Local::open(root.path());
    let name = "n".repeat(100);
    let depth = 200;
    for i in 0..depth {
        let parent = if i == 0 { ROOT } else { gfid(i) };
        local.done(vec![bind(parent, &name, gfid(i + 1), Kind::Directory)]);
    }
    local.close();
    let mut local = Local::open(root.path());
    local.done(vec![bind(gfid(depth), "leaf", gfid(9999), Kind::Fifo)]);
    drop(local);
    // Once more from the stamps.
    let mut local = Local::open(root.path());
    local.done(vec![unbind(gfid(depth), "leaf", gfid(9999))]);
    assert_eq!(list(&root.path().join(".gsync/parked")), [gfid(9999).to_string()]);
}
