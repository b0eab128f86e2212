//! What a damaged embedded store cannot fake: a record of all that it should hold.
//!
//! sled opens many a damaged file without a word and has lost entries then. A session that is lost that way would stop
//! replicating unnoticed, and a lost epoch would be given out twice. So each write also changes this record, and opening
//! the store compares it with what is there.

/// Bytes of an encoded summary.
const LEN: usize = 24;

/// Revision of the store, number of its entries, and a digest of them that does not depend on their order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Summary {
    pub(crate) revision: u64,
    entries: u64,
    digest: u64,
}

impl Summary {
    /// Takes an entry in.
    pub(crate) fn add(&mut self, key: &[u8], value: &[u8]) {
        self.entries = self.entries.wrapping_add(1);
        self.digest = self.digest.wrapping_add(hash(key, value));
    }

    /// Takes an entry out again.
    pub(crate) fn remove(&mut self, key: &[u8], value: &[u8]) {
        self.entries = self.entries.wrapping_sub(1);
        self.digest = self.digest.wrapping_sub(hash(key, value));
    }

    /// Whether both tell of the same entries.
    pub(crate) fn has_same_entries(&self, other: &Summary) -> bool {
        (self.entries, self.digest) == (other.entries, other.digest)
    }

    pub(crate) fn encode(&self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        for (place, number) in bytes.chunks_exact_mut(8).zip([self.revision, self.entries, self.digest]) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Summary> {
        let bytes: &[u8; LEN] = bytes.try_into().ok()?;
        let number = |at: usize| {
            let mut eight = [0; 8];
            eight.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(eight)
        };
        Some(Summary { revision: number(0), entries: number(8), digest: number(16) })
    }
}

/// FNV-1a over the key, its length and the value, then mixed (the finaliser of MurmurHash3), so that sums do not
/// cancel out. It finds accidents, not forgeries.
fn hash(key: &[u8], value: &[u8]) -> u64 {
    let length = (key.len() as u64).to_le_bytes();
    let mut state = 0xcbf2_9ce4_8422_2325_u64;
    for &byte in key.iter().chain(&length).chain(value) {
        state = (state ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    state = (state ^ (state >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    state = (state ^ (state >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    state ^ (state >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_and_removed_leaves_no_trace() {
        let mut summary = Summary { revision: 7, ..Summary::default() };
        let before = summary;
        summary.add(b"a", b"1");
        summary.add(b"b", b"2");
        assert_eq!(Summary::decode(&summary.encode()), Some(summary));
        let mut other = Summary::default();
        other.add(b"b", b"2");
        assert!(!summary.has_same_entries(&other));
        other.add(b"a", b"1");
        assert!(summary.has_same_entries(&other));
        summary.remove(b"a", b"1");
        summary.remove(b"b", b"2");
        assert_eq!(summary, before);
        assert_eq!(Summary::decode(b"short"), None);
    }
}
