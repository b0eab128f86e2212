//! What becomes of that which is at a name already. Pure.

/// What is at the name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Occupant {
    /// Nothing.
    Nobody,
    /// Something without a stamp.
    Unknown {
        /// Whether it is a directory.
        is_directory: bool,
    },
    /// A known object.
    Known {
        /// Whether it is a directory.
        is_directory: bool,
        /// Whether it lives on without this name: it has others, or the primary said that it is gone.
        is_dispensable: bool,
    },
}

/// Where the occupant goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keep {
    /// Nowhere: this name of it is of no use.
    Drop,
    /// To the parking place.
    Park,
    /// To quarantine.
    Quarantine,
}

/// How the name is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Taking {
    /// One rename, nothing is there.
    Free,
    /// The occupant gets its other name first, then one rename replaces it: the name is never empty.
    Over(Keep),
    /// Both change places with one exchange, then the occupant goes. The one way where a directory is involved:
    /// rename(2) replaces only empty directories, and nothing by another type.
    Exchange(Keep),
}

/// Decides how a name is taken.
pub fn taking(incoming_is_directory: bool, occupant: Occupant) -> Taking {
    let (is_directory, keep) = match occupant {
        Occupant::Nobody => return Taking::Free,
        Occupant::Unknown { is_directory } => (is_directory, Keep::Quarantine),
        Occupant::Known { is_directory: false, is_dispensable: true } => (false, Keep::Drop),
        Occupant::Known { is_directory, .. } => (is_directory, Keep::Park),
    };
    if incoming_is_directory || is_directory { Taking::Exchange(keep) } else { Taking::Over(keep) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_is_decided_as_written() {
        let known = |is_directory, is_dispensable| Occupant::Known { is_directory, is_dispensable };
        for (incoming_is_directory, occupant, expected) in [
            (false, Occupant::Nobody, Taking::Free),
            (true, Occupant::Nobody, Taking::Free),
            (false, Occupant::Unknown { is_directory: false }, Taking::Over(Keep::Quarantine)),
            (false, Occupant::Unknown { is_directory: true }, Taking::Exchange(Keep::Quarantine)),
            (true, Occupant::Unknown { is_directory: false }, Taking::Exchange(Keep::Quarantine)),
            (true, Occupant::Unknown { is_directory: true }, Taking::Exchange(Keep::Quarantine)),
            (false, known(false, true), Taking::Over(Keep::Drop)),
            (false, known(false, false), Taking::Over(Keep::Park)),
            (true, known(false, true), Taking::Exchange(Keep::Drop)),
            (true, known(false, false), Taking::Exchange(Keep::Park)),
            (false, known(true, false), Taking::Exchange(Keep::Park)),
            // A directory is never dropped with what is in it, whoever says that it is gone.
            (false, known(true, true), Taking::Exchange(Keep::Park)),
            (true, known(true, true), Taking::Exchange(Keep::Park)),
        ] {
            assert_eq!(taking(incoming_is_directory, occupant), expected, "{incoming_is_directory} {occupant:?}");
        }
    }
}
