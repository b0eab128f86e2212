//! The words of a forced command. Pure: everything that is not known is refused here.

use protocol::rsync::{LOCAL_HOST, parse_server_args};

use crate::error::AgentError;

/// Words in what may be asked.
const MAX_WORDS: usize = 32;

/// Bytes in one word: a stage token or a group of rsync options.
const MAX_WORD_BYTES: usize = 200;

/// Bytes of a refused request that are shown.
const MAX_SHOWN_BYTES: usize = 100;

/// What a door does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Task {
    /// A control channel.
    Control,
    /// A stage channel.
    Stage,
    /// A manifest of the tree, for the comparison with the primary.
    Manifest,
    /// What the secondary is like.
    Check,
    /// Make it ready for a session.
    Prepare,
    /// Give it free again.
    Release,
    /// The rsync server.
    Rsync {
        /// The stage that it writes into.
        token: String,
        /// Its arguments between `rsync` and the target.
        options: Vec<String>,
    },
}

/// Parses what is asked.
///
/// # Errors
/// [`AgentError::NotAllowed`].
pub fn parse(words: &[String]) -> Result<Task, AgentError> {
    let refused = || {
        let asked: String = words.join(" ").escape_default().take(MAX_SHOWN_BYTES).collect();
        AgentError::NotAllowed { asked }
    };
    let plain = |word: &String| {
        let known = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'/' | b'=' | b'-');
        !word.is_empty() && word.len() <= MAX_WORD_BYTES && word.bytes().all(known)
    };
    if words.len() > MAX_WORDS || !words.iter().all(plain) {
        return Err(refused());
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    Ok(match words.as_slice() {
        ["gsync", "control"] => Task::Control,
        ["gsync", "stage"] => Task::Stage,
        ["gsync", "manifest"] => Task::Manifest,
        ["gsync", "check"] => Task::Check,
        ["gsync", "prepare"] => Task::Prepare,
        ["gsync", "release"] => Task::Release,
        [LOCAL_HOST, rest @ ..] | rest => {
            let token = parse_server_args(rest).ok_or_else(refused)?;
            let options = rest[1..rest.len() - 1].iter().map(ToString::to_string).collect();
            Task::Rsync { token: token.into(), options }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Option<Task> {
        parse(&line.split(' ').map(String::from).collect::<Vec<_>>()).ok()
    }

    #[test]
    fn what_a_worker_asks_is_known() {
        assert_eq!(parsed("gsync control"), Some(Task::Control));
        assert_eq!(parsed("gsync check"), Some(Task::Check));
        let token = "0123456789abcdef0123456789abcdef";
        let expected = Task::Rsync {
            token: token.into(),
            options: ["--server", "-tISe.LsfxCIvu", "--inplace", "."].map(String::from).into(),
        };
        let line = format!("rsync --server -tISe.LsfxCIvu --inplace . {token}/");
        assert_eq!(parsed(&line), Some(expected.clone()));
        assert_eq!(parsed(&format!("{LOCAL_HOST} {line}")), Some(expected));
    }

    #[test]
    fn everything_else_is_refused() {
        for line in [
            "",
            "sh",
            "gsync",
            "gsync control now",
            "gsync control;id",
            "gsync  control",
            "agent gsync control x",
            "rsync --server --sender -tISe.LsfxCIvu . 0123456789abcdef0123456789abcdef/",
            "rsync --server -tISe.LsfxCIvu . $(id)/",
            "scp -t /etc",
        ] {
            assert_eq!(parsed(line), None, "{line}");
        }
        assert!(parse(&vec!["a".to_string(); MAX_WORDS + 1]).is_err());
        assert!(parse(&["gsync".into(), "x".repeat(MAX_WORD_BYTES + 1)]).is_err());
    }
}
