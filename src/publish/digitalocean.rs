//! DigitalOcean's API, version 2: each record has an id, and no TLSA records.

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Value, json};

use super::credentials::Read;
use super::data::{self, Data, Kind, Record};
use super::http::Api;
use super::{Change, Present, Problem, Provider, Service, Zone};
use crate::uri::escaped;

/// Where it is.
const URL: &str = "https://api.digitalocean.com/v2";
/// The least TTL it takes, seconds.
const LEAST_TTL: u32 = 30;

pub(super) struct DigitalOcean(Api);

#[derive(Deserialize)]
struct Domain {
    domain: Named,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

#[derive(Deserialize)]
struct List {
    domain_records: Vec<Found>,
}

#[derive(Deserialize)]
struct Found {
    id: u64,
    #[serde(rename = "type")]
    kind: String,
    name: String,
    data: String,
    priority: Option<u16>,
    port: Option<u16>,
    weight: Option<u16>,
    #[serde(default)]
    ttl: u32,
    flags: Option<u8>,
    tag: Option<String>,
}

impl DigitalOcean {
    pub(super) fn new(read: Read) -> Result<DigitalOcean, Problem> {
        Ok(DigitalOcean(Api::with_token(&read, "Bearer", URL)?))
    }
}

/// A record as it is written there: names that are meant end in a dot.
fn body(zone: &Zone, change: &Change, data: &Data) -> Result<Value, Problem> {
    let mut body = json!({
        "type": data.kind().name(),
        "name": zone.relative(&change.name, "@"),
        "ttl": change.ttl,
    });
    let more = match data {
        Data::Address(ip) => json!({ "data": ip.to_string() }),
        Data::Cname(host) => json!({ "data": format!("{host}.") }),
        Data::Mx(preference, host) => {
            json!({ "data": format!("{host}."), "priority": preference })
        }
        Data::Text(text) => json!({ "data": text }),
        Data::Srv {
            priority,
            weight,
            port,
            host,
        } => json!({
            "data": format!("{host}."), "priority": priority, "weight": weight, "port": port,
        }),
        Data::Caa { flags, tag, value } => {
            let value = match tag.starts_with("issue") {
                true => format!("{value}."),
                false => value.clone(),
            };
            json!({ "data": value, "flags": flags, "tag": tag })
        }
        Data::Tlsa { .. } => {
            return Err(Problem::Unsupported {
                provider: Provider::DigitalOcean.name(),
                kind: Kind::Tlsa.name(),
                record: Record::new(&change.name, data.clone()).to_string(),
                remedy: "DANE takes another provider, one that also signs zones (DNSSEC)",
            });
        }
    };
    if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more) {
        body.extend(more);
    }
    Ok(body)
}

impl Found {
    fn present(self, zone: &Zone) -> Option<Present> {
        let kind = Kind::of(&self.kind)?;
        // The zone's own name is "@" where it is meant, too.
        let host = || match self.data.as_str() {
            "@" => zone.name.clone(),
            other => data::name(other),
        };
        let data = match kind {
            Kind::Cname => Data::Cname(host()),
            Kind::Mx => Data::Mx(self.priority?, host()),
            Kind::Srv => Data::Srv {
                priority: self.priority?,
                weight: self.weight?,
                port: self.port?,
                host: host(),
            },
            Kind::Caa => Data::Caa {
                flags: self.flags.unwrap_or(0),
                tag: self.tag.clone()?,
                value: self.data.trim_end_matches('.').to_owned(),
            },
            _ => Data::parse(kind, &self.data)?,
        };
        Some(Present {
            record: Record::new(&zone.absolute(&self.name), data),
            ttl: self.ttl,
            id: self.id.to_string(),
        })
    }
}

#[async_trait]
impl Service for DigitalOcean {
    async fn zone(&self, name: &str) -> Result<Option<Zone>, Problem> {
        let path = format!("/domains/{}", escaped(name));
        let found: Option<Domain> = self.0.get(&path).await?;
        Ok(found.map(|found| Zone {
            id: found.domain.name.clone(),
            name: found.domain.name,
            least_ttl: LEAST_TTL,
        }))
    }

    async fn present(&self, zone: &Zone, names: &[String]) -> Result<Vec<Present>, Problem> {
        let mut all = Vec::new();
        for name in names {
            let path = format!(
                "/domains/{}/records?name={}&per_page=200",
                escaped(&zone.id),
                escaped(name)
            );
            let found: Option<List> = self.0.get(&path).await?;
            let found = found.map(|list| list.domain_records).unwrap_or_default();
            all.extend(found.into_iter().filter_map(|found| found.present(zone)));
        }
        all.retain(|present| names.contains(&present.record.name));
        Ok(all)
    }

    async fn change(&self, zone: &Zone, changes: &[Change]) -> Result<(), Problem> {
        let records = format!("/domains/{}/records", escaped(&zone.id));
        for change in changes {
            let body = |data: &Data| body(zone, change, data);
            self.0.change_each(&records, change, body).await?;
        }
        Ok(())
    }
}
