//! The service extensions of the server, by the names an operator writes and a client reads.

use std::fmt;

use serde::Deserialize;

/// One extension that can be turned off with `disable`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
pub enum Extension {
    /// RFC 1870: the longest message is told before it is sent.
    #[serde(rename = "SIZE")]
    Size,
    /// RFC 6152: bytes over 127.
    #[serde(rename = "8BITMIME")]
    EightBitMime,
    /// RFC 6531: addresses beyond ASCII.
    #[serde(rename = "SMTPUTF8")]
    SmtpUtf8,
    /// RFC 2920: commands without waiting for each reply.
    #[serde(rename = "PIPELINING")]
    Pipelining,
    /// RFC 2034: enhanced status codes in replies.
    #[serde(rename = "ENHANCEDSTATUSCODES")]
    EnhancedStatusCodes,
    /// RFC 3030: BDAT.
    #[serde(rename = "CHUNKING")]
    Chunking,
    /// RFC 3461: NOTIFY, RET, ENVID, ORCPT.
    #[serde(rename = "DSN")]
    Dsn,
    /// RFC 3207.
    #[serde(rename = "STARTTLS")]
    StartTls,
    /// RFC 4954.
    #[serde(rename = "AUTH")]
    Auth,
    /// RFC 5802 and 7677: the mechanisms SCRAM-SHA-256 and SCRAM-SHA-256-PLUS.
    #[serde(rename = "SCRAM")]
    Scram,
    /// RFC 8689: verified TLS on every hop.
    #[serde(rename = "REQUIRETLS")]
    RequireTls,
    /// RFC 2852: BY.
    #[serde(rename = "DELIVERBY")]
    DeliverBy,
    /// RFC 4865: HOLDFOR and HOLDUNTIL.
    #[serde(rename = "FUTURERELEASE")]
    FutureRelease,
    /// RFC 6710.
    #[serde(rename = "MT-PRIORITY")]
    MtPriority,
    /// RFC 9422: the limits of a connection are told.
    #[serde(rename = "LIMITS")]
    Limits,
    /// VRFY, which never tells anything (RFC 5321 section 7.3).
    #[serde(rename = "VRFY")]
    Vrfy,
    /// HELP.
    #[serde(rename = "HELP")]
    Help,
}

/// Which extensions are on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Extensions(u32);

impl Extension {
    /// As an operator writes it and EHLO tells it.
    pub fn name(self) -> &'static str {
        match self {
            Extension::Size => "SIZE",
            Extension::EightBitMime => "8BITMIME",
            Extension::SmtpUtf8 => "SMTPUTF8",
            Extension::Pipelining => "PIPELINING",
            Extension::EnhancedStatusCodes => "ENHANCEDSTATUSCODES",
            Extension::Chunking => "CHUNKING",
            Extension::Dsn => "DSN",
            Extension::StartTls => "STARTTLS",
            Extension::Auth => "AUTH",
            Extension::Scram => "SCRAM",
            Extension::RequireTls => "REQUIRETLS",
            Extension::DeliverBy => "DELIVERBY",
            Extension::FutureRelease => "FUTURERELEASE",
            Extension::MtPriority => "MT-PRIORITY",
            Extension::Limits => "LIMITS",
            Extension::Vrfy => "VRFY",
            Extension::Help => "HELP",
        }
    }
}

impl fmt::Display for Extension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Extensions {
    /// Every one but those of `disabled`.
    pub fn without<'a>(disabled: impl IntoIterator<Item = &'a Extension>) -> Extensions {
        let off = disabled.into_iter().fold(0, |off, one| off | bit(*one));
        Extensions(!off)
    }

    /// Whether `extension` is on.
    pub fn has(self, extension: Extension) -> bool {
        self.0 & bit(extension) != 0
    }
}

impl Default for Extensions {
    fn default() -> Self {
        Extensions::without([])
    }
}

impl fmt::Debug for Extensions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Extensions({:#x})", self.0)
    }
}

fn bit(extension: Extension) -> u32 {
    1 << extension as u32
}
