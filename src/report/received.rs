//! Reports that others sent us: DMARC aggregate reports (RFC 9990, RFC 7489) and TLS-RPT (RFC
//! 8460), out of a message, or as the XML, JSON, gzip or zip file that it carries.
//!
//! Anybody can send one, and what a few bytes unpack to can be endless: what is read, unpacked and
//! counted is bounded before any of it is looked at. [`store`] keeps them, [`summary`] adds up.

pub mod store;
pub mod summary;

use std::io::{self, Cursor, Read as _};

use flate2::bufread::GzDecoder;
use mail_auth::report::Report;
use mail_auth::report::tlsrpt::TlsReport;
use mail_parser::{MessageParser, MimeHeaders as _, PartType};
use serde::{Deserialize, Serialize};

/// Bytes of a message or file that are read.
pub const MOST_INPUT: u64 = 10 * 1024 * 1024;
/// Bytes to which all parts of it may unpack.
pub const MOST_TEXT: u64 = 16 * 1024 * 1024;
/// How a gzip stream begins (RFC 1952 section 2.3.1).
const GZIP: &[u8] = &[0x1f, 0x8b];
/// Parts of a message, and files in an archive, that are looked at.
const MOST_PARTS: usize = 10;
/// Encoded words (RFC 2047) of a message; the time to read them grows with their square.
const MOST_WORDS: usize = 1000;
/// Records of a report.
const MOST_RECORDS: usize = 50_000;

/// A report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Received {
    /// How mail in the name of a domain fared.
    Dmarc(Box<Report>),
    /// How deliveries to a domain fared.
    Tls(Box<TlsReport>),
}

/// Why nothing could be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// There is none.
    #[error("there is no DMARC or TLS report in it")]
    None,
    /// It is longer than [`MOST_INPUT`], or unpacks to more than [`MOST_TEXT`].
    #[error(
        "it is too big: a report has at most {} MiB, unpacked {} MiB and {MOST_RECORDS} records",
        MOST_INPUT >> 20,
        MOST_TEXT >> 20
    )]
    TooBig,
    /// A part claims to be a report and is none.
    #[error("a report in it can not be read: {0}")]
    Malformed(String),
    /// The file can not be read.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Received {
    /// The domains it is about.
    pub fn domains(&self) -> Vec<&str> {
        match self {
            Received::Dmarc(report) => vec![report.domain()],
            Received::Tls(report) => {
                let policies = report.policies.iter();
                policies
                    .map(|policy| policy.policy.policy_domain.as_str())
                    .collect()
            }
        }
    }

    /// Who sent it.
    pub fn organization(&self) -> &str {
        match self {
            Received::Dmarc(report) => report.org_name(),
            Received::Tls(report) => report.organization_name.as_deref().unwrap_or_default(),
        }
    }

    /// Its number, which is the same if it is sent again.
    pub fn number(&self) -> &str {
        match self {
            Received::Dmarc(report) => report.report_id(),
            Received::Tls(report) => &report.report_id,
        }
    }

    /// Its last second, since 1970.
    pub fn end(&self) -> u64 {
        match self {
            Received::Dmarc(report) => report.date_range_end(),
            Received::Tls(report) => {
                u64::try_from(report.date_range.end_datetime.to_timestamp()).unwrap_or(0)
            }
        }
    }
}

/// Reads a message or a file; gives every report in it, at least one.
pub fn read(input: impl io::Read) -> Result<Vec<Received>, ReadError> {
    let mut bytes = Vec::new();
    input.take(MOST_INPUT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST_INPUT {
        return Err(ReadError::TooBig);
    }
    let mut reader = Reader {
        left: MOST_TEXT,
        found: Vec::new(),
        wrong: None,
    };
    match Kind::of(&bytes) {
        Some(kind) => reader.part(kind, &bytes)?,
        None => reader.message(&bytes)?,
    }
    match (reader.found.is_empty(), reader.wrong) {
        (false, _) => Ok(reader.found),
        (true, Some(why)) => Err(ReadError::Malformed(why)),
        (true, None) => Err(ReadError::None),
    }
}

/// What bytes are, by their first ones: names and types of parts are often wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Gzip,
    Zip,
    Xml,
    Json,
}

impl Kind {
    fn of(bytes: &[u8]) -> Option<Kind> {
        let text = bytes
            .strip_prefix(b"\xef\xbb\xbf")
            .unwrap_or(bytes)
            .trim_ascii_start();
        match bytes {
            [0x1f, 0x8b, ..] => Some(Kind::Gzip),
            [b'P', b'K', 3, 4, ..] => Some(Kind::Zip),
            _ if text.starts_with(b"<") => Some(Kind::Xml),
            _ if text.starts_with(b"{") => Some(Kind::Json),
            _ => None,
        }
    }
}

struct Reader {
    /// Bytes that may still be unpacked.
    left: u64,
    found: Vec<Received>,
    wrong: Option<String>,
}

impl Reader {
    fn message(&mut self, bytes: &[u8]) -> Result<(), ReadError> {
        // The parser looks for the end of each encoded word from where the last one began.
        let words = memchr::memmem::find_iter(bytes, b"=?").take(MOST_WORDS + 1);
        if words.count() > MOST_WORDS {
            return Err(ReadError::Malformed(format!(
                "it has more than {MOST_WORDS} encoded words"
            )));
        }
        let Some(message) = MessageParser::new().parse(bytes) else {
            return Ok(());
        };
        let mut looked = 0;
        for part in &message.parts {
            let bytes = match &part.body {
                PartType::Binary(bytes) | PartType::InlineBinary(bytes) => bytes.as_ref(),
                PartType::Text(text) | PartType::Html(text) => text.as_bytes(),
                PartType::Message(_) | PartType::Multipart(_) => continue,
            };
            // What a person is to read may begin with `<`, too.
            let attached = part.attachment_name().is_some()
                || part
                    .content_type()
                    .is_some_and(|kind| kind.ctype() == "application");
            match Kind::of(bytes) {
                Some(Kind::Xml | Kind::Json) if !attached => continue,
                Some(kind) if looked < MOST_PARTS => {
                    looked += 1;
                    self.part(kind, bytes)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn part(&mut self, kind: Kind, bytes: &[u8]) -> Result<(), ReadError> {
        match kind {
            Kind::Gzip => {
                let mut text = Vec::new();
                let mut rest = bytes;
                // Several streams are one text (RFC 1952 section 2.2); what else follows is nothing.
                while rest.starts_with(GZIP) {
                    let mut stream = GzDecoder::new(rest);
                    text.append(&mut self.unpacked(&mut stream)?);
                    let after = stream.into_inner();
                    if after.len() >= rest.len() {
                        break;
                    }
                    rest = after;
                }
                self.text(&text)
            }
            Kind::Zip => {
                let mut archive = match zip::ZipArchive::new(Cursor::new(bytes)) {
                    Ok(archive) => archive,
                    Err(error) => {
                        self.wrong = Some(error.to_string());
                        return Ok(());
                    }
                };
                for index in 0..archive.len().min(MOST_PARTS) {
                    let text = match archive.by_index(index) {
                        Ok(file) => self.unpacked(file)?,
                        Err(error) => {
                            self.wrong = Some(error.to_string());
                            continue;
                        }
                    };
                    self.text(&text)?;
                }
                Ok(())
            }
            Kind::Xml | Kind::Json => {
                let text = self.unpacked(bytes)?;
                self.text(&text)
            }
        }
    }

    /// All that is packed, or an error if it is more than may be.
    fn unpacked(&mut self, packed: impl io::Read) -> Result<Vec<u8>, ReadError> {
        let mut text = Vec::new();
        match packed.take(self.left + 1).read_to_end(&mut text) {
            Ok(_) => {}
            // What came before is not a whole report.
            Err(error) => {
                self.wrong = Some(error.to_string());
                text.clear();
            }
        }
        self.left = self
            .left
            .checked_sub(text.len() as u64)
            .ok_or(ReadError::TooBig)?;
        Ok(text)
    }

    fn text(&mut self, text: &[u8]) -> Result<(), ReadError> {
        let read = match Kind::of(text) {
            Some(Kind::Xml) => {
                if memchr::memmem::find_iter(text, b"<record").count() > MOST_RECORDS {
                    return Err(ReadError::TooBig);
                }
                Report::parse_xml(&in_lower_case(text))
                    .map(|report| Received::Dmarc(Box::new(report)))
            }
            Some(Kind::Json) => tls_report(text).map(|report| Received::Tls(Box::new(report))),
            _ => return Ok(()),
        };
        match read {
            Ok(report) => self.found.push(report),
            Err(why) => self.wrong = Some(why),
        }
        Ok(())
    }
}

/// A TLS report. What RFC 8460 section 4.4 wants as a list some write as the one string it holds.
fn tls_report(text: &[u8]) -> Result<TlsReport, String> {
    let wrong = |error: serde_json::Error| error.to_string();
    let mut report: serde_json::Value = serde_json::from_slice(text).map_err(wrong)?;
    let policies = report
        .get_mut("policies")
        .and_then(|all| all.as_array_mut());
    for policy in policies.into_iter().flatten() {
        for name in ["mx-host", "policy-string"] {
            if let Some(value) = policy.pointer_mut(&format!("/policy/{name}"))
                && value.is_string()
            {
                *value = serde_json::Value::Array(vec![value.take()]);
            }
        }
    }
    // Its dates are read from text only.
    let text = serde_json::to_vec(&report).map_err(wrong)?;
    TlsReport::parse_json(&text).map_err(|error| format!("{error:?}"))
}

/// Elements of a DMARC report that hold one of a few words.
const WORDS: [&[u8]; 10] = [
    b"dkim",
    b"spf",
    b"result",
    b"disposition",
    b"type",
    b"p",
    b"sp",
    b"adkim",
    b"aspf",
    b"scope",
];

/// A DMARC report whose words are written as the schema writes them: some begin with a capital.
fn in_lower_case(text: &[u8]) -> Vec<u8> {
    let mut out = text.to_vec();
    let mut from = 0;
    while let Some(open) = out.get(from..).and_then(|rest| memchr::memchr(b'<', rest)) {
        let name = from + open + 1;
        let Some(close) = out.get(name..).and_then(|rest| memchr::memchr(b'>', rest)) else {
            break;
        };
        let inner = name + close + 1;
        let is_word = out
            .get(name..name + close)
            .is_some_and(|name| WORDS.contains(&name));
        let end = out.get(inner..).and_then(|rest| memchr::memchr(b'<', rest));
        let end = end.map_or(out.len(), |end| inner + end);
        if let Some(word) = out.get_mut(inner..end).filter(|_| is_word) {
            word.make_ascii_lowercase();
        }
        from = end;
    }
    out
}

#[cfg(test)]
mod tests;
