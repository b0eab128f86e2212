//! What rsync printed, for the operator.

use std::time::Duration;

use protocol::Gfid;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::ChildStderr;
use tokio::task::JoinHandle;

/// Lines that are kept: rsync prints one or two for each file that fails.
const MAX_LINES: usize = 512;

/// The most of a line that is kept.
const MAX_LINE_BYTES: u64 = 1024;

/// How long the last lines may take once rsync has ended: a child of its own may still hold the pipe.
const END_LIMIT: Duration = Duration::from_secs(5);

/// Lines in the order in which they were printed.
#[derive(Debug, Default)]
pub struct Said {
    lines: Vec<String>,
}

/// Reads what a running rsync prints.
pub fn listen(stderr: Option<ChildStderr>) -> JoinHandle<Said> {
    tokio::spawn(async move {
        let mut said = Said::default();
        let Some(stderr) = stderr else { return said };
        let mut stderr = BufReader::new(stderr);
        let mut line = Vec::new();
        while let Ok(1..) = (&mut stderr).take(MAX_LINE_BYTES).read_until(b'\n', &mut line).await {
            let text = String::from_utf8_lossy(&line).trim().to_owned();
            if !text.is_empty() && said.lines.len() < MAX_LINES {
                tracing::debug!(text, "rsync says");
                said.lines.push(text);
            }
            line.clear();
        }
        said
    })
}

/// All that was printed by an rsync that has ended.
pub async fn all(listening: JoinHandle<Said>) -> Said {
    match tokio::time::timeout(END_LIMIT, listening).await {
        Ok(Ok(said)) => said,
        _ => Said::default(),
    }
}

impl Said {
    /// Why this file could not be sent, if anything was said about it.
    pub fn about(&self, gfid: Gfid) -> Option<String> {
        let name = gfid.to_string();
        self.lines.iter().find(|line| line.contains(&name)).map(|line| shorten(line))
    }

    /// What tells most about the whole call: its first line, the last one says only that it failed.
    pub fn why(&self) -> String {
        self.lines.first().map_or("it printed nothing".into(), |line| shorten(line))
    }
}

/// Without the path, which is one of ours and names the stage: `rsync: [receiver] write failed on "...": No space left
/// on device (28)` becomes `rsync: [receiver] write failed: No space left on device (28)`.
fn shorten(line: &str) -> String {
    let text = match (line.find('"'), line.rfind('"')) {
        (Some(start), Some(end)) if start < end => {
            let before = line[..start].trim_end();
            format!("{}{}", before.strip_suffix(" on").unwrap_or(before), &line[end + 1..])
        }
        _ => line.to_owned(),
    };
    if text.starts_with("rsync") { text } else { format!("rsync: {text}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GFID: &str = "0a0b0c0d-0e0f-1011-1213-141516171819";

    #[test]
    fn the_useful_part_is_found() {
        let said = |lines: &[String]| Said { lines: lines.to_vec() };
        let gfid = Gfid::parse(GFID.as_bytes()).unwrap();
        let full =
            format!(r#"rsync: [receiver] write failed on "/s/.gsync/stage/ab/{GFID}": No space left on device (28)"#);
        let error = "rsync error: error in file IO (code 11) at receiver.c(381) [receiver=3.5.0]".to_owned();
        let expected = "rsync: [receiver] write failed: No space left on device (28)";
        let lines = said(&["motd".into(), full.clone(), error.clone()]);
        assert_eq!(lines.about(gfid).as_deref(), Some(expected));
        assert_eq!(lines.about(Gfid([1; 16])), None);
        assert_eq!(said(&[full, error.clone()]).why(), expected);
        assert_eq!(said(std::slice::from_ref(&error)).why(), error);
        assert_eq!(said(&[]).why(), "it printed nothing");
        let verification = format!("WARNING: {GFID} failed verification -- update discarded (will try again).");
        assert_eq!(said(std::slice::from_ref(&verification)).about(gfid), Some(format!("rsync: {verification}")));
        assert_eq!(said(&["a \" b".into()]).why(), "rsync: a \" b");
    }
}
