//! What it costs, beside what is known: `make bench`. The results go to `docs/benchmarks.md`.
//!
//! Layout:
//! - `size`: how much of everything
//! - `ground`: the two file systems and the sshd that everything runs on
//! - `results`: figures of all runs, and their medians
//! - `usage`: processor time, memory and bytes on the wire
//! - `tools`: what is compared with
//! - `copies`, `loads`, `latency`, `writer`: what is measured
//! - `page`: machine, tables, and the page

mod copies;
mod ground;
mod latency;
mod loads;
mod page;
mod results;
mod size;
mod tools;
mod usage;
mod writer;

use gsync_tests::fs::FileSystem;
use gsync_tests::sshd::Sshd;
use gsync_tests::{need, require};

use ground::Ground;
use results::Results;
use size::Size;

fn all() -> anyhow::Result<()> {
    let size = Size::wanted();
    // First, so that it tells of the machine as it was before.
    let machine = page::machine("ext4 in a file for each side, sshd on loopback");
    let ground = Ground::new(&size)?;
    let mut results = Results::default();
    latency::measure(&ground, &size, &mut results)?;
    loads::measure(&ground, &size, &mut results)?;
    copies::measure(&ground, &size, &mut results)?;
    writer::measure(&ground, &size, &mut results)?;
    let text = page::render(&machine, &size, &results);
    println!("{text}");
    if size.is_whole() {
        println!("written to {}", page::publish(&text)?.display());
    } else {
        println!("not written: GSYNC_BENCH_PART is set");
    }
    Ok(())
}

#[test]
#[ignore = "long: make bench"]
fn bench_everything() {
    require!(need::root(), FileSystem::Ext4.available(), Sshd::available(), need::program("rsync"));
    all().unwrap_or_else(|error| panic!("{error:#}"));
}
