//! The brake: a primary that loses much at once may be an emptied or unmounted one, so somebody is asked first. Pure.
//!
//! A removal is an object that ends and leaves its name empty; what is renamed or replaced is none. A few removals pass
//! at once. More of them are *counted* first: their names are put aside, the recorder is made to write down whatever
//! has happened (a crawl is waited for), the changelog is read up to there, and the secondary is asked which of the
//! objects it has. What was made meanwhile makes up for what goes (data that was
//! restored are new objects). If that is within the limits, the changelog is read again from where the counting began,
//! and now the removals pass. Otherwise the session halts.

use std::time::{Duration, Instant};

use changelog::Position;
use protocol::agent::Balance;
use protocol::{Gfid, Place};

/// Share of the secondary (percent) above which a removal of almost everything needs no number to be too much.
const EMPTIED_SHARE: u64 = 90;

/// But a secondary with fewer objects than this may be emptied.
const EMPTIED_MIN: u64 = 100;

/// Removals that pass at once, and as many each second: one in a hundred objects within these bounds.
const FREE: (u64, u64) = (16, 1000);

/// After a look at everything that found further removals the next one follows so much later.
const LULL: Duration = Duration::from_millis(200);

/// Removals within the limits are not kept longer than this while more of them come.
const HOLD: Duration = Duration::from_secs(2);

/// Nor are removals beyond the limits counted longer than this before the session halts.
const LONGEST: Duration = Duration::from_secs(30);

/// Removals that are named to the operator.
const EXAMPLES: usize = 5;

/// How much may be removed in an hour without a question.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Percent of the secondary's objects; 100: anything.
    pub share: u32,
    /// Number of objects. Both have to be exceeded, unless almost everything goes.
    pub count: u64,
    /// Removals that pass without being counted; `None`: as [`FREE`] says.
    pub free: Option<u64>,
}

/// Why a session halts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Halt {
    /// Objects that the secondary has and that would be removed.
    pub removals: u64,
    /// New objects that make up for some of them.
    pub made: u64,
    /// How many fewer there are already than there were at most in the last hour.
    pub lost: u64,
    /// Objects that the secondary had before.
    pub objects: u64,
    /// Some of the objects.
    pub examples: Vec<Gfid>,
}

/// What comes of counting.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Decision {
    /// They pass: the changelog is to be read again.
    GoOn {
        /// From here.
        from: Position,
        /// Removals that the secondary should not count any more, as something was made for them.
        accept: Option<u64>,
    },
    /// The operator is to be asked.
    Halt,
}

/// The brake's state.
#[derive(Debug)]
pub struct Brake {
    limits: Limits,
    balance: Balance,
    /// How the secondary was at the start, until the changelog of before the start has been read.
    at_start: Option<Balance>,
    free: u64,
    refilled: Instant,
    /// Up to here everything was counted, and is read again: it passes as far as the limits go.
    replayed_to: Option<Position>,
    /// Of what is read again so much passes beyond the limits: the secondary does not have it, or it was accepted.
    granted: u64,
    /// Removals that were stated, without an answer yet.
    unanswered: u64,
    counting: Option<Counting>,
    halt: Option<Halt>,
}

#[derive(Debug)]
struct Counting {
    from: Position,
    since: Instant,
    look: Look,
    /// How the secondary was when it began.
    before: Balance,
    /// Removals found, and those of them that the secondary has.
    found: u64,
    known: u64,
    /// Questions that are not answered yet.
    questions: usize,
    examples: Vec<Gfid>,
}

/// Whether everything that happened before has been looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Look {
    /// The recorder is to be asked where the changelog ends, at this time or later.
    Wanted(Instant),
    /// It was asked when so many removals had been found.
    Asked(u64),
    /// Everything is looked at that is before this position.
    Until(u64, Position),
}

/// Something to be removed: an object, and the name that it leaves empty.
pub type Removal = (Gfid, Place);

impl Brake {
    /// For a secondary that is as `balance` says.
    pub fn new(limits: Limits, balance: Balance, now: Instant) -> Brake {
        Brake {
            limits,
            balance,
            at_start: Some(balance),
            free: 0,
            refilled: now,
            replayed_to: None,
            granted: 0,
            unanswered: 0,
            counting: None,
            halt: None,
        }
    }

    /// Takes in how the secondary is after so many of the removals that were admitted.
    pub fn update(&mut self, balance: Balance, answered: u64) {
        self.balance = balance;
        self.unanswered = self.unanswered.saturating_sub(answered);
    }

    /// Whether what was counted is being read again.
    pub fn is_replaying(&self) -> bool {
        self.replayed_to.is_some()
    }

    /// All names before this position were looked at, and no rescan is under way.
    pub fn looked_at(&mut self, position: Position) {
        if self.replayed_to.is_some_and(|end| end <= position) {
            self.replayed_to = None;
            self.granted = 0;
        }
    }

    /// The changelog has been read to its end.
    pub fn caught_up(&mut self) {
        self.at_start = None;
    }

    /// Why the session halts, when it does.
    pub fn halt(&self) -> Option<&Halt> {
        self.halt.as_ref()
    }

    /// From where the changelog has to be read again: the mark stays before it.
    pub fn pinned(&self) -> Option<Position> {
        self.counting.as_ref().map(|counting| counting.from)
    }

    /// Positions behind this one mean nothing any more.
    pub fn rebase(&mut self, begin: Position) {
        if let Some(counting) = &mut self.counting {
            counting.from = counting.from.min(begin);
            if matches!(counting.look, Look::Until(..)) {
                counting.look = Look::Wanted(counting.since);
            }
        }
    }

    /// Whether so many removals may be stated. `live`: the changelog has been read to its end at least once.
    pub fn admits(&mut self, removals: u64, live: bool, now: Instant) -> bool {
        if removals == 0 || self.limits.share >= 100 {
            return true;
        }
        if self.halt.is_some() || self.counting.is_some() {
            return false;
        }
        let Balance { objects, lost, accepted } = self.balance;
        let loses = removals.saturating_add(self.unanswered).saturating_sub(accepted);
        if loses > 0 && is_too_much(self.limits, loses + lost, objects + lost) {
            let is_granted = self.granted >= removals;
            if is_granted {
                self.granted -= removals;
                self.unanswered += removals;
            }
            return is_granted;
        }
        let most = self.limits.free.unwrap_or((objects / 100).clamp(FREE.0, FREE.1));
        let elapsed = now.saturating_duration_since(self.refilled).as_millis();
        let more = u64::try_from(elapsed.saturating_mul(u128::from(most)) / 1000).unwrap_or(u64::MAX);
        if more > 0 {
            self.free = self.free.saturating_add(more).min(most);
            self.refilled = now;
        }
        if self.replayed_to.is_none() {
            if !live || self.free < removals {
                return false;
            }
            self.free -= removals;
        }
        self.unanswered += removals;
        true
    }

    /// Counts removals that were not admitted; the answers to so many questions which of them the secondary has are to be
    /// brought by [`counted`](Brake::counted). `from`: where the oldest of them was asked for.
    pub fn count(&mut self, from: Position, removals: u64, questions: usize, now: Instant) {
        let before = self.at_start.unwrap_or(self.balance);
        let counting = self.counting.get_or_insert_with(|| Counting {
            from,
            since: now,
            look: Look::Wanted(now),
            before,
            found: 0,
            known: 0,
            questions: 0,
            examples: Vec::new(),
        });
        counting.from = counting.from.min(from);
        counting.found += removals;
        counting.questions += questions;
    }

    /// The secondary has these of the objects that were asked for.
    pub fn counted(&mut self, known: &[Gfid]) {
        let Some(counting) = &mut self.counting else { return };
        counting.questions = counting.questions.saturating_sub(1);
        counting.known += known.len() as u64;
        let room = EXAMPLES.saturating_sub(counting.examples.len());
        counting.examples.extend(known.iter().take(room));
    }

    /// Whether the recorder is to be asked now where the changelog ends when everything is in it.
    pub fn wants_end(&mut self, now: Instant) -> bool {
        let Some(counting) = self.counting.as_mut().filter(|_| self.halt.is_none()) else { return false };
        let is_due = matches!(counting.look, Look::Wanted(at) if at <= now);
        if is_due {
            counting.look = Look::Asked(counting.found);
        }
        is_due
    }

    /// The recorder answered.
    pub fn ends_at(&mut self, position: Position) {
        if let Some(counting) = &mut self.counting
            && let Look::Asked(found) = counting.look
        {
            counting.look = Look::Until(found, position);
        }
    }

    /// Decides when it is time to. `looked_at`: all names before this position were looked at. `made`: new objects whose
    /// content is still to come.
    pub fn decide(&mut self, looked_at: Position, made: u64, now: Instant) -> Option<Decision> {
        let counting = self.counting.as_mut().filter(|_| self.halt.is_none())?;
        let Look::Until(found, end) = counting.look else { return None };
        if counting.questions > 0 || looked_at < end {
            return None;
        }
        let lasts = now.saturating_duration_since(counting.since);
        let is_growing = counting.found > found;
        let counting = self.counting.as_ref()?;
        let too_much = self.judge(counting, made);
        let patience = if too_much.is_some() { LONGEST } else { HOLD };
        if is_growing && lasts < patience {
            self.counting.as_mut()?.look = Look::Wanted(now + LULL);
            return None;
        }
        if too_much.is_some() {
            self.halt = too_much;
            return Some(Decision::Halt);
        }
        let counting = self.counting.take()?;
        self.replayed_to = Some(looked_at);
        self.granted = counting.found;
        let made = self.made(&counting, made).min(counting.known.saturating_sub(self.balance.accepted));
        let accept = (made > 0).then(|| self.balance.accepted + made);
        self.balance.accepted += made;
        Some(Decision::GoOn { from: counting.from, accept })
    }

    /// Everything is done: what was accepted and not needed is not accepted any more. Returns whether to say so.
    pub fn settled(&mut self) -> bool {
        self.counting.is_none() && std::mem::take(&mut self.balance.accepted) > 0
    }

    /// When [`wants_end`](Brake::wants_end) changes without an event.
    pub fn next_wake(&self) -> Option<Instant> {
        match self.counting.as_ref()?.look {
            Look::Wanted(at) if self.halt.is_none() => Some(at),
            _ => None,
        }
    }

    fn made(&self, counting: &Counting, made: u64) -> u64 {
        self.balance.objects.saturating_sub(counting.before.objects).saturating_add(made)
    }

    /// `Some` when it is too much.
    fn judge(&self, counting: &Counting, made: u64) -> Option<Halt> {
        let made = self.made(counting, made);
        let loses = counting.known.saturating_sub(self.balance.accepted).saturating_sub(made);
        let halt = Halt {
            removals: counting.known,
            made,
            lost: counting.before.lost,
            objects: counting.before.objects,
            examples: counting.examples.clone(),
        };
        let before = halt.objects.saturating_add(halt.lost);
        (loses > 0 && is_too_much(self.limits, loses + halt.lost, before)).then_some(halt)
    }
}

/// Whether so many removals of so many objects are to be asked about.
pub fn is_too_much(limits: Limits, removals: u64, objects: u64) -> bool {
    let share = |percent: u64| u128::from(removals) * 100 > u128::from(objects) * u128::from(percent);
    let emptied = removals >= EMPTIED_MIN && share(EMPTIED_SHARE);
    limits.share < 100 && share(limits.share.into()) && (removals > limits.count || emptied)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { share: 20, count: 10_000, free: None };

    fn at(offset: u64) -> Position {
        Position { after: 1, offset }
    }

    fn gfids(count: u64) -> Vec<Gfid> {
        (0..count).map(|n| Gfid((u128::from(n) + 100).to_be_bytes())).collect()
    }

    fn brake(balance: Balance) -> (Brake, Instant) {
        let now = Instant::now();
        (Brake::new(LIMITS, balance, now), now)
    }

    /// Counts so many removals, of which so many are known, and decides after a lull.
    fn decide(brake: &mut Brake, found: u64, known: u64, made: u64, now: Instant) -> Option<Decision> {
        brake.count(at(7), found, 1, now);
        brake.counted(&gfids(known));
        assert!(brake.wants_end(now) && !brake.wants_end(now));
        brake.ends_at(at(9));
        assert_eq!(brake.decide(at(8), made, now + LONGEST), None, "not everything is looked at");
        brake.decide(at(9), made, now)
    }

    #[test]
    fn both_limits_have_to_be_exceeded_unless_almost_everything_goes() {
        for (removals, objects, too_much) in [
            (10_000, 20_000, false),
            (10_001, 20_000, true),
            (10_001, 50_004, true),
            (10_001, 50_005, false),
            (9_000, 10_000, false),
            (9_001, 10_000, true),
            (100, 111, true),
            (99, 99, false),
            (100, 112, false),
            (1, 1, false),
            (0, 0, false),
        ] {
            assert_eq!(is_too_much(LIMITS, removals, objects), too_much, "{removals} of {objects}");
        }
        let off = Limits { share: 100, ..LIMITS };
        assert!(!is_too_much(off, 50_000, 50_000));
    }

    #[test]
    fn a_few_pass_at_once_and_more_are_counted() {
        let (mut brake, now) = brake(Balance { objects: 50_000, ..Balance::default() });
        let later = now + Duration::from_secs(60);
        assert!(!brake.admits(1, false, later), "what was there before the start is always counted");
        assert!(brake.admits(0, false, later));
        brake.caught_up();
        assert!(brake.admits(300, true, later) && brake.admits(200, true, later));
        assert!(!brake.admits(1, true, later), "one in a hundred a second");
        assert!(brake.admits(500, true, later + Duration::from_secs(1)));
    }

    #[test]
    fn what_is_within_the_limits_passes_once() {
        let (mut brake, now) = brake(Balance { objects: 20_000, ..Balance::default() });
        let decision = decide(&mut brake, 9_000, 8_000, 0, now);
        assert_eq!(decision, Some(Decision::GoOn { from: at(7), accept: None }));
        assert!(brake.admits(9_000, false, now) && brake.admits(1000, false, now));
        assert!(brake.admits(8_999, false, now), "so many were counted");
        assert!(!brake.admits(2, false, now), "more than that is too much");
        brake.looked_at(at(8));
        brake.update(Balance { objects: 10_000, lost: 10_000, accepted: 0 }, 18_999);
        assert!(brake.admits(1, false, now), "the last one that was counted");
        brake.update(Balance { objects: 10_000, lost: 10_000, accepted: 0 }, 1);
        assert!(!brake.admits(1, false, now));
        brake.update(Balance { objects: 20_000, lost: 0, accepted: 0 }, 0);
        assert!(brake.admits(1, false, now));
        brake.looked_at(at(9));
        assert!(!brake.admits(1, false, now), "it is new");
    }

    #[test]
    fn what_the_secondary_does_not_have_is_not_counted() {
        let (mut brake, now) = brake(Balance { objects: 20_000, ..Balance::default() });
        assert!(matches!(decide(&mut brake, 50_000, 10, 0, now), Some(Decision::GoOn { .. })));
        for _ in 0..50 {
            assert!(brake.admits(1000, false, now));
            brake.update(Balance { objects: 20_000, ..Balance::default() }, 1000);
        }
    }

    #[test]
    fn too_many_halt_and_nothing_passes_then() {
        let (mut brake, now) = brake(Balance { objects: 20_000, ..Balance::default() });
        assert_eq!(decide(&mut brake, 20_000, 20_000, 0, now), Some(Decision::Halt));
        let halt = brake.halt().unwrap().clone();
        assert_eq!((halt.removals, halt.lost, halt.objects, halt.examples.len()), (20_000, 0, 20_000, EXAMPLES));
        assert!(!brake.admits(1, true, now + Duration::from_secs(60)));
        assert_eq!((brake.decide(at(9), 0, now + LONGEST), brake.pinned()), (None, Some(at(7))));
    }

    #[test]
    fn what_was_lost_lately_counts() {
        for (recent, halts) in [(5_000, false), (5_001, true)] {
            let (mut brake, now) = brake(Balance { objects: 20_000, lost: recent, accepted: 0 });
            let decision = decide(&mut brake, 5_000, 5_000, 0, now);
            assert_eq!(decision == Some(Decision::Halt), halts, "{recent}: {decision:?}");
        }
    }

    #[test]
    fn slow_removals_are_noticed_too() {
        let (mut brake, now) = brake(Balance { objects: 20_000, ..Balance::default() });
        brake.caught_up();
        let mut passed = 0;
        for second in 1..1000 {
            if !brake.admits(100, true, now + Duration::from_secs(second)) {
                break;
            }
            passed += 100;
            brake.update(Balance { objects: 20_000 - passed, lost: passed, accepted: 0 }, 100);
        }
        assert_eq!(passed, 10_000);
        assert_eq!(decide(&mut brake, 100, 100, 0, now), Some(Decision::Halt));
    }

    #[test]
    fn accepted_removals_pass_and_more_than_those_do_not() {
        for (accepted, halts) in [(0, true), (9_999, true), (20_000, false)] {
            let (mut brake, now) = brake(Balance { objects: 20_000, lost: 0, accepted });
            let decision = decide(&mut brake, 20_000, 20_000, 0, now);
            assert_eq!(decision == Some(Decision::Halt), halts, "{accepted}: {decision:?}");
        }
    }

    #[test]
    fn what_was_removed_before_a_kill_does_not_use_up_what_was_accepted() {
        // 3,000 were accepted, all but 30 are gone already, and the worker begins anew.
        let (mut brake, now) = brake(Balance { objects: 30, lost: 0, accepted: 30 });
        assert!(matches!(decide(&mut brake, 3000, 30, 0, now), Some(Decision::GoOn { .. })));
        for _ in 0..6 {
            assert!(brake.admits(500, false, now));
            brake.update(Balance { objects: 30, lost: 0, accepted: 30 }, 500);
        }
        assert!(!brake.admits(500, false, now));
    }

    #[test]
    fn restored_data_make_up_for_removals() {
        // 12,000 are there again as new objects, the content of 7,990 is still to come.
        let (mut brake, now) = brake(Balance { objects: 20_000, ..Balance::default() });
        brake.count(at(7), 20_000, 1, now);
        brake.update(Balance { objects: 32_000, ..Balance::default() }, 0);
        brake.counted(&gfids(20_000));
        assert!(brake.wants_end(now));
        brake.ends_at(at(9));
        let decision = brake.decide(at(9), 7_990, now);
        assert_eq!(decision, Some(Decision::GoOn { from: at(7), accept: Some(19_990) }));
    }

    #[test]
    fn nothing_is_decided_while_more_is_found() {
        let (mut brake, now) = brake(Balance { objects: 20_000, ..Balance::default() });
        brake.count(at(9), 20, 1, now);
        assert!(brake.wants_end(now));
        brake.ends_at(at(30));
        brake.count(at(8), 1, 1, now);
        assert_eq!(brake.pinned(), Some(at(8)));
        brake.counted(&[]);
        assert_eq!(brake.decide(at(30), 0, now + LONGEST), None, "a question is open");
        brake.counted(&[]);
        assert_eq!(brake.decide(at(30), 0, now), None, "more was found");
        assert_eq!((brake.wants_end(now), brake.next_wake()), (false, Some(now + LULL)));
        assert!(brake.wants_end(now + LULL));
        brake.ends_at(at(40));
        brake.count(at(10), 1, 1, now);
        brake.counted(&[]);
        let decision = brake.decide(at(40), 0, now + HOLD);
        assert_eq!(decision, Some(Decision::GoOn { from: at(8), accept: None }), "more come all the time");
    }

    #[test]
    fn acceptance_ends_when_everything_is_done() {
        let (mut brake, _) = brake(Balance { accepted: 5, ..Balance::default() });
        assert!(brake.settled());
        assert!(!brake.settled());
    }
}
