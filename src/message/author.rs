//! Who a message says it is from: the mailboxes of a From, Sender or other address field
//! (RFC 5322 section 3.4, RFC 6532, groups as RFC 6854 allows them in From).
//!
//! One strict reader for everything that judges, signs or counts authors. What it can not read as a
//! whole is an error, never a shorter list: a reader that skips what it does not understand judges
//! another author than the one that people are shown. Each byte is looked at a bounded number of
//! times, and a field longer than [`LONGEST`] is refused before that. Pure.
//!
//! Beyond the grammar it takes what names the same mailbox for every reader: bytes over 127 and
//! brackets in a display name, commas and the like within an encoded word, and a display name
//! without quotes that repeats the address itself.

use crate::base::address::{Address, Charset};

/// Octets of an address field that is read; the header of a message as a whole may be longer.
pub const LONGEST: usize = 16 * 1024;
/// Mailboxes of one field.
pub const MOST: usize = 200;

/// Why a field can not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// It is longer than [`LONGEST`], or names more than [`MOST`] mailboxes.
    #[error("the address field is too long")]
    TooLong,
    /// It is no list of addresses, or a part of it is none.
    #[error("the address field holds something that is no address")]
    Malformed,
}

/// The mailboxes of an address field's value, in order; an error if any of it is unreadable. Empty
/// only where the field or its groups are.
pub fn addresses(value: &[u8]) -> Result<Vec<Address>, Unreadable> {
    if value.len() > LONGEST {
        return Err(Unreadable::TooLong);
    }
    let mut found = Vec::new();
    let mut element: Vec<Token<'_>> = Vec::new();
    let mut in_group = false;
    let mut in_angle = false;
    let mut after_group = false;
    let mut tokens = Tokens(value);
    loop {
        let token = tokens.next()?;
        match token {
            Some(Token::Special(b'<')) if in_angle => return Err(Unreadable::Malformed),
            Some(Token::Special(byte @ (b'<' | b'>'))) => in_angle = byte == b'<',
            // RFC 5322 section 4.4: a route within brackets is obsolete, and a second reading.
            Some(Token::Special(b',' | b':' | b';')) if in_angle => {
                return Err(Unreadable::Malformed);
            }
            Some(Token::Special(b':')) => {
                if in_group || after_group || element.is_empty() || !element.iter().all(is_phrase) {
                    return Err(Unreadable::Malformed);
                }
                in_group = true;
                element.clear();
                continue;
            }
            Some(Token::Special(b';')) if !in_group => return Err(Unreadable::Malformed),
            Some(Token::Special(byte @ (b',' | b';'))) => {
                finish(&mut element, &mut found)?;
                after_group = byte == b';';
                in_group &= !after_group;
                continue;
            }
            None => {
                if in_group || in_angle {
                    return Err(Unreadable::Malformed);
                }
                finish(&mut element, &mut found)?;
                return Ok(found);
            }
            Some(_) => {}
        }
        if after_group {
            return Err(Unreadable::Malformed);
        }
        element.extend(token);
    }
}

/// Reads one element of the list. Lists may have empty ones (RFC 5322 section 4.4).
fn finish(element: &mut Vec<Token<'_>>, found: &mut Vec<Address>) -> Result<(), Unreadable> {
    if element.is_empty() {
        return Ok(());
    }
    if found.len() >= MOST {
        return Err(Unreadable::TooLong);
    }
    found.push(mailbox(element)?);
    element.clear();
    Ok(())
}

/// `addr-spec`, or a display name and one in brackets.
fn mailbox(tokens: &[Token<'_>]) -> Result<Address, Unreadable> {
    let open = tokens
        .iter()
        .position(|token| *token == Token::Special(b'<'));
    let Some(open) = open else {
        return specification(tokens);
    };
    let (name, rest) = tokens.split_at(open);
    let [_, inner @ .., Token::Special(b'>')] = rest else {
        return Err(Unreadable::Malformed);
    };
    let address = specification(inner)?;
    // A name without quotes that is an address must not be another one.
    let same = || specification(name).is_ok_and(|shown| shown == address);
    if !name.iter().all(is_phrase) && !same() {
        return Err(Unreadable::Malformed);
    }
    Ok(address)
}

/// `local@domain`, with comments and white space wherever the grammar lets them be.
fn specification(tokens: &[Token<'_>]) -> Result<Address, Unreadable> {
    let at = tokens
        .iter()
        .position(|token| *token == Token::Special(b'@'));
    let (local, domain) = tokens.split_at(at.ok_or(Unreadable::Malformed)?);
    let domain = domain.get(1..).unwrap_or_default();
    let mut plain = true;
    let mut content = Vec::new();
    for (index, token) in local.iter().enumerate() {
        match (index % 2, token) {
            (0, Token::Atom(atom)) => content.extend_from_slice(atom),
            (0, Token::Quoted(text)) => {
                plain = false;
                content.extend_from_slice(text);
            }
            (1, Token::Special(b'.')) => content.push(b'.'),
            _ => return Err(Unreadable::Malformed),
        }
    }
    let mut text = match (plain, local.len() % 2) {
        (_, 0) => return Err(Unreadable::Malformed),
        (true, _) => content,
        (false, _) => quoted(&content),
    };
    text.push(b'@');
    match domain {
        [Token::Literal(literal)] => text.extend_from_slice(literal),
        _ => {
            for (index, token) in domain.iter().enumerate() {
                match (index % 2, token) {
                    (0, Token::Atom(atom)) => text.extend_from_slice(atom),
                    (1, Token::Special(b'.')) => text.push(b'.'),
                    _ => return Err(Unreadable::Malformed),
                }
            }
        }
    }
    Address::parse_in(&text, Charset::Utf8).map_err(|_| Unreadable::Malformed)
}

fn quoted(content: &[u8]) -> Vec<u8> {
    let mut out = vec![b'"'];
    for byte in content {
        if matches!(byte, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(*byte);
    }
    out.push(b'"');
    out
}

/// Whether a token may stand in a display name.
fn is_phrase(token: &Token<'_>) -> bool {
    match token {
        Token::Atom(_) | Token::Encoded | Token::Quoted(_) | Token::Literal(_) => true,
        Token::Special(byte) => *byte == b'.',
    }
}

/// A lexical token (RFC 5322 section 3.2); white space and comments are none.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Token<'a> {
    Atom(&'a [u8]),
    /// An encoded word that is no atom (RFC 2047 section 2): for names only.
    Encoded,
    /// What a quoted string holds.
    Quoted(Vec<u8>),
    /// What is between brackets, and they.
    Literal(&'a [u8]),
    Special(u8),
}

struct Tokens<'a>(&'a [u8]);

impl<'a> Tokens<'a> {
    fn next(&mut self) -> Result<Option<Token<'a>>, Unreadable> {
        self.skip_space()?;
        let Some(first) = self.0.first().copied() else {
            return Ok(None);
        };
        match first {
            b'"' => self.quoted().map(Some),
            b'[' => {
                let end = self.0.iter().position(|byte| *byte == b']');
                let literal = self.take(end.ok_or(Unreadable::Malformed)? + 1);
                match literal.iter().all(|byte| matches!(byte, 33..=126 | 128..)) {
                    true => Ok(Some(Token::Literal(literal))),
                    false => Err(Unreadable::Malformed),
                }
            }
            b'<' | b'>' | b',' | b':' | b';' | b'@' | b'.' => {
                self.take(1);
                Ok(Some(Token::Special(first)))
            }
            _ => self.atom().map(Some),
        }
    }

    fn take(&mut self, length: usize) -> &'a [u8] {
        let (front, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        front
    }

    /// Skips white space, folds and comments, however deep these are nested.
    fn skip_space(&mut self) -> Result<(), Unreadable> {
        let mut depth = 0usize;
        while let Some(byte) = self.0.first().copied() {
            match (byte, depth) {
                (b' ' | b'\t' | b'\r' | b'\n', _) => {}
                (b'(', _) => depth += 1,
                (b')', 1..) => depth -= 1,
                (b'\\', 1..) => {
                    self.take(1);
                }
                (32..=126 | 128.., 1..) => {}
                (_, 1..) => return Err(Unreadable::Malformed),
                _ => return Ok(()),
            }
            self.take(1);
        }
        match depth {
            0 => Ok(()),
            _ => Err(Unreadable::Malformed),
        }
    }

    fn quoted(&mut self) -> Result<Token<'a>, Unreadable> {
        self.take(1);
        let mut content = Vec::new();
        loop {
            match *self.take(1) {
                [b'"'] => return Ok(Token::Quoted(content)),
                [b'\\'] => match *self.take(1) {
                    [byte @ (b'\t' | 32..=126 | 128..)] => content.push(byte),
                    _ => return Err(Unreadable::Malformed),
                },
                // A fold: the white space behind it is part of the text.
                [b'\r' | b'\n'] => {}
                [byte @ (b'\t' | 32..=126 | 128..)] => content.push(byte),
                _ => return Err(Unreadable::Malformed),
            }
        }
    }

    fn atom(&mut self) -> Result<Token<'a>, Unreadable> {
        if let Some(length) = encoded_word(self.0) {
            let word = self.take(length);
            return Ok(match word.iter().all(|byte| is_atext(*byte)) {
                true => Token::Atom(word),
                false => Token::Encoded,
            });
        }
        let end = self.0.iter().position(|byte| !is_atext(*byte));
        match end.unwrap_or(self.0.len()) {
            0 => Err(Unreadable::Malformed),
            length => Ok(Token::Atom(self.take(length))),
        }
    }
}

/// The length of the encoded word at the front of `text`, if what it holds opens and closes nothing.
/// RFC 2047 section 5 wants only letters, digits and a few signs in that of a name; many programs
/// leave commas and more.
fn encoded_word(text: &[u8]) -> Option<usize> {
    /// RFC 2047 section 2 allows 75 octets, which not everybody keeps to.
    const LONGEST_WORD: usize = 256;
    let text = text.get(..LONGEST_WORD.min(text.len()))?;
    if !text.starts_with(b"=?") {
        return None;
    }
    let is_inner = |byte: &u8| matches!(byte, 33..=126) && !b"<>()\"\\".contains(byte);
    let mut marks = 0;
    for (at, byte) in text.iter().enumerate().skip(2) {
        match byte {
            b'?' if marks == 2 => {
                return (text.get(at + 1) == Some(&b'=')).then_some(at + 2);
            }
            b'?' => marks += 1,
            _ if !is_inner(byte) => return None,
            _ => {}
        }
    }
    None
}

/// RFC 5322 section 3.2.3 and RFC 6532 section 3.2.
fn is_atext(byte: u8) -> bool {
    byte >= 128 || byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &str) -> Result<Vec<String>, Unreadable> {
        let read = addresses(value.as_bytes())?;
        Ok(read.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn r4_fields_name_their_mailboxes() {
        for (value, expected) in [
            (" a@B.example\r\n", vec!["a@b.example"]),
            (" \"A, B\" <a@b.example>\r\n", vec!["a@b.example"]),
            (
                " \"john doe\"@one.example",
                vec!["\"john doe\"@one.example"],
            ),
            (" a(c)@one.example", vec!["a@one.example"]),
            (
                " a(c(d)\\) e) @ (f) one . example (g)",
                vec!["a@one.example"],
            ),
            (
                " \"ceo\"@strict.example, a@one.example",
                vec!["ceo@strict.example", "a@one.example"],
            ),
            (" \"a\".b.\"c\"@one.example", vec!["a.b.c@one.example"]),
            (
                " =?utf-8?q?J=C3=BCrgen?=\r\n <j@b.example>\r\n",
                vec!["j@b.example"],
            ),
            (
                " =?utf-8?q?Firm,_Ltd.:_a@b.example?= <j@b.example>",
                vec!["j@b.example"],
            ),
            (" J. R. [bot] \u{fc} <j@b.example>", vec!["j@b.example"]),
            (" J@B.example <J@b.example>", vec!["J@b.example"]),
            (" \"ceo@c.example\" <j@b.example>", vec!["j@b.example"]),
            (
                " a@b.example, C <c@d.example>\r\n",
                vec!["a@b.example", "c@d.example"],
            ),
            (
                " \u{fc}@b\u{fc}cher.example\r\n",
                vec!["\u{fc}@xn--bcher-kva.example"],
            ),
            (
                " us: a@b.example, c@d.example;",
                vec!["a@b.example", "c@d.example"],
            ),
            (" us:;", vec![]),
            (" a@[192.0.2.1]", vec!["a@[192.0.2.1]"]),
            (" a@b.example,, ", vec!["a@b.example"]),
            ("\r\n", vec![]),
        ] {
            let expected: Vec<String> = expected.into_iter().map(str::to_owned).collect();
            assert_eq!(read(value), Ok(expected), "{value:?}");
        }
    }

    #[test]
    fn s5_one_author_that_can_not_be_read_makes_the_field_unreadable() {
        for value in [
            " CEO <ceo@bank.example.>, x <u@evil.example>",
            " <bob@example.org.>, <ann@example.org>",
            " ceo@bank.example <u@evil.example>",
            " <ceo@bank.example> <u@evil.example>",
            " <ceo@bank.example> x, <u@evil.example>",
            " <<ceo@bank.example>>",
            " <@bank.example:u@evil.example>",
            " a@bank.example@evil.example",
            " nobody, u@evil.example",
            " Firm, Ltd. <u@evil.example>",
            " a b@evil.example",
            " us: a@b.example",
            " us: them: a@b.example;;",
            " us: a@b.example; c@d.example",
            " a@b.example;",
            " (x u@evil.example",
            " \"x <u@evil.example>",
            " x\u{0} <u@evil.example>",
            " x <u@evil.example",
            " =?q?x?<ceo@bank.example>?= <u@evil.example>",
            " a..b@evil.example",
            " a@evil example",
            " a@",
            " @evil.example",
        ] {
            assert_eq!(read(value), Err(Unreadable::Malformed), "{value:?}");
        }
    }

    #[test]
    fn s2_long_fields_are_refused_before_they_are_read_and_all_others_cost_little() {
        for part in [
            " =?aaa?q?",
            "(",
            "\"",
            "\\",
            "<",
            "a,",
            "=?",
            "[",
            "a@b.example,",
            ".",
        ] {
            let long = part.repeat(250 * 1024 / part.len());
            assert_eq!(read(&long), Err(Unreadable::TooLong), "{part}");
            let most = part.repeat(LONGEST / part.len());
            let begun = std::time::Instant::now();
            for _ in 0..20 {
                let _ = read(&most);
            }
            let each = begun.elapsed() / 20;
            // Without optimisation, on a busy machine; a quadratic reader takes seconds.
            assert!(
                each < std::time::Duration::from_millis(200),
                "{part}: {each:?}"
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_an_error_at_worst_and_what_is_read_reads_again(
            bytes in proptest::collection::vec(proptest::sample::select(
                b"ab.@<>()\",:;\\[]=?q \r\n\xc3\xbc".to_vec()), 0..60)
        ) {
            if let Ok(found) = addresses(&bytes) {
                let again: Vec<String> = found.iter().map(ToString::to_string).collect();
                proptest::prop_assert_eq!(read(&again.join(", ")), Ok(again));
            }
        }
    }
}
