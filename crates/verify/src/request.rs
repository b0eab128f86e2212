//! What is to be looked at: everything, or some paths again.

use crate::TreePath;

/// One path to look at.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Look {
    /// The path.
    pub path: TreePath,
    /// Whether to look at everything below it, too, when it is a directory.
    pub deep: bool,
}

/// What a side is asked to look at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// The whole tree.
    Whole,
    /// Some paths: sorted, none twice, none below one that is looked at deeply. Made by [`Request::some`].
    Some(Vec<Look>),
}

impl Request {
    /// Brings looks into the order of the walk and drops those that others cover.
    pub fn some(mut looks: Vec<Look>) -> Request {
        looks.retain(|look| !look.path.is_private());
        // A deep look comes before a shallow one of the same path, which it covers.
        looks.sort_by(|a, b| a.path.cmp(&b.path).then(b.deep.cmp(&a.deep)));
        let mut kept: Vec<Look> = Vec::with_capacity(looks.len());
        let mut deepest: Option<TreePath> = None;
        for look in looks {
            let covered = deepest.as_ref().is_some_and(|deep| look.path.is_below(deep));
            if covered || kept.last().is_some_and(|last| last.path == look.path) {
                continue;
            }
            if look.deep {
                deepest = Some(look.path.clone());
            }
            kept.push(look);
        }
        Request::Some(kept)
    }

    /// The looks, in the order of the walk.
    pub fn into_looks(self) -> Vec<Look> {
        match self {
            Request::Whole => vec![Look { path: TreePath::root(), deep: true }],
            Request::Some(looks) => looks,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(path: &str, deep: bool) -> Look {
        Look { path: TreePath::from_bytes(path.into()).unwrap(), deep }
    }

    #[test]
    fn what_a_deep_look_covers_is_not_looked_at_twice() {
        let request = Request::some(vec![
            look("b", false),
            look("a/x/y", true),
            look("a/x", true),
            look("a/x", false),
            look("", false),
            look("a/x.y", false),
            look(".gsync/stage", true),
            look("b", false),
        ]);
        let kept = vec![look("", false), look("a/x", true), look("a/x.y", false), look("b", false)];
        assert_eq!(request, Request::Some(kept));
    }
}
