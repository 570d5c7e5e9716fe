//! Protocol buffers in their text form, as chasquid keeps its files. Pure.

/// Most fields of a message, those within it among them.
const MOST: usize = 1_000_000;
/// Messages within one another.
const DEEPEST: usize = 10;

/// A message: its fields in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message(Vec<(String, Value)>);

/// What a field has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A string or bytes, unescaped.
    Bytes(Vec<u8>),
    /// A number or a word.
    Word(String),
    /// A message.
    Message(Message),
}

impl Message {
    /// Every value of a field.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Value> {
        self.0
            .iter()
            .filter(move |(field, _)| field == name)
            .map(|(_, value)| value)
    }

    /// Every message of a field.
    pub fn messages<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Message> {
        self.all(name).filter_map(|value| match value {
            Value::Message(message) => Some(message),
            _ => None,
        })
    }

    /// The first message of a field.
    pub fn message(&self, name: &str) -> Option<&Message> {
        self.0.iter().find_map(|(field, value)| match value {
            Value::Message(message) if field == name => Some(message),
            _ => None,
        })
    }

    /// The last string of a field.
    pub fn text(&self, name: &str) -> Option<String> {
        self.texts(name).pop()
    }

    /// Every string of a field.
    pub fn texts(&self, name: &str) -> Vec<String> {
        self.all(name)
            .filter_map(|value| match value {
                Value::Bytes(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
                _ => None,
            })
            .collect()
    }

    /// The bytes of a field.
    pub fn bytes(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().rev().find_map(|(field, value)| match value {
            Value::Bytes(bytes) if field == name => Some(bytes.as_slice()),
            _ => None,
        })
    }

    /// The last word of a field.
    pub fn word(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find_map(|(field, value)| match value {
            Value::Word(word) if field == name => Some(word.as_str()),
            _ => None,
        })
    }

    /// The number of a field.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.word(name)?.parse().ok()
    }
}

struct Reader<'a> {
    rest: &'a [u8],
    line: usize,
    fields: usize,
}

/// Reads a whole text; on a fault, its line and what is wrong.
pub fn parse(text: &[u8]) -> Result<Message, (usize, &'static str)> {
    let mut reader = Reader {
        rest: text,
        line: 1,
        fields: 0,
    };
    reader.message(0).map_err(|why| (reader.line, why))
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        self.line += usize::from(*first == b'\n');
        Some(*first)
    }

    fn space(&mut self) {
        while let Some(byte) = self.peek() {
            match byte {
                b'#' => while self.next().is_some_and(|byte| byte != b'\n') {},
                b',' | b';' => {
                    self.next();
                }
                _ if byte.is_ascii_whitespace() => {
                    self.next();
                }
                _ => return,
            }
        }
    }

    fn word(&mut self) -> String {
        let mut word = String::new();
        while let Some(byte) = self.peek() {
            if !(byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'+' | b'.')) {
                break;
            }
            word.push(char::from(byte));
            self.next();
        }
        word
    }

    /// Fields up to the end, or within another message up to its brace.
    fn message(&mut self, depth: usize) -> Result<Message, &'static str> {
        if depth > DEEPEST {
            return Err("messages lie too deep within one another");
        }
        let mut message = Message::default();
        loop {
            self.space();
            match self.peek() {
                None if depth == 0 => return Ok(message),
                None => return Err("a message has no end"),
                Some(b'}' | b'>') if depth > 0 => {
                    self.next();
                    return Ok(message);
                }
                Some(_) => {}
            }
            self.fields += 1;
            if self.fields > MOST {
                return Err("there are too many fields");
            }
            let name = self.word();
            if name.is_empty() {
                return Err("a field has no name");
            }
            self.space();
            let colon = self.peek() == Some(b':');
            if colon {
                self.next();
                self.space();
            }
            let value = match self.peek() {
                Some(b'{' | b'<') => {
                    self.next();
                    Value::Message(self.message(depth + 1)?)
                }
                Some(b'"' | b'\'') if colon => Value::Bytes(self.strings()?),
                _ if colon => match self.word() {
                    word if word.is_empty() => return Err("a field has no value"),
                    word => Value::Word(word),
                },
                _ => return Err("a field has neither a colon nor a brace"),
            };
            message.0.push((name, value));
        }
    }

    /// One string, or several that stand side by side.
    fn strings(&mut self) -> Result<Vec<u8>, &'static str> {
        let mut out = Vec::new();
        while let Some(quote @ (b'"' | b'\'')) = self.peek() {
            self.next();
            loop {
                match self.next() {
                    None => return Err("a string has no end"),
                    Some(byte) if byte == quote => break,
                    Some(b'\\') => self.escape(&mut out)?,
                    Some(byte) => out.push(byte),
                }
            }
            self.space();
        }
        Ok(out)
    }

    fn escape(&mut self, out: &mut Vec<u8>) -> Result<(), &'static str> {
        let wrong = "a string has an escape that is not known";
        let byte = match self.next().ok_or(wrong)? {
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'a' => 7,
            b'b' => 8,
            b'f' => 12,
            b'v' => 11,
            byte @ (b'\\' | b'"' | b'\'' | b'?') => byte,
            b'x' | b'X' => self.digits(16, 2, 0).ok_or(wrong)?,
            first @ b'0'..=b'7' => {
                let first = u32::from(first - b'0');
                self.digits(8, 2, first).ok_or(wrong)?
            }
            letter @ (b'u' | b'U') => {
                let mut code = 0;
                for _ in 0..if letter == b'u' { 4 } else { 8 } {
                    let digit = char::from(self.next().ok_or(wrong)?).to_digit(16);
                    code = code * 16 + digit.ok_or(wrong)?;
                }
                let letter = char::from_u32(code).ok_or(wrong)?;
                let mut bytes = [0; 4];
                out.extend_from_slice(letter.encode_utf8(&mut bytes).as_bytes());
                return Ok(());
            }
            _ => return Err(wrong),
        };
        out.push(byte);
        Ok(())
    }

    fn digits(&mut self, base: u32, most: usize, first: u32) -> Option<u8> {
        let mut value = first;
        for _ in 0..most {
            let Some(digit) = self.peek().and_then(|byte| char::from(byte).to_digit(base)) else {
                break;
            };
            value = value * base + digit;
            self.next();
        }
        u8::try_from(value).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_chasquid_are_read() {
        let text = br#"
# a comment
hostname: "mx.example.org"
smtp_address: ":25"  smtp_address: "[::1]:2525"
max_data_size_mb: 20
users: { key: "me" value: { scrypt: {
  logN: 14 r: 8
  salt: "\274\\\n\x41\"" 'b'
} } }
users <key: 'you' value {denied: {}}>
"#;
        let read = parse(text).expect("a message");
        assert_eq!(read.text("hostname").as_deref(), Some("mx.example.org"));
        assert_eq!(read.texts("smtp_address"), [":25", "[::1]:2525"]);
        assert_eq!(read.number("max_data_size_mb"), Some(20));
        let users: Vec<_> = read.messages("users").collect();
        let scrypt = users[0]
            .message("value")
            .and_then(|value| value.message("scrypt"));
        let scrypt = scrypt.expect("scrypt");
        assert_eq!(scrypt.number("logN"), Some(14));
        assert_eq!(scrypt.bytes("salt"), Some(&b"\xbc\\\nA\"b"[..]));
        assert_eq!(users[1].text("key").as_deref(), Some("you"));
        assert!(
            users[1]
                .message("value")
                .expect("value")
                .message("denied")
                .is_some()
        );
    }

    #[test]
    fn faults_name_their_line() {
        for (text, line) in [
            ("a: 1\nb", 2),
            ("a: \"x", 1),
            ("a {\n b: 1\n", 3),
            (": 1", 1),
            ("a: \"\\q\"", 1),
            ("a:", 1),
            ("}", 1),
        ] {
            assert_eq!(parse(text.as_bytes()).expect_err(text).0, line, "{text}");
        }
        let deep = "a{".repeat(100_000);
        assert!(parse(deep.as_bytes()).is_err());
    }
}
