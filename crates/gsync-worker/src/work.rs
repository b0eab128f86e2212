//! A table of keys that have to be worked on, each with the changelog position that asked for it.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::hash::Hash;
use std::time::{Duration, Instant};

use changelog::Position;

/// The first wait before something is tried again; doubled for each further attempt.
const FIRST_RETRY: Duration = Duration::from_millis(10);

/// The longest wait before something is tried again.
const LAST_RETRY: Duration = Duration::from_secs(30);

/// The same for what changed while it was tried: the change may be what it failed at.
const CHANGED_RETRY: Duration = Duration::from_millis(500);

/// What is known about why a key has to be worked on; several reasons are merged into one.
pub trait Hint: Default {
    /// Adds what a later reason says.
    fn merge(&mut self, later: Self);
}

/// Keys to be worked on. Every key is in one state: ready, in flight, or delayed until a time.
#[derive(Debug)]
pub struct Table<K, H> {
    works: HashMap<K, Work<H>>,
    ready: VecDeque<K>,
    delayed: BTreeSet<(Instant, u64, K)>,
    positions: BTreeMap<Position, usize>,
    sequence: u64,
    pending: usize,
}

/// One key's work.
#[derive(Debug)]
pub struct Work<H> {
    /// The oldest position that asked for it.
    position: Position,
    hint: H,
    state: State,
    /// Asked for again while in flight.
    again: Option<(Position, H)>,
    /// Failed attempts since it was asked for.
    pub attempts: u32,
    /// When it was asked for.
    pub since: Instant,
    /// Set when it was given up for the mark: why, and since when (seconds since 1970).
    pub pending: Option<(String, u64)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Ready,
    InFlight,
    Delayed(Instant, u64),
}

impl<K: Clone + Eq + Hash + Ord, H: Hint> Default for Table<K, H> {
    fn default() -> Table<K, H> {
        Table {
            works: HashMap::new(),
            ready: VecDeque::new(),
            delayed: BTreeSet::new(),
            positions: BTreeMap::new(),
            sequence: 0,
            pending: 0,
        }
    }
}

impl<K: Clone + Eq + Hash + Ord, H: Hint> Table<K, H> {
    /// Asks for work on a key.
    pub fn mark(&mut self, key: K, position: Position, hint: H, now: Instant) {
        let Some(work) = self.works.get_mut(&key) else {
            let work =
                Work { position, hint, state: State::Ready, again: None, attempts: 0, since: now, pending: None };
            self.works.insert(key.clone(), work);
            self.ready.push_back(key);
            *self.positions.entry(position).or_default() += 1;
            return;
        };
        if position < work.position {
            // The changelog is read once more.
            if work.pending.is_none() {
                drop_position(&mut self.positions, work.position);
                *self.positions.entry(position).or_default() += 1;
            }
            work.position = position;
        }
        match work.state {
            State::InFlight => match &mut work.again {
                Some((older, again)) => {
                    *older = position.min(*older);
                    again.merge(hint);
                }
                None => work.again = Some((position, hint)),
            },
            State::Ready => work.hint.merge(hint),
            State::Delayed(until, sequence) => {
                work.hint.merge(hint);
                work.state = State::Ready;
                self.delayed.remove(&(until, sequence, key.clone()));
                self.ready.push_back(key);
            }
        }
    }

    /// Takes the oldest ready keys into flight.
    pub fn take(&mut self, most: usize) -> Vec<(K, H)>
    where
        H: Clone,
    {
        let mut taken = Vec::new();
        while taken.len() < most {
            let Some(key) = self.ready.pop_front() else { break };
            let Some(work) = self.works.get_mut(&key) else { continue };
            if work.state == State::Ready {
                work.state = State::InFlight;
                taken.push((key, work.hint.clone()));
            }
        }
        taken
    }

    /// The work is done: the key is forgotten, or ready again if it was asked for meanwhile.
    pub fn finish(&mut self, key: &K, now: Instant) {
        let Some(work) = self.works.get_mut(key) else { return };
        forget(&mut self.positions, work, &mut self.pending);
        match work.again.take() {
            None => {
                if let State::Delayed(until, sequence) = work.state {
                    self.delayed.remove(&(until, sequence, key.clone()));
                }
                self.works.remove(key);
            }
            Some((position, hint)) => {
                *work =
                    Work { position, hint, state: State::Ready, again: None, attempts: 0, since: now, pending: None };
                *self.positions.entry(position).or_default() += 1;
                self.ready.push_back(key.clone());
            }
        }
    }

    /// The work could not be done now: the key is ready again later, the sooner the fewer attempts there were.
    pub fn retry(&mut self, key: &K, now: Instant) {
        self.retry_within(key, LAST_RETRY, now);
    }

    /// As [`retry`](Table::retry), after `longest` at the latest.
    pub fn retry_within(&mut self, key: &K, longest: Duration, now: Instant) {
        let Some(work) = self.works.get_mut(key) else { return };
        let asked_again = match work.again.take() {
            Some((_, hint)) => {
                work.hint.merge(hint);
                true
            }
            None => false,
        };
        work.attempts = work.attempts.saturating_add(1);
        if asked_again && work.pending.is_none() {
            work.state = State::Ready;
            self.ready.push_back(key.clone());
            return;
        }
        let longest = if asked_again { CHANGED_RETRY } else { longest };
        let wait = FIRST_RETRY.saturating_mul(1 << work.attempts.min(16).saturating_sub(1)).min(longest);
        self.sequence += 1;
        work.state = State::Delayed(now + wait, self.sequence);
        self.delayed.insert((now + wait, self.sequence, key.clone()));
    }

    /// Takes a key out of the mark's way: it is kept in the pending list with its reason.
    pub fn give_up(&mut self, key: &K, reason: String, since: u64) {
        let Some(work) = self.works.get_mut(key) else { return };
        if work.pending.is_none() {
            drop_position(&mut self.positions, work.position);
            self.pending += 1;
            work.pending = Some((reason, since));
        } else if let Some((old, _)) = &mut work.pending {
            *old = reason;
        }
    }

    /// Makes delayed keys ready whose time has come.
    pub fn wake(&mut self, now: Instant) {
        while let Some((until, ..)) = self.delayed.first() {
            if *until > now {
                break;
            }
            let Some((_, _, key)) = self.delayed.pop_first() else { break };
            if let Some(work) = self.works.get_mut(&key) {
                work.state = State::Ready;
                self.ready.push_back(key);
            }
        }
    }

    /// When [`wake`](Table::wake) has something to do next.
    pub fn next_wake(&self) -> Option<Instant> {
        self.delayed.first().map(|(until, ..)| *until)
    }

    /// Nothing was asked for later than this: what the positions were in is not there any more.
    pub fn rebase(&mut self, position: Position) {
        self.positions.clear();
        for work in self.works.values_mut() {
            work.position = work.position.min(position);
            if let Some((again, _)) = &mut work.again {
                *again = position.min(*again);
            }
            if work.pending.is_none() {
                *self.positions.entry(work.position).or_default() += 1;
            }
        }
    }

    /// The oldest position that asked for something which is neither done nor pending.
    pub fn oldest(&self) -> Option<Position> {
        self.positions.first_key_value().map(|(position, _)| *position)
    }

    /// Changes what is known about a key.
    pub fn amend(&mut self, key: &K, change: impl FnOnce(&mut H)) {
        if let Some(work) = self.works.get_mut(key) {
            change(&mut work.hint);
        }
    }

    /// The position that asked for the key that [`take`](Table::take) takes next.
    pub fn front(&mut self) -> Option<Position> {
        while let Some(key) = self.ready.front() {
            match self.works.get(key) {
                Some(work) if work.state == State::Ready => return Some(work.position),
                _ => self.ready.pop_front(),
            };
        }
        None
    }

    /// The work on a key.
    pub fn get(&self, key: &K) -> Option<&Work<H>> {
        self.works.get(key)
    }

    /// Whether a key has work.
    pub fn contains(&self, key: &K) -> bool {
        self.works.contains_key(key)
    }

    /// Keys with work, pending ones among them.
    pub fn len(&self) -> usize {
        self.works.len()
    }

    /// Whether there is no work.
    pub fn is_empty(&self) -> bool {
        self.works.is_empty()
    }

    /// Keys that are ready or in flight.
    pub fn moving_len(&self) -> usize {
        self.works.len() - self.delayed.len()
    }

    /// Number of pending keys.
    pub fn pending_len(&self) -> usize {
        self.pending
    }

    /// The pending keys with hint, reason and time.
    pub fn pending(&self) -> impl Iterator<Item = (&K, &H, &str, u64)> {
        self.works
            .iter()
            .filter_map(|(key, work)| work.pending.as_ref().map(|(r, s)| (key, &work.hint, r.as_str(), *s)))
    }
}

impl<H> Work<H> {
    /// The oldest position that asked for it.
    pub fn position(&self) -> Position {
        self.position
    }

    /// What is known about it.
    pub fn hint(&self) -> &H {
        &self.hint
    }
}

fn forget<H>(positions: &mut BTreeMap<Position, usize>, work: &Work<H>, pending: &mut usize) {
    if work.pending.is_some() {
        *pending -= 1;
    } else {
        drop_position(positions, work.position);
    }
}

fn drop_position(positions: &mut BTreeMap<Position, usize>, position: Position) {
    if let Some(count) = positions.get_mut(&position) {
        *count -= 1;
        if *count == 0 {
            positions.remove(&position);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Hint for u32 {
        fn merge(&mut self, later: u32) {
            *self |= later;
        }
    }

    fn at(offset: u64) -> Position {
        Position { after: 1, offset }
    }

    #[test]
    fn work_asked_for_again_in_flight_keeps_the_mark_back() {
        let now = Instant::now();
        let mut table = Table::<&str, u32>::default();
        table.mark("a", at(1), 1, now);
        assert_eq!(table.take(9), [("a", 1)]);
        table.mark("a", at(5), 2, now);
        assert_eq!(table.oldest(), Some(at(1)));
        table.finish(&"a", now);
        assert_eq!(table.oldest(), Some(at(5)));
        assert_eq!(table.take(9), [("a", 2)]);
        table.finish(&"a", now);
        assert_eq!((table.oldest(), table.len()), (None, 0));
    }

    #[test]
    fn a_retry_waits_and_keeps_its_place() {
        let now = Instant::now();
        let mut table = Table::<&str, u32>::default();
        table.mark("a", at(1), 1, now);
        table.take(9);
        table.retry(&"a", now);
        assert!(table.take(9).is_empty());
        table.wake(now + LAST_RETRY);
        assert_eq!(table.take(9), [("a", 1)]);
        assert_eq!(table.oldest(), Some(at(1)));
    }

    #[test]
    fn work_asked_for_by_an_older_record_keeps_the_mark_back() {
        let now = Instant::now();
        let mut table = Table::<&str, u32>::default();
        table.mark("a", at(5), 1, now);
        table.mark("a", at(3), 2, now);
        assert_eq!((table.oldest(), table.take(9)), (Some(at(3)), vec![("a", 3)]));
        table.mark("a", at(4), 4, now);
        table.mark("a", at(2), 4, now);
        assert_eq!(table.oldest(), Some(at(2)));
        table.finish(&"a", now);
        assert_eq!((table.oldest(), table.take(9)), (Some(at(2)), vec![("a", 4)]));
        table.finish(&"a", now);
        assert_eq!(table.oldest(), None);
    }

    #[test]
    fn pending_work_lets_the_mark_pass_and_stays() {
        let now = Instant::now();
        let mut table = Table::<&str, u32>::default();
        table.mark("a", at(1), 1, now);
        table.mark("b", at(2), 1, now);
        table.take(9);
        table.give_up(&"a", "why".into(), 7);
        table.retry(&"a", now);
        assert_eq!(table.oldest(), Some(at(2)));
        assert_eq!(table.pending().map(|(k, _, r, s)| (*k, r, s)).collect::<Vec<_>>(), [("a", "why", 7)]);
        table.wake(now + LAST_RETRY);
        table.take(9);
        table.finish(&"a", now);
        assert_eq!((table.pending_len(), table.oldest()), (0, Some(at(2))));
    }

    #[test]
    fn pending_work_that_changed_meanwhile_does_not_wait_long() {
        let now = Instant::now();
        let mut table = Table::<&str, u32>::default();
        table.mark("a", at(1), 1, now);
        for _ in 0..20 {
            table.wake(now + LAST_RETRY);
            table.take(9);
            table.give_up(&"a", "why".into(), 7);
            table.retry(&"a", now);
        }
        assert_eq!(table.next_wake(), Some(now + LAST_RETRY));
        table.wake(now + LAST_RETRY);
        table.take(9);
        table.mark("a", at(5), 2, now);
        table.retry(&"a", now);
        assert_eq!(table.next_wake(), Some(now + CHANGED_RETRY));
        table.wake(now + CHANGED_RETRY);
        assert_eq!(table.take(9), [("a", 3)]);
    }

    #[test]
    fn marking_a_delayed_key_makes_it_ready() {
        let now = Instant::now();
        let mut table = Table::<&str, u32>::default();
        table.mark("a", at(1), 1, now);
        table.take(9);
        table.retry(&"a", now);
        table.mark("a", at(9), 4, now);
        assert_eq!(table.take(9), [("a", 5)]);
        assert_eq!((table.oldest(), table.next_wake()), (Some(at(1)), None));
    }
}
