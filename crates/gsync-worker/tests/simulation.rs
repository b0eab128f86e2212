//! The worker's decisions against a model of both sides: random changes, random order of what comes back, failures,
//! crashes. The secondary has to become equal, and the mark must never pass what a crash would then lose.
//!
//! `GSYNC_SEED` repeats one run, `GSYNC_RUNS` sets how many there are.

mod model;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use changelog::{Position, Record};
use fastrand::Rng;
use gsync_worker::brake::{Brake, Limits};
use gsync_worker::core::Core;
use gsync_worker::event::{Effect, Event, TransferJob, TransferState, Transferred};
use gsync_worker::plan::{self, Survey};
use gsync_worker::rescan::{Page, PageRequest};
use model::{Primary, Secondary};
use protocol::agent::{Cursor, Item};

const BRICK: [u8; 16] = [7; 16];
const LIMITS: (usize, usize) = (3, 4);

/// Names after which a rescan's cursor moves.
const CHECKPOINT: usize = 8;
/// None is too much; in every other run each removal is counted before it passes.
fn brake(seed: u64) -> Limits {
    Limits { share: 99, count: u64::MAX, free: if seed.is_multiple_of(2) { Some(0) } else { None } }
}

/// One run: both sides and everything under way between them.
struct Run {
    rng: Rng,
    primary: Primary,
    secondary: Secondary,
    core: Core,
    start: Instant,
    elapsed: Duration,
    read: usize,
    /// Looked at, not told to the worker yet.
    events: Vec<Event>,
    /// Sent to the secondary, not carried out yet; in order.
    sent: VecDeque<Effect>,
    failure_rate: f64,
    refuse_content: bool,
    /// The changelog loses spans, and now and then all of it.
    loses: bool,
    /// Behind here the changelog was replaced, and it is not stored yet that this has to be mended.
    cut: Option<usize>,
    /// The position is behind that.
    unknown: bool,
    brake: Limits,
}

impl Run {
    fn new(seed: u64) -> Run {
        let start = Instant::now();
        Run {
            rng: Rng::with_seed(seed),
            primary: Primary::new(),
            secondary: Secondary::new(),
            core: Core::new(
                BRICK,
                Default::default(),
                LIMITS,
                Brake::new(brake(seed), Default::default(), start),
                start,
            ),
            start,
            elapsed: Duration::ZERO,
            read: 0,
            events: Vec::new(),
            sent: VecDeque::new(),
            failure_rate: 0.1,
            refuse_content: false,
            loses: false,
            cut: None,
            unknown: false,
            brake: brake(seed),
        }
        .with_checkpoint()
    }

    fn with_checkpoint(mut self) -> Run {
        self.core.rescan_checkpoint = CHECKPOINT;
        self
    }

    fn now(&self) -> Instant {
        self.start + self.elapsed
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Survey(round) => {
                    let looks = round.names.iter().map(|(place, _)| self.primary.look(place)).collect::<Vec<_>>();
                    let asked = plan::asked(&round, &looks);
                    // The primary may change between the questions.
                    self.change_sometimes();
                    let lives = asked.into_iter().map(|gfid| (gfid, self.primary.names(gfid))).collect();
                    let objects = round.attributes.iter().map(|gfid| self.primary.object(*gfid)).collect();
                    self.events.push(Event::Surveyed(round, Survey { looks, lives, objects }));
                }
                Effect::List(request) => {
                    let event = self.list(request);
                    self.events.push(event);
                }
                Effect::Transfer(jobs) => {
                    let files = jobs.into_iter().map(|job| self.transfer(job)).collect();
                    self.events.push(Event::Transferred(files));
                }
                Effect::Rewind(from) => {
                    if std::env::var_os("GSYNC_TRACE").is_some() {
                        println!("rewind to {from:?}, mark {:?}", self.core.mark());
                    }
                    self.read = self.primary.index_of(from);
                }
                Effect::FindEnd => {
                    let end = self.primary.position(self.primary.journal.len());
                    self.events.push(Event::End(end));
                }
                other => self.sent.push_back(other),
            }
        }
    }

    /// A page of a few names: of a crash or a change there is always one in the middle.
    fn list(&mut self, PageRequest { generation, cursor }: PageRequest) -> Event {
        let most = self.rng.usize(1..6);
        let page = match cursor {
            Cursor::Directories(after) => self.primary.list(after.as_ref(), true, most),
            Cursor::Others(after) => self.primary.list(after.as_ref(), false, most),
            Cursor::Secondary(after) => {
                let names = self.secondary.list(after.as_ref(), most);
                self.change_sometimes();
                let known = |(gfid, place)| (gfid, place, self.primary.names(gfid));
                Page::Secondary(names.into_iter().map(known).collect())
            }
        };
        Event::Listed { generation, page }
    }

    fn transfer(&mut self, job: TransferJob) -> Transferred {
        let gfid = job.gfid;
        let Some(object) = self.primary.object(gfid).filter(|o| o.kind == protocol::Kind::File) else {
            return Transferred { gfid, state: TransferState::Missing };
        };
        if !job.hard && self.secondary.has(gfid, &object) {
            return Transferred { gfid, state: TransferState::Current(object) };
        }
        let state = match self.rng.f64() {
            _ if self.refuse_content => TransferState::Failed("planted".into()),
            x if x < self.failure_rate => TransferState::Busy,
            x if x < 1.5 * self.failure_rate => TransferState::Failed("planted".into()),
            _ => {
                self.secondary.stage(gfid, &object);
                TransferState::Staged { object, whole: false }
            }
        };
        Transferred { gfid, state }
    }

    fn change_sometimes(&mut self) {
        if self.failure_rate > 0.0 && self.rng.f64() < 0.2 {
            self.primary.change(&mut self.rng);
        }
    }

    fn deliver_records(&mut self) {
        let lost = self.primary.lost(self.read);
        self.read += lost;
        let unproven = (lost > 0 || std::mem::take(&mut self.unknown)).then(|| "planted".to_owned());
        let count = self.rng.usize(1..40).min(self.primary.until_lost(self.read));
        let records: Vec<(Position, Record)> = self.primary.journal[self.read..self.read + count].to_vec();
        if std::env::var_os("GSYNC_TRACE").is_some() {
            records.iter().for_each(|r| println!("read {r:?}"));
        }
        self.read += count;
        let at_tail = self.read == self.primary.journal.len();
        let next = self.primary.position(self.read);
        let event = Event::Records { unproven, records, next, at_tail, read_until: 0 };
        let effects = self.core.apply(event, self.now());
        self.perform(effects);
    }

    fn carry_out_one(&mut self) {
        match self.sent.pop_front() {
            Some(Effect::Apply(ticket, batch)) => {
                let rate = self.failure_rate / 4.0;
                let (items, gone, parked) = self.secondary.apply(&batch, &mut self.rng, rate);
                if std::env::var_os("GSYNC_TRACE").is_some() {
                    for (item, outcome) in batch.items.iter().zip(&items) {
                        println!("{ticket}: {} -> {outcome:?}", describe(item));
                    }
                    println!("{ticket}: gone {:?} -> {gone:?}", batch.gone);
                }
                let balance = self.secondary.balance();
                self.events.push(Event::Applied { ticket, items, gone, parked, balance });
            }
            Some(Effect::Count(gfids)) => {
                if std::env::var_os("GSYNC_TRACE").is_some() {
                    println!("count {gfids:?}, mark {:?}", self.core.mark());
                }
                let known = gfids.into_iter().filter(|gfid| self.secondary.has_object(*gfid)).collect();
                self.events.push(Event::Counted(known));
            }
            Some(Effect::Commit(stored)) => {
                let mark = stored.mark.as_ref().map_or(0, |mark| self.primary.index_of(mark.position));
                if stored.rescan.is_some() && self.cut.is_some_and(|cut| mark <= cut) {
                    self.cut = None;
                }
                self.secondary.commit(stored);
                self.events.push(Event::Committed);
            }
            _ => {}
        }
    }

    fn tell_one(&mut self) {
        if self.events.is_empty() {
            return;
        }
        let event = self.events.swap_remove(self.rng.usize(..self.events.len()));
        let effects = self.core.apply(event, self.now());
        self.perform(effects);
    }

    /// The worker dies; some of what it sent still arrives. The secondary may lose what was not made durable.
    fn crash(&mut self) {
        if std::env::var_os("GSYNC_TRACE").is_some() {
            println!("crash, mark {:?}", self.secondary.stored.mark.as_ref().map(|m| m.position));
        }
        for _ in 0..self.rng.usize(..=self.sent.len()) {
            self.carry_out_one();
        }
        self.sent.clear();
        self.events.clear();
        if self.rng.bool() {
            self.secondary.power_cut();
        }
        self.secondary.stage.clear();
        let brake = Brake::new(self.brake, self.secondary.balance(), self.now());
        self.core = Core::new(BRICK, self.secondary.stored.clone(), LIMITS, brake, self.now());
        self.core.rescan_checkpoint = CHECKPOINT;
        self.core.restore_parked(&self.secondary.parked(), self.now());
        self.read = self.primary.index_of(self.core.mark());
        if let Some(cut) = self.cut.filter(|cut| *cut < self.read) {
            self.read = cut;
            self.unknown = true;
        }
        let effects = self.core.tick(self.now());
        self.perform(effects);
    }

    fn step(&mut self) {
        self.elapsed += Duration::from_millis(self.rng.u64(0..20));
        match self.rng.u32(0..100) {
            0..30 if self.failure_rate > 0.0 => self.primary.change(&mut self.rng),
            30..45 => self.deliver_records(),
            45..70 => self.carry_out_one(),
            70..94 => self.tell_one(),
            94..99 => {
                if let Some(effect) = self.core.commit() {
                    self.perform(vec![effect]);
                }
                let effects = self.core.tick(self.now());
                self.perform(effects);
            }
            99 if self.failure_rate > 0.0 && self.rng.u32(0..4) == 0 => {
                if self.loses {
                    let cut = self.primary.lose(&mut self.rng);
                    self.cut = cut.map_or(self.cut, |cut| Some(self.cut.map_or(cut, |old| old.min(cut))));
                }
                self.crash();
            }
            // The operator.
            99 if self.failure_rate > 0.0 && self.loses => self.core.begin_rescan("asked for".into()),
            _ => {}
        }
    }

    /// No more changes and failures: everything has to arrive.
    fn settle(&mut self) {
        self.failure_rate = 0.0;
        for _ in 0..200_000 {
            self.step();
            let read_all = self.read == self.primary.journal.len();
            let nothing_under_way = self.core.is_idle() && self.sent.is_empty() && self.events.is_empty();
            let done = read_all && nothing_under_way && self.core.dirty.pending_len() == 0;
            if done {
                match self.core.commit() {
                    Some(effect) => self.perform(vec![effect]),
                    None => return,
                }
            }
            if self.core.is_idle() {
                self.elapsed += Duration::from_secs(1);
            }
        }
        panic!("it does not settle: {:#?}", self.core.dirty);
    }
}

/// A statement without its object; `GSYNC_TRACE=1` prints them all.
fn describe(item: &Item) -> String {
    match item {
        Item::Bind { place, gfid, from, .. } => format!("bind {place:?} = {gfid:?} from {from:?}"),
        Item::Unbind { place, gfid } => format!("unbind {place:?} = {gfid:?}"),
        Item::Attributes { gfid, .. } => format!("attributes {gfid:?}"),
        Item::Content { gfid, object, .. } => format!("content {gfid:?} {}", object.size),
        Item::Have { gfid, .. } => format!("have {gfid:?}"),
        Item::Adopt { gfid, .. } => format!("adopt {gfid:?}"),
        Item::LeftOver { place, gfid } => format!("left over {place:?} = {gfid:?}"),
    }
}

#[test]
fn the_secondary_becomes_equal() {
    many_runs(false);
}

/// Parts of the changelog are lost, also such that were read and applied in part: names, contents, attributes and
/// removals that nobody tells of any more have to be found.
#[test]
fn the_secondary_becomes_equal_although_the_changelog_loses_spans() {
    many_runs(true);
}

fn many_runs(loses: bool) {
    let one = std::env::var("GSYNC_SEED").ok().and_then(|s| s.parse::<u64>().ok());
    let runs = std::env::var("GSYNC_RUNS").ok().and_then(|s| s.parse().ok()).unwrap_or(300);
    let first = one.unwrap_or_else(|| fastrand::u64(..1 << 40));
    println!("GSYNC_SEED={first}");
    for seed in first..first + if one.is_some() { 1 } else { runs } {
        let mut run = Run::new(seed);
        run.loses = loses;
        let steps = run.rng.usize(50..1500);
        for _ in 0..steps {
            run.step();
        }
        run.settle();
        let (want, have) = (run.primary.tree(), run.secondary.tree());
        assert_eq!(want, have, "GSYNC_SEED={seed}: left the primary, right the secondary");
        assert_eq!(run.core.mark(), run.primary.position(run.primary.journal.len()), "GSYNC_SEED={seed}");
        assert!(run.secondary.stored.rescan.is_none(), "GSYNC_SEED={seed}: the rescan does not end");
        assert!(run.secondary.parked().is_empty(), "GSYNC_SEED={seed}: {:?} stay parked", run.secondary.parked());
    }
}

/// A file whose rename and unlink were seen in one round: `gone` and the names go together.
#[test]
fn an_object_that_cannot_be_applied_is_kept_as_pending() {
    let mut run = Run::new(1);
    run.failure_rate = 0.0;
    run.primary.create_file(&mut Rng::with_seed(1));
    run.secondary.refuse_all = true;
    for _ in 0..2000 {
        run.step();
        run.elapsed += Duration::from_millis(100);
    }
    assert!(run.core.dirty.pending_len() > 0);
    assert!(run.core.dirty.failure_reasons()[0].contains("planted"), "{:?}", run.core.dirty.failure_reasons());
    let stored = run.secondary.stored.clone();
    assert_eq!(stored.mark.map(|m| m.position), Some(run.primary.position(run.primary.journal.len())));
    assert!(!stored.pending.is_empty());
    // A new worker finds it in the list, and the cause is gone.
    run.secondary.refuse_all = false;
    run.crash();
    run.settle();
    assert_eq!(run.primary.tree(), run.secondary.tree());
}

/// A file whose content cannot be sent: its name must not hold the mark for ever either.
#[test]
fn a_name_whose_content_is_pending_lets_the_mark_pass() {
    let mut run = Run::new(1);
    run.failure_rate = 0.0;
    run.refuse_content = true;
    run.primary.create_file(&mut Rng::with_seed(1));
    for _ in 0..3000 {
        run.step();
        run.elapsed += Duration::from_millis(100);
    }
    let end = run.primary.position(run.primary.journal.len());
    assert_eq!(run.core.mark(), end, "{:#?}", run.core.dirty);
    run.refuse_content = false;
    run.settle();
    assert_eq!(run.primary.tree(), run.secondary.tree());
}
