//! How much was lost lately: what a worker's brake must not forget when the worker is killed. Pure.
//!
//! Lost is what there is less than at most in the last hour. So a spool whose files come and go loses nothing, and a
//! tree that is removed slowly is noticed as well as one that is removed at once.

use serde::{Deserialize, Serialize};

/// Length of one slot.
const SLOT_SECS: u64 = 300;

/// Slots that count: an hour.
const SLOTS: u64 = 12;

/// What one session and replica set lost.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Losses {
    /// Removals that the operator accepted, or that were made up for by new objects: no losses when they come.
    accepted: u64,
    /// Number of the slot (seconds since 1970 divided by its length) and the most objects in it, the oldest first.
    most: Vec<(u64, u64)>,
}

impl Losses {
    /// Takes in that there are so many objects, after so many were removed.
    pub fn update(&mut self, now_secs: u64, objects: u64, removed: u64) {
        let covered = removed.min(self.accepted);
        self.accepted -= covered;
        for (_, most) in &mut self.most {
            *most = most.saturating_sub(covered);
        }
        // A clock that was set back counts as standing still, so that nothing is forgotten early.
        let slot = (now_secs / SLOT_SECS).max(self.most.last().map_or(0, |(slot, _)| *slot));
        match self.most.last_mut() {
            Some((last, most)) if *last == slot => *most = objects.max(*most),
            // What there was before counts, too: it may be the first look for long.
            _ => self.most.push((slot, objects.saturating_add(removed - covered))),
        }
        self.most.retain(|(old, _)| old + SLOTS > slot);
    }

    /// How many fewer objects there are than there were at most in the last hour.
    pub fn lost(&self, now_secs: u64, objects: u64) -> u64 {
        let slot = now_secs / SLOT_SECS;
        let recent = self.most.iter().filter(|(old, _)| old + SLOTS > slot).map(|(_, most)| *most);
        recent.max().unwrap_or(0).saturating_sub(objects)
    }

    /// How many of the next removals are no losses.
    pub fn accepted(&self) -> u64 {
        self.accepted
    }

    /// So many of the next removals are no losses, and what was lost before is not, either, if it is to be forgotten.
    pub fn accept(&mut self, count: u64, forget: bool) {
        self.accepted = count;
        if forget {
            self.most.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_000_000;

    #[test]
    fn losses_are_forgotten_after_an_hour() {
        let mut losses = Losses::default();
        losses.update(NOW, 1000, 0);
        for minute in 0..180 {
            losses.update(NOW + minute * 60, 1000 - minute, 1);
            assert!(losses.most.len() <= SLOTS as usize);
        }
        let (end, left) = (NOW + 179 * 60, 821);
        assert!((54..=61).contains(&losses.lost(end, left)), "{}", losses.lost(end, left));
        assert_eq!(losses.lost(end + 3600, left), 0);
    }

    #[test]
    fn what_comes_and_goes_is_no_loss() {
        let mut losses = Losses::default();
        losses.update(NOW, 300, 0);
        for second in 0..10_000 {
            losses.update(NOW + second, 301, 0);
            losses.update(NOW + second, 300, 1);
            assert_eq!(losses.lost(NOW + second, 300), 1);
        }
    }

    #[test]
    fn what_was_there_before_a_long_silence_counts() {
        let mut losses = Losses::default();
        losses.update(NOW, 1000, 0);
        losses.update(NOW + 86_400, 10, 990);
        assert_eq!(losses.lost(NOW + 86_400, 10), 990);
    }

    #[test]
    fn a_clock_that_is_set_back_forgets_nothing() {
        let mut losses = Losses::default();
        losses.update(NOW, 20, 0);
        losses.update(NOW, 15, 5);
        losses.update(400_000, 10, 5);
        assert_eq!((losses.lost(400_000, 10), losses.lost(NOW, 10)), (10, 10));
    }

    #[test]
    fn accepted_removals_are_no_losses() {
        let mut losses = Losses::default();
        losses.update(NOW, 100, 0);
        losses.accept(7, false);
        losses.update(NOW, 95, 5);
        assert_eq!((losses.accepted(), losses.lost(NOW, 95)), (2, 0));
        losses.update(NOW, 90, 5);
        assert_eq!((losses.accepted(), losses.lost(NOW, 90)), (0, 3));
        losses.accept(1, true);
        assert_eq!((losses.accepted(), losses.lost(NOW, 90)), (1, 0));
    }
}
