//! Answers to the CA in the DNS (RFC 8555 section 8.4): published at the provider, waited for at the
//! zone's own servers, removed when the order has ended, however it did.
//!
//! What a crash leaves behind is noted in `secrets/dns/challenges.json` and removed before the next
//! order.

use std::time::Duration;

use hickory_resolver::proto::rr::{RData, RecordType};

use crate::config::Config;
use crate::dns::Resolver;
use crate::publish::data::{self, Data, Record};
use crate::publish::ledger::{Ledger, LedgerError};
use crate::publish::{BRIEF_TTL, Edit, NotVisible, Problem, Publisher, Visibility};

/// Aliases that are followed.
const ALIASES: usize = 8;
/// How long removing may take: nobody waits for it.
const REMOVAL: Duration = Duration::from_secs(60);

/// Why the CA can not be answered.
#[derive(Debug, thiserror::Error)]
pub enum Dns01Error {
    /// The provider.
    #[error(transparent)]
    Provider(#[from] Problem),
    /// The zone's servers.
    #[error("{0}; it is tried again; acme.dns_wait is how long is waited")]
    NotVisible(#[from] NotVisible),
    /// The note of what was published.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// The answers of one order.
pub(super) struct Dns01<'a> {
    config: &'a Config,
    resolver: &'a Resolver,
    publisher: Publisher,
    published: Vec<Record>,
}

impl<'a> Dns01<'a> {
    /// Logs in nowhere yet; removes what an earlier order left.
    pub(super) async fn new(
        config: &'a Config,
        resolver: &'a Resolver,
    ) -> Result<Dns01<'a>, Dns01Error> {
        let mut dns = Dns01 {
            config,
            resolver,
            publisher: Publisher::new(config)?,
            published: Vec::new(),
        };
        let left = Ledger::challenges(&config.dir)?;
        dns.published = left.records().cloned().collect();
        dns.clear().await;
        Ok(dns)
    }

    /// Publishes these texts at `_acme-challenge` of these names, and waits until they are seen.
    pub(super) async fn answer(&mut self, wanted: &[(String, String)]) -> Result<(), Dns01Error> {
        let mut records = Vec::new();
        for (name, text) in wanted {
            let place = self.place(&format!("_acme-challenge.{name}")).await;
            records.push(Record::new(&place, Data::Text(text.clone())));
        }
        self.published.extend(records.iter().cloned());
        // Noted first: what nobody knows of would stay.
        Ledger::challenges(&self.config.dir)?.change(&records, &[])?;
        let edits: Vec<Edit> = records
            .iter()
            .map(|record| Edit::add(record, BRIEF_TTL))
            .collect();
        self.publisher.apply(&edits).await?;
        let mut zones: Vec<(String, Vec<Record>)> = Vec::new();
        for record in records {
            let zone = self.publisher.zone_of(&record.name).await?;
            match zones.iter_mut().find(|(known, _)| *known == zone) {
                Some((_, records)) => records.push(record),
                None => zones.push((zone, vec![record])),
            }
        }
        let looks = Visibility {
            resolver: self.resolver,
            port: self.config.acme.dns_port,
            wait: self.config.acme.dns_wait.0,
        };
        for (zone, records) in zones {
            looks.wait(&zone, &records).await?;
        }
        Ok(())
    }

    /// Where the CA ends up that asks for a name: aliases lead to zones that may be changed.
    async fn place(&self, name: &str) -> String {
        let mut place = data::name(name);
        for _ in 0..ALIASES {
            let hickory = self.resolver.hickory();
            let found = hickory.lookup(format!("{place}."), RecordType::CNAME).await;
            let alias = found
                .iter()
                .flat_map(|found| found.answers())
                .find_map(|record| match &record.data {
                    RData::CNAME(target) => Some(data::name(&target.0.to_ascii())),
                    _ => None,
                });
            match alias {
                Some(alias) => place = alias,
                None => break,
            }
        }
        place
    }

    /// Removes the answers. What fails is told, noted, and tried again before the next order.
    pub(super) async fn clear(&mut self) {
        if self.published.is_empty() {
            return;
        }
        let edits: Vec<Edit> = self.published.iter().map(Edit::remove).collect();
        let removal = tokio::time::timeout(REMOVAL, self.publisher.apply(&edits)).await;
        let problem = match removal {
            Ok(Ok(())) => {
                let noted = Ledger::challenges(&self.config.dir)
                    .and_then(|mut ledger| ledger.change(&[], &self.published));
                self.published.clear();
                noted.err().map(|error| error.to_string())
            }
            Ok(Err(problem)) => Some(problem.to_string()),
            Err(_) => Some("it takes too long".to_owned()),
        };
        if let Some(problem) = problem {
            tracing::warn!(
                target: "certificate",
                "answers to the CA stay in the DNS until the next order: {problem}"
            );
        }
    }
}
