//! What a comparison found.

use serde::Serialize;

use crate::Difference;
use crate::difference::What;
use crate::request::{Look, Request};

/// What a comparison found.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct Report {
    /// Whether nothing differs.
    pub equal: bool,
    /// Objects of the primary that were looked at by the last look at the whole trees.
    pub objects: u64,
    /// Bytes of content of these objects.
    pub bytes: u64,
    /// Duration of all looks, in seconds.
    pub seconds: f64,
    /// Number of looks, the first one at the whole trees included.
    pub rounds: u32,
    /// Number of differences, of which the first are in `differences`.
    pub differing: u64,
    /// Number of listed differences whose object on the primary changed between the last two looks.
    pub in_flight: u64,
    /// The differences in the order of their paths, up to a limit.
    pub differences: Vec<Difference>,
}

impl Report {
    /// Whether there are more differences than are listed.
    pub fn is_truncated(&self) -> bool {
        self.differing > self.differences.len() as u64
    }

    /// What is to be looked at again to learn whether the differences are still there: the differing paths, the
    /// directories that gain or lose a name, the paths of link groups.
    pub(crate) fn request_again(&self) -> Request {
        if self.is_truncated() {
            return Request::Whole;
        }
        let mut looks = Vec::new();
        for difference in &self.differences {
            let path = &difference.path;
            looks.push(Look { path: path.clone(), deep: !difference.directory });
            match &difference.what {
                What::Missing(_) | What::Extra(_) | What::Type(_) => {
                    if let Some((directory, _)) = path.split_last() {
                        looks.push(Look { path: directory, deep: false });
                    }
                }
                What::Links(links) => {
                    let paths = links.primary.iter().chain(&links.secondary).flatten();
                    looks.extend(paths.map(|path| Look { path: path.clone(), deep: true }));
                }
                _ => {}
            }
        }
        Request::some(looks)
    }

    /// Marks the differences whose object on the primary is another one than in the report before, and says whether
    /// there is any.
    pub(crate) fn mark_in_flight(&mut self, before: &Report) {
        for difference in &mut self.differences {
            let same_path: Vec<&Difference> = {
                let start = before.differences.partition_point(|d| d.path < difference.path);
                before.differences[start..].iter().take_while(|d| d.path == difference.path).collect()
            };
            difference.in_flight |= !same_path.iter().any(|d| d.primary == difference.primary);
        }
        self.count_in_flight();
    }

    pub(crate) fn count_in_flight(&mut self) {
        self.in_flight = self.differences.iter().filter(|d| d.in_flight).count() as u64;
    }
}
