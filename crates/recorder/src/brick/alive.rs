//! Signs of life: what a start knows of how the last run ended.

use std::time::Instant;

use super::Brick;
use crate::error::Result;
use crate::index::Index;
use crate::journal::now_secs;

/// After a power cut the file system may have lost what was written in this time before the last heartbeat (30 s until
/// a page is old, 5 s until it is written, 5 s until the file system commits, and as much again).
const SUSPECT_SECS: u64 = 90;

impl Brick {
    /// Notes when and on which boot the recorder was alive.
    pub(super) fn beat(&mut self, clean: bool) -> Result<()> {
        let boot = boot_id();
        self.heartbeat = Instant::now();
        self.save(|edit| {
            edit.set_meta("boot", &boot)?;
            edit.set_meta("clean", &[u8::from(clean)])?;
            edit.set_meta("heartbeat", &now_secs().to_le_bytes())
        })
    }
}

/// After a crash of the whole machine: since when content may have been lost.
pub(super) fn suspect_since(index: &Index) -> Result<Option<i64>> {
    let view = index.view()?;
    let clean = view.meta("clean")?.is_none_or(|clean| clean == [1]);
    let same_boot = view.meta("boot")?.is_none_or(|boot| boot == boot_id());
    if clean || same_boot {
        return Ok(None);
    }
    let heartbeat = view.meta("heartbeat")?.and_then(|value| value.try_into().ok()).map_or(0, u64::from_le_bytes);
    Ok(Some(heartbeat.saturating_sub(SUSPECT_SECS) as i64))
}

fn boot_id() -> Vec<u8> {
    std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default()
}
