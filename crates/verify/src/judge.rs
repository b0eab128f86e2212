//! How two objects at one path differ. Pure.

use posix::Kind;

use crate::Facts;
use crate::acl::{self, Acl};
use crate::difference::{Change, What};
use crate::value::{Device, Maybe, Mode, Moment, Owner, Pair, Text, Type, XattrValue};

/// Everything that differs but the link groups, which need more than one path.
pub(crate) fn differences(primary: &Facts, secondary: &Facts) -> Vec<What> {
    let (p, s) = (primary, secondary);
    if p.kind != s.kind {
        return vec![What::Type(Pair::new(Type(p.kind), Type(s.kind)))];
    }
    let mut found = Vec::new();
    let mut note = |differs: bool, what: &dyn Fn() -> What| {
        if differs {
            found.push(what());
        }
    };
    note(p.mode != s.mode, &|| What::Mode(Pair::new(Mode(p.mode), Mode(s.mode))));
    let owner = |facts: &Facts| Owner { uid: facts.uid, gid: facts.gid };
    note(owner(p) != owner(s), &|| What::Owner(Pair::new(owner(p), owner(s))));
    note(p.size != s.size, &|| What::Size(Pair::new(p.size, s.size)));
    if let (Some(ours), Some(theirs)) = (p.content, s.content) {
        note(p.size == s.size && ours != theirs, &|| What::Content(Pair::new(ours, theirs)));
    }
    let target = |facts: &Facts| Text(facts.target.clone());
    note(p.target != s.target, &|| What::Target(Pair::new(target(p), target(s))));
    let is_device = matches!(p.kind, Kind::CharDevice | Kind::BlockDevice);
    note(is_device && p.rdev != s.rdev, &|| What::Device(Pair::new(Device(p.rdev), Device(s.rdev))));
    note(p.mtime != s.mtime, &|| What::Mtime(Pair::new(Moment(p.mtime), Moment(s.mtime))));
    found.extend(xattr_differences(&p.xattrs, &s.xattrs));
    if found.is_empty() && (p.unstable || s.unstable) {
        found.push(What::Changing(Pair::new(Change::of(p.unstable), Change::of(s.unstable))));
    }
    found
}

type Xattrs = [(Vec<u8>, XattrValue)];

fn xattr_differences(primary: &Xattrs, secondary: &Xattrs) -> Vec<What> {
    let value = |xattrs: &Xattrs, name: &[u8]| xattrs.iter().find(|x| x.0 == name).map(|x| x.1.clone());
    let mut names: Vec<&Vec<u8>> = primary.iter().chain(secondary).map(|x| &x.0).collect();
    names.sort_unstable();
    names.dedup();
    let mut found = Vec::new();
    for name in names {
        let (ours, theirs) = (value(primary, name), value(secondary, name));
        if ours == theirs {
            continue;
        }
        found.push(match name.as_slice() {
            acl::ACCESS => What::Acl(Pair::new(Maybe(ours.map(Acl)), Maybe(theirs.map(Acl)))),
            acl::DEFAULT => What::DefaultAcl(Pair::new(Maybe(ours.map(Acl)), Maybe(theirs.map(Acl)))),
            _ => What::Xattr { name: Text(name.clone()), values: Pair::new(Maybe(ours), Maybe(theirs)) },
        });
    }
    found
}
