//! `chapar dkim`: keys come and go without a message that can not be verified.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use hickory_resolver::proto::rr::{RData, RecordType};
use serde::{Deserialize, Serialize};
use toml_edit::{Array, DocumentMut, value};

use super::exit::Wrong;
use super::publish;
use crate::config::{Config, Span, files};
use crate::dns::Resolver;
use crate::identity::Identity;
use crate::publish::Provider;
use crate::publish::data::{Data, Record};
use crate::signing::keys::{self, Algorithm, PrivateKey};

/// Mode of keys and of the note about a rotation.
const MODE: u32 = 0o600;
/// How long the zone's servers may take to show a new key.
const SEEN: Duration = Duration::from_secs(60);
/// sysexits.h: something is to be waited for.
const EX_TEMPFAIL: u8 = 75;

/// Look after DKIM keys
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Replace the keys of a domain: publish, wait, switch, retire
    ///
    /// Each run does the step whose time has come and says what the next one waits for: new keys
    /// are made and their records published at dns.provider, or printed; once the DNS has had them
    /// for --wait, the daemon signs with them; --keep later the old ones are removed, and their
    /// records at dns.provider, too. Run it as often as you like, also from a timer; it never signs
    /// with a key that the DNS does not have.
    ///
    /// Exit codes: 0 nothing is left to do, 75 the next step waits.
    #[command(after_help = "Examples:\n  chapar dkim rotate example.org\n  \
                            chapar dkim rotate example.org --wait 1h --keep 7d")]
    Rotate(Rotate),
}

/// How.
#[derive(Debug, clap::Args)]
pub(super) struct Rotate {
    /// One of our domains.
    domain: String,
    /// How long the new records are in the DNS before they are used: at least their TTL.
    #[arg(long, value_name = "SPAN", default_value = "1h")]
    wait: Span,
    /// How long the old keys' records stay, for mail under way.
    #[arg(long, value_name = "SPAN", default_value = "7d")]
    keep: Span,
}

/// `secrets/dkim/DOMAIN/rotation.json`: how far it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rotation {
    old: Vec<String>,
    new: Vec<String>,
    /// When the DNS was first seen to have every new key, in milliseconds since 1970.
    published: Option<u64>,
    /// When signing began with the new ones.
    switched: Option<u64>,
}

pub(super) fn run(file: &Path, command: Command) -> anyhow::Result<ExitCode> {
    let Command::Rotate(args) = command;
    let config = Config::load(file)?;
    let identity = Identity::load(&config.dir, &config.postmaster)?;
    let domain = args.domain.to_lowercase();
    let Some(found) = identity.domain(&domain) else {
        let text = format!(
            "{domain} is not one of our domains; `chapar domain add {domain}` makes it one"
        );
        return Err(Wrong(text).into());
    };
    let work = Work {
        note: config
            .dir
            .join("secrets/dkim")
            .join(&domain)
            .join("rotation.json"),
        config: &config,
        domain: &domain,
        now: crate::time::now(),
    };
    let rotation = match work.read()? {
        Some(rotation) => rotation,
        None => work.begin(&found.selectors)?,
    };
    work.go_on(rotation, &args)
}

struct Work<'a> {
    note: PathBuf,
    config: &'a Config,
    domain: &'a str,
    now: u64,
}

impl Work<'_> {
    fn read(&self) -> anyhow::Result<Option<Rotation>> {
        let name = || self.note.display().to_string();
        match fs::read(&self.note) {
            Ok(text) => Ok(Some(serde_json::from_slice(&text).with_context(name)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(name),
        }
    }

    fn write(&self, rotation: &Rotation) -> anyhow::Result<()> {
        let text = serde_json::to_vec_pretty(rotation)?;
        files::replace(&self.note, &text, MODE)
            .with_context(|| format!("{} can not be written", self.note.display()))
    }

    /// New keys, of the kinds that there are, under names that were never used.
    fn begin(&self, old: &[String]) -> anyhow::Result<Rotation> {
        let mut kinds = BTreeSet::new();
        for selector in old {
            let key = PrivateKey::load(&self.config.dir, self.domain, selector)?;
            kinds.insert(key.algorithm() == Algorithm::Ed25519);
        }
        if kinds.is_empty() {
            kinds.extend([false, true]);
        }
        let mut number = 1;
        let new = loop {
            let names: Vec<String> = kinds
                .iter()
                .map(|ed25519| match ed25519 {
                    true => format!("chapar{number}-ed25519"),
                    false => format!("chapar{number}-rsa"),
                })
                .collect();
            let used = |name: &String| {
                old.contains(name) || keys::path(&self.config.dir, self.domain, name).exists()
            };
            if !names.iter().any(used) {
                break names;
            }
            number += 1;
        };
        // The note first: a key that nothing speaks of would stay for ever.
        let rotation = Rotation {
            old: old.to_vec(),
            new,
            published: None,
            switched: None,
        };
        let dir = self.note.parent().unwrap_or(Path::new("."));
        files::create_dir(dir, 0o700)?;
        self.write(&rotation)?;
        Ok(rotation)
    }

    fn go_on(&self, mut rotation: Rotation, args: &Rotate) -> anyhow::Result<ExitCode> {
        if let Some(switched) = rotation.switched {
            return self.retire(&rotation, switched, args);
        }
        for selector in &rotation.new {
            let path = keys::path(&self.config.dir, self.domain, selector);
            if !path.exists() {
                let algorithm = match selector.ends_with("ed25519") {
                    true => Algorithm::Ed25519,
                    false => Algorithm::Rsa,
                };
                let pem = PrivateKey::generate(algorithm)?.to_pem();
                files::create(&path, pem.as_bytes(), MODE)
                    .with_context(|| format!("{} can not be written", path.display()))?;
                say!("wrote {}", path.display());
            }
        }
        let mut missing = self.missing(&rotation.new)?;
        if let (Some(provider), false) = (self.provider(), missing.is_empty()) {
            self.publish(provider, &missing)?;
            missing = self.missing(&rotation.new)?;
            if !missing.is_empty() {
                say!("our DNS servers do not see them yet: run this again in some minutes");
                return Ok(EX_TEMPFAIL.into());
            }
        }
        if !missing.is_empty() {
            if rotation.published.take().is_some() {
                self.write(&rotation)?;
            }
            say!("publish, and run this again:");
            for (owner, record) in missing {
                let record = super::records::txt(&owner, record);
                say!("{}", record.line());
            }
            return Ok(EX_TEMPFAIL.into());
        }
        let published = match rotation.published {
            Some(published) => published,
            None => {
                rotation.published = Some(self.now);
                self.write(&rotation)?;
                self.now
            }
        };
        if let Some(left) = self.left(published, args.wait) {
            say!(
                "the new keys are in the DNS; signing with them begins in {left}: run this again then"
            );
            return Ok(EX_TEMPFAIL.into());
        }
        self.switch(&rotation.new)?;
        rotation.switched = Some(self.now);
        self.write(&rotation)?;
        say!("{} signs with {} now", self.domain, rotation.new.join(", "));
        self.retire(&rotation, self.now, args)
    }

    /// Who can publish keys.
    fn provider(&self) -> Option<Provider> {
        self.config.dns.provider.0.filter(Provider::keeps_zones)
    }

    /// New keys go where the zone is.
    fn publish(&self, provider: Provider, missing: &[(String, String)]) -> anyhow::Result<()> {
        let record =
            |(owner, text): &(String, String)| Record::new(owner, Data::Text(text.clone()));
        let records: Vec<Record> = missing.iter().map(record).collect();
        publish::add(self.config, provider, &records)?;
        for record in &records {
            say!("published {}. at {}", record.name, provider.name());
        }
        if let Err(problem) = publish::visible(self.config, provider, &records, SEEN) {
            say!("but: {problem:#}");
        }
        Ok(())
    }

    /// The record of an old key goes, if we can do that; true: it has gone.
    fn unpublish(&self, selector: &str) -> anyhow::Result<bool> {
        let path = keys::path(&self.config.dir, self.domain, selector);
        let Some(provider) = self.provider().filter(|_| path.exists()) else {
            return Ok(false);
        };
        let own = compact(&PrivateKey::load(&self.config.dir, self.domain, selector)?.record());
        let owner = format!("{selector}._domainkey.{}", self.domain);
        let removed = publish::remove(self.config, provider, &owner, |text| compact(text) == own)?;
        if removed > 0 {
            say!("removed {owner}. at {}", provider.name());
        }
        Ok(removed > 0)
    }

    /// What is left of a span since `from`, for people.
    fn left(&self, from: u64, span: Span) -> Option<String> {
        let end = from.saturating_add(crate::time::millis(span.0));
        let left = end.checked_sub(self.now).filter(|left| *left > 0)?;
        let minutes = left.div_ceil(60_000);
        Some(match minutes {
            0..=120 => format!("{minutes} minutes"),
            _ => format!("{} hours", minutes.div_ceil(60)),
        })
    }

    /// Records that the DNS has not, or has otherwise.
    fn missing(&self, selectors: &[String]) -> anyhow::Result<Vec<(String, String)>> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let resolver = Resolver::new(&self.config.dns)?;
        let mut missing = Vec::new();
        for selector in selectors {
            let key = PrivateKey::load(&self.config.dir, self.domain, selector)?;
            let owner = format!("{selector}._domainkey.{}.", self.domain);
            let hickory = resolver.hickory();
            let lookup = hickory.lookup(owner.clone(), RecordType::TXT);
            let found = runtime.block_on(lookup);
            let wanted = compact(&key.record());
            let there = found
                .iter()
                .flat_map(|found| found.answers())
                .any(|record| {
                    matches!(&record.data, RData::TXT(text)
                    if compact(&String::from_utf8_lossy(&text.txt_data.concat())) == wanted)
                });
            if !there {
                missing.push((owner, key.record()));
            }
        }
        Ok(missing)
    }

    fn switch(&self, new: &[String]) -> anyhow::Result<()> {
        let file = self
            .config
            .dir
            .join("domains")
            .join(self.domain)
            .join("domain.toml");
        let name = || file.display().to_string();
        let mut text: DocumentMut = fs::read_to_string(&file)
            .with_context(name)?
            .parse()
            .with_context(name)?;
        text.insert("selectors", value(Array::from_iter(new)));
        files::replace(&file, text.to_string().as_bytes(), 0o644).with_context(name)?;
        super::hint_reload();
        Ok(())
    }

    fn retire(
        &self,
        rotation: &Rotation,
        switched: u64,
        args: &Rotate,
    ) -> anyhow::Result<ExitCode> {
        if let Some(left) = self.left(switched, args.keep) {
            say!(
                "the records of {} stay for mail under way; run this again in {left}",
                rotation.old.join(", ")
            );
            return Ok(EX_TEMPFAIL.into());
        }
        for selector in &rotation.old {
            let path = keys::path(&self.config.dir, self.domain, selector);
            // The record first: without the key nobody knows which one it is.
            let gone = self.unpublish(selector)?;
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| path.display().to_string());
                }
                _ if gone => say!("removed {}", path.display()),
                _ => say!(
                    "removed {}; remove its record {selector}._domainkey.{}. from the DNS",
                    path.display(),
                    self.domain
                ),
            }
        }
        fs::remove_file(&self.note)?;
        say!("the rotation of {} is done", self.domain);
        Ok(ExitCode::SUCCESS)
    }
}

/// A record as far as its meaning goes: blanks do not count (RFC 6376 section 3.2).
fn compact(record: &str) -> String {
    record.chars().filter(|c| !c.is_whitespace()).collect()
}
