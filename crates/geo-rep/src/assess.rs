//! What stands in the way of a session, from what both sides are like. Pure; everything is told at once.

use protocol::check::{Holdings, Lack, Location, Place, Report};
use protocol::hello::Versions;
use protocol::rsync;

use crate::exit::problem;
use crate::usage::Usage;

/// Clocks that differ by more make LAST_SYNCED and the logs of both sides useless.
const MAX_CLOCK_DIFFERENCE_MS: u64 = 300_000;

/// What a session needs.
#[derive(Clone, Debug)]
pub struct Needs {
    /// The secondary, for messages.
    pub shown: String,
    /// What this release speaks.
    pub ours: Versions,
    /// Identity of the kernel here.
    pub boot_id: String,
    /// Where the primary is.
    pub primary: Option<Location>,
    /// What the primary holds.
    pub usage: Usage,
    /// What becomes of what the secondary holds; absent: nothing was said.
    pub holdings: Option<Holdings>,
    /// The rsync here, when the session uses it: its version, absent if there is none.
    pub rsync: Option<Option<String>>,
    /// Wall clock here before and after the secondary was asked, milliseconds.
    pub asked_ms: (u64, u64),
}

/// Something that stands in the way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// What is wrong.
    pub text: String,
    /// What to do.
    pub cure: String,
    /// Whether `--force` goes on nevertheless.
    pub can_force: bool,
}

fn firm(text: impl Into<String>, cure: impl Into<String>) -> Finding {
    Finding { text: text.into(), cure: cure.into(), can_force: false }
}

fn forcible(text: impl Into<String>, cure: impl Into<String>) -> Finding {
    Finding { text: text.into(), cure: cure.into(), can_force: true }
}

/// Lists what stands in the way.
pub fn assess(needs: &Needs, report: &Report) -> Vec<Finding> {
    if let Some(finding) = version(needs, report) {
        // What another release says of itself need not mean what it means here.
        return vec![finding];
    }
    let shown = &needs.shown;
    let mut findings = Vec::new();
    if !report.is_root {
        let hint = "log in as root: name the secondary as root@host:/directory";
        findings.push(firm(format!("the user of {shown} is not root and could not set owners"), hint));
    }
    match report.place {
        Place::Lost => findings.push(firm(
            format!("neither the secondary {shown} nor the directory above it exists"),
            "create it, or mount the file system that it is on",
        )),
        Place::Other => {
            findings.push(firm(format!("the secondary {shown} is not a directory"), "name an empty directory"));
        }
        Place::Filled if needs.holdings.is_none() => findings.push(not_empty(shown)),
        _ => {}
    }
    findings.extend(overlap(needs, report));
    if let Some(error) = &report.error {
        findings.push(firm(format!("the secondary {shown} cannot be used: {error}"), "mend it, or name another one"));
    }
    let exists = !matches!(report.place, Place::Lost | Place::Other);
    if exists && report.is_root && !report.is_writable && report.error.is_none() {
        findings.push(firm(format!("the secondary {shown} cannot be written to"), "is it mounted read-only?"));
    }
    findings.extend(report.lacks.iter().map(|lack| missing_feature(shown, lack)));
    if exists {
        findings.extend(room(needs, report));
    }
    findings.extend(rsyncs(needs, report));
    findings.extend(clocks(needs, report));
    if let Some(claim) = &report.claim {
        findings.push(forcible(
            format!("session '{}' of {} uses {shown} already", claim.name, claim.primary),
            "give each session a secondary of its own; delete the other session first, or, where it is not there any \
             more, take the directory over with --force",
        ));
    }
    findings
}

fn version(needs: &Needs, report: &Report) -> Option<Finding> {
    let there = Versions { min: report.protocol_min, max: report.protocol_max, software: report.software.clone() };
    if needs.ours.common(&there).is_some() && needs.ours.software == report.software {
        return None;
    }
    Some(firm(
        format!(
            "gsync-agent of {} is release {} (protocol {} to {}), this is release {} (protocol {} to {})",
            needs.shown,
            or_unknown(&there.software),
            there.min,
            there.max,
            needs.ours.software,
            needs.ours.min,
            needs.ours.max
        ),
        "install the same release on both sides",
    ))
}

/// A text, or that it is not known.
pub fn or_unknown(text: &str) -> &str {
    if text.is_empty() { "unknown" } else { text }
}

/// A secondary with unknown things in it, and the ways out.
pub fn not_empty(shown: &str) -> Finding {
    firm(
        format!("the secondary {shown} is not empty"),
        "with --adopt it is taken for an older copy: what is equal stays, what differs is sent, what is left over goes \
         to quarantine at the end; with --quarantine everything goes to .gsync/quarantine there first; or name another \
         directory",
    )
}

fn overlap(needs: &Needs, report: &Report) -> Option<Finding> {
    let (ours, theirs) = (needs.primary.as_ref()?, report.location.as_ref()?);
    if needs.boot_id.is_empty() || needs.boot_id != report.boot_id || !ours.overlaps(theirs) {
        return None;
    }
    let shown = &needs.shown;
    let text = match (theirs.is_inside(ours), ours.is_inside(theirs)) {
        (true, true) => format!("primary and secondary are the same directory, {shown}"),
        (true, false) => format!("the secondary {shown} is inside the primary"),
        _ => format!("the primary is inside the secondary {shown}"),
    };
    Some(firm(text, "name two directories of which neither is inside the other, also not through a bind mount"))
}

fn missing_feature(shown: &str, lack: &Lack) -> Finding {
    let Lack { feature, reason, is_vital } = lack;
    let text = format!("the file system of {shown} does not have {feature}: {reason}");
    if *is_vital {
        return firm(text, "use a directory on ext4, XFS or btrfs, and a kernel of 5.6 or newer");
    }
    forcible(text, "use another file system; with --force what needs it stays pending, under FAILURES of the status")
}

fn room(needs: &Needs, report: &Report) -> Vec<Finding> {
    // What an older copy holds already needs no room.
    if needs.holdings == Some(Holdings::Adopt) || report.place == Place::Ours {
        return Vec::new();
    }
    let mut findings = Vec::new();
    if let Some(free) = report.free_bytes.filter(|free| *free < needs.usage.bytes) {
        let text =
            format!("{} has room for {}, the primary holds {}", needs.shown, size(free), size(needs.usage.bytes));
        findings.push(forcible(text, "make room; --force goes on, where it compresses or will be given room in time"));
    }
    if let Some(free) = report.free_inodes.filter(|free| *free < needs.usage.inodes) {
        let (shown, inodes) = (&needs.shown, needs.usage.inodes);
        let text = format!("{shown} has room for {free} objects (inodes), the primary holds {inodes}");
        findings.push(forcible(text, "use a file system with more inodes"));
    }
    findings
}

fn rsyncs(needs: &Needs, report: &Report) -> Vec<Finding> {
    let Some(here) = &needs.rsync else { return Vec::new() };
    let mut findings = rsync_findings("on this machine", here.as_deref());
    findings.extend(rsync_findings(&format!("on the side of {}", needs.shown), report.rsync.as_deref()));
    findings
}

/// What is wrong with an rsync of this version; `None`: there is none.
pub fn rsync_findings(whose: &str, version: Option<&str>) -> Vec<Finding> {
    match version {
        None => vec![firm(format!("there is no rsync {whose}"), "install rsync, or use sync-engine tar")],
        Some(version) if !rsync::is_new_enough(version) => {
            let (major, minor) = rsync::OLDEST;
            let text = format!("the rsync {whose} is version {version}, {major}.{minor} or newer is needed");
            vec![firm(text, "install a newer rsync, or use sync-engine tar")]
        }
        Some(_) => Vec::new(),
    }
}

fn clocks(needs: &Needs, report: &Report) -> Option<Finding> {
    let (before, after) = needs.asked_ms;
    let off_ms = before.saturating_sub(report.now_ms).max(report.now_ms.saturating_sub(after));
    (off_ms > MAX_CLOCK_DIFFERENCE_MS).then(|| {
        forcible(
            format!("the clock of {} differs from the one here by {} s", needs.shown, off_ms / 1000),
            "set both clocks (NTP); with --force LAST_SYNCED and the logs of both sides do not fit together",
        )
    })
}

fn size(bytes: u64) -> String {
    let units = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut unit = 0;
    let mut value = bytes as f64;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} bytes") } else { format!("{value:.1} {}", units[unit]) }
}

/// Refuses when something stands in the way, with all of it.
///
/// # Errors
/// A problem with the cures. What `force` overrules is returned.
pub fn refuse(findings: Vec<Finding>, force: bool) -> anyhow::Result<Vec<Finding>> {
    let (overruled, left): (Vec<Finding>, Vec<Finding>) =
        findings.into_iter().partition(|finding| finding.can_force && force);
    match left.as_slice() {
        [] => Ok(overruled),
        [Finding { text, cure, .. }] => Err(problem(text, cure)),
        several => {
            let mut message = format!("{} things stand in the way:", several.len());
            for Finding { text, cure, .. } in several {
                message += &format!("\n  - {text}\n    cure: {cure}");
            }
            Err(problem(message, "nothing was changed; mend all of them and try again"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Change = fn(&mut Needs, &mut Report);

    fn needs() -> Needs {
        Needs {
            shown: "far::/copy".into(),
            ours: Versions { min: 1, max: 2, software: "1.0".into() },
            boot_id: "boot".into(),
            primary: Some(Location { device: "8:1".into(), path: "/srv/data".into() }),
            usage: Usage { bytes: 5 << 30, inodes: 1000 },
            holdings: None,
            rsync: None,
            asked_ms: (1_000_000, 1_001_000),
        }
    }

    fn good() -> Report {
        Report {
            software: "1.0".into(),
            protocol_min: 2,
            protocol_max: 3,
            is_root: true,
            place: Place::Empty,
            path: "/copy".into(),
            is_writable: true,
            free_bytes: Some(5 << 30),
            free_inodes: Some(1000),
            boot_id: "other".into(),
            now_ms: 1_000_500,
            ..Report::default()
        }
    }

    fn found(needs: &Needs, report: &Report) -> String {
        let lines =
            assess(needs, report).into_iter().map(|f| format!("{}{}\n", f.text, if f.can_force { "*" } else { "" }));
        lines.collect()
    }

    #[test]
    fn each_lack_is_found() {
        assert_eq!(found(&needs(), &good()), "");
        let cases: [(&str, Change); 18] = [
            ("is release 0.9 (protocol 2 to 3), this is release 1.0 (protocol 1 to 2)\n", |_, r| {
                r.software = "0.9".into()
            }),
            ("is release 1.0 (protocol 3 to 4)", |_, r| (r.protocol_min, r.protocol_max) = (3, 4)),
            ("is not root", |_, r| r.is_root = false),
            ("nor the directory above", |_, r| r.place = Place::Lost),
            ("is not a directory", |_, r| r.place = Place::Other),
            ("is not empty", |_, r| r.place = Place::Filled),
            ("cannot be used: broken", |_, r| r.error = Some("broken".into())),
            ("cannot be written to", |_, r| r.is_writable = false),
            ("room for 5.0 GiB, the primary holds 5.0 GiB*", |_, r| r.free_bytes = Some((5 << 30) - 1)),
            ("room for 999 objects", |_, r| r.free_inodes = Some(999)),
            ("clock of far::/copy differs from the one here by 301 s*", |_, r| r.now_ms = 1_302_500),
            ("by 700 s*", |_, r| r.now_ms = 300_000),
            ("there is no rsync on this machine", |n, r| (n.rsync, r.rsync) = (Some(None), Some("3.2.7".into()))),
            ("there is no rsync on the side of", |n, _| n.rsync = Some(Some("3.2.7".into()))),
            ("is version 3.1.3, 3.2 or newer", |n, r| {
                (n.rsync, r.rsync) = (Some(Some("3.2.0".into())), Some("3.1.3".into()));
            }),
            ("are the same directory", |n, r| (r.boot_id, r.location) = ("boot".into(), n.primary.clone())),
            ("is inside the primary", |_, r| {
                r.boot_id = "boot".into();
                r.location = Some(Location { device: "8:1".into(), path: "/srv/data/x".into() });
            }),
            ("session 'web' of n:/srv uses far::/copy already*", |_, r| {
                let claim =
                    protocol::check::Claim { session: "s".into(), name: "web".into(), primary: "n:/srv".into() };
                r.claim = Some(claim);
            }),
        ];
        for (words, change) in cases {
            let (mut needs, mut report) = (needs(), good());
            change(&mut needs, &mut report);
            let text = found(&needs, &report);
            assert!(text.contains(words) && text.lines().count() == 1, "{words}: {text}");
        }
    }

    #[test]
    fn everything_is_told_at_once() {
        let lack = |feature: &str, is_vital| Lack { feature: feature.into(), reason: "no".into(), is_vital };
        let report = Report {
            place: Place::Filled,
            free_bytes: Some(0),
            lacks: vec![lack("hard links", true), lack("FIFOs", false)],
            ..good()
        };
        let findings = assess(&needs(), &report);
        assert_eq!(findings.len(), 4, "{findings:?}");
        let said = refuse(findings.clone(), false).unwrap_err().to_string();
        assert!(said.starts_with("4 things stand in the way:") && said.contains("hard links"), "{said}");
        let said = refuse(findings, true).unwrap_err().to_string();
        assert!(said.starts_with("2 things stand in the way:") && !said.contains("FIFOs"), "{said}");
        let adopting = Needs { holdings: Some(Holdings::Adopt), ..needs() };
        let report = Report { lacks: vec![lack("FIFOs", false)], ..report };
        assert_eq!(refuse(assess(&adopting, &report), true).unwrap().len(), 1);
    }
}
