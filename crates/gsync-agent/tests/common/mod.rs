//! What the tests share: roots on several file systems, an agent's tree in this process, agents as processes.
#![allow(dead_code)]

pub mod filesystem;
pub mod model;
pub mod worker;

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use gsync_agent::apply::{Staging, batch};
use gsync_agent::crawl::open_tree;
use gsync_agent::private::Private;
use gsync_agent::stage::{Attributes, Stages};
use gsync_agent::stamp::{self, At};
use gsync_agent::tree::Tree;
use protocol::agent::{Batch, Item, Outcome, Response};
use protocol::{Gfid, Kind, Object, Place, Time};

/// A small GFID.
pub fn gfid(n: u32) -> Gfid {
    let mut bytes = [7; 16];
    bytes[..4].copy_from_slice(&n.to_be_bytes());
    Gfid(bytes)
}

pub fn place(parent: Gfid, name: &str) -> Place {
    Place { parent, name: name.into() }
}

pub fn object(kind: Kind) -> Object {
    Object {
        kind,
        mode: 0o750,
        uid: 12,
        gid: 34,
        nlink: 1,
        rdev: 0,
        size: 0,
        mtime: Time { secs: 1_000_000_000, nanos: 123_456_789 },
        ctime: Time { secs: 1_000_000_000, nanos: 123_456_789 },
        target: if kind == Kind::Symlink { b"to/nowhere".to_vec() } else { Vec::new() },
        xattrs: Vec::new(),
    }
}

pub fn file_object(content: &[u8], version: u32) -> Object {
    let time = Time { secs: 1_000_000_000 + i64::from(version), nanos: 5 };
    Object { size: content.len() as u64, mtime: time, ctime: time, ..object(Kind::File) }
}

pub fn bind(parent: Gfid, name: &str, gfid: Gfid, kind: Kind) -> Item {
    Item::Bind { place: place(parent, name), gfid, from: None, object: object(kind) }
}

pub fn rename(from: (Gfid, &str), to: (Gfid, &str), gfid: Gfid, kind: Kind) -> Item {
    Item::Bind { place: place(to.0, to.1), gfid, from: Some(place(from.0, from.1)), object: object(kind) }
}

pub fn unbind(parent: Gfid, name: &str, gfid: Gfid) -> Item {
    Item::Unbind { place: place(parent, name), gfid }
}

/// An agent's tree without threads and channels.
pub struct Local {
    pub private: Arc<Private>,
    pub stages: Stages,
    pub staging: Staging,
    pub tree: Tree,
}

impl Local {
    pub fn open(root: &Path) -> Local {
        let private = Arc::new(Private::open(root).expect("the tests need root"));
        let tree = open_tree(private.clone(), 64).unwrap();
        let stages = Stages::default();
        let staging = Staging::new(stages.create(&private).unwrap());
        Local { private, stages, staging, tree }
    }

    pub fn apply(&mut self, items: Vec<Item>) -> Vec<Outcome> {
        self.apply_gone(items, Vec::new()).0
    }

    pub fn apply_gone(&mut self, items: Vec<Item>, gone: Vec<Gfid>) -> (Vec<Outcome>, Vec<Outcome>) {
        match batch(&mut self.tree, &mut self.staging, &Batch { items, gone }).unwrap() {
            Response::Applied { items, gone, .. } => (items, gone),
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    pub fn done(&mut self, items: Vec<Item>) {
        let outcomes = self.apply(items.clone());
        for (item, outcome) in items.iter().zip(&outcomes) {
            assert_eq!(*outcome, Outcome::Done, "{item:?}");
        }
    }

    /// Stages content as a finished stage channel does.
    pub fn stage(&mut self, gfid: Gfid, content: &[u8]) {
        let stage = &self.staging.stage;
        let number = stage.next_number();
        let path = format!("{}/{number}", posix::fd_path(stage.dir.as_fd()));
        std::fs::write(path, content).unwrap();
        // Others than any object has, so that they have to be set.
        let attributes = Attributes { mode: 0o600, uid: 1, gid: 1, mtime: Time { secs: 0, nanos: 0 } };
        stage.complete(gfid, number, attributes).unwrap();
    }

    /// Content and name of a new file.
    pub fn new_file(&mut self, parent: Gfid, name: &str, gfid: Gfid, content: &[u8]) {
        self.stage(gfid, content);
        let object = file_object(content, 1);
        self.done(vec![
            Item::Content { gfid, object: object.clone(), whole: false },
            Item::Bind { place: place(parent, name), gfid, from: None, object },
        ]);
    }

    /// Makes everything durable and stops cleanly.
    pub fn close(mut self) {
        self.tree.sync().unwrap();
        self.private.put_clean_marker().unwrap();
    }
}

/// What is below a root: path to kind, stamp and content (or link target).
pub type Seen = BTreeMap<String, (Kind, Option<Gfid>, Vec<u8>)>;

/// Reads what is below a directory, `.gsync` left out.
pub fn look(root: &Path) -> Seen {
    let mut seen = Seen::new();
    let mut todo = vec![String::new()];
    while let Some(path) = todo.pop() {
        let dir = std::fs::File::open(root.join(&path)).unwrap();
        for entry in std::fs::read_dir(root.join(&path)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if path.is_empty() && name == ".gsync" {
                continue;
            }
            let stamp = match stamp::at(dir.as_fd(), name.as_bytes()).unwrap() {
                At::Known(gfid) => Some(gfid),
                _ => None,
            };
            let child = if path.is_empty() { name } else { format!("{path}/{name}") };
            let full = root.join(&child);
            let meta = full.symlink_metadata().unwrap();
            let kind = Kind::from_st_mode(meta.mode()).unwrap();
            let content = match kind {
                Kind::File => std::fs::read(&full).unwrap(),
                Kind::Symlink => std::fs::read_link(&full).unwrap().into_os_string().into_encoded_bytes(),
                _ => Vec::new(),
            };
            if kind == Kind::Directory {
                todo.push(child.clone());
            }
            seen.insert(child, (kind, stamp, content));
        }
    }
    seen
}

/// Paths and stamps only.
pub fn names(root: &Path) -> Vec<(String, Option<Gfid>)> {
    look(root).into_iter().map(|(path, (_, gfid, _))| (path, gfid)).collect()
}

pub fn list(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A seed for a randomised test: from the environment, or a new one; always printed.
pub fn seed(variable: &str) -> u64 {
    let seed = std::env::var(variable).ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("{variable}={seed}");
    seed
}
