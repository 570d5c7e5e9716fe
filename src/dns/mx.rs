//! What a lookup of MX records tells (RFC 5321 section 5.1), as plain values.

/// An MX record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Lower is better.
    pub preference: u16,
    /// The host's name without its final dot; empty for the null MX.
    pub host: String,
}

/// What an MX lookup told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// These records.
    Records(Vec<Record>),
    /// The domain exists, without MX records.
    Nothing,
    /// The domain does not exist.
    NoDomain,
    /// No answer that could be used: a server failed, or did not answer in time.
    Failed(String),
}
