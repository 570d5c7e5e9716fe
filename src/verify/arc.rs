//! The ARC chain of a message (RFC 8617 section 5.2).

use super::key::{self, Key, Kind, NoKey};
use super::lookup::Lookup;
use super::signature::{self, Fault, Signature};
use crate::message::arc::{self, Chain, Set};
use crate::message::canonical::Form;
use crate::message::headers::Field;
use crate::message::tags::{Tags, without_signature};

/// What a chain is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArcResult {
    /// There is none.
    None,
    /// It holds.
    Pass,
    /// It is broken.
    Fail,
    /// A key could not be asked for.
    TempError,
}

impl ArcResult {
    /// As Authentication-Results writes it; the registry has no word for trouble.
    pub fn as_str(self) -> &'static str {
        match self {
            ArcResult::None => "none",
            ArcResult::Pass => "pass",
            ArcResult::Fail | ArcResult::TempError => "fail",
        }
    }
}

/// The chain's verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The result.
    pub result: ArcResult,
    /// Why it is no pass.
    pub reason: &'static str,
    /// Who sealed last: `d=` of the newest seal of a passing chain.
    pub sealer: String,
}

impl Verdict {
    fn new(result: ArcResult, reason: &'static str) -> Verdict {
        Verdict {
            result,
            reason,
            sealer: String::new(),
        }
    }
}

struct Seal<'a> {
    field: Field<'a>,
    kind: Kind,
    domain: String,
    selector: String,
    bytes: Vec<u8>,
}

/// A chain that waits for the hash of the body.
pub struct Pending<'a>(Result<Sealed<'a>, Verdict>);

/// A chain of sound form.
struct Sealed<'a> {
    sets: Vec<Set<'a>>,
    newest: Signature<'a>,
    seals: Vec<Seal<'a>>,
}

impl Pending<'_> {
    /// The form of the body that it needs hashed.
    pub fn form(&self) -> Option<Form> {
        self.0.as_ref().ok().map(|sealed| sealed.newest.body)
    }
}

/// Reads the chain among `fields`.
pub fn read<'a>(fields: &[Field<'a>]) -> Pending<'a> {
    let sets = match arc::chain(fields) {
        Chain::None => return Pending(Err(Verdict::new(ArcResult::None, ""))),
        Chain::Broken { why, .. } => return Pending(Err(Verdict::new(ArcResult::Fail, why))),
        Chain::Sets(sets) => sets,
    };
    Pending(sealed(sets).map_err(|why| Verdict::new(ArcResult::Fail, why)))
}

fn sealed(sets: Vec<Set<'_>>) -> Result<Sealed<'_>, Fault> {
    let mut seals = Vec::new();
    let mut newest = None;
    for (index, set) in sets.iter().enumerate() {
        let tags = Tags::parse(set.seal.value).ok_or("a seal is no tag list")?;
        let wanted = if index == 0 { "none" } else { "pass" };
        match tags.get("cv") {
            Some(cv) if cv.eq_ignore_ascii_case(wanted) => {}
            Some(cv) if cv.eq_ignore_ascii_case("fail") => {
                return Err("an earlier hop found it broken");
            }
            _ => return Err("cv= is not what it must be"),
        }
        if tags.get("h").is_some() || tags.get("bh").is_some() {
            return Err("a seal has h=");
        }
        signature::number(&tags, "t")?;
        let (domain, selector) = signature::key_name(&tags)?;
        seals.push(Seal {
            field: set.seal,
            kind: signature::algorithm(&tags)?,
            domain,
            selector,
            bytes: signature::base64(&tags, "b", "b= is missing or no base64")?,
        });
        let tags = Tags::parse(set.signature.value).ok_or("a signature is no tag list")?;
        if index + 1 == sets.len() {
            let signature = Signature::read(&set.signature, &tags)?;
            if signature.covers("ARC-Seal") {
                return Err("h= has ARC-Seal");
            }
            newest = Some(signature);
        }
    }
    let newest = newest.ok_or("there is no set")?;
    Ok(Sealed {
        sets,
        newest,
        seals,
    })
}

/// Verifies a chain; `hash` gives the hash of the body in a form.
pub async fn verify(
    lookup: &Lookup,
    pending: Pending<'_>,
    fields: &[Field<'_>],
    hash: impl Fn(Form) -> Vec<u8>,
    now: u64,
) -> Verdict {
    let sealed = match pending.0 {
        Ok(sealed) => sealed,
        Err(verdict) => return verdict,
    };
    match check(lookup, &sealed, fields, hash, now).await {
        Ok(()) => {
            let sealer = sealed.seals.last().map(|seal| seal.domain.clone());
            Verdict {
                sealer: sealer.unwrap_or_default(),
                ..Verdict::new(ArcResult::Pass, "")
            }
        }
        Err(NoKey::Trouble) => Verdict::new(ArcResult::TempError, "the DNS did not answer"),
        Err(NoKey::Missing) => Verdict::new(ArcResult::Fail, "a key is missing"),
        Err(NoKey::Revoked) => Verdict::new(ArcResult::Fail, "a key is revoked"),
        Err(NoKey::Unusable(why)) => Verdict::new(ArcResult::Fail, why),
    }
}

/// What does not hold comes as [`NoKey::Unusable`].
async fn check(
    lookup: &Lookup,
    sealed: &Sealed<'_>,
    fields: &[Field<'_>],
    hash: impl Fn(Form) -> Vec<u8>,
    now: u64,
) -> Result<(), NoKey> {
    let newest = &sealed.newest;
    if newest.expires.is_some_and(|expires| expires <= now) {
        return Err(NoKey::Unusable("the newest signature expired"));
    }
    if hash(newest.body) != newest.body_hash {
        return Err(NoKey::Unusable("the body was changed"));
    }
    let key = key::fetch(lookup, &newest.selector, &newest.domain).await?;
    if !newest.verifies(fields, &key) {
        return Err(NoKey::Unusable("a signed header field was changed"));
    }
    for (index, seal) in sealed.seals.iter().enumerate().rev() {
        let key = key::fetch(lookup, &seal.selector, &seal.domain).await?;
        let sets = sealed.sets.get(..=index).unwrap_or_default();
        if !seal.verifies(sets, &key) {
            return Err(NoKey::Unusable("a seal does not hold"));
        }
    }
    Ok(())
}

impl Seal<'_> {
    fn verifies(&self, sets: &[Set<'_>], key: &Key) -> bool {
        let mut text = Vec::new();
        for (index, set) in sets.iter().enumerate() {
            Form::Relaxed.write_field(&set.results, &mut text);
            Form::Relaxed.write_field(&set.signature, &mut text);
            if index + 1 < sets.len() {
                Form::Relaxed.write_field(&set.seal, &mut text);
            }
        }
        let own = without_signature(self.field.value);
        Form::Relaxed.write_last(self.field.name, &own, &mut text);
        key.verifies(&text, &self.bytes, self.kind)
    }
}
