//! Whether an object's content or attributes changed, from what was known, what is seen, and what events said.

use posix::Kind;

use crate::dirty::Hints;
use crate::index::{Row, Stamp};

/// Why an object was looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// Events (perhaps of its directory only) made us; what they said.
    Event(Hints),
    /// A directory was listed; changes may have been missed.
    Crawl {
        /// The file system may have lost content that it had promised (power cut): do not trust equal stamps.
        suspect: bool,
    },
}

/// What is to be recorded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Verdict {
    /// A D record, now.
    pub data: bool,
    /// An M record.
    pub meta: bool,
    /// A D record later, unless it turns out that only times were set.
    pub owed: bool,
    /// The D record tells of a content that may have the same times as another one that was told before.
    pub doubted: bool,
}

/// Decides. `old` is `None` for an object that gets its first name now.
pub fn judge(old: Option<&Row>, kind: Kind, now: &Stamp, reason: Reason) -> Verdict {
    let is_file = kind == Kind::File;
    let Some(old) = old else {
        return match reason {
            // Being written: the close will come.
            Reason::Event(hints) if hints.modified && !hints.closed => Verdict { owed: is_file, ..Verdict::default() },
            Reason::Event(hints) => Verdict { data: is_file && (hints.closed || now.size > 0), ..Verdict::default() },
            Reason::Crawl { .. } => Verdict { data: is_file && now.size > 0, ..Verdict::default() },
        };
    };
    // The file system went back: what it has now it may have had before, with the same times.
    let rolled_back = now.ctime < old.stamp.ctime;
    let other_content = is_file && (!old.stamp.same_content(now) || rolled_back);
    let other_attributes = old.stamp.ctime != now.ctime;
    match reason {
        Reason::Crawl { suspect } => Verdict {
            data: is_file && (other_content || old.owed || suspect),
            meta: other_attributes || suspect,
            owed: false,
            doubted: is_file && (suspect || rolled_back),
        },
        Reason::Event(hints) => {
            let data = is_file && hints.closed;
            // Writing changes the ctime too; what D sends has the times.
            let explained = is_file && (hints.modified || hints.closed);
            Verdict {
                data: data || (is_file && rolled_back),
                meta: hints.attributes || (other_attributes && !explained),
                owed: is_file && !data && !rolled_back && (old.owed || hints.modified || other_content),
                doubted: is_file && rolled_back,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use posix::Time;

    use super::*;

    fn stamp(size: u64, mtime: i64, ctime: i64) -> Stamp {
        Stamp { size, mtime: Time { secs: mtime, nanos: 0 }, ctime: Time { secs: ctime, nanos: 0 } }
    }

    fn row(kind: Kind, owed: bool) -> Row {
        Row { kind, owed, doubted: false, stamp: stamp(5, 1, 1), handle: None }
    }

    fn event(modified: bool, closed: bool, attributes: bool) -> Reason {
        Reason::Event(Hints { modified, closed, attributes })
    }

    /// The letters of a verdict, for tables.
    fn letters(verdict: Verdict) -> String {
        [(verdict.data, 'D'), (verdict.meta, 'M'), (verdict.owed, 'o'), (verdict.doubted, '?')]
            .iter()
            .filter(|(on, _)| *on)
            .map(|(_, c)| c)
            .collect()
    }

    #[test]
    fn what_events_and_stamps_mean() {
        let crawl = Reason::Crawl { suspect: false };
        let same = stamp(5, 1, 1);
        let written = stamp(9, 2, 2);
        let chmod = stamp(5, 1, 2);
        let file = row(Kind::File, false);
        let owed = row(Kind::File, true);
        let dir = row(Kind::Directory, false);
        for (old, now, reason, expected) in [
            (None, stamp(0, 1, 1), event(false, false, false), ""),
            (None, stamp(0, 1, 1), event(true, true, false), "D"),
            (None, same, event(true, false, false), "o"),
            (None, same, event(false, false, false), "D"),
            (None, same, crawl, "D"),
            (None, stamp(0, 1, 1), crawl, ""),
            (Some(&file), same, crawl, ""),
            (Some(&file), chmod, crawl, "M"),
            (Some(&file), written, crawl, "DM"),
            (Some(&owed), same, crawl, "D"),
            (Some(&file), same, Reason::Crawl { suspect: true }, "DM?"),
            (Some(&file), stamp(5, 1, 0), crawl, "DM?"),
            (Some(&file), stamp(5, 1, 0), event(false, false, false), "DM?"),
            (Some(&file), stamp(5, 1, 0), event(true, false, false), "D?"),
            // A writable mapping that was dirty already changes no stamp: a close is always told.
            (Some(&file), same, event(false, true, false), "D"),
            (Some(&file), written, event(true, true, false), "D"),
            (Some(&file), written, event(true, false, false), "o"),
            (Some(&file), written, event(true, true, true), "DM"),
            (Some(&file), chmod, event(false, false, true), "M"),
            // Kernels before 6.13 do not change the ctime twice in one tick.
            (Some(&file), same, event(false, false, true), "M"),
            (Some(&file), written, event(false, false, false), "Mo"),
            (Some(&owed), same, event(false, false, false), "o"),
        ] {
            assert_eq!(letters(judge(old, Kind::File, &now, reason)), expected, "{old:?} {now:?} {reason:?}");
        }
        // The second regression of the fuzz: a changed entry changes its directory.
        assert_eq!(letters(judge(Some(&dir), Kind::Directory, &written, event(false, false, false))), "M");
        assert_eq!(letters(judge(Some(&dir), Kind::Directory, &same, event(false, false, false))), "");
    }
}
