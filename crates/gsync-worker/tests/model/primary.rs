//! A tree in memory that writes a changelog.

use std::collections::{BTreeMap, BTreeSet};

use changelog::{Birth, EntryName, EntryOp, Fop, Gfid, Position, Record};
use fastrand::Rng;
use gsync_worker::rescan::Page;
use protocol::brick::{Listed, Look, Names};
use protocol::{Kind, Object, Place};

use super::{Tree, object};

#[derive(Clone, Debug)]
struct Node {
    kind: Kind,
    version: u64,
    mode: u32,
    touched: u32,
}

/// The primary.
pub struct Primary {
    nodes: BTreeMap<Gfid, Node>,
    entries: BTreeMap<Place, Gfid>,
    pub journal: Vec<(Position, Record)>,
    /// Records that cannot be read any more.
    lost: BTreeSet<usize>,
    next: u64,
}

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

impl Primary {
    pub fn new() -> Primary {
        let root = Node { kind: Kind::Directory, version: 0, mode: 0o755, touched: 0 };
        Primary {
            nodes: BTreeMap::from([(Gfid::ROOT, root)]),
            entries: BTreeMap::new(),
            journal: Vec::new(),
            lost: BTreeSet::new(),
            next: 100,
        }
    }

    /// The position before the record with this number.
    pub fn position(&self, index: usize) -> Position {
        if index == 0 { Position::START } else { Position { after: 1, offset: 51 + index as u64 } }
    }

    pub fn index_of(&self, position: Position) -> usize {
        if position == Position::START { 0 } else { (position.offset - 51) as usize }
    }

    /// A span of the changelog cannot be read any more, as if its slices were removed.
    ///
    /// Or it lost its end, and goes on from there: returns where that is.
    pub fn lose(&mut self, rng: &mut Rng) -> Option<usize> {
        let end = self.journal.len();
        if rng.u32(0..8) == 0 {
            let cut = rng.usize(..=end);
            self.journal.truncate(cut);
            self.lost.split_off(&cut);
            // The recorder, whose index knows better, says so.
            self.write(Record::Meta(Gfid::ROOT, Fop(38)));
            self.lost.insert(cut);
            return Some(cut);
        }
        let begin = rng.usize(..=end);
        self.lost.extend(begin..rng.usize(begin..=end));
        None
    }

    /// How many records from this one on are lost.
    pub fn lost(&self, index: usize) -> usize {
        (index..).take_while(|index| self.lost.contains(index)).count()
    }

    /// How many records from this one on can be read.
    pub fn until_lost(&self, index: usize) -> usize {
        self.lost.range(index..).next().copied().unwrap_or(self.journal.len()) - index
    }

    /// As the recorder lists its index: in the order of the objects.
    pub fn list(&self, after: Option<&(Gfid, Place)>, directories: bool, most: usize) -> Page {
        let mut names: Vec<_> = self.entries.iter().map(|(place, gfid)| (*gfid, place.clone())).collect();
        names.sort();
        names.retain(|name| after.is_none_or(|after| name > after));
        names.truncate(most);
        let next = names.last().filter(|_| names.len() == most).cloned();
        let listed = |(gfid, place): (Gfid, Place)| Listed { gfid, place, kind: self.nodes[&gfid].kind };
        let mut names: Vec<Listed> = names.into_iter().map(listed).collect();
        names.retain(|name| (name.kind == Kind::Directory) == directories);
        Page::Primary(names, next)
    }

    fn write(&mut self, record: Record) {
        let position = self.position(self.journal.len());
        self.journal.push((position, record));
    }

    fn entry(&mut self, gfid: Gfid, op: EntryOp) {
        self.write(Record::Entry(gfid, op));
    }

    fn new_gfid(&mut self) -> Gfid {
        self.next += 1;
        let mut bytes = [0; 16];
        bytes[8..].copy_from_slice(&self.next.to_be_bytes());
        Gfid(bytes)
    }

    fn random_directory(&self, rng: &mut Rng) -> Gfid {
        let all: Vec<Gfid> = self.nodes.iter().filter(|(_, n)| n.kind == Kind::Directory).map(|(g, _)| *g).collect();
        all[rng.usize(..all.len())]
    }

    fn random_place(&self, rng: &mut Rng) -> Place {
        Place { parent: self.random_directory(rng), name: rng.choice(NAMES).unwrap().into() }
    }

    fn random_entry(&self, rng: &mut Rng) -> Option<(Place, Gfid)> {
        rng.choice(self.entries.iter().collect::<Vec<_>>()).map(|(p, g)| (p.clone(), *g))
    }

    fn is_inside(&self, mut directory: Gfid, ancestor: Gfid) -> bool {
        loop {
            if directory == ancestor {
                return true;
            }
            match self.entries.iter().find(|(_, g)| **g == directory) {
                Some((place, _)) => directory = place.parent,
                None => return false,
            }
        }
    }

    fn is_empty(&self, directory: Gfid) -> bool {
        !self.entries.keys().any(|p| p.parent == directory)
    }

    /// One random change, with its records.
    pub fn change(&mut self, rng: &mut Rng) {
        match rng.u32(0..10) {
            0..3 => self.create_file(rng),
            3 => self.create_directory(rng),
            4 => self.write_or_set(rng),
            5 => self.link(rng),
            6..8 => self.rename(rng),
            8 => self.exchange(rng),
            _ => self.remove(rng),
        }
    }

    pub fn create_file(&mut self, rng: &mut Rng) {
        let place = self.random_place(rng);
        if self.entries.contains_key(&place) {
            return;
        }
        let gfid = self.new_gfid();
        self.nodes.insert(gfid, Node { kind: Kind::File, version: 1, mode: 0o644, touched: 0 });
        self.entries.insert(place.clone(), gfid);
        let birth = Birth { mode: 0o100_644, uid: 0, gid: 0 };
        self.entry(gfid, EntryOp::Create(birth, name(&place)));
        if rng.bool() {
            self.write(Record::Data(gfid));
        }
    }

    fn create_directory(&mut self, rng: &mut Rng) {
        let place = self.random_place(rng);
        if self.entries.contains_key(&place) {
            return;
        }
        let gfid = self.new_gfid();
        self.nodes.insert(gfid, Node { kind: Kind::Directory, version: 0, mode: 0o755, touched: 0 });
        self.entries.insert(place.clone(), gfid);
        self.entry(gfid, EntryOp::Mkdir(Birth { mode: 0o40_755, uid: 0, gid: 0 }, name(&place)));
    }

    fn write_or_set(&mut self, rng: &mut Rng) {
        let Some((_, gfid)) = self.random_entry(rng) else { return };
        let Some(node) = self.nodes.get_mut(&gfid) else { return };
        if rng.bool() && node.kind == Kind::File {
            node.version += 1;
            node.touched = 0;
            self.write(Record::Data(gfid));
        } else if rng.bool() {
            node.mode = rng.u32(0..0o1000);
            self.write(Record::Meta(gfid, Fop(38)));
        } else {
            node.touched = rng.u32(1..1 << 16);
            self.write(Record::Meta(gfid, Fop(38)));
        }
    }

    fn link(&mut self, rng: &mut Rng) {
        let Some((_, gfid)) = self.random_entry(rng) else { return };
        let place = self.random_place(rng);
        if self.nodes[&gfid].kind != Kind::File || self.entries.contains_key(&place) {
            return;
        }
        self.entries.insert(place.clone(), gfid);
        self.entry(gfid, EntryOp::Link(name(&place)));
    }

    fn rename(&mut self, rng: &mut Rng) {
        let Some((old, gfid)) = self.random_entry(rng) else { return };
        let new = self.random_place(rng);
        if self.is_inside(new.parent, gfid) || old == new {
            return;
        }
        if let Some(victim) = self.entries.get(&new).copied() {
            let directories = [gfid, victim].map(|g| self.nodes[&g].kind == Kind::Directory);
            if victim == gfid || directories[0] != directories[1] || (directories[1] && !self.is_empty(victim)) {
                return;
            }
            self.unbind(&new, victim);
        }
        self.entries.remove(&old);
        self.entries.insert(new.clone(), gfid);
        self.entry(gfid, EntryOp::Rename(name(&old), name(&new)));
    }

    fn exchange(&mut self, rng: &mut Rng) {
        let (Some((a, x)), Some((b, y))) = (self.random_entry(rng), self.random_entry(rng)) else { return };
        if x == y || self.is_inside(a.parent, y) || self.is_inside(b.parent, x) {
            return;
        }
        self.entries.insert(a.clone(), y);
        self.entries.insert(b.clone(), x);
        self.entry(x, EntryOp::Rename(name(&a), name(&b)));
        self.entry(y, EntryOp::Rename(name(&b), name(&a)));
    }

    fn remove(&mut self, rng: &mut Rng) {
        let Some((place, gfid)) = self.random_entry(rng) else { return };
        if self.nodes[&gfid].kind != Kind::Directory || self.is_empty(gfid) {
            self.unbind(&place, gfid);
        }
    }

    fn unbind(&mut self, place: &Place, gfid: Gfid) {
        self.entries.remove(place);
        let directory = self.nodes[&gfid].kind == Kind::Directory;
        if !self.entries.values().any(|g| *g == gfid) {
            self.nodes.remove(&gfid);
        }
        let entry = name(place);
        self.entry(gfid, if directory { EntryOp::Rmdir(entry, None) } else { EntryOp::Unlink(entry, None) });
    }

    pub fn look(&self, place: &Place) -> Look {
        match self.entries.get(place) {
            Some(gfid) => Look::Present(*gfid, self.object(*gfid).expect("it has a name")),
            None => Look::Absent,
        }
    }

    pub fn object(&self, gfid: Gfid) -> Option<Object> {
        self.nodes.get(&gfid).map(|n| object(n.kind, n.version, n.mode, n.touched))
    }

    pub fn names(&self, gfid: Gfid) -> Names {
        match self.object(gfid) {
            Some(object) => {
                let places = self.entries.iter().filter(|(_, g)| **g == gfid).map(|(p, _)| p.clone()).collect();
                Names::Alive(object, places)
            }
            None => Names::Gone,
        }
    }

    pub fn tree(&self) -> Tree {
        let mut tree = Tree::new();
        let mut todo = vec![(String::new(), Gfid::ROOT)];
        while let Some((path, directory)) = todo.pop() {
            for (place, gfid) in self.entries.iter().filter(|(p, _)| p.parent == directory) {
                let path = format!("{path}/{}", String::from_utf8_lossy(&place.name));
                let node = &self.nodes[gfid];
                let object = object(node.kind, node.version, node.mode, node.touched);
                tree.insert(path.clone(), (*gfid, node.version, node.mode, object.mtime));
                if node.kind == Kind::Directory {
                    todo.push((path, *gfid));
                }
            }
        }
        tree
    }
}

fn name(place: &Place) -> EntryName {
    EntryName { parent: place.parent, name: place.name.clone() }
}
