//! Which paths share an inode, compared as sets of paths.

use std::collections::{BTreeMap, HashMap};

use crate::TreePath;
use crate::difference::Links;
use crate::entry::Link;

/// The paths that both sides have and that have further names on one side or on both.
///
/// Names that only one side has are not in it: that they are missing is a difference already, and when they appear
/// they are looked at again, together with these.
#[derive(Debug, Default)]
pub(crate) struct LinkTable {
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    path: TreePath,
    primary: Option<Link>,
    secondary: Option<Link>,
}

impl LinkTable {
    pub(crate) fn note(&mut self, path: &TreePath, primary: Option<Link>, secondary: Option<Link>) {
        if primary.is_some() || secondary.is_some() {
            self.rows.push(Row { path: path.clone(), primary, secondary });
        }
    }

    /// Whether an inode has names that are not in the table, on either side. They may lie outside of the tree, or
    /// they were not looked at.
    pub(crate) fn has_unseen_names(&self) -> bool {
        let unseen = |side: fn(&Row) -> Option<Link>| {
            let mut seen: HashMap<u64, (u64, u64)> = HashMap::new();
            for link in self.rows.iter().filter_map(side) {
                let names = seen.entry(link.group).or_insert((0, link.nlink));
                names.0 += 1;
            }
            seen.values().any(|(seen, nlink)| seen < nlink)
        };
        unseen(|row| row.primary) || unseen(|row| row.secondary)
    }

    /// The sets of paths that are linked in another way on the secondary, one for each cluster of paths that are
    /// linked with each other on one side or on both. The first path of each comes with it.
    pub(crate) fn into_differences(self) -> Vec<(TreePath, Links)> {
        let mut clusters = Clusters::new(self.rows.len());
        for side in [|row: &Row| row.primary, |row: &Row| row.secondary] {
            let mut first_of: HashMap<u64, usize> = HashMap::new();
            for (index, row) in self.rows.iter().enumerate() {
                if let Some(link) = side(row) {
                    let first = *first_of.entry(link.group).or_insert(index);
                    clusters.join(first, index);
                }
            }
        }
        let mut members: BTreeMap<usize, Vec<&Row>> = BTreeMap::new();
        for (index, row) in self.rows.iter().enumerate() {
            members.entry(clusters.find(index)).or_default().push(row);
        }
        let mut found = Vec::new();
        for rows in members.values() {
            let (primary, secondary) = (groups(rows, |row| row.primary), groups(rows, |row| row.secondary));
            // All paths of a cluster hang together; the sides agree only where each sees one inode.
            if primary.len() > 1 || secondary.len() > 1 {
                found.push((rows[0].path.clone(), Links { primary, secondary }));
            }
        }
        found
    }
}

/// The paths by inode; a path without further names is a group of its own.
fn groups(rows: &[&Row], side: fn(&Row) -> Option<Link>) -> Vec<Vec<TreePath>> {
    let mut groups: Vec<Vec<TreePath>> = Vec::new();
    let mut index_of: HashMap<u64, usize> = HashMap::new();
    for row in rows {
        match side(row) {
            Some(link) => {
                let index = *index_of.entry(link.group).or_insert_with(|| {
                    groups.push(Vec::new());
                    groups.len() - 1
                });
                groups[index].push(row.path.clone());
            }
            None => groups.push(vec![row.path.clone()]),
        }
    }
    groups
}

/// Union-find with the smallest index as the head of each cluster.
struct Clusters {
    parents: Vec<usize>,
}

impl Clusters {
    fn new(count: usize) -> Clusters {
        Clusters { parents: (0..count).collect() }
    }

    fn find(&mut self, mut index: usize) -> usize {
        while self.parents[index] != index {
            self.parents[index] = self.parents[self.parents[index]];
            index = self.parents[index];
        }
        index
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.find(a), self.find(b));
        self.parents[a.max(b)] = a.min(b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each path with its inode on the primary and on the secondary.
    fn differences(rows: &[(&str, Option<u64>, Option<u64>)]) -> Vec<(String, String, String)> {
        let mut table = LinkTable::default();
        for (path, primary, secondary) in rows {
            let link = |group: &Option<u64>| group.map(|group| Link { group, nlink: 2 });
            table.note(&TreePath::from_bytes((*path).into()).unwrap(), link(primary), link(secondary));
        }
        let text = |groups: &Vec<Vec<TreePath>>| {
            let groups: Vec<String> =
                groups.iter().map(|g| g.iter().map(|p| p.to_string()).collect::<Vec<_>>().join("=")).collect();
            groups.join(" ")
        };
        let found = table.into_differences();
        found.iter().map(|(path, links)| (path.to_string(), text(&links.primary), text(&links.secondary))).collect()
    }

    fn one(path: &str, primary: &str, secondary: &str) -> Vec<(String, String, String)> {
        vec![(path.into(), primary.into(), secondary.into())]
    }

    #[test]
    fn numbers_of_groups_do_not_matter() {
        assert_eq!(differences(&[("a", Some(1), Some(9)), ("b", Some(1), Some(9)), ("c", Some(2), None)]), []);
        // Names outside of the trees on one side only.
        assert_eq!(differences(&[("a", Some(1), None), ("b", None, Some(1))]), []);
    }

    #[test]
    fn split_merged_and_swapped_groups_are_one_difference_each() {
        let split = differences(&[("a", Some(1), None), ("b", Some(1), None)]);
        assert_eq!(split, one("a", "a=b", "a b"));
        let merged = differences(&[("a", Some(1), Some(1)), ("b", None, Some(1))]);
        assert_eq!(merged, one("a", "a b", "a=b"));
        let swapped = differences(&[
            ("a", Some(1), Some(1)),
            ("b", Some(1), Some(2)),
            ("c", Some(2), Some(1)),
            ("d", Some(2), Some(2)),
            ("e", Some(3), Some(3)),
            ("f", Some(3), Some(3)),
        ]);
        assert_eq!(swapped, one("a", "a=b c=d", "a=c b=d"));
    }

    #[test]
    fn names_that_were_not_looked_at_are_noticed() {
        let mut table = LinkTable::default();
        let a = TreePath::from_bytes(b"a".to_vec()).unwrap();
        table.note(&a, Some(Link { group: 0, nlink: 2 }), Some(Link { group: 0, nlink: 1 }));
        assert!(table.has_unseen_names());
        table.note(&a, Some(Link { group: 0, nlink: 2 }), None);
        assert!(!table.has_unseen_names());
    }
}
