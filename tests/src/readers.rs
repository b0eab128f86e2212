//! Readers on the secondary that notice half a file.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use crate::stamped::{self, Flaw};

/// How many bytes are read at a time: small, so that a file that changes under its reader is seen changing.
const CHUNK_BYTES: usize = 8192;

/// How many findings are kept; the rest is counted.
const FINDINGS_MAX: usize = 100;

/// What no reader may see.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Finding {
    /// The name was not there.
    Missing {
        /// The file.
        path: String,
    },
    /// It was there, with nothing or half a version in it.
    Flawed {
        /// The file.
        path: String,
        /// What was wrong.
        flaw: Flaw,
    },
    /// It could not be read.
    Unreadable {
        /// The file.
        path: String,
        /// What the system said.
        reason: String,
    },
    /// An older version than before was there.
    Backwards {
        /// The file.
        path: String,
        /// What was seen before.
        newer: u64,
        /// What was seen now.
        older: u64,
    },
}

/// What was seen.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Number of reads of a whole file.
    pub reads: u64,
    /// Number of changes of version that the readers noticed, all together: tells whether anything happened.
    pub changes: u64,
    /// Newest version seen of each file.
    pub newest: BTreeMap<String, u64>,
    /// Number of findings.
    pub found: u64,
    /// The first of them.
    pub findings: Vec<Finding>,
}

/// Threads that read stamped files again and again; stopped on drop.
#[derive(Debug)]
pub struct Readers {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    threads: Vec<JoinHandle<()>>,
}

impl Readers {
    /// Starts to read these files, which must be there already, below a root.
    pub fn start(root: &Path, files: Vec<String>, threads: usize) -> Readers {
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Seen::default())));
        let files = Arc::new(files);
        let spawn = |number: usize| {
            let (root, files, stop, seen) = (root.to_owned(), files.clone(), stop.clone(), seen.clone());
            std::thread::spawn(move || {
                let mut before: Vec<u64> = vec![0; files.len()];
                while !stop.load(Ordering::Relaxed) {
                    for index in 0..files.len() {
                        // Each thread begins elsewhere, so that they do not read in step.
                        let index = (index + number * files.len() / threads.max(1)) % files.len();
                        let result = read(&root, files[index].as_str());
                        let mut seen = seen.lock().unwrap_or_else(|e| e.into_inner());
                        seen.note(files[index].as_str(), result, &mut before[index]);
                    }
                }
            })
        };
        let threads = (0..threads).map(spawn).collect();
        Readers { stop, seen, threads }
    }

    /// What was seen so far.
    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// Ends the reading.
    pub fn stop(mut self) -> Seen {
        self.end();
        self.seen()
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.end();
    }
}

impl Seen {
    /// Fails the test unless every read gave one whole version and something was read.
    ///
    /// # Panics
    /// With the findings.
    #[track_caller]
    pub fn assert_whole(&self) {
        assert!(self.reads > 0, "nothing was read");
        let lines: Vec<String> = self.findings.iter().map(ToString::to_string).collect();
        assert!(self.found == 0, "{} of {} reads were bad:\n{}", self.found, self.reads, lines.join("\n"));
    }

    fn note(&mut self, path: &str, result: io::Result<Result<u64, Flaw>>, before: &mut u64) {
        self.reads += 1;
        let path = path.to_owned();
        let finding = match result {
            Ok(Ok(version)) => {
                let last = std::mem::replace(before, version);
                self.changes += u64::from(last != 0 && last != version);
                let newest = self.newest.entry(path.clone()).or_default();
                *newest = version.max(*newest);
                if version >= last {
                    return;
                }
                Finding::Backwards { path, newer: last, older: version }
            }
            Ok(Err(flaw)) => Finding::Flawed { path, flaw },
            Err(e) if e.kind() == io::ErrorKind::NotFound => Finding::Missing { path },
            Err(e) => Finding::Unreadable { path, reason: e.to_string() },
        };
        self.found += 1;
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        }
    }
}

impl Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::Missing { path } => write!(f, "{path}: missing"),
            Finding::Flawed { path, flaw } => write!(f, "{path}: {flaw}"),
            Finding::Unreadable { path, reason } => write!(f, "{path}: {reason}"),
            Finding::Backwards { path, newer, older } => write!(f, "{path}: version {older} after version {newer}"),
        }
    }
}

/// Opens a file and reads it to its end: what an application sees.
fn read(root: &Path, path: &str) -> io::Result<Result<u64, Flaw>> {
    let mut file = File::open(root.join(path))?;
    let (mut content, mut chunk) = (Vec::new(), [0; CHUNK_BYTES]);
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(stamped::check(path, &content)),
            n => content.extend_from_slice(&chunk[..n]),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::*;
    use crate::stamped::{Style, Writer, compose, names};
    use crate::wait::wait_until;

    const LIMIT: Duration = Duration::from_secs(20);

    fn found(plant: impl FnOnce(&Path)) -> Vec<Finding> {
        let dir = tempfile::tempdir().unwrap();
        let files = names(2);
        Writer::create(dir.path(), &files, 20_000).unwrap();
        let readers = Readers::start(dir.path(), files.into_iter().map(|f| f.0).collect(), 2);
        wait_until("a read of all", LIMIT, || readers.seen().newest.len() == 2);
        readers.seen().assert_whole();
        plant(&dir.path().join("stamped/0/file-0"));
        wait_until("the finding", LIMIT, || readers.seen().found > 0);
        readers.stop().findings
    }

    #[test]
    fn each_planted_flaw_is_found() {
        let path = "stamped/0/file-0".to_owned();
        assert_eq!(found(|p| fs::remove_file(p).unwrap())[0], Finding::Missing { path: path.clone() });
        let empty = found(|p| {
            fs::write(p.with_extension("new"), "").unwrap();
            fs::rename(p.with_extension("new"), p).unwrap();
        });
        assert_eq!(empty[0], Finding::Flawed { path: path.clone(), flaw: Flaw::Empty });
        let mixed = found(|p| {
            let (one, two) = (fs::read(p).unwrap(), compose("stamped/0/file-0", 2, 20_000));
            fs::write(p.with_extension("new"), [&two[..9000], &one[9000..]].concat()).unwrap();
            fs::rename(p.with_extension("new"), p).unwrap();
        });
        assert!(matches!(&mixed[0], Finding::Flawed { flaw: Flaw::Broken { .. }, .. }), "{mixed:?}");
        let older = found(|p| {
            fs::write(p.with_extension("new"), compose("stamped/0/file-0", 0, 20_000)).unwrap();
            fs::rename(p.with_extension("new"), p).unwrap();
        });
        assert_eq!(older[0], Finding::Backwards { path, newer: 1, older: 0 });
    }

    #[test]
    fn renames_are_never_seen_and_plain_rewrites_are() {
        let dir = tempfile::tempdir().unwrap();
        for (style, clean) in [(Style::Replace, true), (Style::Rewrite, false)] {
            let root = dir.path().join(format!("{style:?}"));
            let files: Vec<_> = names(3).into_iter().map(|(name, _)| (name, style)).collect();
            Writer::create(&root, &files, 100_000).unwrap();
            let readers = Readers::start(&root, files.iter().map(|f| f.0.clone()).collect(), 2);
            let writer = Writer::start(&root, files, 100_000, Duration::from_millis(1));
            // This is what makes the test of the secondary meaningful: the same readers on the primary see it.
            wait_until("readers to see it", LIMIT, || {
                let seen = readers.seen();
                if clean { seen.changes > 50 } else { seen.found > 0 }
            });
            assert!(writer.stop().unwrap() > 0);
            let seen = readers.stop();
            assert_eq!(seen.found == 0, clean, "{:?}", seen.findings.first());
        }
    }
}
