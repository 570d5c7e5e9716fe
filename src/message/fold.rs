//! Folds header lines that are too long for the way (RFC 5322 sections 2.1.1 and 2.2.3). Pure.
//!
//! Only for messages that are signed afterwards. A line is broken before white space that is there
//! already, so that unfolded it is what it was; a word is never torn.

/// Bytes of a line that are aimed at.
const WANTED: usize = 78;

/// The header block with lines of at most `most` bytes, as far as white space allows.
pub fn fold(head: &[u8], most: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(head.len() + head.len() / WANTED * 2);
    for line in head.split_inclusive(|byte| *byte == b'\n') {
        let bare = line.strip_suffix(b"\r\n").unwrap_or(line);
        if bare.len() <= most {
            out.extend_from_slice(line);
            continue;
        }
        let mut rest = bare;
        while let Some(at) = place(rest, rest.len() == bare.len()) {
            let (front, back) = rest.split_at(at);
            out.extend_from_slice(front);
            out.extend_from_slice(b"\r\n");
            rest = back;
        }
        out.extend_from_slice(rest);
        out.extend_from_slice(line.get(bare.len()..).unwrap_or_default());
    }
    out
}

/// Where to break a line: before the last white space within [`WANTED`] bytes, else the first
/// behind. Neither part of it is empty to the eye.
fn place(line: &[u8], first: bool) -> Option<usize> {
    if line.len() <= WANTED {
        return None;
    }
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
    // Behind the name of the field and the white space after it.
    let colon = match first && !line.first().is_some_and(is_space) {
        true => line.iter().position(|byte| *byte == b':')? + 1,
        false => 0,
    };
    let text = line.get(colon..)?.iter().position(|byte| !is_space(byte))? + colon;
    let last = line.iter().rposition(|byte| !is_space(byte))?;
    let mut found = None;
    for at in text + 1..last {
        let here = line.get(at).is_some_and(is_space);
        let before = line.get(at - 1).is_some_and(is_space);
        if here && !before {
            if at > WANTED && found.is_some() {
                break;
            }
            found = Some(at);
            if at > WANTED {
                break;
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lines_that_are_too_long_are_folded_and_no_word_is_torn() {
        let long = format!(
            "References: {}",
            vec!["<12345678901234567890@example.org>"; 40].join(" ")
        );
        let text = format!(
            "Subject: short  one\r\n{long}\r\nX: {}\r\n\r\n",
            "y".repeat(2000)
        );
        let out = String::from_utf8(fold(text.as_bytes(), 998)).expect("text");
        assert!(
            out.starts_with("Subject: short  one\r\nReferences: <1234"),
            "{out}"
        );
        assert_eq!(
            out.replace("\r\n ", " "),
            text,
            "unfolded it is what it was"
        );
        let folded = out
            .lines()
            .filter(|line| !line.starts_with("X:") && !line.is_empty());
        assert!(
            folded
                .clone()
                .all(|line| line.len() <= 78 && !line.trim().is_empty())
        );
        assert!(out.contains(&"y".repeat(2000)));
        assert_eq!(fold(out.as_bytes(), 998), out.as_bytes());
    }

    #[test]
    fn no_line_is_left_empty() {
        let spaces = " ".repeat(1200);
        for text in [
            format!("A:{spaces}x\r\n\r\n"),
            format!("A: x{spaces}\r\n\r\n"),
            format!("A: x{spaces}y{spaces}z\r\n\r\n"),
            format!(
                "A: {}\r\n\tb {}\r\n\r\n",
                "x ".repeat(900),
                "y\t".repeat(900)
            ),
            format!("{spaces}\r\n"),
            "x ".repeat(900),
        ] {
            let out = fold(text.as_bytes(), 998);
            let lines: Vec<&[u8]> = out.split(|byte| *byte == b'\n').collect();
            let blank = |line: &&&[u8]| !line.is_empty() && line.trim_ascii().is_empty();
            let before = text
                .as_bytes()
                .split(|byte| *byte == b'\n')
                .collect::<Vec<_>>();
            assert_eq!(
                lines.iter().filter(blank).count(),
                before.iter().filter(blank).count()
            );
            let words = |bytes: &[u8]| {
                let text = String::from_utf8_lossy(bytes).into_owned();
                text.split_whitespace()
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            };
            assert_eq!(words(&out), words(text.as_bytes()));
        }
    }
}
