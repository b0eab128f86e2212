//! Paths below a root, as bytes, in the order in which a walk meets them.

use std::cmp::Ordering;
use std::fmt::{self, Display, Write};

use serde::{Serialize, Serializer};

/// A path relative to the root of a tree; empty for the root itself.
///
/// The order is that of a depth-first walk with each directory's names in byte order: a directory comes before what is
/// below it, and all of that before the directory's next sibling. Shown, and in JSON, it is percent-encoded outside
/// printable ASCII and `%`; the root is shown as `.`.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct TreePath(Vec<u8>);

impl TreePath {
    /// The root of a tree.
    pub fn root() -> TreePath {
        TreePath::default()
    }

    /// Takes bytes that may come from anywhere; `None` unless each component is a name that a file system can have.
    pub fn from_bytes(bytes: Vec<u8>) -> Option<TreePath> {
        let valid = |name: &[u8]| !name.is_empty() && name != b"." && name != b".." && !name.contains(&0);
        (bytes.is_empty() || bytes.split(|b| *b == b'/').all(valid)).then_some(TreePath(bytes))
    }

    /// The bytes, without a slash at either end.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether this is the root itself.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The path of `name` in this directory.
    #[must_use]
    pub fn join(&self, name: &[u8]) -> TreePath {
        let mut path = self.clone();
        path.push(name);
        path
    }

    /// The directory that holds the last name, and that name; `None` for the root.
    pub fn split_last(&self) -> Option<(TreePath, &[u8])> {
        if self.is_root() {
            return None;
        }
        Some(match self.0.iter().rposition(|b| *b == b'/') {
            Some(slash) => (TreePath(self.0[..slash].to_vec()), &self.0[slash + 1..]),
            None => (TreePath::root(), &self.0),
        })
    }

    /// The names from the root on.
    pub fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|b| *b == b'/').filter(|name| !name.is_empty())
    }

    /// Whether this path lies below `directory`, and is not `directory` itself.
    pub fn is_below(&self, directory: &TreePath) -> bool {
        match self.0.strip_prefix(directory.as_bytes()) {
            Some(rest) => !rest.is_empty() && (directory.is_root() || rest[0] == b'/'),
            None => false,
        }
    }

    /// Whether this is the private directory of the replication or lies in it.
    pub fn is_private(&self) -> bool {
        self.names().next() == Some(crate::PRIVATE_DIR)
    }

    pub(crate) fn push(&mut self, name: &[u8]) {
        if !self.0.is_empty() {
            self.0.push(b'/');
        }
        self.0.extend_from_slice(name);
    }

    pub(crate) fn pop(&mut self) {
        let end = self.0.iter().rposition(|b| *b == b'/').unwrap_or(0);
        self.0.truncate(end);
    }
}

impl Ord for TreePath {
    fn cmp(&self, other: &TreePath) -> Ordering {
        // No name contains NUL, so a slash that counts as NUL ends a name before any longer name with the same
        // beginning.
        let rank = |byte: &u8| if *byte == b'/' { 0 } else { *byte };
        let shared = shared_bytes(&self.0, &other.0);
        self.0.get(shared).map(rank).cmp(&other.0.get(shared).map(rank))
    }
}

impl PartialOrd for TreePath {
    fn partial_cmp(&self, other: &TreePath) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() {
            return f.write_str(".");
        }
        write_encoded(f, &self.0)
    }
}

impl Serialize for TreePath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// How many bytes two paths have in common at their beginning. By blocks: the paths of a deep tree are long, and those
/// that are compared are mostly neighbours.
pub(crate) fn shared_bytes(a: &[u8], b: &[u8]) -> usize {
    const BLOCK_BYTES: usize = 256;
    let blocks = a.chunks(BLOCK_BYTES).zip(b.chunks(BLOCK_BYTES)).take_while(|(a, b)| a == b).count();
    let start = (blocks * BLOCK_BYTES).min(a.len()).min(b.len());
    start + a[start..].iter().zip(&b[start..]).take_while(|(a, b)| a == b).count()
}

/// Writes bytes percent-encoded outside printable ASCII and `%`.
pub(crate) fn write_encoded(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    for byte in bytes {
        match byte {
            b'%' => f.write_str("%25")?,
            b' '..=b'~' => f.write_char(char::from(*byte))?,
            other => write!(f, "%{other:02X}")?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> TreePath {
        TreePath::from_bytes(text.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn the_order_is_that_of_the_walk() {
        // By plain bytes `a-b` and `a.b` would come before `a/b`, in the middle of what is below `a`.
        let walked = ["", "a", "a/b", "a/b/c", "a/z", "a-b", "a.b", "aa", "b"].map(path);
        let mut sorted = walked.to_vec();
        sorted.sort();
        assert_eq!(sorted, walked);
    }

    #[test]
    fn long_paths_are_ordered_by_what_differs() {
        for length in [254, 255, 256, 257, 511, 512, 513, 1000] {
            let long = "x/".repeat(length / 2) + if length % 2 == 1 { "x" } else { "" };
            assert_eq!(shared_bytes(long.as_bytes(), long.as_bytes()), length);
            assert_eq!(shared_bytes(long.as_bytes(), (long.clone() + "y").as_bytes()), length);
            let (a, b) = (path(&format!("{long}a")), path(&format!("{long}b")));
            assert!(a < b);
            assert!(a < a.join(b"c") && a.join(b"c") < b);
        }
    }

    #[test]
    fn below_is_by_whole_names() {
        assert!(path("a/b").is_below(&path("a")));
        assert!(path("a").is_below(&TreePath::root()));
        assert!(!path("ab").is_below(&path("a")));
        assert!(!path("a").is_below(&path("a")));
        assert!(!TreePath::root().is_below(&TreePath::root()));
    }

    #[test]
    fn what_no_file_system_has_is_refused() {
        for bad in ["/", "/a", "a/", "a//b", ".", "..", "a/../b", "a/./b", "a\0b"] {
            assert_eq!(TreePath::from_bytes(bad.as_bytes().to_vec()), None, "{bad:?}");
        }
        assert!(TreePath::from_bytes(b"...".to_vec()).is_some());
    }

    #[test]
    fn shown_paths_are_one_line_of_ascii() {
        assert_eq!(TreePath::from_bytes(b"a b/100%\n\xff".to_vec()).unwrap().to_string(), "a b/100%25%0A%FF");
        assert_eq!(TreePath::root().to_string(), ".");
    }

    #[test]
    fn names_go_on_and_off() {
        let mut at = TreePath::root();
        at.push(b"a");
        at.push(b"b");
        assert_eq!(at, path("a/b"));
        assert_eq!(at.split_last(), Some((path("a"), b"b".as_slice())));
        at.pop();
        at.pop();
        assert_eq!(at, TreePath::root());
        assert_eq!(at.split_last(), None);
    }

    #[test]
    fn only_the_roots_own_private_directory_is_private() {
        assert!(path(".gsync").is_private() && path(".gsync/stage").is_private());
        assert!(!path("a/.gsync").is_private() && !path(".gsync2").is_private());
    }
}
