//! Files with several names.

use std::fs::{self, OpenOptions};
use std::io::Write;

use anyhow::ensure;

use super::kinds::bytes;
use super::{Ground, Half, Scenario, look};

/// What this module has.
pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "hard-links", before: make, live: change, check },
    Scenario { name: "thousand-names", before: make_thousand, live: change_thousand, check: check_thousand },
];

/// Names of one inode.
const MANY: u64 = 1000;

fn make(ground: &Ground) -> anyhow::Result<()> {
    let at = |name: &str| ground.near.join(name);
    fs::create_dir(at("d"))?;
    for name in ["moved", "replaced", "changed", "rewritten", "dissolved", "outside"] {
        fs::write(at(name), name)?;
        fs::hard_link(at(name), at(&format!("d/{name}")))?;
        fs::hard_link(at(name), at(&format!("{name}-3")))?;
    }
    // One more name where nothing is replicated: it has one name more here than there.
    fs::hard_link(at("outside"), ground.outside.join("name"))?;
    Ok(())
}

fn change(ground: &Ground) -> anyhow::Result<()> {
    let at = |name: &str| ground.near.join(name);
    fs::rename(at("moved"), at("d/moved-away"))?;
    fs::rename(at("d/moved"), at("moved"))?;
    fs::hard_link(at("moved-3"), at("moved-4"))?;
    // One name becomes another file, the others stay together.
    fs::write(at("aside"), "a new inode")?;
    fs::rename(at("aside"), at("replaced"))?;
    OpenOptions::new().append(true).open(at("d/changed"))?.write_all(b" and more")?;
    fs::write(at("rewritten-3"), bytes(7, 300_000))?;
    fs::remove_file(at("dissolved"))?;
    fs::remove_file(at("d/dissolved"))?;
    fs::write(ground.outside.join("name"), "changed through the name outside")?;
    fs::rename(ground.outside.join("name"), at("came-in"))?;
    Ok(())
}

fn check(ground: &Ground, half: Half) -> anyhow::Result<()> {
    let together = |names: &[&str], count: u64| -> anyhow::Result<()> {
        let first = look::inode(&ground.far.join(names[0]))?;
        ensure!(first.1 == count, "{names:?}: {} names instead of {count}", first.1);
        for name in names {
            look::same(ground, name)?;
            ensure!(look::inode(&ground.far.join(name))? == first, "{name} is another inode");
        }
        Ok(())
    };
    if half == Half::First {
        for name in ["moved", "replaced", "changed", "rewritten", "dissolved", "outside"] {
            together(&[name, &format!("d/{name}"), &format!("{name}-3")], 3)?;
        }
        return Ok(());
    }
    together(&["moved", "d/moved-away", "moved-3", "moved-4"], 4)?;
    together(&["replaced"], 1)?;
    together(&["d/replaced", "replaced-3"], 2)?;
    together(&["changed", "d/changed", "changed-3"], 3)?;
    together(&["rewritten", "d/rewritten", "rewritten-3"], 3)?;
    together(&["dissolved-3"], 1)?;
    together(&["outside", "d/outside", "outside-3", "came-in"], 4)?;
    ensure!(fs::read(ground.far.join("changed"))? == b"changed and more");
    ensure!(fs::read(ground.far.join("d/outside"))? == b"changed through the name outside");
    Ok(())
}

fn thousand(dir: u64, number: u64) -> String {
    format!("{dir}/name-{number}")
}

fn make_thousand(ground: &Ground) -> anyhow::Result<()> {
    for dir in 0..4 {
        fs::create_dir(ground.near.join(dir.to_string()))?;
    }
    fs::write(ground.near.join(thousand(0, 0)), "first content")?;
    for number in 1..MANY / 2 {
        fs::hard_link(ground.near.join(thousand(0, 0)), ground.near.join(thousand(number % 4, number)))?;
    }
    Ok(())
}

fn change_thousand(ground: &Ground) -> anyhow::Result<()> {
    for number in MANY / 2..MANY {
        fs::hard_link(ground.near.join(thousand(0, 0)), ground.near.join(thousand(number % 4, number)))?;
    }
    fs::write(ground.near.join(thousand(3, 999)), "second content, which all names have")?;
    fs::rename(ground.near.join("1"), ground.near.join("one"))?;
    Ok(())
}

fn check_thousand(ground: &Ground, half: Half) -> anyhow::Result<()> {
    let count = if half == Half::First { MANY / 2 } else { MANY };
    let first = look::inode(&ground.far.join(thousand(0, 0)))?;
    ensure!(first.1 == count, "{} names instead of {count}", first.1);
    for number in 1..count {
        let name = thousand(number % 4, number);
        let name = if half == Half::Both { name.replacen("1/", "one/", 1) } else { name };
        ensure!(look::inode(&ground.far.join(&name))? == first, "{name} is another inode");
    }
    look::same(ground, &thousand(2, 2))?;
    Ok(())
}
