//! Two streams of entries, merged.

use std::cmp::Ordering;
use std::time::Instant;

use crate::difference::{Lone, Trouble, What};
use crate::entry::{Entry, Facts};
use crate::links::LinkTable;
use crate::request::Request;
use crate::side::{Manifest, Side};
use crate::value::{Digest, Maybe, Pair, Type};
use crate::{Difference, Report, TreePath, VerifyError, judge};

/// How a comparison is made.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many differences are kept; further ones are only counted. Default: 10,000.
    pub differences_max: usize,
    /// How many times [`compare_settled`](crate::compare_settled) looks, the first time included. Default: 10.
    pub rounds_max: u32,
}

impl Default for Options {
    fn default() -> Options {
        Options { differences_max: 10_000, rounds_max: 10 }
    }
}

/// Compares two trees.
///
/// # Errors
/// When a root cannot be opened or a channel breaks. What cannot be read inside of a tree is a difference.
pub fn compare(primary: &mut Side, secondary: &mut Side, options: &Options) -> Result<Report, VerifyError> {
    let (report, _) = look(primary, secondary, Request::Whole, options)?;
    Ok(report)
}

/// Looks again at what differed in `report`, and only there, unless the report is truncated.
///
/// Names of an inode that were not looked at may hide a difference; so when nothing differs any more but there are
/// such names, both trees are compared as a whole once more.
///
/// # Errors
/// As [`compare()`].
pub fn recheck(
    report: &Report,
    primary: &mut Side,
    secondary: &mut Side,
    options: &Options,
) -> Result<Report, VerifyError> {
    let request = report.request_again();
    let whole = request == Request::Whole;
    let (mut next, has_unseen_names) = look(primary, secondary, request, options)?;
    let confirm = !whole && next.equal && has_unseen_names;
    if confirm {
        let seconds = next.seconds;
        (next, _) = look(primary, secondary, Request::Whole, options)?;
        next.seconds += seconds;
    }
    if !whole && !confirm {
        (next.objects, next.bytes) = (report.objects, report.bytes);
    }
    next.seconds += report.seconds;
    next.rounds = report.rounds + 1;
    next.mark_in_flight(report);
    Ok(next)
}

/// Looks at both sides; also says whether there are names of an inode that were not looked at.
fn look(
    primary: &mut Side,
    secondary: &mut Side,
    request: Request,
    options: &Options,
) -> Result<(Report, bool), VerifyError> {
    let start = Instant::now();
    // Both sides work at the same time: each is asked before the first is listened to.
    let mut primary = primary.manifest(request.clone())?;
    let mut secondary = secondary.manifest(request)?;
    let mut comparison = Comparison::new(options);
    comparison.merge(&mut primary, &mut secondary)?;
    let (mut report, has_unseen_names) = comparison.finish();
    report.seconds = start.elapsed().as_secs_f64();
    Ok((report, has_unseen_names))
}

/// The state of one comparison.
struct Comparison<'a> {
    options: &'a Options,
    report: Report,
    links: LinkTable,
    /// Below this path everything belongs to a difference that was noted already.
    covered: Option<Covered>,
}

struct Covered {
    path: TreePath,
    /// Where the difference is that counts what is below, if it was kept.
    index: Option<usize>,
}

impl<'a> Comparison<'a> {
    fn new(options: &'a Options) -> Comparison<'a> {
        Comparison { options, report: Report::default(), links: LinkTable::default(), covered: None }
    }

    fn merge(&mut self, primary: &mut Manifest<'_>, secondary: &mut Manifest<'_>) -> Result<(), VerifyError> {
        let (mut ours, mut theirs) = (primary.next_entry()?, secondary.next_entry()?);
        loop {
            let order = match (&ours, &theirs) {
                (None, None) => return Ok(()),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(ours), Some(theirs)) => ours.path.cmp(&theirs.path),
            };
            let taken_ours = if order.is_le() { std::mem::replace(&mut ours, primary.next_entry()?) } else { None };
            let taken_theirs =
                if order.is_ge() { std::mem::replace(&mut theirs, secondary.next_entry()?) } else { None };
            self.path(taken_ours, taken_theirs);
        }
    }

    /// Compares what is at one path.
    fn path(&mut self, primary: Option<Entry>, secondary: Option<Entry>) {
        if let Some(entry) = &primary {
            self.report.objects += 1;
            self.report.bytes += entry.facts().map_or(0, |facts| facts.size);
        }
        let fingerprint = primary.as_ref().map(|entry| entry.outcome.fingerprint());
        match (primary, secondary) {
            (Some(primary), Some(secondary)) => self.both(primary, &secondary, fingerprint),
            (Some(entry), None) => self.one(entry, What::Missing, fingerprint),
            (None, Some(entry)) => self.one(entry, What::Extra, None),
            (None, None) => {}
        }
    }

    fn one(&mut self, entry: Entry, what: fn(Lone) -> What, fingerprint: Option<Digest>) {
        if self.is_covered(&entry.path) {
            return;
        }
        let unstable = fingerprint.is_some() && entry.facts().is_some_and(|facts| facts.unstable);
        let kind = Maybe(entry.facts().map(|facts| Type(facts.kind)));
        let index = self.note(Difference {
            path: entry.path.clone(),
            what: what(Lone { kind, below: 0 }),
            in_flight: unstable,
            primary: fingerprint,
            directory: false,
        });
        self.covered = Some(Covered { path: entry.path, index });
    }

    fn both(&mut self, primary: Entry, secondary: &Entry, fingerprint: Option<Digest>) {
        if self.is_covered(&primary.path) {
            return;
        }
        let difference = |what: What, facts: Option<&Facts>, directory: bool| Difference {
            path: primary.path.clone(),
            what,
            in_flight: facts.is_some_and(|facts| facts.unstable),
            primary: fingerprint,
            directory,
        };
        let (Some(ours), Some(theirs)) = (primary.facts(), secondary.facts()) else {
            let troubles = Pair::new(Trouble::of(&primary.outcome), Trouble::of(&secondary.outcome));
            let index = self.note(difference(What::Unverified(troubles), primary.facts(), false));
            self.covered = Some(Covered { path: primary.path.clone(), index });
            return;
        };
        if ours.kind == theirs.kind {
            self.links.note(&primary.path, ours.link, theirs.link);
        }
        let directory = ours.kind == posix::Kind::Directory && ours.kind == theirs.kind;
        for what in judge::differences(ours, theirs) {
            let index = self.note(difference(what, Some(ours), directory));
            if ours.kind != theirs.kind {
                self.covered = Some(Covered { path: primary.path.clone(), index });
            }
        }
    }

    /// Whether a path belongs to a difference that was noted already; counts it there.
    fn is_covered(&mut self, path: &TreePath) -> bool {
        let Some(covered) = &self.covered else { return false };
        if !path.is_below(&covered.path) {
            self.covered = None;
            return false;
        }
        if let Some(index) = covered.index
            && let What::Missing(lone) | What::Extra(lone) = &mut self.report.differences[index].what
        {
            lone.below += 1;
        }
        true
    }

    /// Counts a difference and keeps it while there is room: its index then.
    fn note(&mut self, difference: Difference) -> Option<usize> {
        self.report.differing += 1;
        let index = self.report.differences.len();
        if index == self.options.differences_max {
            return None;
        }
        self.report.differences.push(difference);
        Some(index)
    }

    fn finish(mut self) -> (Report, bool) {
        let links = std::mem::take(&mut self.links);
        let has_unseen_names = links.has_unseen_names();
        for (path, links) in links.into_differences() {
            self.note(Difference {
                path,
                // Which groups there are is what the primary had; inodes come and go without it.
                primary: digest_of_groups(&links.primary),
                what: What::Links(links),
                in_flight: false,
                directory: false,
            });
        }
        self.report.differences.sort_by(|a, b| a.path.cmp(&b.path));
        self.report.equal = self.report.differing == 0;
        self.report.rounds = 1;
        self.report.count_in_flight();
        (self.report, has_unseen_names)
    }
}

/// A hash of groups of paths. `None` stands for nothing, so this is always something.
fn digest_of_groups(groups: &[Vec<TreePath>]) -> Option<Digest> {
    let mut hasher = blake3::Hasher::new();
    for group in groups {
        for path in group {
            hasher.update(path.as_bytes());
            hasher.update(b"\0");
        }
        hasher.update(b"\0");
    }
    Some(Digest(*hasher.finalize().as_bytes()))
}
