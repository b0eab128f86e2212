//! How long to wait before trying again: doubling, with jitter, forgotten after a time of health.

/// The first delay.
const FIRST_MS: u64 = 200;

/// The longest delay: an operator who mends something sees the effect within it.
const LONGEST_MS: u64 = 10_000;

/// What ran this long was healthy.
pub const HEALTHY_MS: u64 = 60_000;

/// Counts failures.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Returns the delay after a failure, between half and all of the doubled delay, so that many that failed together
    /// do not come back together. `ran_ms` is how long it went well before, `roll` any random number.
    pub fn fail(&mut self, ran_ms: u64, roll: u64) -> u64 {
        if ran_ms >= HEALTHY_MS {
            self.failures = 0;
        }
        let delay = (FIRST_MS << self.failures.min(16)).min(LONGEST_MS);
        self.failures = self.failures.saturating_add(1);
        delay / 2 + roll % (delay / 2 + 1)
    }

    /// Failures since the last time of health.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_longest_and_start_again_after_health() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut backoff = Backoff::default();
        for want in [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000] {
            let delay = backoff.fail(1000, random.u64(..));
            assert!((want / 2..=want).contains(&delay), "{delay} for {want}");
        }
        for _ in 0..100 {
            backoff.fail(0, 0);
        }
        assert!(backoff.fail(HEALTHY_MS, random.u64(..)) <= 200);
        assert_eq!(backoff.failures(), 1);
    }
}
