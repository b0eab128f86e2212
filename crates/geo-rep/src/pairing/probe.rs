//! What the other machine is like: one script, one answer of `name=value` lines. Parsing is pure.

use crate::checks::Place;

/// Run by `sh -s -- DIRECTORY AGENT AGENT-HERE` over there; changes nothing.
pub const SCRIPT: &str = r#"
dir=$1 agent=$2 here=$3
echo gsync-probe=1
echo "uid=$(id -u)"
echo "machine=$(cat /etc/machine-id 2>/dev/null)"
path=$(command -v "${agent:-gsync-agent}" 2>/dev/null)
if [ -z "$path" ] && [ -z "$agent" ] && [ -x "$here" ]; then path=$here; fi
case $path in /*) ;; *) path= ;; esac
echo "agent=$path"
if [ -n "$path" ]; then echo "version=$("$path" --version 2>&1 | head -n 1)"; fi
if [ -d "$dir" ]; then
    dir=$(cd -P -- "$dir" && pwd -P)
    if [ -d "$dir/.gsync" ]; then echo place=ours
    elif [ -n "$(ls -A -- "$dir" | grep -v -x 'lost+found' | head -n 1)" ]; then echo place=filled
    else echo place=empty; fi
elif [ -e "$dir" ] || [ -L "$dir" ]; then echo place=other
elif [ -d "$(dirname -- "$dir")" ]; then
    dir=$(cd -P -- "$(dirname -- "$dir")" && pwd -P)/$(basename -- "$dir"); echo place=missing
else echo place=lost; fi
echo "path=$dir"
echo end=1
"#;

/// Run likewise with the line for authorized_keys on stdin: makes the directory, appends the line once.
pub const INSTALL: &str = r#"set -e; umask 077; [ -d "$1" ] || (umask 022; mkdir -- "$1"); IFS= read -r line
mkdir -p "$HOME/.ssh"; keys="$HOME/.ssh/authorized_keys"; touch "$keys"
if [ -s "$keys" ] && [ -n "$(tail -c 1 "$keys")" ]; then echo >> "$keys"; fi
grep -q -x -F -e "$line" "$keys" || printf '%s\n' "$line" >> "$keys"; echo installed"#;

/// Run likewise: takes the line out again.
pub const REMOVE: &str = r#"set -e; umask 077; IFS= read -r line; keys="$HOME/.ssh/authorized_keys"
grep -v -x -F -e "$line" "$keys" > "$keys.gsync" || true; cat "$keys.gsync" > "$keys"; rm -f "$keys.gsync""#;

/// What the script said.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Probe {
    /// Whether we log in as root.
    pub is_root: bool,
    /// Identity of the machine, to notice that it is this one.
    pub machine: String,
    /// Absolute path of gsync-agent; absent if there is none.
    pub agent: Option<String>,
    /// What the agent says of its version.
    pub version: String,
    /// What is at the secondary's place; absent if it cannot be used.
    pub place: Option<Place>,
    /// Whether the directory above is missing (rather than something else being in the place).
    pub is_parent_missing: bool,
    /// The directory without links, as it is named over there.
    pub path: String,
}

impl Probe {
    /// Parses the answer; `None` if it is none (a banner, or a forced command that does something else).
    pub fn parse(answer: &str) -> Option<Probe> {
        let mut probe = Probe::default();
        let (mut begun, mut ended) = (false, false);
        for line in answer.lines() {
            let Some((name, value)) = line.split_once('=') else { continue };
            begun |= name == "gsync-probe";
            if !begun {
                continue;
            }
            match name {
                "uid" => probe.is_root = value == "0",
                "machine" => probe.machine = value.into(),
                "agent" => probe.agent = Some(value.to_owned()).filter(|path| path.starts_with('/')),
                "version" => probe.version = value.into(),
                "path" => probe.path = value.into(),
                "place" => {
                    probe.is_parent_missing = value == "lost";
                    probe.place = match value {
                        "missing" => Some(Place::Missing),
                        "empty" => Some(Place::Empty),
                        "ours" => Some(Place::Ours),
                        "filled" => Some(Place::Filled),
                        _ => None,
                    };
                }
                "end" => ended = true,
                _ => {}
            }
        }
        (begun && ended).then_some(probe)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    fn probe(dir: &std::path::Path, agent: &str, here: &str) -> Probe {
        let mut child = Command::new("sh")
            .args(["-s", "--"])
            .arg(dir)
            .args([agent, here])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(SCRIPT.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        Probe::parse(&format!("banner=1\n{}", String::from_utf8_lossy(&output.stdout))).unwrap()
    }

    #[test]
    fn the_script_tells_the_places_apart() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        for name in ["empty one", "filled", "ours", "new-fs"] {
            std::fs::create_dir(root.join(name)).unwrap();
        }
        std::fs::write(root.join("filled/x"), "").unwrap();
        std::fs::create_dir(root.join("ours/.gsync")).unwrap();
        std::fs::create_dir(root.join("new-fs/lost+found")).unwrap();
        std::fs::write(root.join("file"), "").unwrap();
        for (name, place) in [
            ("empty one", Some(Place::Empty)),
            ("filled", Some(Place::Filled)),
            ("ours", Some(Place::Ours)),
            ("new-fs", Some(Place::Empty)),
            ("it's missing", Some(Place::Missing)),
            ("file", None),
            ("a/b", None),
        ] {
            let found = probe(&root.join(name), "", "/bin/sh");
            assert_eq!(found.place, place, "{name}");
            assert_eq!(found.is_parent_missing, name == "a/b");
            if place.is_some() {
                assert_eq!(found.path, root.join(name).to_str().unwrap());
            }
        }
        assert_eq!(probe(&root, "cat", "").agent.as_deref().map(|path| path.ends_with("/cat")), Some(true));
        assert_eq!(probe(&root, "no-such-program", "/bin/sh").agent, None);
    }

    #[test]
    fn anything_else_is_no_answer() {
        assert_eq!(Probe::parse("uid=0\nend=1\n"), None);
        assert_eq!(Probe::parse("gsync-probe=1\nuid=0\n"), None, "cut off");
    }
}
