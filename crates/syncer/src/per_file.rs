//! The engines `rsync` and `auto`: file by file, rsync or a tar stream.
//!
//! A file that is mostly holes never goes through rsync, which reads holes as zeros on both sides: 1 TiB of them takes
//! it hours. A tar stream carries its data only.

use rustix::fs::fstat;

use crate::engine::{Engine, Sending};
use crate::rsync::{Needs, RsyncEngine};
use crate::source::Source;
use crate::tar::TarEngine;

/// A smaller file is sent whole by [`Choice::Auto`]: starting rsync on both sides takes as long as sending it.
const SMALL_BYTES: u64 = 256 << 10;

/// A smaller file is read in no time, holes or not.
const SPARSE_BYTES: u64 = 256 << 10;

/// Which files go through rsync.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Choice {
    /// All but those that are mostly holes.
    Rsync,
    /// Of these, those that are not small and of which the secondary has an older content.
    Auto,
}

/// How one file goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    Tar,
    Rsync,
}

/// The engine.
#[derive(Debug)]
pub struct PerFileEngine {
    tar: TarEngine,
    rsync: RsyncEngine,
    choice: Choice,
}

impl PerFileEngine {
    /// Puts both ways together.
    pub fn new(tar: TarEngine, rsync: RsyncEngine, choice: Choice) -> PerFileEngine {
        PerFileEngine { tar, rsync, choice }
    }
}

impl Engine for PerFileEngine {
    fn send(&self, sources: Vec<Source>) -> Sending<'_> {
        let (differences, whole) = sources.into_iter().partition(|source| self.way_of(source) == Way::Rsync);
        let whole = self.tar.send(whole);
        Box::pin(async move {
            let needs = if self.choice == Choice::Auto { Needs::Basis } else { Needs::Nothing };
            let (whole, differences) = tokio::join!(whole, self.rsync.send_if(differences, needs));
            let (mut all, (sent, without_basis)) = (whole?, differences?);
            all.extend(sent);
            all.extend(self.tar.send(without_basis).await?);
            Ok(all)
        })
    }

    fn batch_files(&self) -> usize {
        self.rsync.batch_files()
    }
}

impl PerFileEngine {
    fn way_of(&self, source: &Source) -> Way {
        match fstat(&source.fd) {
            Ok(stat) => {
                let number = |n: i64| u64::try_from(n).unwrap_or(0);
                way(self.choice, number(stat.st_size), number(stat.st_blocks).saturating_mul(512))
            }
            // It is told when the file is read.
            Err(_) => Way::Tar,
        }
    }
}

/// Decides by the size of the file and what it takes on the disk.
fn way(choice: Choice, size_bytes: u64, disk_bytes: u64) -> Way {
    let mostly_holes = size_bytes >= SPARSE_BYTES && disk_bytes < size_bytes / 2;
    let small = choice == Choice::Auto && size_bytes < SMALL_BYTES;
    if mostly_holes || small { Way::Tar } else { Way::Rsync }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_goes_its_way() {
        const MIB: u64 = 1 << 20;
        for (size, disk, by_rsync, by_auto) in [
            (0, 0, Way::Rsync, Way::Tar),
            // Small contents may lie in the inode.
            (100, 0, Way::Rsync, Way::Tar),
            (SMALL_BYTES - 1, SMALL_BYTES, Way::Rsync, Way::Tar),
            (SMALL_BYTES, SMALL_BYTES, Way::Rsync, Way::Rsync),
            (8 * MIB, 6 * MIB, Way::Rsync, Way::Rsync),
            (8 * MIB, 4 * MIB - 1, Way::Tar, Way::Tar),
            (1 << 40, MIB, Way::Tar, Way::Tar),
            (u64::MAX, u64::MAX, Way::Rsync, Way::Rsync),
        ] {
            let found = (way(Choice::Rsync, size, disk), way(Choice::Auto, size, disk));
            assert_eq!(found, (by_rsync, by_auto), "{size} bytes, {disk} on the disk");
        }
    }
}
