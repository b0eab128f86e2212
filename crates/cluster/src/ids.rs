//! Identities, and the number that fences.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The longest name of a session, volume or node.
pub const NAME_MAX: usize = 64;

macro_rules! identity {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Uuid);

        impl $name {
            /// Makes a new one.
            pub fn random() -> $name {
                $name(Uuid::new_v4())
            }

            /// Returns its 16 bytes, as they travel.
            pub fn bytes(self) -> [u8; 16] {
                self.0.into_bytes()
            }

            /// Takes the 16 bytes.
            pub fn from_bytes(bytes: [u8; 16]) -> $name {
                $name(Uuid::from_bytes(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<$name, uuid::Error> {
                Ok($name(Uuid::parse_str(text)?))
            }
        }

        impl TryFrom<String> for $name {
            type Error = uuid::Error;

            fn try_from(text: String) -> Result<$name, uuid::Error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.to_string()
            }
        }
    };
}

identity! {
    /// Identity of a session. A session that is deleted and created again is another one.
    SessionId
}

identity! {
    /// Identity of a brick: it stays when sessions come and go, because the brick's index and journal are kept under it.
    BrickId
}

/// Fencing number of an ACTIVE: strictly growing for each (session, replica set); the secondary refuses lower ones.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Whether a text can name a session, a volume or a node: 1 to 64 letters, digits, `.`, `_` or `-`, the first one a
/// letter or digit. So a name is never mistaken for a directory, an option or a part of a path.
pub fn is_name(text: &str) -> bool {
    let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
    text.len() <= NAME_MAX
        && text.bytes().all(plain)
        && text.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
}

/// Makes a name out of any text, such as the last component of a path.
pub fn to_name(text: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' };
    let name: String = text.chars().map(plain).collect();
    let name: String = name.trim_start_matches(['.', '_', '-']).chars().take(NAME_MAX - 8).collect();
    if name.is_empty() { "volume".into() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_paths_and_options() {
        for good in ["a", "web-1", "data.2_b", "0"] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "/a", "a/b", "-a", ".a", "a b", "é", "a:b", "!x", &"a".repeat(65)] {
            assert!(!is_name(bad), "{bad}");
        }
        for any in ["", "..", "photos 2024", "-x", "ü", &"a".repeat(300)] {
            assert!(is_name(&to_name(any)), "{any}");
        }
    }

    #[test]
    fn identities_travel_as_text() {
        let id = BrickId::random();
        let text = serde_json::to_string(&id).unwrap();
        assert_eq!(text, format!("\"{id}\""));
        assert_eq!(serde_json::from_str::<BrickId>(&text).unwrap(), id);
        assert!(serde_json::from_str::<BrickId>("\"x\"").is_err());
        assert_eq!(BrickId::from_bytes(id.bytes()), id);
    }
}
