//! The programs of this workspace, as they were built beside the running test.

use std::path::PathBuf;

/// All programs.
pub const ALL: [&str; 5] = ["geo-rep", "gsync-monitor", "gsync-recorder", "gsync-worker", "gsync-agent"];

/// The directory with the programs: that of the profile with which the test itself was built.
///
/// # Panics
/// When the test does not run from a target directory.
pub fn directory() -> PathBuf {
    let test = std::env::current_exe().expect("a running test has a path");
    // <target>/<profile>/deps/<test>-<hash>
    let profile = test.parent().and_then(|deps| deps.parent());
    profile.unwrap_or_else(|| panic!("{} is in no target directory", test.display())).to_owned()
}

/// The path of one program.
///
/// # Panics
/// When it was not built: cargo builds the programs of other packages only when it is told to.
pub fn path(name: &str) -> PathBuf {
    let path = directory().join(name);
    assert!(
        path.is_file(),
        "{} is missing: run `make test`, or `cargo build --workspace --bins` in the profile of the tests first",
        path.display()
    );
    path
}
