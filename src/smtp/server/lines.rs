//! Bytes into whole command lines (RFC 5321 section 2.3.8).

use bytes::BytesMut;
use memchr::memchr;

use super::Server;
use crate::replies;

/// Bytes of one overlong line that are read and dropped before the connection is closed.
const MAX_DROPPED: usize = 64 * 1024;

/// Longest line of a SASL exchange in bytes (RFC 4954 section 4).
const MAX_SASL_LINE: usize = 12_288;

impl Server {
    /// The next whole line without its CR LF; an unsound one is answered here.
    pub(super) fn line(&mut self, input: &mut BytesMut, out: &mut Vec<u8>) -> Option<BytesMut> {
        loop {
            let limit = match self.exchange {
                Some(_) => self.options.limits.line.max(MAX_SASL_LINE),
                None => self.options.limits.line,
            };
            let end = memchr(b'\n', input);
            if let Some(dropped) = self.dropping {
                let part = end.map_or(input.len(), |end| end + 1);
                let _ = input.split_to(part);
                self.dropping = end.is_none().then_some(dropped + part);
                if self.dropping.is_some_and(|dropped| dropped > MAX_DROPPED) {
                    self.close(replies::TOO_MANY_ERRORS, out);
                }
                end?;
                continue;
            }
            if self.hello.is_none() && input.starts_with(&[0x16, 3]) {
                // A TLS ClientHello where SMTP is spoken.
                self.close(replies::OTHER_PROTOCOL, out);
                return None;
            }
            if end.map_or(input.len(), |end| end + 1) > limit {
                self.refuse(replies::LINE_TOO_LONG, out);
                self.exchange = None;
                self.dropping = Some(0);
                if self.closing {
                    return None;
                }
                continue;
            }
            let mut line = input.split_to(end? + 1);
            line.truncate(line.len() - 1);
            let returns = memchr::memchr_iter(b'\r', &line).count();
            if line.last() != Some(&b'\r') || returns > 1 {
                self.exchange = None;
                self.refuse(replies::BAD_LINE_END, out);
                if self.closing {
                    return None;
                }
                continue;
            }
            line.truncate(line.len() - 1);
            return Some(line);
        }
    }
}
