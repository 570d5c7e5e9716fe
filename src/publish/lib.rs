//! Publishes DNS records where a zone lives: by dynamic update (RFC 2136) or a provider's API.
//!
//! Receives records that mail needs from the command line, and answers for the CA (DNS-01) from the
//! certificates; speaks to the provider that `dns.provider` names, with what
//! `secrets/dns/PROVIDER.toml` says. What is at a name is looked at before it is changed, and what
//! is changed is one record of a set: others at that name stay. [`Publisher`] does that. It must never change a record that we neither made nor can add to.
#![forbid(unsafe_code)]

mod acme_dns;
mod cloudflare;
mod credentials;
pub mod data;
mod desec;
mod digitalocean;
mod hetzner;
mod http;
pub mod ledger;
pub mod plan;
mod rfc2136;
mod route53;
mod sigv4;
#[cfg(test)]
mod tests;
mod visible;
mod wire;

// The rooms that this one enters.
use chapar_base::uri;
use chapar_config as config;
use chapar_dns as dns;
#[cfg(test)]
use chapar_lab as lab;
use chapar_tls as tls;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;

use crate::config::Config;
use data::{Data, Kind, Record};

pub use crate::config::Provider;
pub use credentials::{file as credentials_file, read as read_credentials};
pub use visible::{NotVisible, Visibility};

/// Time to live of what is published, seconds: short enough to correct a mistake.
pub const TTL: u32 = 3600;
/// The same for answers to a CA, which are gone after minutes.
pub const BRIEF_TTL: u32 = 60;

/// Why nothing could be published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// No `dns.provider`.
    #[error(
        "no DNS provider is configured; write dns.provider = \"NAME\" into chapar.toml, one of {}",
        Provider::names()
    )]
    NoProvider,
    /// What it takes to log in there.
    #[error("{}: {problem}; write into it: {wants}", file.display())]
    Credentials {
        /// `secrets/dns/PROVIDER.toml`.
        file: PathBuf,
        /// What is wrong.
        problem: String,
        /// What belongs there.
        wants: &'static str,
    },
    /// It does not take them.
    #[error("{provider} does not take our credentials ({said}); {} must hold {wants}", file.display())]
    Denied {
        /// Who.
        provider: &'static str,
        /// Its words.
        said: String,
        /// `secrets/dns/PROVIDER.toml`.
        file: PathBuf,
        /// What belongs there.
        wants: &'static str,
    },
    /// It has no zone for a name.
    #[error(
        "{provider} has no zone that {name} is in; make the zone there first, or name another provider, or use credentials that may see it"
    )]
    NoZone {
        /// Who.
        provider: &'static str,
        /// The name.
        name: String,
    },
    /// It does not do it.
    #[error("{provider} refuses ({said}): {what}; correct it there and run this again")]
    Refused {
        /// Who.
        provider: &'static str,
        /// What was asked.
        what: String,
        /// Its words.
        said: String,
    },
    /// Too many requests.
    #[error("{provider} asks for patience ({said}); run this again in {} s", wait.as_secs())]
    Patience {
        /// Who.
        provider: &'static str,
        /// Its words.
        said: String,
        /// How long.
        wait: Duration,
    },
    /// It is broken, or the way to it is.
    #[error("{provider} can not be asked: {why}; nothing else was changed, run this again later")]
    Away {
        /// Who.
        provider: &'static str,
        /// What happened.
        why: String,
    },
    /// Its answer makes no sense.
    #[error(
        "{provider} answers what is not its API ({why}); look whether url in secrets/dns leads to it"
    )]
    Malformed {
        /// Who.
        provider: &'static str,
        /// What is wrong.
        why: String,
    },
    /// It has no such records.
    #[error("{provider} can not keep {kind} records: {record}; {remedy}")]
    Unsupported {
        /// Who.
        provider: &'static str,
        /// The type.
        kind: &'static str,
        /// The record.
        record: String,
        /// What to do.
        remedy: &'static str,
    },
}

/// A zone as a provider knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Zone {
    /// Without its last dot.
    name: String,
    id: String,
    /// The least TTL it takes, seconds.
    least_ttl: u32,
}

impl Zone {
    /// A name below the zone as most APIs want it: relative, and `apex` for the zone itself.
    fn relative<'a>(&self, name: &'a str, apex: &'a str) -> &'a str {
        match name.strip_suffix(&self.name) {
            Some("") => apex,
            Some(below) => below.trim_end_matches('.'),
            None => name,
        }
    }

    /// The opposite.
    fn absolute(&self, relative: &str) -> String {
        match relative {
            "" | "@" => self.name.clone(),
            below => data::name(&format!("{below}.{}", self.name)),
        }
    }
}

/// A record that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Present {
    record: Record,
    ttl: u32,
    /// How the provider calls it; empty if it gives no names to records.
    id: String,
}

/// A set of records (one name and type) that is to change.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Change {
    name: String,
    kind: Kind,
    ttl: u32,
    remove: Vec<Present>,
    add: Vec<Data>,
    keep: Vec<Present>,
}

impl Change {
    /// What the set is afterwards.
    fn whole(&self) -> Vec<&Data> {
        let kept = self.keep.iter().map(|present| &present.record.data);
        kept.chain(&self.add).collect()
    }
}

/// What each provider can do.
#[async_trait]
trait Service: Send + Sync {
    /// The zone of exactly this name, if it is there.
    async fn zone(&self, name: &str) -> Result<Option<Zone>, Problem>;

    /// The records at these names.
    async fn present(&self, zone: &Zone, names: &[String]) -> Result<Vec<Present>, Problem>;

    /// Makes these changes, in one step where the provider can.
    async fn change(&self, zone: &Zone, changes: &[Change]) -> Result<(), Problem>;

    /// Whether the zone of a name is asked for, label by label. Not where one name is all there is.
    fn walks(&self) -> bool {
        true
    }
}

/// One record that is to come, to go, or to be replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// Where, without its last dot.
    pub name: String,
    /// What goes.
    pub remove: Option<Data>,
    /// What comes.
    pub add: Option<Data>,
    /// Time to live of what comes, seconds.
    pub ttl: u32,
}

impl Edit {
    /// A record comes.
    pub fn add(record: &Record, ttl: u32) -> Edit {
        Edit {
            name: record.name.clone(),
            remove: None,
            add: Some(record.data.clone()),
            ttl,
        }
    }

    /// A record goes.
    pub fn remove(record: &Record) -> Edit {
        Edit {
            name: record.name.clone(),
            remove: Some(record.data.clone()),
            add: None,
            ttl: TTL,
        }
    }
}

/// Speaks to one provider.
pub struct Publisher {
    provider: Provider,
    service: Box<dyn Service>,
    /// What is known of names that may be zones.
    zones: BTreeMap<String, Option<Zone>>,
}

impl Publisher {
    /// For `dns.provider`.
    pub fn new(config: &Config) -> Result<Publisher, Problem> {
        let provider = config.dns.provider.0.ok_or(Problem::NoProvider)?;
        Publisher::of(config, provider)
    }

    /// For this one.
    pub fn of(config: &Config, provider: Provider) -> Result<Publisher, Problem> {
        let read = credentials::Read::new(config, provider)?;
        let service: Box<dyn Service> = match provider {
            Provider::Rfc2136 => Box::new(rfc2136::Rfc2136::new(read)?),
            Provider::Cloudflare => Box::new(cloudflare::Cloudflare::new(read)?),
            Provider::Hetzner => Box::new(hetzner::Hetzner::new(read)?),
            Provider::DigitalOcean => Box::new(digitalocean::DigitalOcean::new(read)?),
            Provider::Desec => Box::new(desec::Desec::new(read)?),
            Provider::Route53 => Box::new(route53::Route53::new(read)?),
            Provider::AcmeDns => Box::new(acme_dns::AcmeDns::new(read)?),
        };
        Ok(Publisher {
            provider,
            service,
            zones: BTreeMap::new(),
        })
    }

    /// Who it is.
    pub fn provider(&self) -> Provider {
        self.provider
    }

    /// The name of the zone that a name is in: the longest that the provider has.
    pub async fn zone_of(&mut self, name: &str) -> Result<String, Problem> {
        Ok(self.find(&data::name(name)).await?.name)
    }

    async fn find(&mut self, name: &str) -> Result<Zone, Problem> {
        let mut candidate = name;
        loop {
            let known = self.zones.get(candidate).cloned();
            let found = match known {
                Some(known) => known,
                None if !may_be_zone(candidate) => None,
                None => {
                    let found = self.service.zone(candidate).await?;
                    self.zones.insert(candidate.to_owned(), found.clone());
                    found
                }
            };
            if let Some(zone) = found {
                return Ok(zone);
            }
            // A top-level domain is nobody's at a provider.
            match candidate.split_once('.') {
                Some((_, above)) if above.contains('.') && self.service.walks() => {
                    candidate = above;
                }
                _ => {
                    return Err(Problem::NoZone {
                        provider: self.provider.name(),
                        name: name.to_owned(),
                    });
                }
            }
        }
    }

    /// The records at these names, of the types that mail needs.
    pub async fn records(&mut self, names: &[String]) -> Result<Vec<Record>, Problem> {
        let mut found = Vec::new();
        for (zone, names) in self.by_zone(names.iter().cloned()).await? {
            let present = self.service.present(&zone, &names).await?;
            found.extend(present.into_iter().map(|present| present.record));
        }
        Ok(found)
    }

    async fn by_zone(
        &mut self,
        names: impl Iterator<Item = String>,
    ) -> Result<Vec<(Zone, Vec<String>)>, Problem> {
        let mut zones: Vec<(Zone, Vec<String>)> = Vec::new();
        for name in names {
            let zone = self.find(&name).await?;
            match zones.iter_mut().find(|(known, _)| known.name == zone.name) {
                Some((_, names)) if names.contains(&name) => {}
                Some((_, names)) => names.push(name),
                None => zones.push((zone, vec![name])),
            }
        }
        Ok(zones)
    }

    /// Makes these edits; what is as it should be already is left alone. The other records of a
    /// name and type stay.
    pub async fn apply(&mut self, edits: &[Edit]) -> Result<(), Problem> {
        let names = edits.iter().map(|edit| edit.name.clone());
        for (zone, names) in self.by_zone(names).await? {
            let present = self.service.present(&zone, &names).await?;
            let mine: Vec<&Edit> = edits
                .iter()
                .filter(|edit| names.contains(&edit.name))
                .collect();
            let changes = changes(&zone, &present, &mine);
            if !changes.is_empty() {
                self.service.change(&zone, &changes).await?;
            }
        }
        Ok(())
    }
}

/// Whether somebody would make a zone of this name; asking for each name would cost requests.
fn may_be_zone(name: &str) -> bool {
    !name.starts_with(['_', '*']) || name.starts_with("_acme-challenge.")
}

/// What becomes of each set of records. Pure.
fn changes(zone: &Zone, present: &[Present], edits: &[&Edit]) -> Vec<Change> {
    type Wanted<'a> = (Vec<&'a Data>, Vec<&'a Data>, u32);
    let mut sets: BTreeMap<(&str, Kind), Wanted<'_>> = BTreeMap::new();
    // What goes first: a CNAME must be gone before another record comes.
    for edit in edits {
        if let Some(data) = &edit.remove {
            let set = sets.entry((&edit.name, data.kind())).or_default();
            set.0.push(data);
        }
        if let Some(data) = &edit.add {
            let set = sets.entry((&edit.name, data.kind())).or_default();
            set.2 = edit.ttl;
            if !set.1.contains(&data) {
                set.1.push(data);
            }
        }
    }
    let mut changes = Vec::new();
    for ((name, kind), (remove, add, ttl)) in sets {
        let here: Vec<&Present> = present
            .iter()
            .filter(|one| one.record.name == name && one.record.data.kind() == kind)
            .collect();
        let goes = |one: &&&Present| {
            remove.contains(&&one.record.data) && !add.contains(&&one.record.data)
        };
        let remove: Vec<Present> = here.iter().filter(goes).copied().cloned().collect();
        let keep: Vec<Present> = here
            .iter()
            .filter(|one| !goes(one))
            .copied()
            .cloned()
            .collect();
        let add: Vec<Data> = add
            .into_iter()
            .filter(|data| !keep.iter().any(|one| one.record.data == **data))
            .cloned()
            .collect();
        if remove.is_empty() && add.is_empty() {
            continue;
        }
        // A set has one TTL (RFC 2181 section 5.2); that of the others is their owner's.
        let ttl = keep.first().or(remove.first()).map_or(ttl, |one| one.ttl);
        changes.push(Change {
            name: name.to_owned(),
            kind,
            ttl: ttl.max(zone.least_ttl),
            remove,
            add,
            keep,
        });
    }
    changes.sort_by_key(|change| !change.add.is_empty());
    changes
}
