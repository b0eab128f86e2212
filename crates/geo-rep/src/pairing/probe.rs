//! What the other machine is like: one script, one answer of `name=value` lines. Parsing is pure.

use protocol::check::Report;

/// Run by `sh -s -- DIRECTORY AGENT AGENT-HERE` over there; changes nothing.
pub const SCRIPT: &str = r#"
dir=$1 agent=$2 here=$3
echo gsync-probe=1
path=$(command -v "${agent:-gsync-agent}" 2>/dev/null)
if [ -z "$path" ] && [ -z "$agent" ] && [ -x "$here" ]; then path=$here; fi
case $path in /*) ;; *) path= ;; esac
echo "agent=$path"
if [ -n "$path" ]; then
    echo "version=$("$path" --version 2>&1 | head -n 1)"
    echo "check=$("$path" check --root "$dir" 2>/dev/null)"
fi
echo end=1
"#;

/// Run likewise with the line for authorized_keys on stdin: makes the directory, appends the line once.
pub const INSTALL: &str = r#"set -e; umask 077; [ -d "$1" ] || (umask 022; mkdir -- "$1"); IFS= read -r line
mkdir -p "$HOME/.ssh"; keys="$HOME/.ssh/authorized_keys"; touch "$keys"
if [ -s "$keys" ] && [ -n "$(tail -c 1 "$keys")" ]; then echo >> "$keys"; fi
grep -q -x -F -e "$line" "$keys" || printf '%s\n' "$line" >> "$keys"; echo installed"#;

/// Run likewise: takes the line out again, and the directory when it was made (its name is given then) and is empty.
pub const REMOVE: &str = r#"set -e; umask 077; IFS= read -r line; keys="$HOME/.ssh/authorized_keys"
grep -v -x -F -e "$line" "$keys" > "$keys.gsync" || true; cat "$keys.gsync" > "$keys"; rm -f "$keys.gsync"
if [ -n "$1" ]; then rmdir -- "$1" 2>/dev/null || true; fi"#;

/// What the script said.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Probe {
    /// Absolute path of gsync-agent; absent if there is none.
    pub agent: Option<String>,
    /// What the agent says of its version.
    pub version: String,
    /// What the agent says of the directory; absent when it is of a release that does not know the question.
    pub report: Option<Report>,
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
                "agent" => probe.agent = Some(value.to_owned()).filter(|path| path.starts_with('/')),
                "version" => probe.version = value.into(),
                "check" => probe.report = serde_json::from_str(value).ok(),
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
    fn the_script_finds_and_asks_the_agent() {
        let dir = tempfile::tempdir().unwrap();
        let agent = dir.path().join("it's an agent");
        let script = "#!/bin/sh\n[ \"$1\" = --version ] && echo agent 9 && exit\necho \"{\\\"path\\\": \\\"$3\\\"}\"\n";
        std::fs::write(&agent, script).unwrap();
        let mut mode = std::fs::metadata(&agent).unwrap().permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut mode, 0o755);
        std::fs::set_permissions(&agent, mode).unwrap();
        let root = dir.path().join("a b");
        for (named, here) in [(agent.to_str().unwrap(), "/nothing"), ("", agent.to_str().unwrap())] {
            let found = probe(&root, named, here);
            if named.is_empty() && found.agent.as_deref() != agent.to_str() {
                // One is installed on this machine, in PATH.
                continue;
            }
            assert_eq!((found.agent.as_deref(), found.version.as_str()), (agent.to_str(), "agent 9"));
            assert_eq!(found.report.unwrap().path, root.to_str().unwrap());
        }
        let other = probe(&root, "cat", "");
        assert!(other.agent.is_some() && other.report.is_none(), "{other:?}");
        assert_eq!(probe(&root, "no-such-program", "/bin/sh").agent, None);
    }

    #[test]
    fn anything_else_is_no_answer() {
        assert_eq!(Probe::parse("agent=/x\nend=1\n"), None);
        assert_eq!(Probe::parse("gsync-probe=1\nagent=/x\n"), None, "cut off");
    }
}
