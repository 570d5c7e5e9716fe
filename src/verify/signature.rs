//! What DKIM-Signature and ARC-Message-Signature have in common (RFC 6376 section 3.5, RFC 8617
//! section 4.1.2). Pure.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::key::{Key, Kind};
use crate::message::canonical::Form;
use crate::message::headers::Field;
use crate::message::tags::{Tags, squeezed, without_signature};

/// Names that one `h=` may list; more is an attack on our time.
const MOST_NAMES: usize = 1000;

/// A signature whose tags are sound.
#[derive(Debug, Clone)]
pub struct Signature<'a> {
    /// The field it stands in.
    pub field: Field<'a>,
    /// `a=`
    pub kind: Kind,
    /// `d=` in lower case.
    pub domain: String,
    /// `s=`
    pub selector: String,
    /// `b=`
    pub bytes: Vec<u8>,
    /// `bh=`
    pub body_hash: Vec<u8>,
    /// `h=`
    pub names: Vec<String>,
    /// How fields are made canonical.
    pub header: Form,
    /// How the body is.
    pub body: Form,
    /// `x=`: seconds since 1970.
    pub expires: Option<u64>,
}

/// A tag that breaks a signature.
pub type Fault = &'static str;

impl<'a> Signature<'a> {
    /// Reads the tags that both fields share.
    pub fn read(field: &Field<'a>, tags: &Tags<'_>) -> Result<Signature<'a>, Fault> {
        let kind = algorithm(tags)?;
        let (domain, selector) = key_name(tags)?;
        let bytes = base64(tags, "b", "b= is missing or no base64")?;
        let body_hash = base64(tags, "bh", "bh= is missing or no base64")?;
        let names = squeezed(tags.get("h").ok_or("h= is missing")?);
        let names: Vec<String> = names.split(':').map(str::to_owned).collect();
        if names.len() > MOST_NAMES {
            return Err("h= is too long");
        }
        let (header, body) = forms(tags.get("c"))?;
        let made = number(tags, "t")?;
        let expires = number(tags, "x")?;
        if let (Some(made), Some(expires)) = (made, expires)
            && expires <= made
        {
            return Err("it expires before it was made");
        }
        if let Some(methods) = tags.get("q")
            && !squeezed(methods)
                .split(':')
                .any(|method| method.eq_ignore_ascii_case("dns/txt"))
        {
            return Err("q= names no method we know");
        }
        // Its value does not matter: the whole body counts.
        number(tags, "l")?;
        Ok(Signature {
            field: *field,
            kind,
            domain,
            selector,
            bytes,
            body_hash,
            names,
            header,
            body,
            expires,
        })
    }

    /// Whether `h=` has this name.
    pub fn covers(&self, name: &str) -> bool {
        self.names.iter().any(|n| n.eq_ignore_ascii_case(name))
    }

    /// Whether `key` made it over `fields`.
    pub fn verifies(&self, fields: &[Field<'_>], key: &Key) -> bool {
        let mut text = Vec::new();
        for field in select(fields, &self.names, &self.field) {
            self.header.write_field(field, &mut text);
        }
        let own = without_signature(self.field.value);
        self.header.write_last(self.field.name, &own, &mut text);
        key.verifies(&text, &self.bytes, self.kind)
    }
}

/// The fields that `names` stand for, each from the bottom up (RFC 6376 section 5.4.2); `own` is
/// the signature itself, which is none of them.
fn select<'f, 'a>(
    fields: &'f [Field<'a>],
    names: &[String],
    own: &Field<'_>,
) -> Vec<&'f Field<'a>> {
    let mut by_name: HashMap<Vec<u8>, Vec<&Field<'a>>> = HashMap::new();
    for field in fields {
        if !std::ptr::eq(field.whole, own.whole) {
            let name = field.name.to_ascii_lowercase();
            by_name.entry(name).or_default().push(field);
        }
    }
    let found = names.iter().filter_map(|name| {
        let name = name.to_ascii_lowercase();
        by_name.get_mut(name.as_bytes()).and_then(Vec::pop)
    });
    found.collect()
}

/// `a=`.
pub fn algorithm(tags: &Tags<'_>) -> Result<Kind, Fault> {
    let text = tags.get("a").ok_or("a= is missing")?;
    Kind::of_algorithm(text).ok_or("a= names no algorithm that is allowed")
}

/// `d=` and `s=`, fit to be names in the DNS: anything else is a trick.
pub fn key_name(tags: &Tags<'_>) -> Result<(String, String), Fault> {
    let domain = tags.get("d").ok_or("d= is missing")?;
    let selector = tags.get("s").ok_or("s= is missing")?;
    let sound = |name: &str| {
        name.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        })
    };
    if !sound(domain) || !domain.contains('.') || domain.len() > 253 {
        return Err("d= is no domain");
    }
    if !sound(selector) || selector.len() > 253 {
        return Err("s= is no selector");
    }
    Ok((domain.to_ascii_lowercase(), selector.to_owned()))
}

/// A tag in base64 that must not be empty.
pub fn base64(tags: &Tags<'_>, tag: &str, fault: Fault) -> Result<Vec<u8>, Fault> {
    let text = tags.get(tag).map(squeezed).ok_or(fault)?;
    let bytes = STANDARD.decode(text).map_err(|_| fault)?;
    (!bytes.is_empty()).then_some(bytes).ok_or(fault)
}

/// A tag of digits, at most 19 of them.
pub fn number(tags: &Tags<'_>, tag: &str) -> Result<Option<u64>, Fault> {
    let Some(text) = tags.get(tag) else {
        return Ok(None);
    };
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let number = digits.then(|| text.parse().ok()).flatten();
    number.map(Some).ok_or("a number is malformed")
}

/// `c=`: simple where nothing is said.
fn forms(c: Option<&str>) -> Result<(Form, Form), Fault> {
    let Some(c) = c else {
        return Ok((Form::Simple, Form::Simple));
    };
    let fault = "c= names no form we know";
    let (header, body) = c.split_once('/').unwrap_or((c, "simple"));
    let header = Form::parse(header).ok_or(fault)?;
    Ok((header, Form::parse(body).ok_or(fault)?))
}
