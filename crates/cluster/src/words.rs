//! Splitting a text into words as a shell would, without expanding anything.

/// Why a text cannot be split.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WordsError {
    /// A quote is not closed.
    #[error("a quote is not closed")]
    OpenQuote,
    /// Nothing follows the last backslash.
    #[error("nothing follows the last backslash")]
    OpenEscape,
}

/// Splits at blanks; single quotes, double quotes and backslashes work as in `sh`.
///
/// # Errors
/// [`WordsError`] where a quote or an escape is not finished.
pub fn split(text: &str) -> Result<Vec<String>, WordsError> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            blank if blank.is_whitespace() => words.extend(word.take()),
            '\\' => word.get_or_insert_default().push(letters.next().ok_or(WordsError::OpenEscape)?),
            '\'' => single(&mut letters, word.get_or_insert_default())?,
            '"' => double(&mut letters, word.get_or_insert_default())?,
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    Ok(words)
}

/// Quotes a text so that a shell takes it as one word with exactly these characters.
pub fn quote(text: &str) -> String {
    let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'/' | b'.' | b'_' | b'-' | b':' | b'@' | b'=' | b',');
    if !text.is_empty() && text.bytes().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn single(letters: &mut std::str::Chars<'_>, word: &mut String) -> Result<(), WordsError> {
    loop {
        match letters.next().ok_or(WordsError::OpenQuote)? {
            '\'' => return Ok(()),
            other => word.push(other),
        }
    }
}

fn double(letters: &mut std::str::Chars<'_>, word: &mut String) -> Result<(), WordsError> {
    loop {
        match letters.next().ok_or(WordsError::OpenQuote)? {
            '"' => return Ok(()),
            '\\' => match letters.next().ok_or(WordsError::OpenQuote)? {
                escaped @ ('"' | '\\' | '$' | '`') => word.push(escaped),
                other => word.extend(['\\', other]),
            },
            other => word.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_like_a_shell_does() {
        for (text, want) in [
            ("", vec![]),
            ("  ", vec![]),
            ("-4 -o Compression=yes", vec!["-4", "-o", "Compression=yes"]),
            (r#"-o 'ProxyCommand=ssh -W %h:%p jump'"#, vec!["-o", "ProxyCommand=ssh -W %h:%p jump"]),
            (r#"-o "A=b c"d ''"#, vec!["-o", "A=b cd", ""]),
            (r#"a\ b "\$x\n\"" 'a\b'"#, vec!["a b", r#"$x\n""#, r"a\b"]),
        ] {
            assert_eq!(split(text).unwrap(), want, "{text}");
        }
        assert_eq!(split("a 'b"), Err(WordsError::OpenQuote));
        assert_eq!(split("a \"b\\\""), Err(WordsError::OpenQuote));
        assert_eq!(split("a\\"), Err(WordsError::OpenEscape));
    }

    #[test]
    fn what_is_quoted_is_one_word() {
        for text in ["", "a", "a b", "it's", "$HOME `x` \"y\" \\", "/a/b", "ü"] {
            assert_eq!(split(&quote(text)).unwrap(), [text]);
        }
    }
}
