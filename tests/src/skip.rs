//! What happens to a test that this machine cannot run.

use std::io::Write;

/// With this variable set to `1` nothing is skipped: what is missing is a failure.
pub const NO_SKIP_VARIABLE: &str = "GSYNC_NO_SKIP";

/// Ends a test that cannot run here, with the reason (as for `format!`). The test must return `()`.
#[macro_export]
macro_rules! skip {
    ($($reason:tt)+) => {{
        $crate::skip::report(&format!($($reason)+));
        return;
    }};
}

/// Ends a test unless all these needs are met, see [`need`](crate::need).
#[macro_export]
macro_rules! require {
    ($($need:expr),+ $(,)?) => {
        $(if let Err(reason) = $need {
            $crate::skip!("{reason}");
        })+
    };
}

/// Says that a test is skipped. Used by [`skip!`](crate::skip!).
///
/// # Panics
/// With `GSYNC_NO_SKIP=1`.
pub fn report(reason: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    assert!(std::env::var_os(NO_SKIP_VARIABLE).is_none_or(|v| v != "1"), "{test} may not be skipped: {reason}");
    // Not eprintln!: what that prints is hidden by the test harness as long as the test does not fail.
    let _ = writeln!(std::io::stderr().lock(), "SKIPPED: {test}: {reason}");
}
