//! A session: one primary volume replicating to one secondary, and what is wanted of it.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::SessionId;
use crate::secondary::Secondary;

/// What an operator has declared.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Session {
    /// Its identity; marks and epochs on the secondary are kept under it.
    pub id: SessionId,
    /// Its name, unique.
    pub name: String,
    /// Name of the primary volume.
    pub primary: String,
    /// Where to.
    pub secondary: Secondary,
    /// Settings that differ from their defaults: name and value in the spelling of [`crate::options`].
    pub settings: BTreeMap<String, String>,
    /// What it should be doing.
    pub desired: Desired,
    /// Counts the changes of `settings`, from 1.
    pub version: u64,
}

/// What a session should be doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Desired {
    /// Declared and never started: nothing is recorded yet.
    Created,
    /// Replicating.
    Started,
    /// Not replicating for now; changes are recorded.
    Paused,
    /// Not replicating; changes are recorded, so that nothing is missed when it starts again.
    Stopped,
}

/// What an operator asks of a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transition {
    /// Start replicating.
    Start,
    /// Stop replicating.
    Stop,
    /// Stop for a while.
    Pause,
    /// Go on after a pause.
    Resume,
    /// Forget the session.
    Delete,
}

/// A transition that is not possible now; the words are for the operator.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refused {
    /// To start what is started.
    #[error("it is already started")]
    AlreadyStarted,
    /// To start what is paused.
    #[error("it is paused; resume it")]
    IsPaused,
    /// To stop or pause what does not run.
    #[error("it is not running")]
    NotRunning,
    /// To pause twice.
    #[error("it is already paused")]
    AlreadyPaused,
    /// To resume what was not paused.
    #[error("it is not paused")]
    NotPaused,
    /// To delete what runs.
    #[error("it is still active; stop it first")]
    StillActive,
}

impl Desired {
    /// What should be after a transition; `None` when the session is to be forgotten.
    ///
    /// # Errors
    /// [`Refused`] in the cases in which GlusterFS refuses; `force` overrides all but the deletion of what runs.
    pub fn after(self, transition: Transition, force: bool) -> Result<Option<Desired>, Refused> {
        use Desired::{Created, Paused, Started, Stopped};
        let next = match (transition, self) {
            (Transition::Start, Created | Stopped) => Started,
            (Transition::Start, Started) if !force => return Err(Refused::AlreadyStarted),
            (Transition::Start, Paused) if !force => return Err(Refused::IsPaused),
            (Transition::Start, _) => Started,
            (Transition::Stop, Started | Paused) => Stopped,
            (Transition::Stop, Created) if force => Created,
            (Transition::Stop, Stopped) if force => Stopped,
            (Transition::Stop, _) => return Err(Refused::NotRunning),
            (Transition::Pause, Started) => Paused,
            (Transition::Pause, Paused) if force => Paused,
            (Transition::Pause, Paused) => return Err(Refused::AlreadyPaused),
            (Transition::Pause, _) => return Err(Refused::NotRunning),
            (Transition::Resume, Paused) => Started,
            (Transition::Resume, Started) if force => Started,
            (Transition::Resume, _) => return Err(Refused::NotPaused),
            (Transition::Delete, Created | Stopped) => return Ok(None),
            (Transition::Delete, _) => return Err(Refused::StillActive),
        };
        Ok(Some(next))
    }

    /// Whether changes of the primary are recorded for the session.
    pub fn is_recorded(self) -> bool {
        self != Desired::Created
    }
}

impl fmt::Display for Desired {
    /// In the words of GlusterFS's status.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Desired::Created => "Created",
            Desired::Started => "Started",
            Desired::Paused => "Paused",
            Desired::Stopped => "Stopped",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Desired::{Created, Paused, Started, Stopped};
    use super::Refused::*;
    use super::Transition::{Delete, Pause, Resume, Start, Stop};

    #[test]
    fn every_transition_from_every_state() {
        let table = [
            (Start, [Ok(Started), Err(AlreadyStarted), Err(IsPaused), Ok(Started)]),
            (Stop, [Err(NotRunning), Ok(Stopped), Ok(Stopped), Err(NotRunning)]),
            (Pause, [Err(NotRunning), Ok(Paused), Err(AlreadyPaused), Err(NotRunning)]),
            (Resume, [Err(NotPaused), Err(NotPaused), Ok(Started), Err(NotPaused)]),
        ];
        for (transition, wants) in table {
            for (from, want) in [Created, Started, Paused, Stopped].into_iter().zip(wants) {
                assert_eq!(from.after(transition, false), want.map(Some), "{transition:?} from {from}");
            }
        }
        for (from, want) in
            [(Created, Ok(None)), (Started, Err(StillActive)), (Paused, Err(StillActive)), (Stopped, Ok(None))]
        {
            assert_eq!(from.after(Delete, false), want);
            assert_eq!(from.after(Delete, true), want);
        }
    }

    #[test]
    fn force_repeats_a_transition() {
        assert_eq!(Started.after(Start, true), Ok(Some(Started)));
        assert_eq!(Paused.after(Start, true), Ok(Some(Started)));
        assert_eq!(Stopped.after(Stop, true), Ok(Some(Stopped)));
        assert_eq!(Paused.after(Pause, true), Ok(Some(Paused)));
        assert_eq!(Created.after(Resume, true), Err(NotPaused));
    }
}
