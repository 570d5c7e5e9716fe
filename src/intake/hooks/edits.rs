//! Applies what a milter changes to a header block. Pure.

use super::wire::Edit;
use crate::message::headers::{self, MalformedHeader};

struct Line {
    name: Vec<u8>,
    whole: Vec<u8>,
}

/// The header block after `edits`, in their order; fields they do not name keep every byte.
pub fn apply(head: &[u8], edits: &[Edit]) -> Result<Vec<u8>, MalformedHeader> {
    let fields = headers::fields(head)?;
    let end: usize = fields.iter().map(|field| field.whole.len()).sum();
    let tail = head.get(end..).unwrap_or_default();
    let mut lines: Vec<Line> = fields
        .iter()
        .map(|field| Line {
            name: field.name.to_vec(),
            whole: field.whole.to_vec(),
        })
        .collect();
    for edit in edits {
        match edit {
            Edit::Add { name, value } => lines.push(line(name, value)),
            Edit::Insert { index, name, value } => {
                lines.insert((*index).min(lines.len()), line(name, value));
            }
            Edit::Change { index, name, value } => change(&mut lines, *index, name, value),
            Edit::Body(_) | Edit::Envelope(_) => {}
        }
    }
    let mut out = Vec::with_capacity(head.len() + 256);
    for line in lines {
        out.extend_from_slice(&line.whole);
    }
    out.extend_from_slice(tail);
    Ok(out)
}

fn change(lines: &mut Vec<Line>, index: usize, name: &[u8], value: &[u8]) {
    let mut same = lines
        .iter()
        .enumerate()
        .filter(|(_, line)| line.name.eq_ignore_ascii_case(name));
    let at = same
        .nth(index.saturating_sub(1))
        .map(|(position, _)| position);
    match (at, value.is_empty()) {
        (Some(at), true) => {
            lines.remove(at);
        }
        (Some(at), false) => {
            if let Some(old) = lines.get_mut(at) {
                *old = line(name, value);
            }
        }
        (None, true) => {}
        (None, false) => lines.push(line(name, value)),
    }
}

/// A field as it goes over the wire. Milters fold with bare LF; whatever they send, it stays one
/// field.
fn line(name: &[u8], value: &[u8]) -> Line {
    let mut whole = name.to_vec();
    whole.push(b':');
    let parts = value.split(|byte| *byte == b'\n').map(|part| {
        let part: Vec<u8> = part
            .iter()
            .copied()
            .filter(|byte| !matches!(byte, b'\r' | 0))
            .collect();
        part
    });
    for (number, part) in parts
        .filter(|part| !part.trim_ascii().is_empty())
        .enumerate()
    {
        if number > 0 {
            whole.extend_from_slice(b"\r\n");
        }
        if !matches!(part.first(), Some(b' ' | b'\t')) {
            whole.push(if number == 0 { b' ' } else { b'\t' });
        }
        whole.extend_from_slice(&part);
    }
    whole.extend_from_slice(b"\r\n");
    Line {
        name: name.to_vec(),
        whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &[u8] = b"Received: a\r\nSubject: b\r\n c\r\nX-A: 1\r\nx-a: 2\r\n\r\n";

    fn edited(edits: &[Edit]) -> String {
        String::from_utf8(apply(HEAD, edits).expect("fields")).expect("text")
    }

    fn change(index: usize, value: &[u8]) -> Edit {
        Edit::Change {
            index,
            name: b"X-A".to_vec(),
            value: value.to_vec(),
        }
    }

    #[test]
    fn fields_are_added_inserted_changed_and_removed() {
        let add = Edit::Add {
            name: b"X-Spam".to_vec(),
            value: b"Yes".to_vec(),
        };
        let insert = |index| Edit::Insert {
            index,
            name: b"X-Top".to_vec(),
            value: b"t".to_vec(),
        };
        assert_eq!(
            edited(&[add, insert(0), insert(2), insert(usize::MAX)]),
            "X-Top: t\r\nReceived: a\r\nX-Top: t\r\nSubject: b\r\n c\r\nX-A: 1\r\nx-a: 2\r\nX-Spam: Yes\r\nX-Top: t\r\n\r\n"
        );
        assert_eq!(
            edited(&[change(2, b""), change(1, b"new")]),
            "Received: a\r\nSubject: b\r\n c\r\nX-A: new\r\n\r\n"
        );
        assert_eq!(
            edited(&[change(3, b"third"), change(9, b"")]),
            "Received: a\r\nSubject: b\r\n c\r\nX-A: 1\r\nx-a: 2\r\nX-A: third\r\n\r\n"
        );
    }

    #[test]
    fn a_value_stays_one_field() {
        let value = b"one\nBcc: evil\r\n\r\n\n body\0\r\n\ttwo";
        assert_eq!(
            edited(&[change(1, value), change(2, b"")]),
            "Received: a\r\nSubject: b\r\n c\r\nX-A: one\r\n\tBcc: evil\r\n body\r\n\ttwo\r\n\r\n"
        );
    }
}
