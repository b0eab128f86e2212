//! What the worker does next: a state machine without I/O and clock of its own.
//!
//! Events go in, effects come out. The shell carries effects out and brings what came of them back as events.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::iter::Peekable;
use std::time::{Duration, Instant};

use changelog::{Position, Record};
use protocol::agent::{BATCH_BYTES, Batch, Cursor, Item, MAX_BATCH_ITEMS, Mark, Outcome, Stored};
use protocol::{Gfid, Place};

use crate::brake::{Brake, Decision, Halt, Removal};
use crate::dirty::{ContentHint, Dirty, NameHint, NoHint};
use crate::event::{Effect, Event, TransferJob, TransferState, Transferred};
use crate::plan::{self, Arrived, Found, Held, Origin, Round, Statements, Survey};
use crate::rescan::{CHECKPOINT_NAMES, Rescan};
use crate::work::{Hint, Table};

/// Names looked at in one round: large enough that a round trip costs little, small enough that the next round is
/// looked at while the secondary works on this one.
const ROUND_NAMES: usize = 512;

/// Objects described or told to be gone in one round.
const ROUND_OBJECTS: usize = 256;

/// Batches on their way to the secondary: back-pressure instead of memory.
const MAX_BATCHES: usize = 8;

/// Weight of the dirty set (keys and names' records) beyond which the changelog is not read on: about 50 MiB.
const MAX_DIRTY: usize = 100_000;

/// A file that somebody keeps writing to is sent as it is after this time (it is not one state of the file then;
/// docs/operations.md says so).
const UNSTABLE_AFTER: Duration = Duration::from_secs(5);

/// The longest wait before a file that somebody was writing to is tried again: trying costs an open(2) and a lease, and
/// the time above has to be kept.
const BUSY_RETRY: Duration = Duration::from_secs(1);

/// How long a name waits for the record that tells where its object went.
const PATIENCE: Duration = Duration::from_secs(2);

/// What fails this long and this often lets the mark pass and is kept in the pending list.
const GIVE_UP_AFTER: (Duration, u32) = (Duration::from_secs(10), 8);

/// An idle worker stores its mark this often, so that the time in it is not too old.
const CLOCK_STEP_SECS: u64 = 60;

/// What a batch on its way is about.
#[derive(Debug)]
struct Ticket {
    origins: Vec<Origin>,
    /// Objects that are told to be gone, and whether that was the round's own task for them.
    gone: Vec<(Gfid, bool)>,
    /// Removals that the brake admitted, told with the last ticket of a round.
    removals: u64,
}

/// The worker's state.
#[derive(Debug)]
pub struct Core {
    /// The dirty set.
    pub dirty: Dirty,
    /// Files whose content is over there, to be stated by the next rounds.
    arrived: VecDeque<Arrived>,
    /// Names of new files that wait for the content of their object.
    waiting: HashMap<Gfid, Vec<Place>>,
    tickets: HashMap<u64, Ticket>,
    next_ticket: u64,
    surveying: bool,
    transfers: usize,
    max_transfers: usize,
    transfer_files: usize,
    brake: Brake,
    /// Behind the last record that was read.
    read_to: Position,
    /// Records behind this one are read for the first time.
    first_read: Position,
    /// Whether those are written while we watch.
    first_read_live: bool,
    /// Whether the changelog that was there when the worker connected has been read: what comes now is changed while
    /// we watch.
    live: bool,
    /// The newest mark that was handed out to be stored: the mark never goes back.
    floor: Position,
    /// Wall clock times that belong to reading positions.
    clock: VecDeque<(Position, u64)>,
    synced_until: u64,
    committed: Option<Stored>,
    committing: Option<Stored>,
    brick: [u8; 16],
    /// Something was read: before, it is not known whether the mark is a position in this changelog.
    has_read: bool,
    /// Both sides are being compared as a whole.
    rescan: Option<Rescan>,
    /// Where the rescan was when removals began to be counted: it is done again from there.
    recount: Option<protocol::agent::Rescan>,
    /// Rescans of this connection.
    rescans: u64,
    /// The newest of them that was stored.
    rescans_stored: u64,
    /// After how many names a rescan's progress is stored.
    pub rescan_checkpoint: usize,
    /// Wall clock, set by the shell with each event.
    pub wall_secs: u64,
}

impl Core {
    /// Begins where the mark is.
    ///
    /// `limits`: how many calls of the engine may be under way, with how many files each.
    pub fn new(brick: [u8; 16], stored: Stored, limits: (usize, usize), brake: Brake, now: Instant) -> Core {
        let mark = stored.mark.clone().filter(|m| m.brick == brick);
        let read_to = mark.as_ref().map_or(Position::START, |m| m.position);
        let synced_until = mark.as_ref().map_or(0, |m| m.synced_until);
        let mut dirty = Dirty::default();
        dirty.restore(stored.pending.clone(), read_to, now);
        Core {
            dirty,
            arrived: VecDeque::new(),
            waiting: HashMap::new(),
            tickets: HashMap::new(),
            next_ticket: 0,
            surveying: false,
            transfers: 0,
            max_transfers: limits.0,
            transfer_files: limits.1,
            brake,
            read_to,
            first_read: read_to,
            first_read_live: false,
            live: false,
            floor: read_to,
            clock: VecDeque::new(),
            synced_until,
            rescan: stored.rescan.clone().map(|rescan| Rescan::new(rescan, 0, CHECKPOINT_NAMES)),
            has_read: false,
            recount: None,
            rescans: 0,
            rescans_stored: 0,
            rescan_checkpoint: CHECKPOINT_NAMES,
            committed: Some(stored),
            committing: None,
            brick,
            wall_secs: 0,
        }
    }

    /// Begins to compare both sides as a whole, or begins again: what was compared before may have changed in a time of
    /// which nothing is known.
    pub fn begin_rescan(&mut self, reason: String) {
        let stored = protocol::agent::Rescan { reason, since: self.wall_secs, cursor: Cursor::Directories(None) };
        if self.brake.pinned().is_some() {
            self.recount = Some(stored.clone());
        }
        self.start_rescan(stored);
    }

    fn start_rescan(&mut self, stored: protocol::agent::Rescan) {
        self.rescans += 1;
        self.rescan = Some(Rescan::new(stored, self.rescans, self.rescan_checkpoint));
    }

    /// Why both sides are being compared as a whole, if they are.
    pub fn rescan_reason(&self) -> Option<&str> {
        self.rescan
            .as_ref()
            .map(|rescan| rescan.stored())
            .or(self.recount.as_ref())
            .map(|stored| stored.reason.as_str())
    }

    /// Whether the durable mark says where the changelog was that is there now, and that everything before is there.
    pub fn is_mark_valid(&self) -> bool {
        self.has_read && self.rescan.is_none() && self.recount.is_none() && !self.is_rescan_stored()
    }

    /// Number of the newest rescan of this connection that was stored.
    pub fn rescans_stored(&self) -> u64 {
        self.rescans_stored
    }

    /// Whether it is stored that both sides are to be compared as a whole.
    pub fn is_rescan_stored(&self) -> bool {
        self.committed.as_ref().is_some_and(|stored| stored.rescan.is_some())
    }

    /// Takes in what the secondary has parked from former connections: each is gone, or has to be bound.
    pub fn restore_parked(&mut self, parked: &[Gfid], now: Instant) {
        for gfid in parked {
            self.dirty.gone.mark(*gfid, self.read_to, NoHint, now);
        }
    }

    /// Takes in an event and says what to do.
    pub fn apply(&mut self, event: Event, now: Instant) -> Vec<Effect> {
        let mut effects = self.settle(event, now);
        self.go_on(now, &mut effects);
        effects
    }

    /// Takes in an event and begins nothing new, as a worker that is stopping: only what was under way is stated.
    pub fn settle(&mut self, event: Event, now: Instant) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Records { unproven, records, next, at_tail, read_until } => {
                if let Some(reason) = unproven {
                    let begin = records.first().map_or(next, |(position, _)| *position);
                    self.cross_gap(begin, reason);
                }
                self.read(records, next, read_until, now);
                self.live |= at_tail;
                self.has_read = true;
                if at_tail {
                    self.brake.caught_up();
                }
            }
            Event::Surveyed(round, survey) => self.surveyed(&round, &survey, now, &mut effects),
            Event::Transferred(files) => self.transferred(files, now),
            Event::Applied { ticket, items, gone, parked, balance } => {
                let answered = self.tickets.get(&ticket).map_or(0, |ticket| ticket.removals);
                self.brake.update(balance, answered);
                self.applied(ticket, &items, &gone, &parked, now);
            }
            Event::Counted(known) => self.brake.counted(&known),
            Event::End(position) => self.brake.ends_at(position),
            Event::Committed => self.committed = self.committing.take(),
            Event::Swept(swept) => {
                let position = self.mark();
                for (place, mentions) in swept.stale {
                    self.dirty.mark_name(place, position, NameHint { mentions, ..NameHint::default() }, now);
                }
            }
            Event::Listed { generation, page } => {
                if let Some(rescan) = self.rescan.as_mut().filter(|rescan| rescan.generation() == generation) {
                    rescan.take(page, &mut self.dirty, self.read_to, now);
                }
            }
        }
        effects
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Instant) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.go_on(now, &mut effects);
        effects
    }

    /// Whether the changelog should be read on.
    pub fn wants_records(&self) -> bool {
        self.brake.halt().is_none() && self.dirty.weight() < MAX_DIRTY
    }

    /// The position before which everything is on the secondary or pending.
    pub fn mark(&self) -> Position {
        let pinned = self.brake.pinned().unwrap_or(self.read_to);
        self.dirty.oldest().unwrap_or(self.read_to).min(self.read_to).min(pinned).max(self.floor)
    }

    /// The mark that is durable. While there is a rescan, it does not say that everything before is there.
    pub fn durable_mark(&self) -> Option<Position> {
        self.committed.as_ref().and_then(|s| s.mark.as_ref()).map(|m| m.position)
    }

    /// All changes before this time are on the secondary.
    pub fn synced_until(&self) -> u64 {
        self.synced_until
    }

    /// Whether nothing is under way or to be done.
    pub fn is_idle(&self) -> bool {
        self.dirty.is_settled() && self.is_quiet() && self.rescan.is_none() && self.brake.pinned().is_none()
    }

    /// Whether nothing is under way.
    pub fn is_quiet(&self) -> bool {
        self.tickets.is_empty() && !self.surveying && self.transfers == 0
    }

    /// Why the session halts, when it does: it goes on only when the operator says so.
    pub fn halt(&self) -> Option<&Halt> {
        self.brake.halt()
    }

    /// When something has to be done without an event.
    pub fn next_wake(&self) -> Option<Instant> {
        [self.dirty.next_wake(), self.brake.next_wake()].into_iter().flatten().min()
    }

    /// Whether there is something to store.
    pub fn has_news(&self) -> bool {
        let mark = Mark { brick: self.brick, position: self.mark(), synced_until: self.synced_until };
        self.committing.is_none() && !self.committed.as_ref().is_some_and(|old| is_stored(old, &self.stored(mark)))
    }

    /// Whether the changelog that was there at the start has been read.
    pub fn is_live(&self) -> bool {
        self.live
    }

    /// What to store, if it is not stored yet and nothing is being stored.
    pub fn commit(&mut self) -> Option<Effect> {
        if self.committing.is_some() {
            return None;
        }
        let mark = Mark { brick: self.brick, position: self.mark(), synced_until: self.advance_clock() };
        let stored = self.stored(mark);
        if self.committed.as_ref().is_some_and(|old| is_stored(old, &stored)) {
            return None;
        }
        self.floor = self.mark();
        self.committing = Some(stored.clone());
        Some(Effect::Commit(stored))
    }

    fn stored(&self, mark: Mark) -> Stored {
        let rescan = self.recount.clone().or(self.rescan.as_ref().map(|rescan| rescan.stored().clone()));
        Stored { mark: Some(mark), pending: self.dirty.pending(), rescan }
    }

    fn advance_clock(&mut self) -> u64 {
        if self.rescan.is_some() {
            // Something before may be missing.
            return self.synced_until;
        }
        let mark = self.mark();
        while let Some((position, time)) = self.clock.front() {
            if *position > mark {
                break;
            }
            self.synced_until = self.synced_until.max(*time);
            self.clock.pop_front();
        }
        self.synced_until
    }

    /// Something is missing in the changelog before this position: only a rescan can tell what it was.
    fn cross_gap(&mut self, begin: Position, reason: String) {
        self.begin_rescan(reason);
        if begin < self.read_to {
            // It is another changelog, or lost its end: positions in what was lost mean nothing any more.
            self.read_to = begin;
            self.floor = begin;
            self.first_read = begin;
            self.clock.clear();
            self.dirty.rebase(begin);
            self.brake.rebase(begin);
        }
    }

    fn read(&mut self, records: Vec<(Position, Record)>, next: Position, read_until: u64, now: Instant) {
        for (position, record) in records {
            let hard = self.live || (position >= self.first_read && self.first_read_live);
            self.dirty.absorb(position, record, hard, now);
        }
        self.read_to = self.read_to.max(next);
        if read_until > 0 {
            match self.clock.back_mut() {
                Some((position, time)) if *position == next => *time = (*time).max(read_until),
                _ => self.clock.push_back((next, read_until)),
            }
        }
    }

    /// Starts whatever can be started.
    fn go_on(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        self.dirty.wake(now);
        if let Some(rescan) = &mut self.rescan {
            // Stored first, so that its end is stored too: what it did is durable then.
            let stored = self.committed.as_ref().and_then(|stored| stored.rescan.as_ref());
            let is_stored = stored.is_some_and(|stored| stored.is_same(rescan.stored()));
            if is_stored {
                self.rescans_stored = self.rescans;
            }
            if rescan.advance(&self.dirty) && is_stored {
                self.rescan = None;
            } else if let Some(request) = rescan.next_request(&self.dirty) {
                effects.push(Effect::List(request));
            }
        }
        self.decide_removals(now, effects);
        if self.brake.halt().is_some() {
            return;
        }
        if !self.surveying && self.tickets.len() < MAX_BATCHES {
            let round = self.next_round();
            if round != Round::default() {
                self.surveying = true;
                effects.push(Effect::Survey(round));
            }
        }
        while self.transfers < self.max_transfers && self.tickets.len() < MAX_BATCHES {
            let jobs = self.next_transfers(now);
            if jobs.is_empty() {
                break;
            }
            self.transfers += 1;
            effects.push(Effect::Transfer(jobs));
        }
    }

    fn next_round(&mut self) -> Round {
        let mut round = Round::default();
        for (place, hint) in self.dirty.names.take(ROUND_NAMES) {
            // A new file's name comes with its content.
            match hint.fresh {
                Some(gfid) if self.dirty.contents.get(&gfid).is_some_and(|w| w.pending.is_none()) => {
                    self.waiting.entry(gfid).or_default().push(place);
                }
                _ => round.names.push((place, hint)),
            }
        }
        round.attributes = take_before(&mut self.dirty.attributes, self.dirty.names.front(), ROUND_OBJECTS);
        round.gone = take_before(&mut self.dirty.gone, self.dirty.names.front(), ROUND_OBJECTS);
        round.arrived.extend(self.arrived.drain(..self.arrived.len().min(ROUND_OBJECTS)));
        round
    }

    fn next_transfers(&mut self, now: Instant) -> Vec<TransferJob> {
        let limit = self.dirty.names.front();
        if limit.is_some_and(|limit| self.dirty.contents.front().is_some_and(|front| front > limit)) {
            return Vec::new();
        }
        let taken = self.dirty.contents.take(self.transfer_files);
        let job = |(gfid, hint): (Gfid, ContentHint)| {
            let work = self.dirty.contents.get(&gfid);
            TransferJob {
                gfid,
                hard: hint.hard,
                // Not the time that it waited for its turn counts: it may have stood still all the while.
                accept_unstable: hint
                    .busy_since
                    .is_some_and(|since| now.saturating_duration_since(since) >= UNSTABLE_AFTER),
                waited: work.map_or(Duration::ZERO, |work| now.saturating_duration_since(work.since)),
            }
        };
        taken.into_iter().map(job).collect()
    }

    fn surveyed(&mut self, round: &Round, survey: &Survey, now: Instant, effects: &mut Vec<Effect>) {
        self.surveying = false;
        let young = |place: &Place| {
            self.dirty.names.get(place).is_some_and(|work| now.saturating_duration_since(work.since) < PATIENCE)
        };
        let removals = self.undecided(plan::removals(round, survey));
        let admitted = self.brake.admits(removals.len() as u64, self.live, now);
        let held = if admitted { Held::default() } else { Held::new(&removals, &round.gone) };
        let plan = plan::statements(round, survey, young, &held);
        if !admitted {
            self.hold(&removals, now, effects);
        }
        for (place, reason) in &plan.later {
            self.fail_name(place, reason, now);
        }
        for place in &plan.settled {
            self.dirty.names.finish(place, now);
        }
        for gfid in &plan.dropped {
            self.dirty.attributes.finish(gfid, now);
        }
        for gfid in &plan.missing {
            self.content_missing(*gfid, now);
        }
        for gfid in &plan.waiting {
            self.fail_content(*gfid, "where it lives is not recorded yet", now);
        }
        for gfid in &plan.unclear {
            let reason = "whether it is gone is not recorded yet";
            fail(&mut self.dirty, |d| &mut d.gone, gfid, reason, self.wall_secs, now);
        }
        for gfid in &plan.alive {
            self.dirty.gone.finish(gfid, now);
        }
        let removals = if admitted { removals.len() as u64 } else { 0 };
        self.send(plan, &round.gone, removals, effects);
    }

    /// Removals that the brake has not decided about: what is pending was decided before it failed.
    fn undecided(&self, mut removals: Vec<Removal>) -> Vec<Removal> {
        removals.retain(|(_, place)| self.dirty.names.get(place).is_none_or(|work| work.pending.is_none()));
        removals
    }

    /// Puts removals aside to be counted. They are forgotten: the changelog is read again, and the rescan made again,
    /// before they are stated.
    fn hold(&mut self, removals: &[Removal], now: Instant, effects: &mut Vec<Effect>) {
        let positions =
            removals.iter().filter_map(|(_, place)| self.dirty.names.get(place)).map(|work| work.position());
        let from = positions.min().unwrap_or(self.mark());
        if self.recount.is_none() {
            self.recount = self.rescan.as_ref().map(|rescan| rescan.stored().clone());
        }
        for (_, place) in removals {
            self.dirty.names.finish(place, now);
        }
        let mut gfids: Vec<Gfid> = removals.iter().map(|(gfid, _)| *gfid).collect();
        gfids.sort_unstable();
        gfids.dedup();
        let questions = gfids.chunks(MAX_BATCH_ITEMS);
        self.brake.count(from, removals.len() as u64, questions.len(), now);
        effects.extend(questions.map(|part| Effect::Count(part.to_vec())));
    }

    fn decide_removals(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        if self.brake.pinned().is_none() {
            if self.brake.is_replaying() && self.is_looked_at() {
                self.brake.looked_at(self.read_to);
            }
            if self.live && self.is_idle() && self.brake.settled() {
                effects.push(Effect::Accept(0));
            }
            return;
        }
        if self.brake.wants_end(now) {
            effects.push(Effect::FindEnd);
        }
        if !self.is_looked_at() {
            return;
        }
        let decision = self.brake.decide(self.read_to, self.waiting.len() as u64, now);
        let Some(Decision::GoOn { from, accept }) = decision else { return };
        effects.extend(accept.map(Effect::Accept));
        if let Some(stored) = self.recount.take() {
            self.start_rescan(stored);
        }
        self.rewind(from);
        effects.push(Effect::Rewind(from));
    }

    /// Whether everything that was read was looked at, and everything that a rescan has to look at.
    fn is_looked_at(&self) -> bool {
        if self.surveying || self.rescan.is_some() {
            return false;
        }
        // Names that wait for their content were looked at, and those that are tried again later.
        let moving = self.dirty.names.moving_len();
        moving == 0 || moving <= self.waiting.values().map(Vec::len).sum()
    }

    /// Reading begins anew at an older position.
    fn rewind(&mut self, from: Position) {
        self.first_read = self.first_read.max(self.read_to);
        self.first_read_live |= self.live;
        self.read_to = from;
        self.live = false;
        self.clock.clear();
    }

    /// Sends the statements, in parts that an agent accepts; objects that are gone come last.
    fn send(&mut self, plan: Statements, tasks: &[Gfid], removals: u64, effects: &mut Vec<Effect>) {
        let Batch { items, gone } = plan.batch;
        let mut items = items.into_iter().peekable();
        let mut origins = plan.origins.into_iter();
        let mut gone = Some(gone);
        loop {
            let part = one_batch(&mut items);
            let gone = if items.peek().is_none() { gone.take().unwrap_or_default() } else { Vec::new() };
            if part.is_empty() && gone.is_empty() {
                break;
            }
            self.next_ticket += 1;
            let ticket = Ticket {
                origins: origins.by_ref().take(part.len()).collect(),
                gone: gone.iter().map(|gfid| (*gfid, tasks.contains(gfid))).collect(),
                removals: if items.peek().is_none() { removals } else { 0 },
            };
            self.tickets.insert(self.next_ticket, ticket);
            effects.push(Effect::Apply(self.next_ticket, Batch { items: part, gone }));
        }
    }

    fn transferred(&mut self, files: Vec<Transferred>, now: Instant) {
        self.transfers = self.transfers.saturating_sub(1);
        for Transferred { gfid, state } in files {
            match state {
                TransferState::Staged { object, whole } => {
                    self.arrived.push_back(Arrived { gfid, object, found: Found::Stage { whole } });
                }
                TransferState::Current(object) => {
                    self.arrived.push_back(Arrived { gfid, object, found: Found::There });
                }
                TransferState::Busy => {
                    self.dirty.contents.amend(&gfid, |hint| hint.busy_since = hint.busy_since.or(Some(now)));
                    self.dirty.contents.retry_within(&gfid, BUSY_RETRY, now);
                }
                TransferState::Early => self.dirty.contents.retry_within(&gfid, BUSY_RETRY, now),
                TransferState::Missing => self.content_missing(gfid, now),
                TransferState::Failed(reason) => self.fail_content(gfid, &reason, now),
            }
        }
    }

    /// The object has no content to send: names that waited for it are looked at on their own.
    fn content_missing(&mut self, gfid: Gfid, now: Instant) {
        self.dirty.contents.finish(&gfid, now);
        self.release(gfid, &HashSet::new(), now);
    }

    /// Names that waited for the object are done if they were bound, else looked at.
    fn release(&mut self, gfid: Gfid, bound: &HashSet<Place>, now: Instant) {
        for place in self.waiting.remove(&gfid).unwrap_or_default() {
            let is_all = |hint: &NameHint| hint.mentions.iter().all(|mention| *mention == gfid);
            let others = self.dirty.names.get(&place).is_some_and(|work| !is_all(work.hint()));
            // Other objects that had the name may be gone: only a look asks for them.
            if bound.contains(&place) && !others {
                self.dirty.names.finish(&place, now);
            } else {
                self.dirty.names.amend(&place, |hint| hint.fresh = None);
                self.dirty.names.retry(&place, now);
            }
        }
    }

    fn applied(&mut self, ticket: u64, items: &[Outcome], gone: &[Outcome], parked: &[Gfid], now: Instant) {
        let Some(ticket) = self.tickets.remove(&ticket) else { return };
        // What fails without work of its own is asked for from here: the batch's own work keeps the mark back.
        let position = self.mark();
        for gfid in parked {
            // It may have been told to be gone while it still had a name there, or its own record is yet to come.
            self.dirty.gone.mark(*gfid, position, NoHint, now);
        }
        let mut unfinished: BTreeMap<Place, String> = BTreeMap::new();
        let mut names = BTreeMap::new();
        let mut bound: HashMap<Gfid, HashSet<Place>> = HashMap::new();
        for (origin, outcome) in ticket.origins.iter().zip(items) {
            match origin {
                Origin::Name(place, gfid) if *outcome == Outcome::NeedContent && !self.is_content_pending(gfid) => {
                    let position = self.dirty.names.get(place).map_or(position, |w| w.position());
                    self.dirty.contents.mark(*gfid, position, ContentHint::hard(), now);
                    self.waiting.entry(*gfid).or_default().push(place.clone());
                }
                Origin::Name(place, gfid) => {
                    names.insert(place.clone(), *gfid);
                    if *outcome != Outcome::Done {
                        self.find_directories(place, outcome, position, now);
                        unfinished.insert(place.clone(), explain(outcome));
                    }
                }
                Origin::Pulled(place, gfid) => {
                    if *outcome == Outcome::Done {
                        bound.entry(*gfid).or_default().insert(place.clone());
                    } else {
                        self.dirty.mark_name(place.clone(), position, NameHint::of(*gfid), now);
                        self.find_directories(place, outcome, position, now);
                    }
                }
                Origin::Attributes(gfid) => self.judge_attributes(*gfid, outcome, position, now),
                Origin::Refreshed(gfid) if *outcome != Outcome::Done => {
                    self.dirty.attributes.mark(*gfid, position, NoHint, now);
                }
                Origin::Content(_) | Origin::Refreshed(_) => {}
            }
        }
        for (place, gfid) in names {
            match unfinished.remove(&place) {
                None => self.dirty.names.finish(&place, now),
                Some(reason) if self.dirty.names.contains(&place) => self.fail_name(&place, &reason, now),
                // Another part of the round's statements finished it.
                Some(_) => self.dirty.mark_name(place, position, NameHint::of(gfid), now),
            }
        }
        for (origin, outcome) in ticket.origins.iter().zip(items) {
            if let Origin::Content(gfid) = origin {
                self.judge_content(*gfid, outcome, bound.get(gfid), now);
            }
        }
        for ((gfid, is_task), outcome) in ticket.gone.iter().zip(gone) {
            self.judge_gone(*gfid, *is_task, outcome, position, now);
        }
    }

    /// Whether the content was given up for now: then the name cannot wait for it, or it would hold the mark.
    fn is_content_pending(&self, gfid: &Gfid) -> bool {
        self.dirty.contents.get(gfid).is_some_and(|work| work.pending.is_some())
    }

    /// Asks for the names of the directory that was missing or in the way.
    fn find_directories(&mut self, place: &Place, outcome: &Outcome, position: Position, now: Instant) {
        if matches!(outcome, Outcome::ParentMissing | Outcome::Loop) && place.parent != Gfid::ROOT {
            // "Is it gone?" is answered with where it lives, and it is bound there.
            self.dirty.gone.mark(place.parent, position, NoHint, now);
        }
    }

    fn judge_attributes(&mut self, gfid: Gfid, outcome: &Outcome, position: Position, now: Instant) {
        match outcome {
            Outcome::Done => self.dirty.attributes.finish(&gfid, now),
            Outcome::Unknown => {
                // Its names have to come first. They do not make this needless: its content may wait in the stage
                // with attributes that were read earlier.
                if !self.dirty.contents.contains(&gfid) {
                    self.dirty.gone.mark(gfid, position, NoHint, now);
                }
                fail(&mut self.dirty, |d| &mut d.attributes, &gfid, &explain(outcome), self.wall_secs, now);
            }
            _ => {
                let reason = explain(outcome);
                fail(&mut self.dirty, |d| &mut d.attributes, &gfid, &reason, self.wall_secs, now);
            }
        }
    }

    fn judge_content(&mut self, gfid: Gfid, outcome: &Outcome, bound: Option<&HashSet<Place>>, now: Instant) {
        match outcome {
            Outcome::Done => {
                self.dirty.contents.finish(&gfid, now);
                self.release(gfid, bound.unwrap_or(&HashSet::new()), now);
            }
            Outcome::Unknown | Outcome::NeedContent => {
                self.dirty.contents.amend(&gfid, |hint| hint.hard = true);
                self.fail_content(gfid, "its content did not arrive whole", now);
            }
            _ => self.fail_content(gfid, &explain(outcome), now),
        }
    }

    fn judge_gone(&mut self, gfid: Gfid, is_task: bool, outcome: &Outcome, position: Position, now: Instant) {
        let done = matches!(outcome, Outcome::Done | Outcome::Unknown);
        match (done, is_task) {
            (true, true) => self.dirty.gone.finish(&gfid, now),
            (true, false) => {}
            (false, true) => {
                fail(&mut self.dirty, |d| &mut d.gone, &gfid, &explain(outcome), self.wall_secs, now);
            }
            (false, false) => self.dirty.gone.mark(gfid, position, NoHint, now),
        }
    }

    fn fail_name(&mut self, place: &Place, reason: &str, now: Instant) {
        fail(&mut self.dirty, |d| &mut d.names, place, reason, self.wall_secs, now);
    }

    fn fail_content(&mut self, gfid: Gfid, reason: &str, now: Instant) {
        fail(&mut self.dirty, |d| &mut d.contents, &gfid, reason, self.wall_secs, now);
        if self.dirty.contents.get(&gfid).is_some_and(|work| work.pending.is_some()) {
            self.release(gfid, &HashSet::new(), now);
        }
    }
}

/// As many items as an agent takes at a time, and a frame.
pub(crate) fn one_batch(items: &mut Peekable<impl Iterator<Item = Item>>) -> Vec<Item> {
    let (mut part, mut bytes) = (Vec::new(), 0);
    while let Some(item) = items.next_if(|_| part.len() < MAX_BATCH_ITEMS && bytes < BATCH_BYTES) {
        bytes += item.weight_bytes();
        part.push(item);
    }
    part
}

/// Tries again later; after long enough it is kept as pending.
fn fail<K, H>(
    dirty: &mut Dirty,
    table: impl Fn(&mut Dirty) -> &mut Table<K, H>,
    key: &K,
    reason: &str,
    wall_secs: u64,
    now: Instant,
) where
    K: Clone + Eq + std::hash::Hash + Ord,
    H: Hint,
{
    let may_give_up = dirty.may_give_up();
    let table = table(dirty);
    let exhausted = table.get(key).is_some_and(|work| {
        let (after, attempts) = GIVE_UP_AFTER;
        work.pending.is_some() || (work.attempts >= attempts && now.saturating_duration_since(work.since) >= after)
    });
    if exhausted && may_give_up {
        table.give_up(key, reason.to_owned(), wall_secs);
    }
    table.retry(key, now);
}

/// Whether storing again would change nothing but the time by less than [`CLOCK_STEP_SECS`].
fn is_stored(old: &Stored, new: &Stored) -> bool {
    let (Some(before), Some(after)) = (&old.mark, &new.mark) else { return false };
    before.position == after.position
        && before.brick == after.brick
        && old.pending == new.pending
        && old.rescan == new.rescan
        && after.synced_until.saturating_sub(before.synced_until) < CLOCK_STEP_SECS
}

/// Takes ready keys whose position is not behind what the names have reached.
fn take_before<H: Hint + Clone>(table: &mut Table<Gfid, H>, limit: Option<Position>, most: usize) -> Vec<Gfid> {
    let mut taken = Vec::new();
    while taken.len() < most {
        match table.front() {
            Some(front) if limit.is_none_or(|limit| front <= limit) => {
                taken.extend(table.take(1).into_iter().map(|(gfid, _)| gfid));
            }
            _ => break,
        }
    }
    taken
}

fn explain(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Done => "done".into(),
        Outcome::NeedContent => "its content is not there yet".into(),
        Outcome::ParentMissing => "its directory is not there yet".into(),
        Outcome::Loop => "its directory is still inside it".into(),
        Outcome::Unknown => "the object is not there yet".into(),
        Outcome::NotEmpty => "the directory is not empty on the secondary".into(),
        Outcome::Failed { reason, .. } => reason.clone(),
    }
}
