//! How the command ends: exit codes, errors, hints.

use std::process::ExitCode;

use gsync_monitor::ClientError;
use gsync_monitor::api::Failure;

/// Exit codes; append-only.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// Done; for `verify` and `quickstart`: both trees are equal.
    Done = 0,
    /// Both trees differ, or a changelog is damaged.
    Different = 1,
    /// It could not be done, and nothing was changed. Also what wrong usage ends with.
    Failed = 2,
    /// It was done, but the session is not active yet; what is wrong was printed.
    NotActive = 3,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// An error that knows what to do next.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Problem {
    message: String,
    hint: String,
}

/// Makes a [`Problem`].
pub fn problem(message: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
    Problem { message: message.into(), hint: hint.into() }.into()
}

/// Prints an error, its causes, and one hint.
pub fn print_error(error: &anyhow::Error) {
    eprintln!("error: {error}");
    for cause in error.chain().skip(1) {
        eprintln!("  caused by: {cause}");
    }
    eprintln!("hint: {}", hint(error));
}

fn hint(error: &anyhow::Error) -> String {
    for cause in error.chain() {
        if let Some(problem) = cause.downcast_ref::<Problem>() {
            return problem.hint.clone();
        }
        let failure = match cause.downcast_ref::<ClientError>() {
            Some(ClientError::Failed(failure)) => Some(failure),
            Some(ClientError::Io { .. }) => return "look at log/monitor.log in the state directory".into(),
            Some(ClientError::Unexpected) => return "stop the old monitor; the next command starts the new one".into(),
            None => cause.downcast_ref::<Failure>(),
        };
        if let Some(failure) = failure.filter(|failure| !failure.hint.is_empty()) {
            return failure.hint.clone();
        }
    }
    "'geo-rep help' lists the commands; logs are in the directory log of the state directory".into()
}
