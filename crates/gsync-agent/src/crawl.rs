//! The tree opened at the start: with its index after a clean stop, else with a new one made from the stamps.

use std::os::fd::AsFd;
use std::sync::Arc;

use posix::{Kind, Object, beneath};
use protocol::{Gfid, Place};
use rustix::fs::{AtFlags, Dir, Mode, OFlags, RenameFlags};

use crate::apply::content::{relink, relink_spot};
use crate::error::{AgentError, Step, Tried, Trouble};
use crate::index::{Index, OldIndex, Row};
use crate::private::{INDEX, OLD_INDEX, PRIVATE, Private};
use crate::stamp::{self, At};
use crate::tree::{Spot, Tree, check_gfid};

/// Opens the tree of a root; takes as long as reading all directories below it after an unclean stop.
///
/// # Errors
/// [`AgentError`] when the root cannot be served.
pub fn open_tree(private: Arc<Private>, open_directories: usize) -> Result<Tree, AgentError> {
    let own = |name| move |source| AgentError::Private { name, source };
    let same_boot = private.is_same_boot().map_err(own("boot"))?;
    let clean = private.take_clean_marker().map_err(own("clean"))?;
    private.sweep().map_err(own("stage"))?;
    stamp_root(&private)?;
    let can_clone = can_clone(&private);
    let index_path = private.path_to(INDEX);
    let old_path = private.path_to(OLD_INDEX);
    if clean && std::fs::exists(&index_path).unwrap_or(false) {
        match Index::open(&index_path) {
            Ok(index) => {
                private.note_boot().map_err(own("boot"))?;
                return Ok(Tree::new(private, index, can_clone, open_directories));
            }
            Err(error) => tracing::warn!(%error, "the index cannot be used; a new one is made"),
        }
    }
    // An old one that is still there is whole; the other is what an interrupted crawl left.
    if std::fs::exists(&old_path).unwrap_or(false) {
        remove_if_there(&index_path)?;
    } else if std::fs::exists(&index_path).unwrap_or(false) {
        std::fs::rename(&index_path, &old_path).map_err(own(INDEX))?;
    }
    let old = OldIndex::open(&old_path);
    let mut tree = Tree::new(private, Index::create(&index_path)?, can_clone, open_directories);
    tracing::info!(has_old_index = old.is_some(), "the index is made again from the stamps");
    let mut crawl = Crawl { tree: &mut tree, old, same_boot, objects: 0 };
    crawl.run().map_err(explain)?;
    tracing::info!(objects = crawl.objects, "the index is complete");
    remove_if_there(&old_path)?;
    // Last: a crawl that is interrupted has to begin again with the same doubt.
    tree.private.note_boot().map_err(own("boot"))?;
    Ok(tree)
}

struct Crawl<'a> {
    tree: &'a mut Tree,
    old: Option<OldIndex>,
    /// Whether contents are on the disk of which the old index tells. After a power cut size and mtime prove nothing: a
    /// clone that was patched may have the old content with the new times.
    same_boot: bool,
    objects: u64,
}

impl Crawl<'_> {
    fn run(&mut self) -> Step<()> {
        let (root, _) = self.tree.stat(&Spot::unindexed(&self.tree.private.root, "."))?;
        self.put(Gfid::ROOT, &root)?;
        self.tree.index.push_crawl(Gfid::ROOT)?;
        self.drain()?;
        // Names in the tree count before those in the parking place.
        self.directory(Gfid::PARKING)?;
        self.drain()?;
        self.finish_relinks()?;
        self.tree.touched.clear();
        self.tree.quarantined.clear();
        self.tree.index.set_complete()?;
        self.tree.sync()
    }

    fn drain(&mut self) -> Step<()> {
        while let Some(gfid) = self.tree.index.pop_crawl()? {
            self.directory(gfid)?;
        }
        Ok(())
    }

    fn directory(&mut self, gfid: Gfid) -> Step<()> {
        let Some(dir) = self.tree.directory(gfid)? else { return Ok(()) };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let readable = beneath::open_file(dir.as_fd(), b".", flags, Mode::empty()).tried("open a directory")?;
        for entry in Dir::new(readable).tried("read a directory")? {
            let entry = entry.tried("read a directory")?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") || (gfid == Gfid::ROOT && name == PRIVATE) {
                continue;
            }
            let place = Place { parent: gfid, name: name.to_vec() };
            let spot = Spot { dir: dir.clone(), name: name.to_vec(), place: Some(place) };
            self.entry(&spot)?;
        }
        Ok(())
    }

    fn entry(&mut self, spot: &Spot) -> Step<()> {
        let gfid = match self.tree.at(spot)? {
            At::Absent => return Ok(()),
            At::Unknown if spot.is_parked() => return self.tree.quarantine(spot),
            At::Unknown => return Ok(()),
            At::Known(gfid) if check_gfid(gfid).is_err() => return self.disown(gfid, spot),
            At::Known(gfid) => gfid,
        };
        let (object, inode) = self.tree.stat(spot)?;
        if let Some(row) = self.tree.index.get(gfid)? {
            return if self.is_same(gfid, &row, object.kind, inode)? {
                self.tree.arrived(gfid, spot)
            } else {
                self.disown(gfid, spot)
            };
        }
        self.put(gfid, &object)?;
        let spot = if spot.is_parked() { self.parked_properly(gfid, spot)? } else { spot.clone() };
        self.tree.arrived(gfid, &spot)?;
        if object.kind == Kind::Directory {
            self.tree.index.push_crawl(gfid)?;
        }
        Ok(())
    }

    /// A parked object under its own name; an exchange that was interrupted leaves one under another's.
    fn parked_properly(&mut self, gfid: Gfid, spot: &Spot) -> Step<Spot> {
        let proper = self.tree.parking_of(gfid);
        if proper.name == spot.name {
            return Ok(proper);
        }
        match self.tree.rename(gfid, spot, &proper, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(proper),
            Err(Trouble::Answer(_)) => Ok(spot.clone()),
            Err(e) => Err(e),
        }
    }

    /// Whether an object found under a second name is the one that was found first.
    fn is_same(&mut self, gfid: Gfid, row: &Row, kind: Kind, inode: u64) -> Step<bool> {
        if kind == Kind::Directory || row.kind != kind {
            return Ok(false);
        }
        let marker = relink_spot(&self.tree.private, gfid);
        if self.tree.at(&marker)? == At::Known(gfid) {
            return Ok(true);
        }
        let Some(first) = self.tree.find(gfid, |_| true)? else { return Ok(true) };
        Ok(self.tree.stat(&first)?.1 == inode)
    }

    /// Takes a stamp away that belongs to another object, e.g. of a copy made with `cp -a`.
    fn disown(&mut self, gfid: Gfid, spot: &Spot) -> Step<()> {
        tracing::warn!(%gfid, name = %spot.name.escape_ascii(), "a second object with the same stamp is unknown now");
        if spot.is_parked() {
            self.tree.quarantine(spot)?;
            return Ok(());
        }
        stamp::remove_at(spot.dir.as_fd(), &spot.name).tried("remove a stamp")
    }

    fn put(&mut self, gfid: Gfid, object: &Object) -> Step<()> {
        let old = self.old.as_ref().and_then(|old| old.get(gfid)).filter(|row| row.kind == object.kind);
        let mut row = Row::new(object.kind);
        match object.kind {
            Kind::Directory => row.mtime = old.and_then(|row| row.mtime).or(Some(object.mtime)),
            Kind::File => {
                let version = old.and_then(|row| row.version).filter(|_| self.same_boot);
                row.version = version.filter(|v| (v.size, v.mtime) == (object.size, object.mtime));
            }
            _ => {}
        }
        self.objects += 1;
        Ok(self.tree.index.put(gfid, &row)?)
    }

    /// Completes the replacing of files with several names that was interrupted.
    fn finish_relinks(&mut self) -> Step<()> {
        for entry in Dir::read_from(&self.tree.private.relink).tried("read relink/")? {
            let entry = entry.tried("read relink/")?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            let marker = Spot::unindexed(&self.tree.private.relink, name);
            if let Ok(gfid) = Gfid::parse(name)
                && self.tree.at(&marker)? == At::Known(gfid)
            {
                let names = self.tree.find_all(gfid)?;
                relink(self.tree, gfid, &marker, &names)?;
                if let Some(row) = self.tree.index.get(gfid)? {
                    self.tree.index.put(gfid, &Row { version: None, ..row })?;
                }
            }
            self.tree.unlink(None, &marker)?;
        }
        Ok(())
    }
}

fn stamp_root(private: &Private) -> Result<(), AgentError> {
    let stamped = stamp::of(private.root.as_fd()).and_then(|found| match found {
        Some(Gfid::ROOT) => Ok(()),
        _ => stamp::set(private.root.as_fd(), Gfid::ROOT),
    });
    stamped.map_err(|e| AgentError::System { tried: "stamping the root (trusted.* xattrs)", source: e.into() })
}

/// Tries whether one file can share the extents of another.
pub fn can_clone(private: &Private) -> bool {
    let create = |name: &str| {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC;
        beneath::open_file(private.made.as_fd(), name.as_bytes(), flags, Mode::RUSR | Mode::WUSR)
    };
    let (Ok(from), Ok(to)) = (create("clone-from"), create("clone-to")) else { return false };
    let written = rustix::io::pwrite(&from, &[1; 4096], 0).is_ok();
    let cloned = written && rustix::fs::ioctl_ficlone(&to, &from).is_ok();
    for name in ["clone-from", "clone-to"] {
        let _ = rustix::fs::unlinkat(&private.made, name, AtFlags::empty());
    }
    cloned
}

fn remove_if_there(path: &str) -> Result<(), AgentError> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(AgentError::Private { name: OLD_INDEX, source })
        }
        _ => Ok(()),
    }
}

fn explain(trouble: Trouble) -> AgentError {
    match trouble {
        Trouble::Index(error) => error.into(),
        Trouble::Answer(outcome) => AgentError::System {
            tried: "reading the tree for a new index",
            source: std::io::Error::other(format!("{outcome:?}")),
        },
    }
}
