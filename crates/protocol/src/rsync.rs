//! The one way in which rsync is called, as both ends know it.
//!
//! The client sends files named by GFID into the stage; it says where with the stage token. The door on the
//! secondary accepts the server arguments that follow from [`CLIENT_OPTIONS`] and nothing else.

/// Options of the rsync client besides `--files-from=-`, the remote shell, source and destination.
///
/// `--copy-links`: sources are links to open descriptors. `--ignore-times`: a change that kept size and mtime is
/// sent too. `--times`: rsync sets the mtime when a file is complete, by which the agent knows that it is.
/// `--inplace` patches the basis that the agent put into the stage; `--sparse` keeps holes.
pub const CLIENT_OPTIONS: [&str; 8] = [
    "--copy-links",
    "--ignore-times",
    "--times",
    "--inplace",
    "--sparse",
    "--no-whole-file",
    "--no-relative",
    "--from0",
];

/// The oldest rsync that knows what we ask of it, on either side.
pub const OLDEST: (u32, u32) = (3, 2);

/// What the client gives as the host where the remote shell needs none; the door drops it.
pub const LOCAL_HOST: &str = "agent";

/// Characters in a stage token (lower-case hexadecimal).
pub const TOKEN_LEN: usize = 32;

/// Long server options that the client options lead to, in rsync 3.2 to 3.5.
const SERVER_OPTIONS: [&str; 7] =
    ["--inplace", "--no-W", "--no-whole-file", "--no-R", "--no-relative", "--from0", "--stats"];

/// Takes the stage token out of the server's arguments (`rsync --server ... . <token>/`).
///
/// Returns `None` for anything that [`CLIENT_OPTIONS`] do not lead to.
pub fn parse_server_args<'a>(args: &[&'a str]) -> Option<&'a str> {
    let [program, server, options @ .., dot, target] = args else { return None };
    if *program != "rsync" || *server != "--server" || *dot != "." {
        return None;
    }
    let known = |o: &&str| SERVER_OPTIONS.contains(o) || is_short_options(o);
    if !options.iter().all(known) {
        return None;
    }
    let token = target.strip_suffix('/')?;
    is_token(token).then_some(token)
}

/// The version in what `rsync --version` prints, e.g. `3.2.7`.
pub fn parse_version(text: &str) -> Option<&str> {
    let mut words = text.split_ascii_whitespace().skip_while(|word| *word != "version");
    words.nth(1)
}

/// Whether a version is at least [`OLDEST`].
pub fn is_new_enough(version: &str) -> bool {
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    let found: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    found >= OLDEST
}

/// Whether this is a stage token.
pub fn is_token(text: &str) -> bool {
    text.len() == TOKEN_LEN && text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
}

/// One group of short options: times, ignore-times, sparse, copy-links, verbosity, then `e.` and capabilities.
fn is_short_options(option: &str) -> bool {
    let Some(letters) = option.strip_prefix('-') else { return false };
    let (flags, capabilities) = letters.split_once("e.").unwrap_or((letters, ""));
    !letters.is_empty()
        && flags.bytes().all(|c| matches!(c, b't' | b'I' | b'S' | b'L' | b'v' | b'q'))
        && capabilities.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef0123456789abcdef";

    fn parse(line: &str) -> Option<&str> {
        parse_server_args(&line.split(' ').collect::<Vec<_>>())
    }

    #[test]
    fn versions_are_compared_by_number() {
        let text = "rsync  version 3.2.7  protocol version 31\nCopyright";
        assert_eq!(parse_version(text), Some("3.2.7"));
        assert_eq!(parse_version("sh: not found"), None);
        for (version, expected) in [("3.2.7", true), ("3.10.0", true), ("4.0", true), ("3.1.3", false), ("x", false)] {
            assert_eq!(is_new_enough(version), expected, "{version}");
        }
    }

    #[test]
    fn what_the_client_sends_is_accepted() {
        let line = format!("rsync --server -tISe.LsfxCIvu --inplace --no-W . {TOKEN}/");
        assert_eq!(parse(&line), Some(TOKEN));
    }

    #[test]
    fn anything_else_is_refused() {
        for line in [
            format!("rsync --server --sender -tISe.LsfxCIvu . {TOKEN}/"),
            format!("rsync --server -tISe.LsfxCIvu --remove-source-files . {TOKEN}/"),
            format!("rsync --server -rtISe.LsfxCIvu . {TOKEN}/"),
            format!("rsync --server -tISe.LsfxCIvu . {TOKEN}/../"),
            "rsync --server -tISe.LsfxCIvu . /etc/".into(),
            format!("sh --server -tISe.LsfxCIvu . {TOKEN}/"),
            format!("rsync --server -tISe.LsfxCIvu --temp-dir=/tmp . {TOKEN}/"),
        ] {
            assert_eq!(parse(&line), None, "{line}");
        }
    }
}
