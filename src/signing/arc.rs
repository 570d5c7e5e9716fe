//! ARC sets for forwarded mail (RFC 8617 section 5.1).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::message::arc::{Chain, Set, chain};
use crate::message::canonical::Form;
use crate::message::headers::{Field, fields};
use crate::message::tags::{Tags, squeezed, without_signature};

/// Fields that the message signature covers where they are there; none that a hop adds or removes.
pub const SEALED: [&str; 17] = [
    "From",
    "To",
    "Cc",
    "Subject",
    "Date",
    "Message-ID",
    "Reply-To",
    "Sender",
    "In-Reply-To",
    "References",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
    "List-ID",
    "List-Unsubscribe",
    "List-Unsubscribe-Post",
    "DKIM-Signature",
];

/// Bytes of a line of `h=`.
const LINE: usize = 72;

/// The state of the chain as we found it (`cv=`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainState {
    /// There was none.
    None,
    /// It holds.
    Pass,
    /// It is broken.
    Fail,
}

impl ChainState {
    fn as_str(self) -> &'static str {
        match self {
            ChainState::None => "none",
            ChainState::Pass => "pass",
            ChainState::Fail => "fail",
        }
    }
}

/// Signs bytes with an RSA key (`rsa-sha256`).
pub type Sign<'a> = &'a dyn Fn(&[u8]) -> Result<Vec<u8>, String>;

/// Who seals, when, and over what.
pub struct Sealer<'a> {
    /// The key.
    pub sign: Sign<'a>,
    /// `d=`
    pub domain: &'a str,
    /// `s=`
    pub selector: &'a str,
    /// Names of the fields that are signed, in this order.
    pub names: &'a [&'a str],
    /// Seconds since 1970.
    pub now: u64,
}

/// The three fields to put on top: ARC-Seal, ARC-Message-Signature, ARC-Authentication-Results.
/// Nothing where there must not be another set (RFC 8617 sections 4.2.1 and 5.1).
///
/// `results` is what we found out, beginning with our authserv-id; `body_hash` is of the relaxed
/// body.
pub fn seal(
    sealer: &Sealer<'_>,
    head: &[u8],
    state: ChainState,
    results: &str,
    body_hash: &[u8],
) -> Result<String, String> {
    let fields = fields(head).map_err(|error| error.to_string())?;
    let chain = chain(&fields);
    let Some(instance) = chain.next_instance().filter(|_| !chain.says_fail(&fields)) else {
        return Ok(String::new());
    };
    let results = format!("ARC-Authentication-Results: i={instance}; {results}\r\n");
    let signature = message_signature(sealer, &fields, instance, body_hash)?;
    let mut text = Vec::new();
    // A broken chain can not be covered: the seal is over our own set only (section 5.1.2).
    if let (Chain::Sets(sets), ChainState::Pass) = (&chain, state) {
        write_sets(sets, &mut text);
    }
    write(&results, &mut text)?;
    write(&signature, &mut text)?;
    let Sealer {
        domain,
        selector,
        now,
        ..
    } = sealer;
    // Folded with spaces, not tabs: dkimpy looks for " i=1;".
    let tail = format!(
        "; cv={}; d={domain};\r\n i={instance}; s={selector}; t={now}",
        state.as_str()
    );
    let seal = signed(sealer, "ARC-Seal", &tail, text)?;
    Ok(format!("{seal}{signature}{results}"))
}

/// Whether the newest set of `head` was sealed by `sign`: an RSA signature of the same text is the
/// same (RFC 8017 section 8.2.1).
pub fn is_own(sign: Sign<'_>, head: &[u8]) -> bool {
    let Ok(fields) = fields(head) else {
        return false;
    };
    let Chain::Sets(sets) = chain(&fields) else {
        return false;
    };
    let Some((newest, earlier)) = sets.split_last() else {
        return false;
    };
    let Some(tags) = Tags::parse(newest.seal.value) else {
        return false;
    };
    let mut text = Vec::new();
    if tags.get("cv") == Some(ChainState::Pass.as_str()) {
        write_sets(earlier, &mut text);
    }
    Form::Relaxed.write_field(&newest.results, &mut text);
    Form::Relaxed.write_field(&newest.signature, &mut text);
    let unsigned = without_signature(newest.seal.value);
    Form::Relaxed.write_last(newest.seal.name, &unsigned, &mut text);
    let own = sign(&text).map(|signature| STANDARD.encode(signature));
    let found = tags.get("b").map(squeezed);
    own.is_ok_and(|own| found.as_deref() == Some(own.as_str()))
}

fn write_sets(sets: &[Set<'_>], text: &mut Vec<u8>) {
    for set in sets {
        for field in [&set.results, &set.signature, &set.seal] {
            Form::Relaxed.write_field(field, text);
        }
    }
}

fn message_signature(
    sealer: &Sealer<'_>,
    fields: &[Field<'_>],
    instance: usize,
    body_hash: &[u8],
) -> Result<String, String> {
    let mut text = Vec::new();
    let mut listed = Vec::new();
    for name in sealer.names {
        // Each occurrence, from the bottom up, as verifiers look for them.
        for field in fields.iter().rev().filter(|field| field.is(name)) {
            Form::Relaxed.write_field(field, &mut text);
            listed.push(name.to_ascii_lowercase());
        }
    }
    let Sealer {
        domain,
        selector,
        now,
        ..
    } = sealer;
    let tail = format!(
        ";\r\n bh={}; c=relaxed/relaxed;\r\n d={domain};{};\r\n i={instance}; s={selector}; t={now}",
        STANDARD.encode(body_hash),
        list(&listed),
    );
    signed(sealer, "ARC-Message-Signature", &tail, text)
}

/// `h=` folded at its colons, from the start of a line if it needs several.
fn list(names: &[String]) -> String {
    let mut lines = vec![String::from(" h=")];
    for (index, name) in names.iter().enumerate() {
        let colon = if index == 0 { "" } else { ":" };
        let last = lines.last_mut();
        match last.filter(|line| line.len() + name.len() < LINE) {
            Some(line) => {
                line.push_str(colon);
                line.push_str(name);
            }
            None => lines.push(format!(" {colon}{name}")),
        }
    }
    lines.join("\r\n")
}

/// A field whose signature covers `text` and itself.
fn signed(
    sealer: &Sealer<'_>,
    name: &str,
    tail: &str,
    mut text: Vec<u8>,
) -> Result<String, String> {
    let front = " a=rsa-sha256;\r\n b=";
    let unsigned = format!("{front}{tail}");
    Form::Relaxed.write_last(name.as_bytes(), unsigned.as_bytes(), &mut text);
    let signature = (sealer.sign)(&text)?;
    let signature = STANDARD.encode(signature);
    // In one line: folded white space within it would be part of what the next seal covers, and
    // not every verifier takes it out again.
    Ok(format!("{name}:{front}{signature}{tail}\r\n"))
}

fn write(field: &str, text: &mut Vec<u8>) -> Result<(), String> {
    let fields = fields(field.as_bytes()).map_err(|error| error.to_string())?;
    fields
        .iter()
        .for_each(|field| Form::Relaxed.write_field(field, text));
    Ok(())
}
