//! From what was seen on the brick to what is stated to the secondary. Pure.

use std::collections::{HashMap, HashSet};

use protocol::agent::{Batch, Item};
use protocol::brick::{Look, Names};
use protocol::{Gfid, Object, Place, Version};

use crate::brake::Removal;
use crate::dirty::NameHint;

/// A round's questions.
///
/// All looks at the brick are made by rounds, one round after the other: so a statement never rests on an older look
/// than the statement about the same name before it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Round {
    /// Names with what is known about them.
    pub names: Vec<(Place, NameHint)>,
    /// Objects whose attributes are asked for.
    pub attributes: Vec<Gfid>,
    /// Objects that may be gone.
    pub gone: Vec<Gfid>,
    /// Files whose content is over there: where do they live?
    pub arrived: Vec<Arrived>,
}

/// A file whose content is over there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Arrived {
    /// The object.
    pub gfid: Gfid,
    /// As it was when its content was read.
    pub object: Object,
    /// Where it is.
    pub found: Found,
}

/// Where a content is over there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// In the stage.
    Stage {
        /// The engine vouches that it arrived to its end.
        whole: bool,
    },
    /// In its place: the secondary had it already.
    There,
}

/// What was seen.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Survey {
    /// One for each name of the round.
    pub looks: Vec<Look>,
    /// One for each object of [`asked`].
    pub lives: Vec<(Gfid, Names)>,
    /// One for each object of the round's `attributes`.
    pub objects: Vec<Option<Object>>,
}

/// What a round finds to be removed: objects that end and leave their names empty. What gives way to another object is
/// replaced, not removed; what has no name on the secondary any more (it is parked) was decided about before.
pub fn removals(round: &Round, survey: &Survey) -> Vec<Removal> {
    let gone: HashSet<Gfid> =
        survey.lives.iter().filter(|(_, names)| matches!(names, Names::Gone)).map(|(gfid, _)| *gfid).collect();
    let mut removals = Vec::new();
    for ((place, hint), look) in round.names.iter().zip(&survey.looks) {
        for gfid in hint.mentions.iter().filter(|gfid| *look == Look::Absent && gone.contains(gfid)) {
            removals.push((*gfid, place.clone()));
        }
    }
    removals
}

/// Removals of a round that are not stated now.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Held {
    /// Names about which nothing is stated.
    pub places: HashSet<Place>,
    /// Objects that are not told to be gone.
    pub gfids: HashSet<Gfid>,
}

impl Held {
    /// All of these, but not what is a task of its own: the secondary leaves it alone while it has a name.
    pub fn new(removals: &[Removal], tasks: &[Gfid]) -> Held {
        Held {
            places: removals.iter().map(|(_, place)| place.clone()).collect(),
            gfids: removals.iter().map(|(gfid, _)| *gfid).filter(|gfid| !tasks.contains(gfid)).collect(),
        }
    }
}

/// Which work an item of the batch belongs to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// A name of the round, and the object that is stated to be or not to be there.
    Name(Place, Gfid),
    /// A name at which an object was found that lost another one.
    Pulled(Place, Gfid),
    /// An object whose attributes are stated.
    Attributes(Gfid),
    /// An object whose content is stated.
    Content(Gfid),
    /// An object whose content is stated and whose attributes have changed since that was read.
    Refreshed(Gfid),
}

/// What to state, and what cannot be stated yet.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Statements {
    /// The batch.
    pub batch: Batch,
    /// One for each item.
    pub origins: Vec<Origin>,
    /// Names to look at again later, with the reason.
    pub later: Vec<(Place, &'static str)>,
    /// Names about which there is nothing to state.
    pub settled: Vec<Place>,
    /// Objects whose attributes need no statement: they are gone.
    pub dropped: Vec<Gfid>,
    /// Objects that turned out not to be gone.
    pub alive: Vec<Gfid>,
    /// Files whose content arrived and which are gone.
    pub missing: Vec<Gfid>,
    /// Files whose content arrived and of which it is not recorded yet where they live.
    pub waiting: Vec<Gfid>,
    /// Objects that may be gone, of which it is not recorded yet.
    pub unclear: Vec<Gfid>,
}

/// Objects of which the round wants to know where they live: those that lost a name, those that may be gone, those
/// whose content arrived.
pub fn asked(round: &Round, looks: &[Look]) -> Vec<Gfid> {
    let mut asked = lost(&round.names, looks);
    asked.extend(&round.gone);
    asked.extend(round.arrived.iter().map(|a| a.gfid));
    asked
}

/// Objects that were mentioned with a name and are not there (any more).
fn lost(names: &[(Place, NameHint)], looks: &[Look]) -> Vec<Gfid> {
    let present: HashSet<Gfid> = looks.iter().filter_map(|look| present(look).map(|(gfid, _)| gfid)).collect();
    let mut lost = Vec::new();
    let mut seen = HashSet::new();
    for ((_, hint), look) in names.iter().zip(looks) {
        if matches!(look, Look::Unrecorded | Look::Failed(_)) {
            continue;
        }
        for &gfid in &hint.mentions {
            if !present.contains(&gfid) && seen.insert(gfid) {
                lost.push(gfid);
            }
        }
    }
    lost
}

/// Makes the statements of a round. `patient`: names whose object is alive at an unknown place may wait for the
/// record that tells where (so that it does not vanish meanwhile). `held`: what is kept back.
pub fn statements(round: &Round, survey: &Survey, patient: impl Fn(&Place) -> bool, held: &Held) -> Statements {
    let mut plan = Statements::default();
    let lives: HashMap<Gfid, &Names> = survey.lives.iter().map(|(gfid, names)| (*gfid, names)).collect();
    let looked: HashMap<&Place, &Look> = round.names.iter().map(|(p, _)| p).zip(&survey.looks).collect();
    let mut unbinds = Vec::new();
    for ((place, hint), look) in round.names.iter().zip(&survey.looks) {
        match look {
            Look::Present(gfid, object) => plan.bind(place, *gfid, object, source(hint, *gfid, &looked)),
            Look::Absent if held.places.contains(place) => {}
            Look::Absent => {
                let homeless = |gfid: &Gfid| matches!(lives.get(gfid), Some(Names::Alive(_, p)) if p.is_empty());
                let unknown = |gfid: &Gfid| matches!(lives.get(gfid), Some(Names::Unrecorded));
                if hint.mentions.iter().any(unknown) {
                    plan.later.push((place.clone(), "where its object is now is not recorded yet"));
                } else if hint.mentions.iter().any(homeless) && patient(place) {
                    plan.later.push((place.clone(), "its object is between two names"));
                } else if hint.mentions.is_empty() {
                    plan.settled.push(place.clone());
                } else {
                    unbinds.extend(hint.mentions.iter().map(|gfid| (place.clone(), *gfid)));
                }
            }
            Look::Unrecorded => plan.later.push((place.clone(), "what is there is not recorded yet")),
            Look::Failed(_) => plan.later.push((place.clone(), "it cannot be looked at on the primary")),
        }
    }
    plan.state_contents(round, &lives);
    plan.pull(survey, &looked);
    for (place, gfid) in unbinds {
        plan.push(Item::Unbind { place: place.clone(), gfid }, Origin::Name(place, gfid));
    }
    plan.state_attributes(round, survey);
    plan.state_gone(round, survey, held);
    plan
}

/// The name that the object lost by the rename, if it really lost it.
fn source(hint: &NameHint, gfid: Gfid, looked: &HashMap<&Place, &Look>) -> Option<Place> {
    let (moved, from) = hint.from.as_ref()?;
    let left = looked.get(from).is_some_and(|look| match look {
        Look::Present(there, _) => *there != gfid,
        Look::Absent => true,
        Look::Unrecorded | Look::Failed(_) => false,
    });
    (*moved == gfid && left).then(|| from.clone())
}

fn present(look: &Look) -> Option<(Gfid, &Object)> {
    match look {
        Look::Present(gfid, object) => Some((*gfid, object)),
        _ => None,
    }
}

impl Statements {
    fn push(&mut self, item: Item, origin: Origin) {
        self.batch.items.push(item);
        self.origins.push(origin);
    }

    fn bind(&mut self, place: &Place, gfid: Gfid, object: &Object, from: Option<Place>) {
        let item = Item::Bind { place: place.clone(), gfid, from, object: object.clone() };
        self.push(item, Origin::Name(place.clone(), gfid));
    }

    /// Binds objects that lost a name where they live now, so that they never vanish in between.
    fn pull(&mut self, survey: &Survey, looked: &HashMap<&Place, &Look>) {
        for (gfid, names) in &survey.lives {
            let Names::Alive(object, places) = names else { continue };
            for place in places {
                if looked.get(place).is_some_and(|look| present(look).is_some_and(|(there, _)| there == *gfid)) {
                    continue;
                }
                let item = Item::Bind { place: place.clone(), gfid: *gfid, from: None, object: object.clone() };
                self.push(item, Origin::Pulled(place.clone(), *gfid));
            }
        }
    }

    /// States contents; their names are stated by [`pull`](Statements::pull), after them.
    fn state_contents(&mut self, round: &Round, lives: &HashMap<Gfid, &Names>) {
        for Arrived { gfid, object, found } in &round.arrived {
            let now = match lives.get(gfid) {
                Some(Names::Alive(now, _)) => now,
                Some(Names::Unrecorded) => {
                    self.waiting.push(*gfid);
                    continue;
                }
                _ => {
                    self.missing.push(*gfid);
                    continue;
                }
            };
            // The attributes as they are now, with the version of the content as it was read.
            let object = Object { size: object.size, mtime: object.mtime, ctime: object.ctime, ..now.clone() };
            let is_older = Version::of(&object) != Version::of(now);
            let item = match found {
                Found::Stage { whole } => Item::Content { gfid: *gfid, object, whole: *whole },
                Found::There => Item::Attributes { gfid: *gfid, object },
            };
            self.push(item, Origin::Content(*gfid));
            if is_older {
                // A time that was set while the content was on its way may have been stated already.
                self.push(Item::Attributes { gfid: *gfid, object: now.clone() }, Origin::Refreshed(*gfid));
            }
        }
    }

    fn state_attributes(&mut self, round: &Round, survey: &Survey) {
        for (gfid, object) in round.attributes.iter().zip(&survey.objects) {
            match object {
                Some(object) => {
                    let item = Item::Attributes { gfid: *gfid, object: object.clone() };
                    self.push(item, Origin::Attributes(*gfid));
                }
                None => self.dropped.push(*gfid),
            }
        }
    }

    fn state_gone(&mut self, round: &Round, survey: &Survey, held: &Held) {
        let mut stated = held.gfids.clone();
        for (gfid, names) in &survey.lives {
            if matches!(names, Names::Gone) && *gfid != Gfid::ROOT && stated.insert(*gfid) {
                self.batch.gone.push(*gfid);
            }
        }
        for (gfid, names) in &survey.lives {
            if matches!(names, Names::Unrecorded) && round.gone.contains(gfid) && stated.insert(*gfid) {
                self.unclear.push(*gfid);
            }
        }
        self.alive.extend(round.gone.iter().filter(|gfid| !stated.contains(gfid)));
    }
}
