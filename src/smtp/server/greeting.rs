//! The greeting, the reply to EHLO, and STARTTLS (RFC 5321 section 4.1.1.1, RFC 3207).

use super::{Server, Step};
use crate::extension::Extension::{self, *};
use crate::replies::{self, Reply};

/// Names of XCLIENT attributes that are understood.
const XCLIENT: &str = "XCLIENT NAME ADDR PORT PROTO HELO LOGIN";

impl Server {
    /// The 220 that opens the dialogue.
    pub fn greeting(&self, out: &mut Vec<u8>) {
        Reply::new(220, "", format!("{} ESMTP chapar", self.options.hostname)).write(out);
    }

    pub(super) fn write_hello(&self, extended: bool, out: &mut Vec<u8>) {
        if !extended {
            Reply::new(250, "", self.options.hostname.clone()).write(out);
            return;
        }
        let mut lines = vec![self.options.hostname.clone()];
        lines.extend(self.keywords());
        let last = lines.len() - 1;
        for (place, line) in lines.iter().enumerate() {
            out.extend_from_slice(if place == last { b"250 " } else { b"250-" });
            out.extend_from_slice(line.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
    }

    /// What is offered on this connection as it stands.
    fn keywords(&self) -> Vec<String> {
        let limits = &self.options.limits;
        let users = self.options.submission || self.options.trusted;
        let offered = |extension: Extension| match extension {
            StartTls => self.options.starttls && !self.tls,
            Auth => self.options.submission && self.tls,
            // RFC 8689 section 3: over TLS only.
            RequireTls => self.tls,
            DeliverBy | FutureRelease | MtPriority => users,
            _ => true,
        };
        let keyword = |extension: Extension| match extension {
            Size => format!("SIZE {}", limits.message),
            Auth => format!("AUTH {}", self.offer().mechanisms()),
            FutureRelease => self.future_release(),
            Limits => format!(
                "LIMITS MAILMAX={} RCPTMAX={}",
                limits.transactions, limits.recipients
            ),
            other => other.name().to_owned(),
        };
        let told = [
            Size,
            EightBitMime,
            SmtpUtf8,
            Pipelining,
            EnhancedStatusCodes,
            Chunking,
            Dsn,
            StartTls,
            Auth,
            RequireTls,
            DeliverBy,
            FutureRelease,
            MtPriority,
            Limits,
        ];
        let mut keywords: Vec<String> = told
            .into_iter()
            .filter(|extension| self.has(*extension) && offered(*extension))
            .map(keyword)
            .collect();
        if self.options.xclient {
            keywords.push(XCLIENT.to_owned());
        }
        keywords
    }

    /// `FUTURERELEASE max-interval max-date-time` (RFC 4865 section 3).
    fn future_release(&self) -> String {
        let most = self.options.limits.future_release;
        let until = self.now.saturating_add(most.saturating_mul(1000));
        let date = i64::try_from(until)
            .ok()
            .and_then(|until| jiff::Timestamp::from_millisecond(until).ok())
            .map(|date| date.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
            .unwrap_or_default();
        format!("FUTURERELEASE {most} {date}")
    }

    pub(super) fn starttls(&mut self, out: &mut Vec<u8>) -> Option<Step> {
        let refusal = if self.tls {
            replies::ALREADY_TLS
        } else if !self.options.starttls || !self.has(StartTls) {
            replies::NOT_OFFERED
        } else if self.hello.is_none() {
            replies::HELLO_FIRST
        } else if self.transaction.is_some() {
            replies::TLS_IN_TRANSACTION
        } else {
            self.say(&replies::START_TLS, out);
            return Some(Step::StartTls);
        };
        self.refused(refusal, out)
    }

    /// The handshake is done: everything said in clear is forgotten (RFC 3207 section 4.2).
    /// `exporter` is the value of `tls-exporter` (RFC 9266), which only TLS 1.3 gives safely.
    pub fn tls_started(&mut self, exporter: Option<[u8; 32]>) {
        self.tls = true;
        self.exporter = exporter;
        self.hello = None;
        self.user = None;
        self.transaction = None;
        self.exchange = None;
        self.first = None;
    }
}
