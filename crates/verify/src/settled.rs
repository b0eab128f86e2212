//! Waiting for what is in flight instead of reporting it.

use std::io;

use crate::{Options, Report, Side, VerifyError, compare, recheck};

/// Compares, and looks again at what differs for as long as that gets less or changes on the primary.
///
/// Before each look `wait` is called: it waits until all changes that were made so far have had the time to arrive
/// (a worker that has drained), and says whether it is worth looking again; after `false` there is one last look.
/// What still differs in the end although the primary's object stood still is a real difference; the others are
/// marked as in flight.
///
/// # Errors
/// As [`compare()`], and [`VerifyError::Wait`].
pub fn compare_settled(
    primary: &mut Side,
    secondary: &mut Side,
    options: &Options,
    mut wait: impl FnMut() -> io::Result<bool>,
) -> Result<Report, VerifyError> {
    let mut wait = || wait().map_err(|source| VerifyError::Wait { source });
    let mut go_on = wait()?;
    let mut report = compare(primary, secondary, options)?;
    while !report.equal && go_on && report.rounds < options.rounds_max {
        go_on = wait()?;
        let next = recheck(&report, primary, secondary, options)?;
        // A difference that the caller was not told of before is progress, too: something moved.
        let moved = next.in_flight > 0 || next.differing < report.differing;
        report = next;
        if !moved {
            break;
        }
    }
    Ok(report)
}
