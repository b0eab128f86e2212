//! How much of the changelog is kept: what sessions still need, within a budget.

use changelog::Position;
use changelog::compact::KeySet;
use changelog::retention::Compaction;
use redb::{Builder, Database, Durability, TableDefinition, WriteTransaction};

use super::Brick;
use crate::error::{Error, Result};
use crate::journal::now_secs;

/// Memory for the keys of a compaction.
const CACHE_BYTES: usize = 16 << 20;

/// The keys of a compaction, first 16 bytes of their BLAKE3.
const KEYS: TableDefinition<'static, &[u8], ()> = TableDefinition::new("keys");

/// Beside the index while a compaction runs; worth nothing afterwards.
const FILE: &str = "compaction.redb";

/// What sessions still need of a changelog.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Claims {
    /// The mark of each session; `0:0` of one that has none yet.
    pub marks: Vec<Position>,
    /// Bytes that the changelog may take.
    pub budget_bytes: u64,
}

/// A compaction under way.
pub(super) struct Compacting {
    compaction: Compaction,
    keys: KeyFile,
    budget_bytes: u64,
    /// Slices with later ends are needed by the index.
    until: u64,
}

impl Brick {
    /// Removes what nobody needs; begins a compaction when what is needed is more than the budget.
    ///
    /// # Errors
    /// What changelog or index say; the brick has to be opened again.
    pub fn retain(&mut self, claims: &Claims) -> Result<()> {
        if self.compacting.is_some() || claims.marks.is_empty() {
            return Ok(());
        }
        // What the durable index does not have is its redo log.
        let position = self.journal.position();
        self.save(|edit| edit.set_position(position))?;
        let until = position.after;
        let begins = self.journal.writer().begins();
        // Who needs what is gone already compares both sides as a whole, and needs nothing more.
        let needed = claims.marks.iter().map(|mark| mark.after).filter(|&after| after >= begins).min();
        let removed = self.journal.writer().remove_until(until.min(needed.unwrap_or(u64::MAX)))?;
        if removed > 0 {
            tracing::debug!(path = %self.spec.path.display(), removed, "slices that nobody needs are removed");
        }
        if self.journal.writer().bytes() > claims.budget_bytes {
            let path = self.spec.path.display();
            tracing::info!(%path, bytes = self.journal.writer().bytes(), "the changelog is compacted");
            let keys = KeyFile::create(&self.spec.state.join(FILE))?;
            let compaction = self.journal.writer().begin_compaction(until);
            self.compacting = Some(Compacting { compaction, keys, budget_bytes: claims.budget_bytes, until });
        }
        Ok(())
    }

    /// Goes on with a compaction: one slice.
    pub(super) fn compact_step(&mut self) {
        if let Err(error) = self.try_compact_step() {
            // The changelog is whole at every step; the next claims begin anew.
            tracing::warn!(path = %self.spec.path.display(), error = %error.chain(), "the compaction is given up");
        }
    }

    fn try_compact_step(&mut self) -> Result<()> {
        let Some(mut compacting) = self.compacting.take() else { return Ok(()) };
        if self.journal.writer().compact(&mut compacting.compaction, &mut compacting.keys)? {
            self.compacting = Some(compacting);
            return Ok(());
        }
        let Compacting { keys, budget_bytes, until, .. } = compacting;
        drop(keys);
        drop(std::fs::remove_file(self.spec.state.join(FILE)));
        let bytes = self.journal.writer().bytes();
        tracing::info!(path = %self.spec.path.display(), bytes, "the changelog is compacted");
        // With less room than this, the next compaction would follow at once.
        if bytes > budget_bytes / 4 * 3 {
            self.give_up_oldest(budget_bytes / 2, until)?;
        }
        Ok(())
    }

    /// Removes the oldest slices although somebody needs them: who does compares both sides as a whole.
    fn give_up_oldest(&mut self, keep_bytes: u64, until: u64) -> Result<()> {
        let writer = self.journal.writer();
        let mut left = writer.bytes();
        let mut last = 0;
        for (ts, bytes) in writer.slices().take_while(|&(ts, _)| ts <= until) {
            if left <= keep_bytes {
                break;
            }
            left = left.saturating_sub(bytes);
            last = ts;
        }
        let removed = writer.remove_until(last)?;
        tracing::warn!(
            path = %self.spec.path.display(), removed, keep_bytes, until = last, now = now_secs(),
            "the changelog was larger than its budget even when compacted: sessions that are behind will compare both \
             sides as a whole; raise changelog-budget to avoid that"
        );
        Ok(())
    }
}

/// Keys on disk; given up by being dropped.
struct KeyFile {
    transaction: WriteTransaction,
    _database: Database,
}

impl KeyFile {
    fn create(path: &std::path::Path) -> Result<KeyFile> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("remove", path)(error));
            }
            _ => {}
        }
        let database = Builder::new().set_cache_size(CACHE_BYTES).create(path)?;
        let mut transaction = database.begin_write()?;
        transaction.set_durability(Durability::None)?;
        Ok(KeyFile { transaction, _database: database })
    }
}

impl KeySet for KeyFile {
    fn insert(&mut self, key: &[u8]) -> std::io::Result<bool> {
        let hash = blake3::hash(key);
        let mut table = self.transaction.open_table(KEYS).map_err(std::io::Error::other)?;
        let known = table.insert(&hash.as_bytes()[..16], ()).map_err(std::io::Error::other)?;
        Ok(known.is_none())
    }
}
