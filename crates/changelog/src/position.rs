//! A place in a brick's journal that stays valid when the open slice is rolled.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Where a record begins, or where the next one will.
///
/// A slice is named by what is before it, because the open slice has no name of its own yet: it is the first slice
/// with an end later than `after`, or the open one where there is none.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Position {
    /// End of the slice before this one, in seconds since 1970; 0 where there is none.
    pub after: u64,
    /// Byte offset inside the slice's file.
    pub offset: u64,
}

/// A text that is not a position.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a position (<seconds>:<offset>): {text:?}")]
pub struct BadPosition {
    /// The text, cut to 64 characters.
    pub text: String,
}

impl Position {
    /// Before everything that the journal has.
    pub const START: Position = Position { after: 0, offset: 0 };
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.after, self.offset)
    }
}

impl FromStr for Position {
    type Err = BadPosition;
    fn from_str(text: &str) -> Result<Position, BadPosition> {
        let number = |digits: &str| digits.parse().ok().filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()));
        text.split_once(':')
            .and_then(|(after, offset)| Some(Position { after: number(after)?, offset: number(offset)? }))
            .ok_or_else(|| BadPosition { text: text.chars().take(64).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips_and_order_is_by_slice_then_offset() {
        let position = Position { after: 1_795_221_437, offset: 51 };
        assert_eq!(position.to_string().parse(), Ok(position));
        assert!(Position::START < position && position < Position { after: 1_795_221_438, offset: 0 });
        for bad in ["", "1", ":", "1:", ":1", "+1:2", "1:2:3", "1:99999999999999999999"] {
            assert!(bad.parse::<Position>().is_err(), "{bad}");
        }
    }
}
