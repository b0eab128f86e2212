//! A secondary in memory that carries out statements as the agent does.

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;
use protocol::agent::{Balance, Batch, Item, Outcome, Stored};
use protocol::{Gfid, Kind, Object, Place};

use super::Tree;

/// What is lost in a power cut unless it was committed.
#[derive(Clone, Default)]
struct State {
    objects: BTreeMap<Gfid, Object>,
    entries: BTreeMap<Place, Gfid>,
    parked: BTreeSet<Gfid>,
}

/// Outcomes of items, of gone objects, and what was parked.
pub type Answer = (Vec<Outcome>, Vec<Outcome>, Vec<Gfid>);

/// The secondary.
pub struct Secondary {
    now: State,
    durable: State,
    pub stage: BTreeMap<Gfid, Object>,
    pub stored: Stored,
    pub refuse_all: bool,
}

impl Secondary {
    pub fn new() -> Secondary {
        Secondary {
            now: State::default(),
            durable: State::default(),
            stage: BTreeMap::new(),
            stored: Stored::default(),
            refuse_all: false,
        }
    }

    pub fn power_cut(&mut self) {
        self.now = self.durable.clone();
    }

    pub fn commit(&mut self, stored: Stored) {
        let before = self.stored.mark.as_ref().map(|m| m.position);
        let is_rescan = stored.rescan.is_some();
        assert!(is_rescan || before <= stored.mark.as_ref().map(|m| m.position), "the mark went back");
        self.durable = self.now.clone();
        self.stored = stored;
    }

    pub fn has(&self, gfid: Gfid, object: &Object) -> bool {
        self.now.objects.get(&gfid).is_some_and(|o| (o.size, o.mtime) == (object.size, object.mtime))
    }

    pub fn has_object(&self, gfid: Gfid) -> bool {
        self.now.objects.contains_key(&gfid)
    }

    /// Removals are not counted: there are only few objects, each of them removed and made many times.
    pub fn balance(&self) -> Balance {
        Balance { objects: self.now.objects.len() as u64, ..Balance::default() }
    }

    pub fn stage(&mut self, gfid: Gfid, object: &Object) {
        self.stage.insert(gfid, object.clone());
    }

    pub fn parked(&self) -> Vec<Gfid> {
        self.now.parked.iter().copied().collect()
    }

    pub fn apply(&mut self, batch: &Batch, rng: &mut Rng, failures: f64) -> Answer {
        let before = self.now.parked.clone();
        let mut fails = || self.refuse_all || rng.f64() < failures;
        let failed = Outcome::Failed { errno: 5, reason: "planted".into() };
        let failing: Vec<bool> = (0..batch.items.len() + batch.gone.len()).map(|_| fails()).collect();
        let mut outcomes = Vec::new();
        for (item, fails) in batch.items.iter().zip(&failing) {
            outcomes.push(if *fails { failed.clone() } else { self.now.carry_out(item, &mut self.stage) });
        }
        let mut gone = Vec::new();
        for (gfid, fails) in batch.gone.iter().zip(&failing[batch.items.len()..]) {
            gone.push(if *fails { failed.clone() } else { self.now.remove(*gfid) });
        }
        let parked = self.now.parked.difference(&before).copied().collect();
        (outcomes, gone, parked)
    }

    /// As the agent lists its index: in the order of the objects.
    pub fn list(&self, after: Option<&(Gfid, Place)>, most: usize) -> Vec<(Gfid, Place)> {
        let mut names: Vec<_> = self.now.entries.iter().map(|(place, gfid)| (*gfid, place.clone())).collect();
        names.sort();
        names.into_iter().filter(|name| after.is_none_or(|after| name > after)).take(most).collect()
    }

    pub fn tree(&self) -> Tree {
        let mut tree = Tree::new();
        let mut todo = vec![(String::new(), Gfid::ROOT)];
        while let Some((path, directory)) = todo.pop() {
            for (place, gfid) in self.now.entries.iter().filter(|(p, _)| p.parent == directory) {
                let path = format!("{path}/{}", String::from_utf8_lossy(&place.name));
                let object = &self.now.objects[gfid];
                tree.insert(path.clone(), (*gfid, object.size, object.mode, object.mtime));
                if object.kind == Kind::Directory {
                    todo.push((path, *gfid));
                }
            }
        }
        tree
    }
}

impl State {
    fn knows(&self, gfid: Gfid) -> bool {
        gfid == Gfid::ROOT || self.objects.contains_key(&gfid)
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

    fn carry_out(&mut self, item: &Item, stage: &mut BTreeMap<Gfid, Object>) -> Outcome {
        match item {
            Item::Bind { place, gfid, from, object } => self.bind(place, *gfid, from.as_ref(), object, stage),
            Item::Unbind { place, gfid } => {
                if self.entries.get(place) == Some(gfid) {
                    self.detach(place, *gfid);
                }
                Outcome::Done
            }
            Item::Attributes { gfid: Gfid::ROOT, .. } => Outcome::Done,
            Item::Attributes { gfid, object } => match self.objects.get_mut(gfid) {
                Some(known) => {
                    known.mode = object.mode;
                    known.mtime = object.mtime;
                    Outcome::Done
                }
                None => Outcome::Unknown,
            },
            Item::Content { gfid, object, .. } => match stage.get(gfid) {
                Some(staged) if staged.size == object.size => {
                    if self.knows(*gfid) {
                        stage.remove(gfid);
                        self.objects.insert(*gfid, object.clone());
                    }
                    Outcome::Done
                }
                _ => Outcome::NeedContent,
            },
            Item::Have { .. } => Outcome::NeedContent,
            // Nothing is adopted here.
            Item::Adopt { .. } | Item::LeftOver { .. } => Outcome::Unknown,
        }
    }

    fn bind(
        &mut self,
        place: &Place,
        gfid: Gfid,
        from: Option<&Place>,
        object: &Object,
        stage: &mut BTreeMap<Gfid, Object>,
    ) -> Outcome {
        if !self.knows(place.parent) {
            return Outcome::ParentMissing;
        }
        let there = self.entries.get(place).copied();
        if there == Some(gfid) {
            return Outcome::Done;
        }
        if self.is_inside(place.parent, gfid) {
            return Outcome::Loop;
        }
        if !self.knows(gfid) {
            let made = if object.kind == Kind::File { stage.remove(&gfid) } else { Some(object.clone()) };
            let Some(made) = made else { return Outcome::NeedContent };
            self.objects.insert(gfid, made);
        }
        if let Some(other) = there {
            self.detach(place, other);
        }
        let moved = match from {
            Some(from) if self.entries.get(from) == Some(&gfid) => Some(from.clone()),
            _ if object.kind == Kind::Directory => {
                self.entries.iter().find(|(_, g)| **g == gfid).map(|(p, _)| p.clone())
            }
            _ => None,
        };
        if let Some(old) = moved {
            self.entries.remove(&old);
        }
        self.parked.remove(&gfid);
        self.entries.insert(place.clone(), gfid);
        Outcome::Done
    }

    fn detach(&mut self, place: &Place, gfid: Gfid) {
        self.entries.remove(place);
        if !self.entries.values().any(|g| *g == gfid) {
            self.parked.insert(gfid);
        }
    }

    fn remove(&mut self, gfid: Gfid) -> Outcome {
        if !self.parked.contains(&gfid) {
            return Outcome::Done;
        }
        if self.entries.keys().any(|p| p.parent == gfid) {
            return Outcome::NotEmpty;
        }
        self.parked.remove(&gfid);
        self.objects.remove(&gfid);
        Outcome::Done
    }
}
