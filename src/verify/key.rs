//! Public keys of DKIM and ARC in the DNS (RFC 6376 section 3.6, RFC 8463 section 4).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mail_auth::common::crypto::{Algorithm, VerifyingKey};
use mail_auth::common::parse::TxtRecordParser as _;
use mail_auth::common::verify::DomainKey;

use super::lookup::{Lookup, Trouble};
use crate::message::tags::RSA_LEAST;
use crate::message::tags::{Tags, squeezed};

/// Longest key record that is read, bytes.
const LONGEST: usize = 8192;

/// A key that can be used.
pub struct Key {
    key: Box<dyn VerifyingKey + Send + Sync>,
    /// `rsa` or `ed25519`.
    kind: Kind,
    /// `t=s`: the identity's domain must be the signing domain itself.
    pub strict: bool,
}

/// What a key or a signature is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `rsa-sha256`
    Rsa,
    /// `ed25519-sha256`
    Ed25519,
}

impl Kind {
    /// The algorithm of a signature. `rsa-sha1` is none (RFC 8301 section 3.1).
    pub fn of_algorithm(text: &str) -> Option<Kind> {
        match text.to_ascii_lowercase().as_str() {
            "rsa-sha256" => Some(Kind::Rsa),
            "ed25519-sha256" => Some(Kind::Ed25519),
            _ => None,
        }
    }

    /// As `a=` names it.
    pub fn algorithm(self) -> &'static str {
        match self {
            Kind::Rsa => "rsa-sha256",
            Kind::Ed25519 => "ed25519-sha256",
        }
    }
}

/// Why there is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoKey {
    /// Nobody knows.
    #[error("the key could not be asked for")]
    Trouble,
    /// There is no record.
    #[error("no key")]
    Missing,
    /// `p=` is empty.
    #[error("the key is revoked")]
    Revoked,
    /// The record can not be used for mail.
    #[error("{0}")]
    Unusable(&'static str),
}

impl From<Trouble> for NoKey {
    fn from(_: Trouble) -> Self {
        NoKey::Trouble
    }
}

/// Asks for the key of a selector. Of several records the first sound one counts.
pub async fn fetch(lookup: &Lookup, selector: &str, domain: &str) -> Result<Key, NoKey> {
    let name = format!("{selector}._domainkey.{domain}");
    let records = lookup.txt(&name).await.records()?;
    let mut first = NoKey::Missing;
    for record in &records {
        match parse(record) {
            Ok(key) => return Ok(key),
            Err(error) if first == NoKey::Missing => first = error,
            Err(_) => {}
        }
    }
    Err(first)
}

/// Reads a key record.
pub fn parse(record: &[u8]) -> Result<Key, NoKey> {
    if record.len() > LONGEST {
        return Err(NoKey::Unusable("the key record is too long"));
    }
    let tags = Tags::parse(record).ok_or(NoKey::Unusable("the key record is malformed"))?;
    if tags.get("v").is_some() && tags.first() != Some(("v", "DKIM1")) {
        return Err(NoKey::Unusable("the key record is of another version"));
    }
    let lists = |tag: &str, wanted: &[&str]| match tags.get(tag) {
        None => true,
        Some(list) => squeezed(list)
            .split(':')
            .any(|item| wanted.iter().any(|w| item.eq_ignore_ascii_case(w))),
    };
    if !lists("s", &["*", "email"]) {
        return Err(NoKey::Unusable("the key is not for mail"));
    }
    if !lists("h", &["sha256"]) {
        return Err(NoKey::Unusable("the key does not allow sha256"));
    }
    let kind = match tags.get("k").unwrap_or("rsa") {
        rsa if rsa.eq_ignore_ascii_case("rsa") => Kind::Rsa,
        ed25519 if ed25519.eq_ignore_ascii_case("ed25519") => Kind::Ed25519,
        _ => return Err(NoKey::Unusable("the key is of an unknown type")),
    };
    let public = tags
        .get("p")
        .map(squeezed)
        .ok_or(NoKey::Unusable("the key record has no key"))?;
    if public.is_empty() {
        return Err(NoKey::Revoked);
    }
    let malformed = NoKey::Unusable("the key is malformed");
    STANDARD.decode(&public).map_err(|_| malformed)?;
    let name = match kind {
        Kind::Rsa => "rsa",
        Kind::Ed25519 => "ed25519",
    };
    let key = DomainKey::parse(format!("v=DKIM1; k={name}; p={public}").as_bytes())
        .map_err(|_| malformed)?
        .p;
    if kind == Kind::Rsa && key.public_key_bits() < RSA_LEAST {
        return Err(NoKey::Unusable("the key is too short"));
    }
    let strict = tags
        .get("t")
        .is_some_and(|flags| squeezed(flags).split(':').any(|flag| flag == "s"));
    Ok(Key { key, kind, strict })
}

impl Key {
    /// Whether this key made `signature` over `text`.
    pub fn verifies(&self, text: &[u8], signature: &[u8], kind: Kind) -> bool {
        let algorithm = match kind {
            Kind::Rsa => Algorithm::RsaSha256,
            Kind::Ed25519 => Algorithm::Ed25519Sha256,
        };
        kind == self.kind && self.key.verify_bytes(text, signature, algorithm).is_ok()
    }

    /// What it is of.
    pub fn kind(&self) -> Kind {
        self.kind
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key of RFC 8463 appendix A.2.
    const ED25519: &str = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";

    fn read(record: &str) -> Result<Kind, NoKey> {
        parse(record.as_bytes()).map(|key| key.kind())
    }

    #[test]
    fn c132_key_records_in_every_shape() {
        let key = crate::signing::keys::PrivateKey::generate(crate::signing::keys::Algorithm::Rsa)
            .expect("key");
        let record = key.record();
        let rsa = record.split("p=").nth(1).expect("p=").trim_end_matches(';');
        let (front, back) = rsa.split_at(20);
        for good in [
            format!("k=rsa; p={front} {back}"),
            format!("v=DKIM1;k=rsa;t=s;p={rsa};"),
            format!("p={rsa}"),
            format!("v=DKIM1; n=hello; g=; s=*; p={rsa}"),
            format!("v=DKIM1; h=sha1:sha256; s=tlsrpt:email; p={rsa}"),
        ] {
            assert_eq!(read(&good), Ok(Kind::Rsa), "{good}");
        }
        assert_eq!(read(&format!("k=ed25519; p={ED25519}")), Ok(Kind::Ed25519));
        assert_eq!(read("v=DKIM1; p="), Err(NoKey::Revoked));
        for bad in [
            format!("p={rsa}; v=DKIM1"),
            format!("v=DKIM1; p={rsa}; p={rsa}"),
            format!("v=DKIM1; s=tlsrpt; p={rsa}"),
            format!("v=DKIM1; h=sha1; p={rsa}"),
            format!("v=DKIM1; k=dsa; p={rsa}"),
            format!("v=DKIM2; p={rsa}"),
            "v=DKIM1; k=rsa".to_owned(),
            "v=DKIM1; p=AAAA".to_owned(),
            "v=DKIM1; p=!".to_owned(),
            format!("v=DKIM1; n={}; p={rsa}", "x".repeat(LONGEST)),
        ] {
            assert!(matches!(read(&bad), Err(NoKey::Unusable(_))), "{bad}");
        }
    }
}
