//! The one table of a session's settings: name, what it may be, default, what it does.

use std::path::Path;

use crate::words;

/// One setting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OptionSpec {
    /// Its name.
    pub name: &'static str,
    /// Other names for it, GlusterFS's own among them.
    pub aliases: &'static [&'static str],
    /// What it may be.
    pub kind: Kind,
    /// Its value where the operator gave none; may be empty for "not set".
    pub default: &'static str,
    /// What it does, in one line.
    pub doc: &'static str,
    /// Whether a running worker takes a change as it is; otherwise its worker is restarted and goes on at its mark.
    pub live: bool,
}

/// What a setting may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// One of these; the second list gives other spellings and what they stand for.
    Choice(&'static [&'static str], &'static [(&'static str, &'static str)]),
    /// A whole number in this range.
    Number(u32, u32),
    /// A program: a name to be found in PATH, or an absolute path.
    Program,
    /// An absolute path.
    File,
    /// Words, split as a shell would.
    Words,
}

/// All settings, sorted by name.
pub const OPTIONS: &[OptionSpec] = &[
    OptionSpec {
        name: "brake-count",
        aliases: &[],
        kind: Kind::Number(0, 1_000_000_000),
        default: "10000",
        doc: "removals in an hour from which on brake-share counts",
        live: false,
    },
    OptionSpec {
        name: "brake-share",
        aliases: &[],
        kind: Kind::Number(1, 100),
        default: "20",
        doc: "percent of the secondary that may be removed in an hour without a question; 100: never ask",
        live: false,
    },
    OptionSpec {
        name: "changelog-budget",
        aliases: &[],
        kind: Kind::Number(1, 16 << 20),
        default: "2048",
        doc: "MiB that the changelog of a brick may take before it is compacted; of several sessions the largest counts",
        live: true,
    },
    OptionSpec {
        name: "log-level",
        aliases: &[],
        kind: Kind::Choice(&["ERROR", "WARN", "INFO", "DEBUG"], &[("WARNING", "WARN")]),
        default: "INFO",
        doc: "how much the workers of the session write to their logs",
        live: false,
    },
    OptionSpec {
        name: "rsync-command",
        aliases: &[],
        kind: Kind::Program,
        default: "rsync",
        doc: "the rsync program on the primary",
        live: false,
    },
    OptionSpec {
        name: "ssh-command",
        aliases: &[],
        kind: Kind::Program,
        default: "ssh",
        doc: "the ssh program",
        live: false,
    },
    OptionSpec {
        name: "ssh-identity",
        aliases: &[],
        kind: Kind::File,
        default: "",
        doc: "private key to log in with; not set: the key that was made for the session",
        live: false,
    },
    OptionSpec {
        name: "ssh-options",
        aliases: &[],
        kind: Kind::Words,
        default: "",
        doc: "further arguments of ssh, quoted as in a shell",
        live: false,
    },
    OptionSpec {
        name: "ssh-port",
        aliases: &[],
        kind: Kind::Number(1, 65535),
        default: "22",
        doc: "port of sshd on the secondary",
        live: false,
    },
    // tar is the default: it needs no program on either side, and a batch of small new files costs it a third of
    // what it costs rsync over a long link; rsync pays where large files change a little.
    OptionSpec {
        name: "sync-engine",
        aliases: &["sync-method"],
        kind: Kind::Choice(&["tar", "rsync", "auto"], &[("tarssh", "tar")]),
        default: "tar",
        doc: "what carries file data: tar sends whole files over open streams, rsync sends differences, auto decides per file",
        live: false,
    },
    OptionSpec {
        name: "sync-jobs",
        aliases: &[],
        kind: Kind::Number(1, 8),
        default: "3",
        doc: "parallel data transfers of a worker",
        live: false,
    },
];

/// What is wrong with a setting; the text lists what is possible.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OptionError {
    /// There is no such setting.
    #[error("there is no option '{name}'; possible are {known}")]
    Unknown {
        /// As it was given.
        name: String,
        /// All names.
        known: String,
    },
    /// It cannot have this value.
    #[error("'{value}' is not possible for {name}: it is {expected}")]
    BadValue {
        /// The setting.
        name: &'static str,
        /// As it was given.
        value: String,
        /// What it may be.
        expected: String,
    },
}

/// Finds a setting; `-` and `_` are equal in names.
///
/// # Errors
/// [`OptionError::Unknown`].
pub fn find(name: &str) -> Result<&'static OptionSpec, OptionError> {
    let wanted = name.replace('_', "-");
    let found = OPTIONS.iter().find(|spec| spec.name == wanted || spec.aliases.contains(&wanted.as_str()));
    found.ok_or_else(|| {
        let known: Vec<&str> = OPTIONS.iter().map(|spec| spec.name).collect();
        OptionError::Unknown { name: name.into(), known: known.join(", ") }
    })
}

impl OptionSpec {
    /// Checks a value and returns it in the spelling in which it is stored.
    ///
    /// # Errors
    /// [`OptionError::BadValue`].
    pub fn parse(&self, value: &str) -> Result<String, OptionError> {
        let accepted = match self.kind {
            Kind::Choice(values, spellings) => choose(value, values, spellings),
            Kind::Number(min, max) => {
                value.parse::<u32>().ok().filter(|n| (min..=max).contains(n)).map(|n| n.to_string())
            }
            Kind::Program => is_program(value).then(|| value.to_owned()),
            Kind::File => is_file(value).then(|| value.to_owned()),
            Kind::Words => words::split(value).is_ok().then(|| value.to_owned()),
        };
        accepted.ok_or_else(|| OptionError::BadValue {
            name: self.name,
            value: value.into(),
            expected: self.expected(),
        })
    }

    /// What it may be, in words.
    pub fn expected(&self) -> String {
        match self.kind {
            Kind::Choice(values, _) => format!("one of {}", values.join(", ")),
            Kind::Number(min, max) => format!("a whole number from {min} to {max}"),
            Kind::Program => "a program in PATH or an absolute path".into(),
            Kind::File => "an absolute path".into(),
            Kind::Words => "words as in a shell, with every quote closed".into(),
        }
    }
}

fn choose(value: &str, values: &[&str], spellings: &[(&str, &str)]) -> Option<String> {
    let given = spellings.iter().find(|(other, _)| other.eq_ignore_ascii_case(value)).map_or(value, |(_, is)| is);
    values.iter().find(|known| known.eq_ignore_ascii_case(given)).map(|&known| known.to_owned())
}

fn is_program(value: &str) -> bool {
    let clean = !value.is_empty() && !value.contains(['\0', '\n']) && !value.starts_with('-');
    clean && (Path::new(value).is_absolute() || !value.contains('/'))
}

fn is_file(value: &str) -> bool {
    Path::new(value).is_absolute() && !value.contains(['\0', '\n'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_sound() {
        assert!(OPTIONS.is_sorted_by_key(|spec| spec.name));
        for spec in OPTIONS {
            assert!(!spec.doc.is_empty());
            if !spec.default.is_empty() {
                assert_eq!(spec.parse(spec.default).unwrap(), spec.default, "{}", spec.name);
            }
            for name in spec.aliases.iter().chain([&spec.name]) {
                assert_eq!(find(name).unwrap(), spec);
                assert_eq!(find(&name.replace('-', "_")).unwrap(), spec);
                assert_eq!(
                    OPTIONS.iter().filter(|other| other.name == *name || other.aliases.contains(name)).count(),
                    1
                );
            }
        }
    }

    #[test]
    fn values_are_checked() {
        for (name, value, want) in [
            ("sync-engine", "rsync", Some("rsync")),
            ("sync_method", "tarssh", Some("tar")),
            ("sync-engine", "scp", None),
            ("sync-engine", "", None),
            ("sync-jobs", "1", Some("1")),
            ("sync-jobs", "08", Some("8")),
            ("sync-jobs", "0", None),
            ("sync-jobs", "9", None),
            ("sync-jobs", "many", None),
            ("ssh-port", "65535", Some("65535")),
            ("ssh-port", "65536", None),
            ("log-level", "debug", Some("DEBUG")),
            ("log-level", "Warning", Some("WARN")),
            ("log-level", "loud", None),
            ("rsync-command", "/opt/bin/rsync", Some("/opt/bin/rsync")),
            ("rsync-command", "bin/rsync", None),
            ("ssh-command", "-x", None),
            ("ssh-identity", "key", None),
            ("ssh-identity", "/etc/key", Some("/etc/key")),
            ("ssh-options", "-o 'A=b c'", Some("-o 'A=b c'")),
            ("ssh-options", "-o 'A=b", None),
        ] {
            assert_eq!(find(name).unwrap().parse(value).ok().as_deref(), want, "{name} {value}");
        }
    }

    #[test]
    fn errors_say_what_is_possible() {
        let unknown = find("sync-speed").unwrap_err().to_string();
        assert!(unknown.contains("sync-speed") && unknown.contains("sync-engine, sync-jobs"), "{unknown}");
        let bad = find("sync-jobs").unwrap().parse("20").unwrap_err().to_string();
        assert_eq!(bad, "'20' is not possible for sync-jobs: it is a whole number from 1 to 8");
    }
}
