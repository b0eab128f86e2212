//! What can be typed.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use gsync_monitor::paths::{DEFAULT_RUN_DIR, DEFAULT_STATE_DIR};

/// Replicates directories to other machines, live.
///
/// A session is addressed by its name or, as in GlusterFS, by PRIMARY and SECONDARY.
///
/// Exit codes: 0 done (verify: equal), 1 different, 2 not done, 3 done but not active yet.
#[derive(Parser, Debug)]
#[command(version, name = "geo-rep")]
pub struct Arguments {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Where things are.
#[derive(Args, Clone, Debug)]
pub struct Global {
    /// Where sessions, indexes and logs are kept
    #[arg(long, global = true, env = "GSYNC_STATE_DIR", default_value = DEFAULT_STATE_DIR)]
    pub state_dir: PathBuf,
    /// Where sockets are
    #[arg(long, global = true, env = "GSYNC_RUN_DIR", default_value = DEFAULT_RUN_DIR)]
    pub run_dir: PathBuf,
    /// File that tells how to reach etcd [default: /etc/gsync/cluster.toml, where there is one]
    #[arg(long, global = true, env = "GSYNC_CLUSTER_FILE")]
    pub cluster_file: Option<PathBuf>,
    /// Where the other programs are [default: beside this one, then PATH]
    #[arg(long, global = true, hide = true, env = "GSYNC_BIN_DIR")]
    pub bin_dir: Option<PathBuf>,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Declare a session, after checking both sides
    Create(Create),
    /// Start replicating, and wait until the session is active
    Start(Which),
    /// Stop replicating; changes are recorded, so that nothing is missed
    Stop(Which),
    /// Stop for a while
    Pause(Which),
    /// Go on after a pause, after the brake halted the session, or with a brick that is another one than before
    Resume(Resume),
    /// Compare both sides as a whole and mend what differs, without sending what is equal
    Resync(Which),
    /// Forget a stopped session; the secondary keeps its data
    Delete(Which),
    /// Show how the sessions are
    Status(Look),
    /// Show or change the settings of a session
    Config(Config),
    /// Compare both trees, after waiting for what is in flight
    Verify(Verify),
    /// Look into changelogs
    Changelog {
        #[command(subcommand)]
        command: ChangelogCommand,
    },
    /// Show it: replicate a directory live, and verify
    Quickstart(Quickstart),
}

/// Declares a session, after checking both sides. Everything that stands in the way is told at once, and nothing is
/// changed then.
///
/// Checked are: both directories and whether they overlap, the release of the agent over there, user and rights, room
/// and inodes, features of the file system, rsync where it is used, both clocks, and whether another session uses the
/// secondary.
///
/// A secondary must be empty or have been one before; with --adopt or --quarantine it may hold something.
#[derive(Args, Debug)]
pub struct Create {
    /// Directory to be replicated
    pub primary: PathBuf,
    /// Where to.
    #[arg(help = "Where to: an absolute directory, or [user@]host:/directory")]
    pub secondary: String,
    /// Name of the session [default: the directory's]
    #[arg(long)]
    pub name: Option<String>,
    /// Port of sshd on the secondary
    #[arg(long)]
    pub ssh_port: Option<u16>,
    /// Your own key for the secondary, used now only; the session gets a key of its own
    #[arg(long)]
    pub ssh_identity: Option<PathBuf>,
    /// gsync-agent on the secondary [default: in PATH there, or where it is here]
    #[arg(long)]
    pub remote_agent: Option<String>,
    /// Do not log in on the secondary; print the line for its authorized_keys instead (nothing is checked there)
    #[arg(long)]
    pub no_push: bool,
    /// Which engine carries file data: tar sends whole files, rsync sends differences [default: tar]
    #[arg(long, value_name = "ENGINE")]
    pub sync_engine: Option<String>,
    /// The secondary holds an older copy: keep what is equal, send what differs, quarantine what is left over
    #[arg(long, conflicts_with_all = ["quarantine", "no_push"])]
    pub adopt: bool,
    /// Move everything that the secondary holds to .gsync/quarantine over there first
    #[arg(long, conflicts_with = "no_push")]
    pub quarantine: bool,
    /// Show what would be done, and what stands in the way; change nothing
    #[arg(long, conflicts_with = "no_push")]
    pub dry_run: bool,
    /// Overrule those findings that say that --force does
    #[arg(long)]
    pub force: bool,
}

#[derive(Args, Debug)]
pub struct Which {
    /// Name of the session, or PRIMARY SECONDARY
    #[arg(required = true, num_args = 1..=3, value_name = "SESSION")]
    pub words: Vec<String>,
    /// Do it although the session is in that state already
    #[arg(long)]
    pub force: bool,
}

#[derive(Args, Debug)]
pub struct Resume {
    #[command(flatten)]
    pub which: Which,
    /// The brick is right as it is now, although it is empty, another directory or another file system; what is not in
    /// it is removed on the secondary
    #[arg(long)]
    pub accept_brick: bool,
    /// The removals that the brake asks about are meant: so many and no more go through
    #[arg(long)]
    pub accept_removals: bool,
}

#[derive(Args, Debug)]
pub struct Look {
    /// Name of a session, or PRIMARY SECONDARY, and the word `detail` for more columns
    #[arg(num_args = 0..=3, value_name = "SESSION | detail")]
    pub words: Vec<String>,
    /// Print one JSON object with everything
    #[arg(long)]
    pub json: bool,
    /// Print again every two seconds
    #[arg(long, conflicts_with = "json")]
    pub watch: bool,
}

#[derive(Args, Debug)]
pub struct Config {
    /// Session, then nothing (list), NAME (show), NAME VALUE (set) or '!NAME' (reset)
    #[arg(required = true, num_args = 1..=4, value_name = "SESSION [NAME [VALUE]]")]
    pub words: Vec<String>,
    /// Give a setting its default back
    #[arg(long, value_name = "NAME")]
    pub reset: Option<String>,
    /// Print settings as one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct Verify {
    /// Name of the session, or PRIMARY SECONDARY; with --paths two directories of this machine
    #[arg(required = true, num_args = 1..=2, value_name = "SESSION")]
    pub words: Vec<String>,
    /// Compare two directories without a session
    #[arg(long)]
    pub paths: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Wait so many seconds at most for what is in flight
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    pub timeout: u64,
}

#[derive(Subcommand, Debug)]
pub enum ChangelogCommand {
    /// Print the records of changelog files, one JSON object a line
    Dump {
        /// Changelog files
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Print which times a brick's changelog tells of, and its gaps
    History {
        /// A brick's directory, or a directory of changelogs
        brick: PathBuf,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args, Debug)]
pub struct Quickstart {
    /// Replicate this directory instead of a sample; a few files are made and removed in it
    #[arg(long)]
    pub primary: Option<PathBuf>,
    /// Where to replicate to.
    #[arg(long, help = "Replicate to this directory, or [user@]host:/directory")]
    pub secondary: Option<String>,
}

/// Options that may stand behind `config`; anything else with a dash there is the value of a setting.
const CONFIG_OPTIONS: [&str; 8] =
    ["--json", "--reset", "--state-dir", "--run-dir", "--bin-dir", "--help", "-h", "--version"];

/// Marks the value of a setting that begins with a dash, such as `-4` for ssh-options, so that it is not taken for an
/// option of ours.
pub fn mark_value(words: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut marked: Vec<OsString> = Vec::new();
    let (mut is_config, mut is_marked) = (false, false);
    for word in words {
        let text = word.to_string_lossy();
        let is_option = CONFIG_OPTIONS.iter().any(|o| text == *o || text.starts_with(&format!("{o}=")));
        if is_config && !is_marked && text.starts_with('-') && !is_option {
            is_marked = true;
            if text != "--" {
                marked.push("--".into());
            }
        }
        is_config |= text == "config";
        marked.push(word);
    }
    marked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_options_is_sound() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }

    #[test]
    fn values_may_begin_with_a_dash() {
        for (line, want) in [
            ("geo-rep config s ssh-options -4", "geo-rep config s ssh-options -- -4"),
            ("geo-rep config s --json", "geo-rep config s --json"),
            ("geo-rep config s --reset x --state-dir=/d", "geo-rep config s --reset x --state-dir=/d"),
            ("geo-rep config s ssh-options -- -4 -6", "geo-rep config s ssh-options -- -4 -6"),
            ("geo-rep status --json", "geo-rep status --json"),
            ("geo-rep start s --force", "geo-rep start s --force"),
        ] {
            let marked = mark_value(line.split(' ').map(Into::into));
            assert_eq!(marked.join(" ".as_ref()), *want);
        }
    }
}
