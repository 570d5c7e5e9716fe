//! Reads `tests/dialogues/*.smtp`; their README says what each line means.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// One file.
pub struct Script {
    pub world: String,
    pub bytewise: bool,
    pub lines: Vec<(usize, Line)>,
}

/// One line of it.
pub enum Line {
    Connect { listener: String, how: Opening },
    Tls,
    Send(Vec<u8>),
    Reply(String),
    Some(String),
    None(String),
    Closed,
    Arrives,
    Message(String),
    NotInMessage(String),
    Nothing,
}

/// How far a new connection has come when the script goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    Raw,
    Hello,
    Tls,
    User,
}

pub fn parse(text: &str) -> Result<Script, String> {
    let mut script = Script {
        world: "plain".into(),
        bytewise: false,
        lines: Vec::new(),
    };
    for (index, line) in text.lines().enumerate() {
        let at = index + 1;
        let fault = |why: &str| format!("line {at}: {why}: {line}");
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (mark, rest) = line.split_once(' ').unwrap_or((line, ""));
        let parsed = match (mark, rest) {
            ("%", "bytewise") => {
                script.bytewise = true;
                continue;
            }
            ("%", world) => {
                let world = world.strip_prefix("world ");
                script.world = world.ok_or_else(|| fault("no such setting"))?.to_owned();
                continue;
            }
            ("=", "tls") => Line::Tls,
            ("=", "arrives") => Line::Arrives,
            ("=", "nothing") => Line::Nothing,
            ("=", "user") => Line::Connect {
                listener: "submissions".into(),
                how: Opening::User,
            },
            ("=", to) => {
                let (listener, how) = to.split_once(' ').unwrap_or((to, ""));
                let how = match how {
                    "" => Opening::Raw,
                    "hello" => Opening::Hello,
                    "tls" => Opening::Tls,
                    _ => return Err(fault("no such opening")),
                };
                Line::Connect {
                    listener: listener.to_owned(),
                    how,
                }
            }
            ("->", text) => {
                let mut bytes = bytes(text).map_err(|why| fault(&why))?;
                bytes.extend_from_slice(b"\r\n");
                Line::Send(bytes)
            }
            (">>", text) => Line::Send(bytes(text).map_err(|why| fault(&why))?),
            ("<-", pattern) => Line::Reply(pattern.to_owned()),
            ("<+", pattern) => Line::Some(pattern.to_owned()),
            ("<!", pattern) => Line::None(pattern.to_owned()),
            ("<x", "") => Line::Closed,
            ("<m", pattern) => Line::Message(pattern.to_owned()),
            ("<m!", pattern) => Line::NotInMessage(pattern.to_owned()),
            _ => return Err(fault("no such line")),
        };
        script.lines.push((at, parsed));
    }
    Ok(script)
}

/// The bytes that a text stands for.
fn bytes(text: &str) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        match next {
            '\\' => {
                let escape = rest.get(1..2).ok_or("a backslash at the end")?;
                let mut used = 2;
                match escape {
                    "r" => out.push(b'\r'),
                    "n" => out.push(b'\n'),
                    "t" => out.push(b'\t'),
                    "0" => out.push(0),
                    "\\" => out.push(b'\\'),
                    "x" => {
                        let digits = rest.get(2..4).ok_or("two digits after \\x")?;
                        out.push(u8::from_str_radix(digits, 16).map_err(|e| e.to_string())?);
                        used = 4;
                    }
                    _ => return Err(format!("no escape \\{escape}")),
                }
                rest = &rest[used..];
            }
            '{' if rest.starts_with("{b64 ") || rest.starts_with("{repeat ") => {
                let end = rest.find('}').ok_or("no }")?;
                let inner = &rest[1..end];
                if let Some(plain) = inner.strip_prefix("b64 ") {
                    out.extend_from_slice(STANDARD.encode(bytes(plain)?).as_bytes());
                } else {
                    let (count, unit) = inner[7..].split_once(' ').ok_or("repeat N text")?;
                    let count: usize = count.parse().map_err(|_| "a number")?;
                    out.extend_from_slice(&bytes(unit)?.repeat(count));
                }
                rest = &rest[end + 1..];
            }
            other => {
                out.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes());
                rest = &rest[other.len_utf8()..];
            }
        }
    }
    Ok(out)
}

/// Whether `text` is what `pattern` says; `*` stands for any number of characters.
pub fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else {
        return rest.is_empty();
    };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.len() >= last.len() && rest.ends_with(last)
}

#[test]
fn patterns_and_escapes_mean_what_the_readme_says() {
    assert!(matches("250 2.0.0 *", "250 2.0.0 OK"));
    assert!(matches("*a*b", "xaxxb"));
    assert!(!matches("250 *", "550 no"));
    assert!(matches("334 ", "334 "));
    assert!(!matches("ab*ba", "aba"));
    assert_eq!(
        bytes("a\\r\\n\\x00\\\\{b64 a\\0b}{repeat 3 xy}ü").as_deref(),
        Ok("a\r\n\0\\YQBixyxyxyü".as_bytes())
    );
    assert!(bytes("\\q").is_err());
}
