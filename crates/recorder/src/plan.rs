//! From changed names to operations in an order in which each of them is possible.
//!
//! Pure: what was at the names before, what is there now, and a few facts about the objects go in; creates, links,
//! renames and deletes come out, which a strict file system accepts one after the other (no name is overwritten, no
//! directory is removed before it is empty, none is moved below itself).

use std::collections::{HashMap, HashSet, VecDeque};

use changelog::Gfid;

use crate::slot::Slot;

/// A name that has another object than before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// The name.
    pub slot: Slot,
    /// Its object in the index.
    pub old: Option<Gfid>,
    /// Its object on the disk.
    pub new: Option<Gfid>,
}

/// What has to be known of an object that occurs in a [`Change`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Fact {
    /// It is in the index.
    pub known: bool,
    /// It is a directory.
    pub dir: bool,
    /// It left the brick (or this world); asked only of objects without any name now. Otherwise it is alive, and its
    /// place will be found.
    pub gone: bool,
    /// Number of its names in the index.
    pub names: usize,
    /// Number of its entries in the index, if it is a directory that is gone.
    pub children: usize,
}

/// All facts.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Of every object in the changes.
    pub objects: HashMap<Gfid, Fact>,
    /// Parents in the index of every directory above a name to which a directory moves.
    pub parents: HashMap<Gfid, Gfid>,
}

/// One operation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Op {
    /// A new object with its first name.
    Make(Gfid, Slot),
    /// One more name.
    Link(Gfid, Slot),
    /// From one name to the other, which is free.
    Rename(Gfid, Slot, Slot),
    /// A name of a non-directory goes.
    Unlink(Gfid, Slot),
    /// An empty directory goes.
    Rmdir(Gfid, Slot),
}

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    /// The operations, in order.
    pub ops: Vec<Op>,
    /// Directories that are gone but have entries in the index: their subtrees are to be removed bit by bit.
    pub doomed: Vec<Gfid>,
    /// Names that are to be looked at again later: their objects are alive somewhere, or the looks contradict each
    /// other.
    pub unsettled: Vec<Slot>,
}

/// Makes the plan.
pub fn plan(changes: &[Change], facts: &Facts) -> Plan {
    let mut planner = Planner::new(changes, facts);
    planner.assign(changes);
    planner.doom();
    planner.carry_out();
    planner.plan
}

/// A directory or file on its way.
#[derive(Debug)]
enum Pending {
    Make(Gfid, Slot),
    Link(Gfid, Slot),
    Rename(Gfid, Slot, Slot),
    Rmdir(Gfid, Slot),
}

struct Planner<'a> {
    facts: &'a Facts,
    plan: Plan,
    /// What is at the touched names now, as far as the operations have gone.
    occupied: HashMap<Slot, Gfid>,
    /// Names that are to get an object.
    wanted: HashSet<Slot>,
    /// Objects that are to be made.
    unborn: HashSet<Gfid>,
    /// Parents of directories, as far as they differ from the facts.
    moved: HashMap<Gfid, Option<Gfid>>,
    /// Entries of directories that are gone.
    left: HashMap<Gfid, usize>,
    unlinks: Vec<(Gfid, Slot)>,
    /// Gone directories with their last name.
    dying: Vec<(Gfid, Slot)>,
    /// Objects that have to give way, with nowhere to go yet.
    parks: Vec<(Gfid, Slot)>,
    pending: VecDeque<Pending>,
}

impl<'a> Planner<'a> {
    fn new(changes: &[Change], facts: &'a Facts) -> Planner<'a> {
        let real = || changes.iter().filter(|change| change.old != change.new);
        Planner {
            facts,
            plan: Plan::default(),
            occupied: real().filter_map(|change| Some((change.slot.clone(), change.old?))).collect(),
            wanted: real().filter(|change| change.new.is_some()).map(|change| change.slot.clone()).collect(),
            unborn: HashSet::new(),
            moved: HashMap::new(),
            left: HashMap::new(),
            unlinks: Vec::new(),
            dying: Vec::new(),
            parks: Vec::new(),
            pending: VecDeque::new(),
        }
    }

    fn fact(&self, gfid: Gfid) -> Fact {
        self.facts.objects.get(&gfid).copied().unwrap_or_default()
    }

    /// Decides what becomes of each object: its lost names are paired with its new ones.
    fn assign(&mut self, changes: &[Change]) {
        let mut order = Vec::new();
        let mut objects: HashMap<Gfid, (Vec<&Slot>, Vec<&Slot>)> = HashMap::new();
        for change in changes.iter().filter(|change| change.old != change.new) {
            for (gfid, is_new) in [(change.old, false), (change.new, true)] {
                let Some(gfid) = gfid else { continue };
                let (removed, added) = objects.entry(gfid).or_insert_with(|| {
                    order.push(gfid);
                    Default::default()
                });
                if is_new { added.push(&change.slot) } else { removed.push(&change.slot) }
            }
        }
        for gfid in order {
            let (removed, added) = &objects[&gfid];
            self.assign_one(gfid, removed, added);
        }
    }

    fn assign_one(&mut self, gfid: Gfid, removed: &[&Slot], added: &[&Slot]) {
        let fact = self.fact(gfid);
        if fact.dir && added.len() > 1 {
            // A directory has one name; two looks contradict each other.
            let (first, rest) = (added[0], &added[1..]);
            for slot in rest {
                self.wanted.remove(*slot);
                self.plan.unsettled.push((*slot).clone());
            }
            return self.assign_one(gfid, removed, &[first]);
        }
        let mut added = added.iter().map(|slot| (*slot).clone());
        if !fact.known
            && let Some(first) = added.next()
        {
            self.unborn.insert(gfid);
            self.pending.push_back(Pending::Make(gfid, first));
        }
        let mut removed = removed.iter().map(|slot| (*slot).clone()).collect::<Vec<_>>();
        let stays = fact.names > removed.len();
        let mut has_place = stays;
        removed.reverse();
        for to in added {
            match removed.pop() {
                Some(from) => self.pending.push_back(Pending::Rename(gfid, from, to)),
                None => self.pending.push_back(Pending::Link(gfid, to)),
            }
            has_place = true;
        }
        if !has_place && let Some(last) = removed.pop() {
            match (fact.gone, fact.dir) {
                (true, true) => self.dying.push((gfid, last)),
                (true, false) => self.unlinks.push((gfid, last)),
                (false, _) => self.keep(gfid, last),
            }
        }
        self.unlinks.extend(removed.into_iter().map(|slot| (gfid, slot)));
    }

    /// An object that is somewhere else, nobody knows where: it stays where it was, or is parked if it is in the way.
    fn keep(&mut self, gfid: Gfid, slot: Slot) {
        if self.wanted.contains(&slot) {
            self.plan.unsettled.push(Slot::parking(gfid));
            self.parks.push((gfid, slot));
        } else {
            self.plan.unsettled.push(slot);
        }
    }

    /// Finds the gone directories that will not be empty.
    fn doom(&mut self) {
        let mut leaving: HashMap<Gfid, usize> = HashMap::new();
        let renamed = self.pending.iter().filter_map(|pending| match pending {
            Pending::Rename(_, from, _) => Some(from),
            _ => None,
        });
        let going = self.unlinks.iter().chain(&self.parks).chain(&self.dying).map(|(_, slot)| slot);
        for slot in going.chain(renamed) {
            *leaving.entry(slot.parent).or_default() += 1;
        }
        let arriving: HashSet<Gfid> = self.wanted.iter().map(|slot| slot.parent).collect();
        let mut dying = std::mem::take(&mut self.dying);
        loop {
            let before = dying.len();
            dying.retain(|(gfid, slot)| {
                let leaving_now = leaving.get(gfid).copied().unwrap_or(0);
                if self.fact(*gfid).children <= leaving_now && !arriving.contains(gfid) {
                    return true;
                }
                self.plan.doomed.push(*gfid);
                if self.wanted.contains(slot) {
                    self.parks.push((*gfid, slot.clone()));
                } else if let Some(count) = leaving.get_mut(&slot.parent) {
                    *count -= 1;
                }
                false
            });
            if dying.len() == before {
                break;
            }
        }
        for (gfid, slot) in dying {
            self.left.insert(gfid, self.fact(gfid).children);
            self.pending.push_back(Pending::Rmdir(gfid, slot));
        }
    }

    fn carry_out(&mut self) {
        for (gfid, slot) in std::mem::take(&mut self.unlinks) {
            self.vacate(&slot);
            self.plan.ops.push(Op::Unlink(gfid, slot));
        }
        for (gfid, slot) in std::mem::take(&mut self.parks) {
            self.rename(gfid, slot, Slot::parking(gfid));
        }
        while !self.pending.is_empty() {
            let before = self.pending.len();
            for _ in 0..before {
                if let Some(pending) = self.pending.pop_front()
                    && let Some(blocked) = self.attempt(pending)
                {
                    self.pending.push_back(blocked);
                }
            }
            if self.pending.len() == before && !self.park_one() {
                self.give_up();
            }
        }
    }

    /// Carries one operation out if it is possible now, and gives it back otherwise.
    fn attempt(&mut self, pending: Pending) -> Option<Pending> {
        match pending {
            Pending::Make(gfid, slot) if self.is_free(&slot) => {
                self.unborn.remove(&gfid);
                self.arrive(gfid, &slot);
                self.plan.ops.push(Op::Make(gfid, slot));
            }
            Pending::Link(gfid, slot) if self.is_free(&slot) && !self.unborn.contains(&gfid) => {
                self.arrive(gfid, &slot);
                self.plan.ops.push(Op::Link(gfid, slot));
            }
            Pending::Rename(gfid, from, to) if self.is_free(&to) && !self.makes_loop(gfid, to.parent) => {
                self.rename(gfid, from, to);
            }
            Pending::Rmdir(gfid, slot) if self.left.get(&gfid) == Some(&0) => {
                self.vacate(&slot);
                self.plan.ops.push(Op::Rmdir(gfid, slot));
            }
            blocked => return Some(blocked),
        }
        None
    }

    /// Breaks a cycle: one object that moves anyway waits in the parking place.
    fn park_one(&mut self) -> bool {
        let mut best = None;
        for (index, pending) in self.pending.iter().enumerate() {
            let Pending::Rename(_, from, _) = pending else { continue };
            if from.is_parking() {
                continue;
            }
            if self.wanted.contains(from) {
                best = Some(index);
                break;
            }
            best = best.or(Some(index));
        }
        let Some(Pending::Rename(gfid, from, to)) = best.and_then(|index| self.pending.remove(index)) else {
            return false;
        };
        if self.occupied.contains_key(&Slot::parking(gfid)) {
            // Another of its names waits there already: this one can go and come back as a link.
            self.vacate(&from);
            self.plan.ops.push(Op::Unlink(gfid, from));
            self.pending.push_front(Pending::Link(gfid, to));
            return true;
        }
        self.rename(gfid, from, Slot::parking(gfid));
        self.pending.push_front(Pending::Rename(gfid, Slot::parking(gfid), to));
        true
    }

    /// The looks contradict each other (a directory below itself, a parent that was never seen): look again later.
    fn give_up(&mut self) {
        for pending in std::mem::take(&mut self.pending) {
            match pending {
                Pending::Make(_, slot) | Pending::Link(_, slot) | Pending::Rmdir(_, slot) => {
                    self.plan.unsettled.push(slot);
                }
                Pending::Rename(_, from, to) => self.plan.unsettled.extend([from, to]),
            }
        }
    }

    fn rename(&mut self, gfid: Gfid, from: Slot, to: Slot) {
        self.vacate(&from);
        self.arrive(gfid, &to);
        self.plan.ops.push(Op::Rename(gfid, from, to));
    }

    fn vacate(&mut self, slot: &Slot) {
        self.occupied.remove(slot);
        if let Some(left) = self.left.get_mut(&slot.parent) {
            *left = left.saturating_sub(1);
        }
    }

    fn arrive(&mut self, gfid: Gfid, slot: &Slot) {
        self.occupied.insert(slot.clone(), gfid);
        if self.fact(gfid).dir {
            self.moved.insert(gfid, (!slot.is_parking()).then_some(slot.parent));
        }
    }

    fn is_free(&self, slot: &Slot) -> bool {
        !self.occupied.contains_key(slot) && !self.unborn.contains(&slot.parent)
    }

    fn makes_loop(&self, gfid: Gfid, to_parent: Gfid) -> bool {
        if !self.fact(gfid).dir {
            return false;
        }
        let mut at = Some(to_parent);
        while let Some(dir) = at {
            if dir == gfid {
                return true;
            }
            at = match self.moved.get(&dir) {
                Some(parent) => *parent,
                None => self.facts.parents.get(&dir).copied(),
            };
        }
        false
    }
}

#[cfg(test)]
mod tests;
