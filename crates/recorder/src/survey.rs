//! Looking at names until the looks make sense together.
//!
//! Between two looks the brick changes: a file that is moved to and fro is seen twice, or nowhere. A file is only
//! believed to be gone when its handle says so; a file seen at more places than it has links is looked at again.

use std::collections::{HashMap, HashSet, VecDeque};

use changelog::Gfid;

use crate::disk::{DirCache, Disk, Seen, Whereabouts};
use crate::error::{Error, Result};
use crate::gone::is_gone;
use crate::handle::Handle;
use crate::index::{Row, View};
use crate::plan::{Change, Fact, Facts};
use crate::slot::Slot;

/// Looks for one object before it is left for the next batch.
const TRIES_MAX: u32 = 8;

/// Names of one object that are compared with each other; of one with more links than this all are believed.
const NAMES_MAX: usize = 256;

/// What a look found.
#[derive(Clone, Copy, Debug)]
struct Sight {
    gfid: Option<Gfid>,
    /// Later looks have larger numbers.
    number: u64,
}

/// All looks of one batch.
pub struct Survey<'a> {
    view: &'a View,
    disk: &'a Disk,
    dirs: DirCache,
    /// Rows of the index that were needed.
    rows: HashMap<Gfid, Option<Row>>,
    old: HashMap<Slot, Option<Gfid>>,
    sights: HashMap<Slot, Sight>,
    /// The order in which names were asked for, so that plans come out the same every time.
    order: Vec<Slot>,
    /// Looked-at names that are new to their objects.
    arrivals: HashMap<Gfid, HashSet<Slot>>,
    seen: HashMap<Gfid, Seen>,
    gone: HashSet<Gfid>,
    tries: HashMap<Gfid, u32>,
    /// Names that stay doubtful, to be looked at again with the next batch.
    doubtful: HashSet<Slot>,
    /// Objects that are gone when they are not found now.
    last_chance: HashSet<Gfid>,
    looks: u64,
}

impl<'a> Survey<'a> {
    /// Begins.
    pub fn new(view: &'a View, disk: &'a Disk) -> Survey<'a> {
        Survey {
            view,
            disk,
            dirs: DirCache::default(),
            rows: HashMap::new(),
            old: HashMap::new(),
            sights: HashMap::new(),
            order: Vec::new(),
            arrivals: HashMap::new(),
            seen: HashMap::new(),
            gone: HashSet::new(),
            tries: HashMap::new(),
            doubtful: HashSet::new(),
            last_chance: HashSet::new(),
            looks: 0,
        }
    }

    /// What the index knows of an object.
    ///
    /// # Errors
    /// What the index says.
    pub fn row(&mut self, gfid: Gfid) -> Result<Option<Row>> {
        if let Some(row) = self.rows.get(&gfid) {
            return Ok(row.clone());
        }
        let row = self.view.object(gfid)?;
        self.rows.insert(gfid, row.clone());
        Ok(row)
    }

    /// The GFID of a directory of this brick that the index knows.
    ///
    /// # Errors
    /// What the index says.
    pub fn dir_in_scope(&mut self, handle: &Handle) -> Result<Option<Gfid>> {
        let gfid = self.disk.namer().gfid(handle);
        Ok(self.row(gfid)?.filter(Row::is_dir).map(|_| gfid))
    }

    /// Looks at a name, once.
    ///
    /// # Errors
    /// What system or index say.
    pub fn add(&mut self, slot: &Slot) -> Result<()> {
        if self.sights.contains_key(slot) { Ok(()) } else { self.look(slot) }
    }

    /// Looks at a name, once; if its object is not found anywhere, it is gone.
    ///
    /// # Errors
    /// What system or index say.
    pub fn add_last_chance(&mut self, slot: &Slot) -> Result<()> {
        self.add(slot)?;
        if let Some(gfid) = self.old.get(slot).copied().flatten() {
            self.last_chance.insert(gfid);
        }
        Ok(())
    }

    /// Looks at an object by its handle; `None` where it is gone.
    ///
    /// # Errors
    /// What the system says.
    pub fn see(&mut self, gfid: Gfid, handle: &Handle) -> Result<Option<&Seen>> {
        if !self.seen.contains_key(&gfid) {
            let looked = self.disk.look_at(handle).map_err(Error::io("look into", self.disk.path()))?;
            let Some((_, seen)) = looked else { return Ok(None) };
            self.seen.insert(gfid, seen);
        }
        Ok(self.seen.get(&gfid))
    }

    /// Everything that was seen.
    pub fn seen(&self) -> &HashMap<Gfid, Seen> {
        &self.seen
    }

    /// What was seen at a name.
    pub fn at(&self, slot: &Slot) -> Option<&Seen> {
        self.seen.get(&self.sights.get(slot)?.gfid?)
    }

    /// Names to be looked at again.
    pub fn doubtful(&mut self) -> HashSet<Slot> {
        std::mem::take(&mut self.doubtful)
    }

    fn look(&mut self, slot: &Slot) -> Result<()> {
        let found = match self.row(slot.parent)?.and_then(|row| row.handle) {
            // The parking place, or a directory that only the changelog knows so far.
            None => None,
            Some(dir) => self.dirs.look(self.disk, slot, &dir).map_err(Error::io("look into", self.disk.path()))?,
        };
        if !self.old.contains_key(slot) {
            let old = self.view.entry(slot)?;
            self.old.insert(slot.clone(), old);
            self.order.push(slot.clone());
        }
        self.looks += 1;
        let mut gfid = found.as_ref().map(|(_, seen)| seen.gfid);
        if found.is_none()
            && self.dirs.is_stale(slot.parent)
            && !is_gone(self.view, self.disk, &mut self.dirs, slot.parent)?
        {
            // Nothing can be seen in there now, which says nothing about what is there.
            gfid = self.old.get(slot).copied().flatten();
            self.doubtful.insert(slot.clone());
        }
        if let Some((_, seen)) = found {
            self.seen.insert(seen.gfid, seen);
        }
        self.set(slot, gfid);
        Ok(())
    }

    fn set(&mut self, slot: &Slot, gfid: Option<Gfid>) {
        let sight = Sight { gfid, number: self.looks };
        let before = self.sights.insert(slot.clone(), sight).and_then(|sight| sight.gfid);
        if let Some(slots) = before.and_then(|before| self.arrivals.get_mut(&before)) {
            slots.remove(slot);
        }
        if let Some(gfid) = gfid
            && self.old.get(slot).copied().flatten() != Some(gfid)
        {
            self.arrivals.entry(gfid).or_default().insert(slot.clone());
        }
    }

    /// Looks further until every object that changed its names has as many as it can have.
    ///
    /// # Errors
    /// What system or index say.
    pub fn settle(&mut self) -> Result<()> {
        let mut work: VecDeque<Gfid> = VecDeque::new();
        for slot in &self.order {
            self.involved(slot, &mut work);
        }
        while let Some(gfid) = work.pop_front() {
            for slot in self.settle_one(gfid)? {
                self.involved(&slot, &mut work);
                self.look(&slot)?;
                self.involved(&slot, &mut work);
                if !work.contains(&gfid) {
                    work.push_back(gfid);
                }
            }
        }
        Ok(())
    }

    /// Adds the objects whose names changed at `slot`.
    fn involved(&self, slot: &Slot, work: &mut VecDeque<Gfid>) {
        let new = self.sights.get(slot).and_then(|sight| sight.gfid);
        let old = self.old.get(slot).copied().flatten();
        if new != old {
            for gfid in [old, new].into_iter().flatten() {
                if work.back() != Some(&gfid) {
                    work.push_back(gfid);
                }
            }
        }
    }

    /// Compares the names of one object with each other. Returns those that should be looked at (again).
    fn settle_one(&mut self, gfid: Gfid) -> Result<Vec<Slot>> {
        let row = self.row(gfid)?;
        let before = if row.is_some() { self.view.names(gfid, NAMES_MAX + 1)? } else { Vec::new() };
        if before.len() > NAMES_MAX {
            return Ok(Vec::new());
        }
        let (mut places, mut unlooked) = (Vec::new(), Vec::new());
        for slot in before {
            match self.sights.get(&slot) {
                Some(sight) if sight.gfid == Some(gfid) => places.push(slot),
                Some(_) => {}
                // It was found again: it does not need the place any more.
                None if slot.is_parking() => return Ok(vec![slot]),
                None => unlooked.push(slot),
            }
        }
        places.extend(self.arrivals.get(&gfid).into_iter().flatten().cloned());
        let possible = match self.seen.get(&gfid) {
            Some(seen) if seen.object.kind == posix::Kind::Directory => 1,
            Some(seen) => seen.object.nlink as usize,
            None => usize::MAX,
        };
        if places.len() + unlooked.len() > possible {
            if !unlooked.is_empty() {
                return Ok(unlooked);
            }
            if self.try_again(gfid) {
                return Ok(places);
            }
            // The last look is as good as any; the others come again.
            places.sort_by_key(|slot| std::cmp::Reverse(self.sights.get(slot).map(|sight| sight.number)));
            for slot in places.drain(possible.max(1)..) {
                self.set(&slot, None);
                self.doubtful.insert(slot);
            }
            return Ok(Vec::new());
        }
        match row {
            Some(row) if places.is_empty() && unlooked.is_empty() => self.search(gfid, &row),
            _ => {
                self.gone.remove(&gfid);
                Ok(Vec::new())
            }
        }
    }

    fn try_again(&mut self, gfid: Gfid) -> bool {
        let tries = self.tries.entry(gfid).or_default();
        *tries += 1;
        *tries <= TRIES_MAX
    }

    /// An object without a place: is it gone, or where is it?
    fn search(&mut self, gfid: Gfid, row: &Row) -> Result<Vec<Slot>> {
        if self.gone.contains(&gfid) {
            return Ok(Vec::new());
        }
        let whereabouts = match &row.handle {
            Some(handle) => self.disk.locate(handle).map_err(Error::io("look into", self.disk.path()))?,
            None => Whereabouts::Unknown,
        };
        match whereabouts {
            Whereabouts::Gone => {
                self.gone.insert(gfid);
                self.seen.remove(&gfid);
                // What was seen in a directory before it was removed is not there any more.
                let inside = self.sights.iter().filter(|(slot, sight)| slot.parent == gfid && sight.gfid.is_some());
                return Ok(inside.map(|(slot, _)| slot.clone()).collect());
            }
            Whereabouts::Outside => {
                self.gone.insert(gfid);
            }
            Whereabouts::Maybe(dir, name) => {
                if let Some(parent) = self.dir_in_scope(&dir)?
                    && self.try_again(gfid)
                {
                    return Ok(vec![Slot { parent, name }]);
                }
            }
            Whereabouts::Unknown => {}
        }
        if self.last_chance.contains(&gfid) {
            self.gone.insert(gfid);
        }
        Ok(Vec::new())
    }

    /// The result: names with other objects than in the index.
    pub fn changes(&self) -> Vec<Change> {
        let changes = self.order.iter().map(|slot| Change {
            slot: slot.clone(),
            old: self.old.get(slot).copied().flatten(),
            new: self.sights.get(slot).and_then(|sight| sight.gfid),
        });
        changes.filter(|change| change.old != change.new).collect()
    }

    /// What the plan has to know of the objects in `changes`.
    ///
    /// # Errors
    /// What the index says.
    pub fn facts(&mut self, changes: &[Change]) -> Result<Facts> {
        let mut facts = Facts::default();
        let mut losses: HashMap<Gfid, usize> = HashMap::new();
        for change in changes {
            if change.old.is_some() {
                *losses.entry(change.slot.parent).or_default() += 1;
            }
        }
        for change in changes {
            for gfid in [change.old, change.new].into_iter().flatten() {
                if facts.objects.contains_key(&gfid) {
                    continue;
                }
                let row = self.row(gfid)?;
                let dir = match (&row, self.seen.get(&gfid)) {
                    (_, Some(seen)) => seen.object.kind == posix::Kind::Directory,
                    (Some(row), None) => row.is_dir(),
                    (None, None) => false,
                };
                let gone = self.gone.contains(&gfid);
                let children = match dir && gone {
                    // One more than can go in this batch is as good as all.
                    true => self.view.children(gfid, None, losses.get(&gfid).copied().unwrap_or(0) + 1)?.len(),
                    false => 0,
                };
                let names = if row.is_some() { self.view.names(gfid, NAMES_MAX + 1)?.len() } else { 0 };
                facts.objects.insert(gfid, Fact { known: row.is_some(), dir, gone, names, children });
            }
            let brings_dir = change.new.is_some_and(|new| facts.objects.get(&new).is_some_and(|fact| fact.dir));
            if brings_dir {
                self.add_parents(change.slot.parent, &mut facts)?;
            }
        }
        Ok(facts)
    }

    fn add_parents(&self, mut dir: Gfid, facts: &mut Facts) -> Result<()> {
        while !facts.parents.contains_key(&dir) {
            let Some(slot) = self.view.names(dir, 1)?.pop() else { break };
            facts.parents.insert(dir, slot.parent);
            dir = slot.parent;
        }
        Ok(())
    }
}
