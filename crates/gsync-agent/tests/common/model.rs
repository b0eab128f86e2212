//! A model of a tree, and the statements that lead from one to another.

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;
use protocol::agent::Item;
use protocol::{Gfid, Kind, Object, Place};

use super::{Seen, file_object, gfid, object};

/// Names in use: few, so that they collide.
const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

#[derive(Clone, Debug, Default)]
pub struct Model {
    /// Kind and, for files, version of content.
    pub objects: BTreeMap<Gfid, (Kind, u32)>,
    pub names: BTreeMap<Place, Gfid>,
}

impl Model {
    /// A random tree of objects out of the given numbers; kinds depend on the number only.
    pub fn random(rng: &mut Rng, numbers: std::ops::Range<u32>, steps: usize) -> Model {
        let mut model = Model::default();
        let mut directories = vec![Gfid::ROOT];
        for _ in 0..steps {
            let number = rng.u32(numbers.clone());
            let gfid = gfid(number);
            let kind = match number % 5 {
                0 | 1 => Kind::Directory,
                2 => Kind::Symlink,
                _ => Kind::File,
            };
            let parent = directories[rng.usize(..directories.len())];
            let place = Place { parent, name: NAMES[rng.usize(..NAMES.len())].into() };
            let known = model.objects.contains_key(&gfid);
            if model.names.contains_key(&place) || (known && kind == Kind::Directory) {
                continue;
            }
            if kind == Kind::Directory {
                directories.push(gfid);
            }
            if !known {
                model.objects.insert(gfid, (kind, rng.u32(1..4)));
            }
            model.names.insert(place, gfid);
        }
        model
    }

    pub fn content(&self, gfid: Gfid) -> Vec<u8> {
        let (_, version) = self.objects[&gfid];
        format!("{gfid} version {version}\n").repeat(1 + version as usize * 50).into_bytes()
    }

    pub fn object(&self, gfid: Gfid) -> Object {
        let (kind, version) = self.objects[&gfid];
        if kind == Kind::File { file_object(&self.content(gfid), version) } else { object(kind) }
    }

    /// The tree as [`super::look`] sees it.
    pub fn seen(&self) -> Seen {
        let mut seen = Seen::new();
        let mut todo = vec![(Gfid::ROOT, String::new())];
        while let Some((parent, path)) = todo.pop() {
            for (place, &gfid) in self.names.iter().filter(|(place, _)| place.parent == parent) {
                let path = format!("{path}{}", String::from_utf8_lossy(&place.name));
                let (kind, _) = self.objects[&gfid];
                let content = match kind {
                    Kind::File => self.content(gfid),
                    Kind::Symlink => object(kind).target,
                    _ => Vec::new(),
                };
                if kind == Kind::Directory {
                    todo.push((gfid, format!("{path}/")));
                }
                seen.insert(path, (kind, Some(gfid), content));
            }
        }
        seen
    }
}

/// What still has to be said so that a tree becomes another one.
#[derive(Clone, Debug, Default)]
pub struct Statements {
    pub items: Vec<Item>,
    pub gone: Vec<Gfid>,
}

/// All statements, in any order.
pub fn statements(rng: &mut Rng, old: &Model, new: &Model) -> Statements {
    let mut items = Vec::new();
    let lost: Vec<(&Place, Gfid)> =
        old.names.iter().filter(|(p, g)| new.names.get(p) != Some(g)).map(|(p, &g)| (p, g)).collect();
    for (place, gfid) in &lost {
        items.push(Item::Unbind { place: (*place).clone(), gfid: *gfid });
    }
    for (place, &gfid) in &new.names {
        if old.names.get(place) == Some(&gfid) && rng.bool() {
            continue;
        }
        let from = lost.iter().find(|(_, g)| *g == gfid && rng.bool()).map(|(p, _)| (*p).clone());
        items.push(Item::Bind { place: place.clone(), gfid, from, object: new.object(gfid) });
    }
    for (&gfid, (kind, version)) in &new.objects {
        let same = old.objects.get(&gfid).is_some_and(|(_, v)| v == version);
        if *kind == Kind::File && (!same || rng.bool()) {
            items.push(Item::Content { gfid, object: new.object(gfid), whole: false });
        }
    }
    rng.shuffle(&mut items);
    let alive: BTreeSet<Gfid> = new.objects.keys().copied().collect();
    let gone = old.objects.keys().filter(|g| !alive.contains(g)).copied().collect();
    Statements { items, gone }
}

impl Statements {
    /// The next batch: some of the items, and objects that are gone whose names are all dealt with.
    pub fn next(&self, rng: &mut Rng) -> Statements {
        let count = if rng.u8(..4) == 0 { self.items.len() } else { rng.usize(..=self.items.len().min(8)) };
        let rest: BTreeSet<Gfid> = self.items[count..]
            .iter()
            .filter_map(|item| match item {
                Item::Unbind { gfid, .. } => Some(*gfid),
                _ => None,
            })
            .collect();
        let mut gone: Vec<Gfid> = self.gone.iter().filter(|g| !rest.contains(g)).copied().collect();
        rng.shuffle(&mut gone);
        Statements { items: self.items[..count].to_vec(), gone }
    }
}
