//! Waiting for an event with a deadline.

use std::time::{Duration, Instant};

/// How often is looked.
const INTERVAL: Duration = Duration::from_millis(20);

/// Looks until `poll` gives a value.
///
/// # Panics
/// At the deadline, with what was waited for and the last thing that `poll` said.
#[track_caller]
pub fn wait_for<T>(what: &str, limit: Duration, mut poll: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match poll() {
            Ok(value) => return value,
            Err(state) if start.elapsed() >= limit => {
                panic!("waited {:.1} s for {what}, and still: {state}", limit.as_secs_f64())
            }
            Err(_) => std::thread::sleep(INTERVAL),
        }
    }
}

/// Looks until `poll` is true.
///
/// # Panics
/// At the deadline, with what was waited for.
#[track_caller]
pub fn wait_until(what: &str, limit: Duration, mut poll: impl FnMut() -> bool) {
    wait_for(what, limit, || if poll() { Ok(()) } else { Err("it has not happened".into()) });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_ends_the_wait() {
        let mut looks = 0;
        let value = wait_for("three looks", Duration::from_secs(10), || {
            looks += 1;
            if looks == 3 { Ok("done") } else { Err(String::new()) }
        });
        assert_eq!((value, looks), ("done", 3));
    }

    #[test]
    #[should_panic(expected = "waited 0.1 s for the end of the world, and still: all quiet")]
    fn a_deadline_says_what_was_waited_for() {
        wait_for("the end of the world", Duration::from_millis(100), || Err::<(), _>("all quiet".into()));
    }
}
