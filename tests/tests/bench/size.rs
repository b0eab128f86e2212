//! How much of everything.

use std::time::Duration;

/// For anything to arrive.
pub const LIMIT: Duration = Duration::from_secs(600);

/// For what is compared with: who takes longer is not waited for.
pub const LIMIT_OF_OTHERS: Duration = Duration::from_secs(60);

/// How much of everything.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    part: u64,
}

impl Size {
    /// The whole, or the part (one in so many) that `GSYNC_BENCH_PART` names, to try the benchmark itself.
    pub fn wanted() -> Size {
        let part = std::env::var("GSYNC_BENCH_PART").ok().and_then(|text| text.parse().ok());
        Size { part: part.unwrap_or(1).max(1) }
    }

    /// Whether the figures are those that the page tells of.
    pub fn is_whole(&self) -> bool {
        self.part == 1
    }

    /// Every figure is the median of so many runs.
    pub fn runs(&self) -> usize {
        if self.is_whole() { 3 } else { 1 }
    }

    /// Small files of a first copy.
    pub fn small_files(&self) -> usize {
        self.of(50_000) as usize
    }

    /// Bytes of the one large file of a first copy.
    pub fn large_bytes(&self) -> u64 {
        self.of(2 << 30)
    }

    /// Operations of each load.
    pub fn operations(&self) -> usize {
        self.of(10_000) as usize
    }

    /// Bytes of the file that is appended to.
    pub fn appended_bytes(&self) -> u64 {
        self.of(500 << 20)
    }

    /// Appends of 1 MiB.
    pub fn appends(&self) -> usize {
        self.of(100) as usize
    }

    /// Changes whose latency is taken.
    pub fn changes(&self) -> usize {
        self.of(200).max(20) as usize
    }

    /// Writes of 1 MiB.
    pub fn large_writes(&self) -> usize {
        self.of(1000) as usize
    }

    /// Files that several writers make.
    pub fn creates(&self) -> usize {
        self.of(100_000) as usize
    }

    fn of(&self, whole: u64) -> u64 {
        (whole / self.part).max(4)
    }
}

/// A number as people write it.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
