//! What a test needs of the machine. Each function says in words what is missing.

use std::path::{Path, PathBuf};

/// Directories that hold programs although they are not in everybody's `PATH`.
const SYSTEM_DIRS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Root: mounts, devices, `trusted.` xattrs, fanotify.
///
/// # Errors
/// What is missing.
pub fn root() -> Result<(), String> {
    if rustix::process::geteuid().is_root() { Ok(()) } else { Err("needs root".into()) }
}

/// A program.
///
/// # Errors
/// What is missing.
pub fn program(name: &str) -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(SYSTEM_DIRS.iter().map(PathBuf::from));
    dirs.map(|dir| dir.join(name))
        .find(|path| path.is_file())
        .ok_or_else(|| format!("needs the program {name}; `make setup` installs it"))
}

/// Loop devices.
///
/// # Errors
/// What is missing.
pub fn loop_devices() -> Result<(), String> {
    root()?;
    program("losetup")?;
    if Path::new("/dev/loop-control").exists() { Ok(()) } else { Err("needs loop devices (/dev/loop-control)".into()) }
}
