//! Open directories by GFID, the ones used last.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use protocol::Gfid;

/// A bounded cache of `O_PATH` descriptors. A descriptor stays with its directory through renames.
#[derive(Debug)]
pub struct Directories {
    capacity: usize,
    by_gfid: HashMap<Gfid, (Arc<OwnedFd>, u64)>,
    by_use: BTreeMap<u64, Gfid>,
    clock: u64,
}

impl Directories {
    /// An empty cache for so many directories.
    pub fn new(capacity: usize) -> Directories {
        Directories { capacity, by_gfid: HashMap::new(), by_use: BTreeMap::new(), clock: 0 }
    }

    /// The open directory; dropped instead when it was removed meanwhile.
    pub fn get(&mut self, gfid: Gfid) -> Option<Arc<OwnedFd>> {
        let (fd, used) = self.by_gfid.get_mut(&gfid)?;
        let fd = fd.clone();
        self.by_use.remove(used);
        self.clock += 1;
        *used = self.clock;
        self.by_use.insert(self.clock, gfid);
        // A removed directory has no links on any file system; one that lives has at least one.
        let alive = rustix::fs::fstat(&fd).is_ok_and(|stat| stat.st_nlink > 0);
        if !alive {
            self.remove(gfid);
        }
        alive.then_some(fd)
    }

    /// Keeps an open directory.
    pub fn insert(&mut self, gfid: Gfid, fd: Arc<OwnedFd>) {
        self.remove(gfid);
        while self.by_gfid.len() >= self.capacity {
            let Some((_, oldest)) = self.by_use.pop_first() else { break };
            self.by_gfid.remove(&oldest);
        }
        self.clock += 1;
        self.by_use.insert(self.clock, gfid);
        self.by_gfid.insert(gfid, (fd, self.clock));
    }

    /// Forgets a directory.
    pub fn remove(&mut self, gfid: Gfid) {
        if let Some((_, used)) = self.by_gfid.remove(&gfid) {
            self.by_use.remove(&used);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_used_directory_goes_and_removed_ones_are_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Arc::new(OwnedFd::from(std::fs::File::open(dir.path()).unwrap()));
        let gfid = |n| Gfid([n; 16]);
        let mut cache = Directories::new(2);
        cache.insert(gfid(1), open());
        cache.insert(gfid(2), open());
        assert!(cache.get(gfid(1)).is_some());
        cache.insert(gfid(3), open());
        assert!(cache.get(gfid(2)).is_none());
        assert!(cache.get(gfid(1)).is_some() && cache.get(gfid(3)).is_some());
        dir.close().unwrap();
        assert!(cache.get(gfid(1)).is_none());
    }
}
