//! Holding the lead of an election, and how sure that is.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::watch;

use crate::ids::Epoch;

/// How often a waiting holder looks at the clock: tokio's timers stand still while the machine sleeps, the clock that
/// counts does not.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Time since the machine was started, sleep included. Nobody can set this clock.
pub(crate) type BootTime = Duration;

/// Now.
pub(crate) fn boot_time() -> BootTime {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or_default())
}

/// How sure a holder can be of its lead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// Nobody else leads.
    Held,
    /// The store has not confirmed it for as long as a lead lasts: somebody else may lead now. It may become
    /// [`Standing::Held`] again. What is fenced may go on; anything else has to wait.
    Unproven,
    /// It was given up, taken anew, or the store says that it is over. Final.
    Lost,
}

/// Until when a lead is proven.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Proof {
    /// As long as this process lives.
    Always,
    /// Until this time.
    Until(BootTime),
}

impl Proof {
    pub(crate) fn standing(self, now: BootTime) -> Standing {
        match self {
            Proof::Until(until) if until <= now => Standing::Unproven,
            Proof::Always | Proof::Until(_) => Standing::Held,
        }
    }
}

/// A lead that was won. Dropping it gives nothing up; see [`Store::resign`](crate::Store::resign).
#[derive(Clone, Debug)]
pub struct Leadership {
    epoch: Epoch,
    /// Its sender is dropped when the lead is lost.
    proof: watch::Receiver<Proof>,
    told: Standing,
}

impl Leadership {
    pub(crate) fn new(epoch: Epoch, proof: watch::Receiver<Proof>) -> Leadership {
        Leadership { epoch, proof, told: Standing::Held }
    }

    /// The fencing number that was won with it.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// How sure it is at this moment, by the own clock: right also in the first instruction after a long sleep.
    pub fn standing(&self) -> Standing {
        if self.proof.has_changed().is_err() {
            return Standing::Lost;
        }
        self.proof.borrow().standing(boot_time())
    }

    /// Waits until it is another than the last that was returned ([`Standing::Held`] at first).
    pub async fn changed(&mut self) -> Standing {
        loop {
            let standing = self.standing();
            if standing != self.told || standing == Standing::Lost {
                self.told = standing;
                return standing;
            }
            self.proof.mark_unchanged();
            let left = match *self.proof.borrow() {
                Proof::Until(until) if standing == Standing::Held => until.saturating_sub(boot_time()),
                Proof::Always | Proof::Until(_) => LOOK_EVERY,
            };
            let _ = tokio::time::timeout(left.min(LOOK_EVERY), self.proof.changed()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_ends_by_the_clock() {
        let second = Duration::from_secs;
        assert_eq!(Proof::Until(second(10)).standing(second(9)), Standing::Held);
        assert_eq!(Proof::Until(second(10)).standing(second(10)), Standing::Unproven);
        assert_eq!(Proof::Always.standing(second(1 << 40)), Standing::Held);
        assert!(boot_time() > Duration::ZERO && boot_time() <= boot_time());
    }

    #[tokio::test]
    async fn a_holder_is_told_of_each_change() {
        let (sender, receiver) = watch::channel(Proof::Until(boot_time() + Duration::from_millis(50)));
        let mut leadership = Leadership::new(Epoch(3), receiver);
        assert_eq!((leadership.standing(), leadership.epoch()), (Standing::Held, Epoch(3)));
        let unproven = tokio::time::timeout(Duration::from_secs(30), leadership.changed()).await;
        assert_eq!(unproven, Ok(Standing::Unproven));
        sender.send_replace(Proof::Until(boot_time() + Duration::from_secs(1000)));
        assert_eq!(leadership.changed().await, Standing::Held);
        drop(sender);
        assert_eq!(leadership.changed().await, Standing::Lost);
        assert_eq!(leadership.changed().await, Standing::Lost, "it stays so");
        assert_eq!(leadership.standing(), Standing::Lost);
    }
}
