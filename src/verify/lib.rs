//! What the DNS and the signatures say about mail from outside.
//!
//! Receives a message with its envelope; gives [`Verdicts`]. Decides nothing: that is
//! intake. Time and questions are bounded, whatever a message holds; what could not be
//! found out in time is trouble, never a pass.
#![forbid(unsafe_code)]

pub mod arc;
pub mod dkim;
pub mod dmarc;
pub mod iprev;
pub mod key;
mod listing;
pub mod lookup;
pub mod signature;
pub mod spf;

// The rooms that this one enters.
use chapar_base::uri;
use chapar_message as message;
#[cfg(test)]
use chapar_signing as signing;
use chapar_smtp as smtp;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read as _};
use std::net::IpAddr;
use std::time::Duration;

use hickory_resolver::TokioResolver;

use crate::message::canonical::{BodyHash, Form};
use crate::message::headers::Field;
use crate::message::{Body, author};
use crate::smtp::address::Address;
pub use listing::Listing;
use lookup::Lookup;

/// Bytes of a spooled body that are hashed at a time.
const BLOCK: usize = 64 * 1024;
/// Author domains of one message that are judged; more is a trick.
const MOST_AUTHORS: usize = 5;

/// A message and how it came.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The client's address.
    pub client: IpAddr,
    /// The name of EHLO.
    pub hello: &'a str,
    /// The reverse-path; empty for the null one.
    pub from: &'a str,
    /// Our host name.
    pub receiver: &'a str,
    /// The header fields.
    pub fields: &'a [Field<'a>],
    /// What follows them.
    pub body: &'a Body,
    /// Seconds since 1970.
    pub now: u64,
    /// How long the DNS may take in all.
    pub time: Duration,
}

/// Everything that was found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdicts {
    /// The client's address.
    pub client: IpAddr,
    /// Its name.
    pub iprev: iprev::Iprev,
    /// SPF.
    pub spf: spf::Outcome,
    /// The reverse-path it is about; empty: the name of EHLO is meant.
    pub from: String,
    /// The name of EHLO.
    pub hello: String,
    /// The domain SPF is about, in lower case.
    pub spf_domain: String,
    /// DKIM, one for each signature.
    pub dkim: Vec<dkim::Verdict>,
    /// The list of good clients it is on.
    pub allowed: Option<Listing>,
    /// ARC.
    pub arc: arc::Verdict,
    /// DMARC; of several author domains the one that fares worst.
    pub dmarc: dmarc::Verdict,
}

impl Verdicts {
    /// Whether the reverse-path is not forged: SPF passes for it, or its domain or one above it
    /// signed the message (I11).
    pub fn is_verified(&self) -> bool {
        let signed = |signature: &dkim::Verdict| {
            signature.result == dkim::DkimResult::Pass
                && self
                    .spf_domain
                    .strip_suffix(signature.domain.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        !self.from.is_empty()
            && (self.spf.result == spf::SpfResult::Pass || self.dkim.iter().any(signed))
    }
}

/// Finds everything out. An error means that the body could not be read back.
pub async fn verify(resolver: &TokioResolver, question: &Question<'_>) -> io::Result<Verdicts> {
    let lookup = Lookup::new(resolver.clone());
    let Question { fields, now, .. } = *question;
    let client = question.client.to_canonical();
    let sender = spf::Sender {
        client,
        hello: question.hello,
        from: question.from,
        receiver: question.receiver,
        now,
    };
    let signatures = dkim::read(fields);
    let chain = arc::read(fields);
    let forms: BTreeSet<bool> = signatures
        .iter()
        .filter_map(dkim::Pending::form)
        .chain(chain.form())
        .map(|form| form == Form::Relaxed)
        .collect();
    let hashes = hash(question.body, &forms).await?;
    let hash = |form: Form| {
        let hash = match form {
            Form::Simple => &hashes.simple,
            Form::Relaxed => &hashes.relaxed,
        };
        hash.clone().unwrap_or_default()
    };
    let all = async {
        let (spf, iprev, dkim, arc) = tokio::join!(
            within(question.time, spf::check(&lookup, sender)),
            within(question.time, iprev::check(&lookup, client)),
            // Each signature has the time for itself: one whose DNS is dead takes nothing from others.
            dkim::verify(&lookup, signatures, fields, hash, now, question.time),
            within(
                question.time,
                arc::verify(&lookup, chain, fields, hash, now)
            ),
        );
        let spf = spf.unwrap_or(spf::Outcome {
            result: spf::SpfResult::TempError,
            explanation: None,
        });
        Verdicts {
            client,
            iprev: iprev.unwrap_or(iprev::Iprev::TempError),
            spf,
            from: question.from.to_owned(),
            hello: question.hello.to_owned(),
            spf_domain: sender.domain().to_ascii_lowercase(),
            allowed: None,
            dkim,
            arc: arc.unwrap_or(arc::Verdict {
                result: arc::ArcResult::TempError,
                reason: "the DNS was too slow",
                sealer: String::new(),
            }),
            dmarc: dmarc::Verdict::new(dmarc::DmarcResult::None, ""),
        }
    };
    let mut verdicts = all.await;
    verdicts.dmarc = within(question.time, judge_authors(&lookup, fields, &verdicts))
        .await
        .unwrap_or_else(|| dmarc::Verdict::new(dmarc::DmarcResult::TempError, ""));
    Ok(verdicts)
}

/// Whether SPF passes for a sender, known within `time`.
pub async fn spf_passes(resolver: &TokioResolver, sender: spf::Sender<'_>, time: Duration) -> bool {
    let lookup = Lookup::new(resolver.clone());
    let outcome = within(time, spf::check(&lookup, sender)).await;
    outcome.is_some_and(|outcome| outcome.result == spf::SpfResult::Pass)
}

/// How long the DNS may take to name a client: it is for readers of the trace only.
pub const MAX_NAME_TIME: Duration = Duration::from_secs(5);

/// The name of `client` that leads back to it, in lower case.
pub async fn host_name(resolver: &TokioResolver, client: IpAddr) -> Option<String> {
    let lookup = Lookup::new(resolver.clone());
    match within(MAX_NAME_TIME, iprev::check(&lookup, client)).await? {
        iprev::Iprev::Pass(name) => Some(name),
        _ => None,
    }
}

async fn within<T>(time: Duration, work: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(time, work).await.ok()
}

/// The authors of a message, in order. An error if one of them can not be read.
pub fn authors(fields: &[Field<'_>]) -> Result<Vec<Address>, author::Unreadable> {
    let mut authors = Vec::new();
    for field in fields.iter().filter(|field| field.is("From")) {
        authors.append(&mut author::addresses(field.value)?);
    }
    Ok(authors)
}

/// What is known of a domain's hand in a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// SPF or a signature of it, or of one below it, passes.
    Given,
    /// None does.
    Missing,
    /// None does, and the DNS did not answer about one.
    Unknown,
}

impl Verdicts {
    /// Whether `domain` stands behind the message, whatever it publishes.
    pub fn proof(&self, domain: &str) -> Proof {
        let is_of = |name: &str| {
            name.strip_suffix(domain)
                .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        let spf = match self.spf.result {
            spf::SpfResult::Pass => Some(Proof::Given),
            spf::SpfResult::TempError => Some(Proof::Unknown),
            _ => None,
        };
        let spf = spf.filter(|_| is_of(&self.spf_domain));
        let signed = self
            .dkim
            .iter()
            .filter(|signature| is_of(&signature.domain));
        let signed = signed.filter_map(|signature| match signature.result {
            dkim::DkimResult::Pass => Some(Proof::Given),
            dkim::DkimResult::TempError => Some(Proof::Unknown),
            _ => None,
        });
        let all: Vec<Proof> = spf.into_iter().chain(signed).collect();
        if all.contains(&Proof::Given) {
            return Proof::Given;
        }
        match all.is_empty() {
            true => Proof::Missing,
            false => Proof::Unknown,
        }
    }
}

async fn judge_authors(
    lookup: &Lookup,
    fields: &[Field<'_>],
    verdicts: &Verdicts,
) -> dmarc::Verdict {
    let mut domains: Vec<String> = Vec::new();
    for author in authors(fields).unwrap_or_default() {
        if !domains.iter().any(|known| known == author.domain()) {
            domains.push(author.domain().to_owned());
        }
    }
    if domains.is_empty() || domains.len() > MOST_AUTHORS {
        return dmarc::Verdict::new(dmarc::DmarcResult::PermError, "");
    }
    let mut identities = Vec::new();
    if let Some(passed) = match verdicts.spf.result {
        spf::SpfResult::Pass => Some(true),
        spf::SpfResult::TempError => Some(false),
        _ => None,
    } {
        identities.push(dmarc::Identity {
            domain: &verdicts.spf_domain,
            dkim: false,
            passed,
        });
    }
    for signature in &verdicts.dkim {
        if let Some(passed) = match signature.result {
            dkim::DkimResult::Pass => Some(true),
            dkim::DkimResult::TempError => Some(false),
            _ => None,
        } {
            identities.push(dmarc::Identity {
                domain: &signature.domain,
                dkim: true,
                passed,
            });
        }
    }
    let mut worst: Option<dmarc::Verdict> = None;
    for domain in &domains {
        let verdict = dmarc::check(lookup, domain, &identities).await;
        if worst.as_ref().is_none_or(|w| rank(&verdict) > rank(w)) {
            worst = Some(verdict);
        }
    }
    worst.unwrap_or_else(|| dmarc::Verdict::new(dmarc::DmarcResult::PermError, ""))
}

/// The worse, the higher.
fn rank(verdict: &dmarc::Verdict) -> (u8, dmarc::Policy) {
    let order = match verdict.result {
        dmarc::DmarcResult::Pass => 0,
        dmarc::DmarcResult::None => 1,
        dmarc::DmarcResult::PermError => 2,
        dmarc::DmarcResult::TempError => 3,
        dmarc::DmarcResult::Fail => 4,
    };
    (order, verdict.policy)
}

#[derive(Default)]
struct Hashes {
    simple: Option<Vec<u8>>,
    relaxed: Option<Vec<u8>>,
}

/// Hashes the body once in each form that is wanted (true: relaxed); a spooled one off the arbiter.
async fn hash(body: &Body, forms: &BTreeSet<bool>) -> io::Result<Hashes> {
    let mut hashing = Hashing {
        simple: forms.contains(&false).then(|| BodyHash::new(Form::Simple)),
        relaxed: forms.contains(&true).then(|| BodyHash::new(Form::Relaxed)),
    };
    match body {
        Body::Memory(bytes) => {
            hashing.write(bytes);
            Ok(hashing.finish())
        }
        Body::Spool(_) if forms.is_empty() => Ok(Hashes::default()),
        Body::Spool(spool) => {
            let path = spool.path.clone();
            let work = move || {
                let mut file = File::open(path.as_path())?;
                let mut block = vec![0; BLOCK];
                loop {
                    match file.read(&mut block)? {
                        0 => return Ok(hashing.finish()),
                        read => hashing.write(block.get(..read).unwrap_or_default()),
                    }
                }
            };
            tokio::task::spawn_blocking(work)
                .await
                .unwrap_or_else(|error| Err(io::Error::other(error)))
        }
    }
}

struct Hashing {
    simple: Option<BodyHash>,
    relaxed: Option<BodyHash>,
}

impl Hashing {
    fn write(&mut self, block: &[u8]) {
        for hash in [&mut self.simple, &mut self.relaxed].into_iter().flatten() {
            hash.write(block);
        }
    }

    fn finish(self) -> Hashes {
        Hashes {
            simple: self.simple.map(BodyHash::finish),
            relaxed: self.relaxed.map(BodyHash::finish),
        }
    }
}
