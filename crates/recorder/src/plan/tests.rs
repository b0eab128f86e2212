//! Plans of random pairs of trees, carried out by a model that accepts nothing that a file system would refuse.

use std::collections::BTreeMap;

use super::*;

/// Names and what is at them; directories are the GFIDs below 8.
type Tree = BTreeMap<Slot, Gfid>;

fn gfid(n: u8) -> Gfid {
    let mut bytes = [0; 16];
    bytes[0] = 0x80 | n;
    Gfid(bytes)
}

fn is_dir(object: Gfid) -> bool {
    object.0[0] & 0x7f < 8
}

fn slot(parent: Gfid, name: &str) -> Slot {
    Slot::new(parent, name.as_bytes())
}

fn below(tree: &Tree, dir: Gfid, ancestor: Gfid) -> bool {
    let mut at = dir;
    loop {
        if at == ancestor {
            return true;
        }
        match tree.iter().find(|(_, object)| **object == at) {
            Some((slot, _)) => at = slot.parent,
            None => return false,
        }
    }
}

fn exists(tree: &Tree, object: Gfid) -> bool {
    object == Gfid::ROOT || object == Gfid::PARKING || tree.values().any(|found| *found == object)
}

/// A random tree in which every directory has one name and a way to the root.
fn random_tree(random: &mut fastrand::Rng, objects: u8) -> Tree {
    let mut tree = Tree::new();
    let mut dirs = vec![Gfid::ROOT];
    let mut order: Vec<u8> = (0..8).collect();
    random.shuffle(&mut order);
    let put = |tree: &mut Tree, random: &mut fastrand::Rng, dirs: &[Gfid], object| {
        let at = slot(dirs[random.usize(..dirs.len())], ["a", "b", "c"][random.usize(..3)]);
        let free = !tree.contains_key(&at);
        if free {
            tree.insert(at, object);
        }
        free
    };
    for n in order.into_iter().take(random.usize(..7)) {
        if put(&mut tree, random, &dirs, gfid(n)) {
            dirs.push(gfid(n));
        }
    }
    for n in 8..objects {
        for _ in 0..random.usize(..3) {
            put(&mut tree, random, &dirs, gfid(n));
        }
    }
    tree
}

fn changes_between(old: &Tree, new: &Tree) -> Vec<Change> {
    let slots: std::collections::BTreeSet<&Slot> = old.keys().chain(new.keys()).collect();
    let change = |slot: &Slot| Change { slot: slot.clone(), old: old.get(slot).copied(), new: new.get(slot).copied() };
    slots.into_iter().map(change).filter(|change| change.old != change.new).collect()
}

fn facts_of(old: &Tree, new: &Tree, lost: &[Gfid]) -> Facts {
    let mut facts = Facts::default();
    for object in old.values().chain(new.values()).copied() {
        let fact = Fact {
            known: exists(old, object),
            dir: is_dir(object),
            gone: !exists(new, object) && !lost.contains(&object),
            names: old.values().filter(|found| **found == object).count(),
            children: old.keys().filter(|slot| slot.parent == object).count(),
        };
        facts.objects.insert(object, fact);
    }
    for (slot, object) in old.iter().filter(|(_, object)| is_dir(**object)) {
        facts.parents.insert(*object, slot.parent);
    }
    facts
}

/// Applies an operation as a strict file system would.
fn apply(tree: &mut Tree, op: &Op) {
    let check_target = |tree: &Tree, to: &Slot| {
        assert!(!tree.contains_key(to), "EEXIST {op:?}");
        assert!(exists(tree, to.parent), "ENOENT (directory) {op:?}");
    };
    match op {
        Op::Make(object, to) => {
            check_target(tree, to);
            assert!(!exists(tree, *object), "made twice {op:?}");
            tree.insert(to.clone(), *object);
        }
        Op::Link(object, to) => {
            check_target(tree, to);
            assert!(exists(tree, *object) && !is_dir(*object), "{op:?}");
            tree.insert(to.clone(), *object);
        }
        Op::Rename(object, from, to) => {
            check_target(tree, to);
            assert!(!is_dir(*object) || !below(tree, to.parent, *object), "EINVAL {op:?}");
            assert_eq!(tree.remove(from), Some(*object), "ENOENT {op:?}");
            tree.insert(to.clone(), *object);
        }
        Op::Unlink(object, at) => {
            assert!(!is_dir(*object), "EISDIR {op:?}");
            assert_eq!(tree.remove(at), Some(*object), "ENOENT {op:?}");
        }
        Op::Rmdir(object, at) => {
            assert!(is_dir(*object), "ENOTDIR {op:?}");
            assert!(!tree.keys().any(|slot| slot.parent == *object), "ENOTEMPTY {op:?}");
            assert_eq!(tree.remove(at), Some(*object), "ENOENT {op:?}");
        }
    }
}

#[test]
fn any_tree_becomes_any_other_tree() {
    let mut random = fastrand::Rng::with_seed(1);
    let mut parked = 0;
    for round in 0..15_000 {
        let (old, new) = (random_tree(&mut random, 14), random_tree(&mut random, 14));
        let plan = plan(&changes_between(&old, &new), &facts_of(&old, &new, &[]));
        let mut tree = old.clone();
        for op in &plan.ops {
            apply(&mut tree, op);
            parked += usize::from(matches!(op, Op::Rename(_, _, to) if to.is_parking()));
        }
        assert_eq!(tree, new, "round {round}: {old:?}\n{plan:?}");
        assert!(plan.doomed.is_empty() && plan.unsettled.is_empty(), "round {round}: {plan:?}");
    }
    assert!(parked > 300, "cycles were tried: {parked}");
}

#[test]
fn what_was_not_looked_at_and_what_is_lost_stays() {
    let mut random = fastrand::Rng::with_seed(2);
    let (mut doomed, mut unsettled) = (0, 0);
    for round in 0..15_000 {
        let (old, new) = (random_tree(&mut random, 12), random_tree(&mut random, 12));
        let all = changes_between(&old, &new);
        let lost: Vec<Gfid> = old.values().copied().filter(|object| !exists(&new, *object) && random.bool()).collect();
        // Entries of gone directories whose own events are still to come.
        let is_late = |change: &Change| {
            let object_left = change.old.is_some_and(|old| !exists(&new, old));
            change.new.is_none() && !exists(&new, change.slot.parent) && object_left
        };
        let changes: Vec<Change> = all.into_iter().filter(|change| !is_late(change) || random.bool()).collect();
        let plan = plan(&changes, &facts_of(&old, &new, &lost));
        let mut tree = old.clone();
        plan.ops.iter().for_each(|op| apply(&mut tree, op));
        for (slot, object) in &new {
            assert_eq!(tree.get(slot), Some(object), "round {round}: {slot:?}\n{old:?}\n{changes:?}\n{plan:?}");
        }
        for object in old.values().filter(|object| lost.contains(object)) {
            let touched = changes.iter().any(|change| change.old == Some(*object));
            assert!(exists(&tree, *object) || !touched, "round {round}: {object} is lost, not gone: {plan:?}");
        }
        doomed += plan.doomed.len();
        unsettled += plan.unsettled.len();
    }
    assert!(doomed > 300 && unsettled > 300, "{doomed} {unsettled}");
}

#[test]
fn a_swap_of_parent_and_child_is_possible() {
    // a/b becomes b/a: one has to leave first, and neither may go below itself.
    let (a, b) = (gfid(1), gfid(2));
    let old = Tree::from([(slot(Gfid::ROOT, "a"), a), (slot(a, "b"), b)]);
    let new = Tree::from([(slot(Gfid::ROOT, "b"), b), (slot(b, "a"), a)]);
    let plan = plan(&changes_between(&old, &new), &facts_of(&old, &new, &[]));
    let mut tree = old;
    plan.ops.iter().for_each(|op| apply(&mut tree, op));
    assert_eq!((tree, plan.ops.len()), (new, 2));
}

#[test]
fn contradicting_looks_are_left_for_later() {
    // Each of two directories was seen in the other one.
    let (a, b) = (gfid(1), gfid(2));
    let old = Tree::from([(slot(Gfid::ROOT, "a"), a), (slot(Gfid::ROOT, "b"), b)]);
    let new = Tree::from([(slot(b, "a"), a), (slot(a, "b"), b)]);
    let plan = plan(&changes_between(&old, &new), &facts_of(&old, &new, &[]));
    let mut tree = old;
    plan.ops.iter().for_each(|op| apply(&mut tree, op));
    assert!(!plan.unsettled.is_empty());
    // The first regression of the fuzz: a directory seen twice gets one place.
    let old = Tree::from([(slot(Gfid::ROOT, "a"), a)]);
    let changes = [
        Change { slot: slot(Gfid::ROOT, "x"), old: None, new: Some(a) },
        Change { slot: slot(Gfid::ROOT, "y"), old: None, new: Some(a) },
        Change { slot: slot(Gfid::ROOT, "a"), old: Some(a), new: None },
    ];
    let plan = super::plan(&changes, &facts_of(&old, &Tree::from([(slot(Gfid::ROOT, "x"), a)]), &[]));
    assert_eq!(plan.ops, [Op::Rename(a, slot(Gfid::ROOT, "a"), slot(Gfid::ROOT, "x"))]);
    assert_eq!(plan.unsettled, [slot(Gfid::ROOT, "y")]);
}
