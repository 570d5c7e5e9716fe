//! DKIM signatures of a message (RFC 6376, 8301, 8463).

use std::time::Duration;

use super::key::{self, NoKey};
use super::lookup::Lookup;
use super::signature::{Fault, Signature};
use crate::message::canonical::Form;
use crate::message::headers::Field;
use crate::message::tags::Tags;

/// Signatures of one message that are looked at; the rest is left out.
pub const MOST_SIGNATURES: usize = 10;

/// The result of one signature (RFC 8601 section 2.7.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DkimResult {
    /// It holds.
    Pass,
    /// It does not.
    Fail,
    /// The key could not be asked for.
    TempError,
    /// It is malformed, or its key can not be used.
    PermError,
}

impl DkimResult {
    /// As Authentication-Results writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            DkimResult::Pass => "pass",
            DkimResult::Fail => "fail",
            DkimResult::TempError => "temperror",
            DkimResult::PermError => "permerror",
        }
    }
}

/// What became of one signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The result.
    pub result: DkimResult,
    /// Why it is no pass.
    pub reason: &'static str,
    /// `d=`, if it could be read.
    pub domain: String,
    /// `s=`
    pub selector: String,
    /// `a=`
    pub algorithm: &'static str,
    /// The first eight characters of `b=`, which tell two signatures of one domain apart
    /// (RFC 6008).
    pub mark: String,
}

/// A signature that waits for the hash of the body.
pub struct Pending<'a>(Result<(Signature<'a>, Option<String>), (Fault, String)>);

impl Pending<'_> {
    /// The form of the body that it needs hashed.
    pub fn form(&self) -> Option<Form> {
        self.0.as_ref().ok().map(|(signature, _)| signature.body)
    }
}

/// Reads the signatures among `fields`.
pub fn read<'a>(fields: &[Field<'a>]) -> Vec<Pending<'a>> {
    let signatures = fields.iter().filter(|field| field.is("DKIM-Signature"));
    let signatures = signatures.take(MOST_SIGNATURES);
    signatures.map(|field| Pending(read_one(field))).collect()
}

fn read_one<'a>(field: &Field<'a>) -> Result<(Signature<'a>, Option<String>), (Fault, String)> {
    let tags = Tags::parse(field.value).ok_or(("it is no tag list", String::new()))?;
    let domain = tags.get("d").unwrap_or_default().to_ascii_lowercase();
    let fault = |why: Fault| (why, domain.clone());
    if tags.get("v") != Some("1") {
        return Err(fault("v= is not 1"));
    }
    let signature = Signature::read(field, &tags).map_err(fault)?;
    if !signature.covers("From") {
        return Err(fault("From is not signed"));
    }
    let identity = tags.get("i").map(|identity| {
        identity
            .rsplit_once('@')
            .map(|(_, d)| d.to_ascii_lowercase())
    });
    let identity = match identity {
        Some(None) => return Err(fault("i= has no domain")),
        Some(Some(identity)) => Some(identity),
        None => None,
    };
    let of = format!(".{}", signature.domain);
    if let Some(identity) = &identity
        && *identity != signature.domain
        && !identity.ends_with(&of)
    {
        return Err(fault("i= is of another domain than d="));
    }
    Ok((signature, identity))
}

/// Verifies the signatures, all at once and each within `time`; `hash` gives the hash of the body in
/// a form.
pub async fn verify(
    lookup: &Lookup,
    pending: Vec<Pending<'_>>,
    fields: &[Field<'_>],
    hash: impl Fn(Form) -> Vec<u8>,
    now: u64,
    time: Duration,
) -> Vec<Verdict> {
    let hash = &hash;
    let each = pending.into_iter().map(|Pending(signature)| async move {
        let (signature, identity) = match signature {
            Ok(signature) => signature,
            Err((reason, domain)) => {
                return Verdict {
                    result: DkimResult::PermError,
                    reason,
                    domain,
                    selector: String::new(),
                    algorithm: "",
                    mark: String::new(),
                };
            }
        };
        let judged = judge(lookup, &signature, identity, fields, hash, now);
        let slow = (DkimResult::TempError, "the DNS was too slow");
        let (result, reason) = tokio::time::timeout(time, judged).await.unwrap_or(slow);
        Verdict {
            result,
            reason,
            mark: mark(&signature.bytes),
            algorithm: signature.kind.algorithm(),
            domain: signature.domain,
            selector: signature.selector,
        }
    });
    futures_util::future::join_all(each).await
}

async fn judge(
    lookup: &Lookup,
    signature: &Signature<'_>,
    identity: Option<String>,
    fields: &[Field<'_>],
    hash: impl Fn(Form) -> Vec<u8>,
    now: u64,
) -> (DkimResult, &'static str) {
    if signature.expires.is_some_and(|expires| expires <= now) {
        return (DkimResult::Fail, "it expired");
    }
    if hash(signature.body) != signature.body_hash {
        return (DkimResult::Fail, "the body was changed");
    }
    let key = match key::fetch(lookup, &signature.selector, &signature.domain).await {
        Ok(key) => key,
        Err(NoKey::Trouble) => return (DkimResult::TempError, "the DNS did not answer"),
        Err(NoKey::Missing) => return (DkimResult::PermError, "there is no key"),
        Err(NoKey::Revoked) => return (DkimResult::Fail, "the key is revoked"),
        Err(NoKey::Unusable(why)) => return (DkimResult::PermError, why),
    };
    if key.kind() != signature.kind {
        return (DkimResult::PermError, "the key is of another algorithm");
    }
    if key.strict && identity.is_some_and(|identity| identity != signature.domain) {
        return (DkimResult::PermError, "the key is not for sub-domains");
    }
    match signature.verifies(fields, &key) {
        true => (DkimResult::Pass, ""),
        false => (DkimResult::Fail, "a signed header field was changed"),
    }
}

fn mark(signature: &[u8]) -> String {
    use base64::Engine as _;
    let head = signature.get(..6).unwrap_or(signature);
    base64::engine::general_purpose::STANDARD.encode(head)
}
