//! Files that tell which version they are, from the first byte to the last.
//!
//! ```text
//! begin path=a/b version=7
//! version=7 line=0 xxxxxxxx...
//! ...
//! end path=a/b version=7 length=4096 blake3=...
//! ```
//! A file in which two versions are mixed, or that ends too early, can always be told.

use std::fmt::{self, Display, Write as _};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// How many bytes a plain rewrite writes at a time; with several writes its middle can be seen.
const REWRITE_CHUNK_BYTES: usize = 4096;

/// Filling of a line.
const PADDING: &str = "................................................................";

/// What is wrong with the content of a stamped file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Flaw {
    /// There is nothing in it.
    Empty,
    /// It is not one whole version.
    Broken {
        /// What does not fit.
        reason: String,
    },
}

impl Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Flaw::Empty => f.write_str("empty"),
            Flaw::Broken { reason } => write!(f, "not one whole version: {reason}"),
        }
    }
}

/// Makes the content of a version, of about `size_bytes`; the size varies with the version.
pub fn compose(path: &str, version: u64, size_bytes: usize) -> Vec<u8> {
    let mut text = format!("begin path={path} version={version}\n");
    let size_bytes = size_bytes + (version % 7) as usize * (size_bytes / 10);
    let mut line = 0;
    while text.len() < size_bytes {
        writeln!(text, "version={version} line={line} {PADDING}").expect("a string takes everything");
        line += 1;
    }
    let hash = blake3::hash(text.as_bytes()).to_hex();
    let length = text.len();
    writeln!(text, "end path={path} version={version} length={length} blake3={hash}").expect("as above");
    text.into_bytes()
}

/// The version that this content is.
///
/// # Errors
/// When it is none, or not all of one.
pub fn check(path: &str, content: &[u8]) -> Result<u64, Flaw> {
    if content.is_empty() {
        return Err(Flaw::Empty);
    }
    let broken = |reason: String| Flaw::Broken { reason };
    let text = std::str::from_utf8(content).map_err(|e| broken(e.to_string()))?;
    let mut lines = text.split_inclusive('\n');
    let first = lines.next().unwrap_or_default();
    let version = first.strip_prefix(&format!("begin path={path} version=")).and_then(|v| v.trim_end().parse().ok());
    let version: u64 = version.ok_or_else(|| broken(format!("it begins with {first:?}")))?;
    let mut length = first.len();
    for (number, line) in lines.by_ref().enumerate() {
        if line.starts_with("end ") {
            let hash = blake3::hash(&content[..length]).to_hex();
            let expected = format!("end path={path} version={version} length={length} blake3={hash}\n");
            return match (line == expected, lines.next()) {
                (true, None) => Ok(version),
                (true, Some(more)) => Err(broken(format!("version {version} goes on with {more:?}"))),
                (false, _) => Err(broken(format!("version {version} ends with {line:?}"))),
            };
        }
        if line != format!("version={version} line={number} {PADDING}\n") {
            return Err(broken(format!("version {version} has {line:?} as line {number}")));
        }
        length += line.len();
    }
    Err(broken(format!("version {version} breaks off after {length} bytes")))
}

/// How new versions are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Style {
    /// A temporary file beside it, then rename: atomic on the primary, too.
    Replace,
    /// Truncated and written anew, in several writes: on the primary its middle can be seen.
    Rewrite,
}

/// Stamped files in a directory of the primary, and a thread that writes new versions; stopped on drop.
#[derive(Debug)]
pub struct Writer {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

/// Names of files with the style of each, alternately.
pub fn names(count: usize) -> Vec<(String, Style)> {
    let style = |number| if number % 2 == 0 { Style::Replace } else { Style::Rewrite };
    (0..count).map(|number| (format!("stamped/{}/file-{number}", number % 3), style(number))).collect()
}

/// Writes one version of a file.
///
/// # Errors
/// What the system says.
pub fn write(root: &Path, name: &str, style: Style, version: u64, size_bytes: usize) -> io::Result<()> {
    let path = root.join(name);
    let content = compose(name, version, size_bytes);
    match style {
        Style::Replace => {
            let temporary = temporary_beside(&path);
            fs::write(&temporary, content)?;
            fs::rename(temporary, path)
        }
        Style::Rewrite => {
            let mut file = File::create(path)?;
            content.chunks(REWRITE_CHUNK_BYTES).try_for_each(|chunk| file.write_all(chunk))
        }
    }
}

impl Writer {
    /// Writes version 1 of all files.
    ///
    /// # Errors
    /// What the system says.
    pub fn create(root: &Path, files: &[(String, Style)], size_bytes: usize) -> io::Result<()> {
        for (name, style) in files {
            fs::create_dir_all(root.join(name).parent().unwrap_or(root))?;
            write(root, name, *style, 1, size_bytes)?;
        }
        Ok(())
    }

    /// Goes on with new versions of one file after the other, with a pause between two.
    pub fn start(root: &Path, files: Vec<(String, Style)>, size_bytes: usize, pause: Duration) -> Writer {
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (root, stopped, count) = (root.to_owned(), stop.clone(), written.clone());
        let thread = std::thread::spawn(move || {
            for version in 2.. {
                for (name, style) in &files {
                    if stopped.load(Ordering::Relaxed) {
                        return Ok(());
                    }
                    write(&root, name, *style, version, size_bytes)?;
                    count.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(pause);
                }
            }
            Ok(())
        });
        Writer { stop, written, thread: Some(thread) }
    }

    /// How many versions were written so far.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Stops after the file that is being written; all files are whole then.
    ///
    /// # Errors
    /// What stopped the writer before.
    pub fn stop(mut self) -> io::Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result?,
            Some(Err(_)) => return Err(io::Error::other("the writer panicked")),
            None => {}
        }
        Ok(self.written())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn temporary_beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_versions_are_known() {
        for version in [1, 2, 10, 1_000_000] {
            for size in [0, 100, 10_000] {
                assert_eq!(check("a/b", &compose("a/b", version, size)), Ok(version));
            }
        }
    }

    #[test]
    fn every_mixture_and_every_torn_end_is_found() {
        let (old, new) = (compose("f", 8, 1000), compose("f", 9, 1000));
        assert_eq!(check("f", b""), Err(Flaw::Empty));
        for at in 1..old.len().min(new.len()) {
            let mixed = [&new[..at], &old[at..]].concat();
            assert!(mixed == old || check("f", &mixed).is_err(), "mixed at {at}");
            assert!(check("f", &new[..at]).is_err(), "torn at {at}");
            let hole = [&new[..at - 1], b"\0", &new[at..]].concat();
            assert!(check("f", &hole).is_err(), "hole at {at}");
        }
        assert!(check("f", &[new.as_slice(), b"x"].concat()).is_err());
        assert!(check("g", &new).is_err(), "the content of another file");
    }
}
