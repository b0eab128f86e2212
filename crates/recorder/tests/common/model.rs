//! A tree to which records are applied, and its comparison with a disk.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use changelog::{EntryName, EntryOp, Gfid, JournalReader, Position, Record};

/// What a consumer of the changelog believes.
#[derive(Clone, Default, Debug)]
pub struct Model {
    pub entries: BTreeMap<(Gfid, Vec<u8>), Gfid>,
    pub kinds: HashMap<Gfid, char>,
    /// Objects for which content was announced.
    pub data: HashMap<Gfid, u64>,
    pub meta: HashMap<Gfid, u64>,
    pub parks: u64,
    pub records: u64,
    /// Replayed records are forgiven.
    pub lenient: bool,
    pub position: Position,
}

impl Model {
    /// Reads what is new in a journal and applies it.
    pub fn read(&mut self, journal: &Path) -> Vec<Record> {
        let mut reader = JournalReader::open(journal, self.position).unwrap();
        let mut all = Vec::new();
        loop {
            let batch = reader.read(10_000).unwrap();
            assert!(batch.unproven.is_empty(), "unproven: {:?}", batch.unproven);
            self.position = batch.next;
            for (position, record) in batch.records {
                let result = self.apply(&record);
                if !self.lenient
                    && let Err(reason) = result
                {
                    panic!("record {record:?} at {position} cannot be applied: {reason}\n{self:#?}");
                }
                all.push(record);
            }
            if batch.at_tail {
                return all;
            }
        }
    }

    pub fn apply(&mut self, record: &Record) -> Result<(), String> {
        self.records += 1;
        let (gfid, op) = match record {
            Record::Data(gfid) => {
                *self.data.entry(*gfid).or_default() += 1;
                return Ok(());
            }
            Record::Meta(gfid, _) => {
                *self.meta.entry(*gfid).or_default() += 1;
                return Ok(());
            }
            Record::Entry(gfid, op) => (*gfid, op),
        };
        match op {
            EntryOp::Create(birth, entry) => {
                self.make(gfid, entry, if birth.mode & 0o170000 == 0o100000 { 'f' } else { '!' })
            }
            EntryOp::Mkdir(birth, entry) => {
                self.make(gfid, entry, if birth.mode & 0o170000 == 0o040000 { 'd' } else { '!' })
            }
            EntryOp::Symlink(entry) => self.make(gfid, entry, 'l'),
            EntryOp::Mknod(birth, entry) => {
                self.make(gfid, entry, if birth.mode & 0o170000 == 0o010000 { 'p' } else { 's' })
            }
            EntryOp::Link(entry) => {
                if !self.kinds.contains_key(&gfid) && !self.lenient {
                    return Err("ENOENT: link of an unknown object".into());
                }
                self.put(gfid, entry)
            }
            EntryOp::Rename(from, to) => self.rename(gfid, from, to),
            EntryOp::Unlink(entry, _) => self.unlink(gfid, entry, false),
            EntryOp::Rmdir(entry, _) => self.unlink(gfid, entry, true),
        }
    }

    fn make(&mut self, gfid: Gfid, entry: &EntryName, kind: char) -> Result<(), String> {
        if self.kinds.contains_key(&gfid) {
            if !self.lenient {
                return Err("EEXIST: the object exists".into());
            }
            if kind == 'd' {
                self.drop_names(gfid);
            }
        }
        self.kinds.insert(gfid, kind);
        self.put(gfid, entry)
    }

    fn put(&mut self, gfid: Gfid, entry: &EntryName) -> Result<(), String> {
        let parent_ok =
            matches!(entry.parent, Gfid::ROOT | Gfid::PARKING) || self.kinds.get(&entry.parent) == Some(&'d');
        if !parent_ok && !self.lenient {
            return Err("ENOENT: the directory does not exist".into());
        }
        match self.entries.insert((entry.parent, entry.name.clone()), gfid) {
            Some(_) if !self.lenient => Err("EEXIST: the name is taken".into()),
            _ => Ok(()),
        }
    }

    fn rename(&mut self, gfid: Gfid, from: &EntryName, to: &EntryName) -> Result<(), String> {
        if to.parent == Gfid::PARKING {
            assert_eq!(to.name, gfid.to_string().as_bytes());
            self.parks += 1;
        }
        let mut at = to.parent;
        while !self.lenient && self.kinds.get(&gfid) == Some(&'d') {
            if at == gfid {
                return Err("EINVAL: into itself".into());
            }
            match self.entries.iter().find(|(_, child)| **child == at) {
                Some(((parent, _), _)) => at = *parent,
                None => break,
            }
        }
        if self.lenient && self.kinds.get(&gfid) == Some(&'d') {
            self.drop_names(gfid);
        }
        let key = (from.parent, from.name.clone());
        if self.entries.get(&key) == Some(&gfid) {
            self.entries.remove(&key);
        } else if !self.lenient {
            return Err("ENOENT: not there".into());
        }
        if self.lenient {
            self.kinds.entry(gfid).or_insert('?');
        }
        self.put(gfid, to)
    }

    fn drop_names(&mut self, gfid: Gfid) {
        self.entries.retain(|_, child| *child != gfid);
    }

    fn unlink(&mut self, gfid: Gfid, entry: &EntryName, dir: bool) -> Result<(), String> {
        let key = (entry.parent, entry.name.clone());
        if self.entries.get(&key) != Some(&gfid) {
            return if self.lenient { Ok(()) } else { Err("ENOENT: not there".into()) };
        }
        if (self.kinds.get(&gfid) == Some(&'d')) != dir && !self.lenient {
            return Err("ENOTDIR or EISDIR".into());
        }
        let first = self.entries.range((gfid, Vec::new())..).next();
        if dir && !self.lenient && first.is_some_and(|((parent, _), _)| *parent == gfid) {
            return Err("ENOTEMPTY".into());
        }
        self.entries.remove(&key);
        if !self.entries.values().any(|child| *child == gfid) {
            self.kinds.remove(&gfid);
        }
        Ok(())
    }

    /// Path -> (kind, GFID) of everything that is reachable from the root.
    pub fn paths(&self) -> BTreeMap<Vec<u8>, (char, Gfid)> {
        let mut paths = BTreeMap::new();
        let mut work = vec![(Gfid::ROOT, Vec::new())];
        while let Some((dir, path)) = work.pop() {
            for ((parent, name), child) in self.entries.range((dir, Vec::new())..) {
                if *parent != dir {
                    break;
                }
                let mut below = path.clone();
                below.push(b'/');
                below.extend_from_slice(name);
                let kind = self.kinds.get(child).copied().unwrap_or('?');
                paths.insert(below.clone(), (kind, *child));
                if kind == 'd' {
                    work.push((*child, below));
                }
            }
        }
        paths
    }

    /// Panics unless the tree is that of the disk: names, types, hard links; nothing else, nothing parked.
    pub fn assert_equals_disk(&self, root: &Path) {
        let ours = self.paths();
        let disk = scan(root);
        let mut problems = Vec::new();
        for (path, (kind, _)) in &disk {
            match ours.get(path) {
                None => problems.push(format!("missing: {} ({kind})", String::from_utf8_lossy(path))),
                Some((our, _)) if our != kind && *our != '?' => {
                    problems.push(format!("{}: {our} instead of {kind}", String::from_utf8_lossy(path)));
                }
                Some(_) => {}
            }
        }
        for (path, (kind, gfid)) in &ours {
            if !disk.contains_key(path) {
                problems.push(format!("too much: {} ({kind} {gfid})", String::from_utf8_lossy(path)));
            }
        }
        let (mut by_gfid, mut by_inode) = (HashMap::new(), HashMap::new());
        for (path, (_, inode)) in &disk {
            let Some((_, gfid)) = ours.get(path) else { continue };
            if *by_gfid.entry(*gfid).or_insert(*inode) != *inode || *by_inode.entry(*inode).or_insert(*gfid) != *gfid {
                problems.push(format!("identity of {} differs", String::from_utf8_lossy(path)));
            }
        }
        if !self.lenient {
            let reachable: HashSet<Gfid> = ours.values().map(|(_, gfid)| *gfid).collect();
            for (key, gfid) in self.entries.iter().filter(|(_, gfid)| !reachable.contains(gfid)) {
                problems.push(format!("left over: {gfid} at {key:?}"));
            }
        }
        assert!(problems.is_empty(), "the changelog's tree is not the disk's:\n{}", problems.join("\n"));
    }

    /// Panics unless content of every file that has some was announced.
    pub fn assert_data_announced(&self, root: &Path) {
        for (path, (kind, gfid)) in self.paths() {
            if kind == 'f' {
                let full = root.join(std::str::from_utf8(&path[1..]).unwrap());
                let size = std::fs::symlink_metadata(&full).unwrap().len();
                assert!(size == 0 || self.data.contains_key(&gfid), "no D for {full:?}");
            }
        }
    }
}

/// Path -> (kind, inode) of what is on the disk.
pub fn scan(root: &Path) -> BTreeMap<Vec<u8>, (char, (u64, u64))> {
    use std::os::unix::ffi::OsStrExt;
    let mut found = BTreeMap::new();
    let mut work = vec![root.to_owned()];
    while let Some(dir) = work.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let entry = entry.unwrap();
            let path = entry.path();
            if path == root.join(".gsync") {
                continue;
            }
            let stat = std::fs::symlink_metadata(&path).unwrap();
            let kind = match stat.file_type() {
                t if t.is_dir() => 'd',
                t if t.is_symlink() => 'l',
                t if t.is_fifo() => 'p',
                t if t.is_file() => 'f',
                _ => 's',
            };
            let name = path.as_os_str().as_bytes()[root.as_os_str().len()..].to_vec();
            found.insert(name, (kind, (stat.dev(), stat.ino())));
            if kind == 'd' {
                work.push(path);
            }
        }
    }
    found
}

/// Panics unless the index of a stopped recorder has the sizes and times of the disk.
pub fn assert_index_fresh(index: &Path, root: &Path, model: &Model) {
    let index = recorder::index::Index::open(index).unwrap();
    let view = index.view().unwrap();
    for (path, (kind, gfid)) in model.paths() {
        let full = root.join(std::str::from_utf8(&path[1..]).unwrap());
        let stat = std::fs::symlink_metadata(&full).unwrap();
        let row = view.object(gfid).unwrap().unwrap_or_else(|| panic!("{full:?} is not in the index"));
        assert!(!row.owed, "{full:?} is owed a D record");
        let have = (row.stamp.mtime.secs, row.stamp.mtime.nanos, row.stamp.ctime.secs, row.stamp.ctime.nanos);
        let want = (stat.mtime(), stat.mtime_nsec() as u32, stat.ctime(), stat.ctime_nsec() as u32);
        assert_eq!(have, want, "times of {full:?} in the index");
        if kind == 'f' {
            assert_eq!(row.stamp.size, stat.len(), "size of {full:?} in the index");
        }
    }
    assert_eq!(
        view.objects().unwrap() as usize,
        1 + model.paths().values().map(|(_, g)| *g).collect::<HashSet<_>>().len()
    );
}
