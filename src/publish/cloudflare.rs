//! Cloudflare's API, version 4: each record has an id.

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Value, json};

use super::credentials::Read;
use super::data::{self, Data, Kind, Record};
use super::http::Api;
use super::{Change, Present, Problem, Service, Zone};
use crate::uri::escaped;

/// Where it is.
const URL: &str = "https://api.cloudflare.com/client/v4";
/// The least TTL of a zone that is not of an enterprise, seconds.
const LEAST_TTL: u32 = 60;

pub(super) struct Cloudflare(Api);

#[derive(Deserialize)]
struct List<T> {
    result: Vec<T>,
}

#[derive(Deserialize)]
struct Named {
    id: String,
    name: String,
}

#[derive(Deserialize)]
struct Found {
    id: String,
    #[serde(rename = "type")]
    kind: String,
    name: String,
    #[serde(default)]
    content: String,
    #[serde(default)]
    ttl: u32,
    priority: Option<u16>,
    data: Option<Value>,
}

impl Cloudflare {
    pub(super) fn new(read: Read) -> Result<Cloudflare, Problem> {
        Ok(Cloudflare(Api::with_token(&read, "Bearer", URL)?))
    }
}

/// A record as it is written there.
fn body(name: &str, ttl: u32, data: &Data) -> Value {
    let mut body = json!({ "type": data.kind().name(), "name": name, "ttl": ttl });
    let more = match data {
        // What is proxied has no port 25.
        Data::Address(ip) => json!({ "content": ip.to_string(), "proxied": false }),
        Data::Cname(host) => json!({ "content": host, "proxied": false }),
        Data::Mx(preference, host) => json!({ "content": host, "priority": preference }),
        Data::Text(text) => json!({ "content": data::quoted(text) }),
        Data::Srv {
            priority,
            weight,
            port,
            host,
        } => json!({ "data": {
            "priority": priority, "weight": weight, "port": port, "target": host,
        }}),
        Data::Caa { flags, tag, value } => {
            json!({ "data": { "flags": flags, "tag": tag, "value": value } })
        }
        Data::Tlsa {
            usage,
            selector,
            matching,
            hex,
        } => json!({ "data": {
            "usage": usage, "selector": selector, "matching_type": matching, "certificate": hex,
        }}),
    };
    if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more) {
        body.extend(more);
    }
    body
}

impl Found {
    fn present(self) -> Option<Present> {
        let kind = Kind::of(&self.kind)?;
        let field = |name: &str| {
            let value = self.data.as_ref()?.get(name)?;
            match value {
                Value::String(text) => Some(text.clone()),
                Value::Number(number) => Some(number.to_string()),
                _ => None,
            }
        };
        let fields = |names: &[&str]| {
            let all: Option<Vec<String>> = names.iter().map(|name| field(name)).collect();
            Some(all?.join(" "))
        };
        let data = match kind {
            Kind::Mx => Data::Mx(self.priority?, data::name(&self.content)),
            Kind::Srv => Data::parse(kind, &fields(&["priority", "weight", "port", "target"])?)?,
            Kind::Caa => Data::Caa {
                flags: field("flags")?.parse().ok()?,
                tag: field("tag")?,
                value: field("value")?,
            },
            Kind::Tlsa => {
                let names = ["usage", "selector", "matching_type", "certificate"];
                Data::parse(kind, &fields(&names)?)?
            }
            _ => Data::parse(kind, &self.content)?,
        };
        Some(Present {
            record: Record::new(&self.name, data),
            // 1 is "automatic", which is 300.
            ttl: match self.ttl {
                0 | 1 => 300,
                ttl => ttl,
            },
            id: self.id,
        })
    }
}

#[async_trait]
impl Service for Cloudflare {
    async fn zone(&self, name: &str) -> Result<Option<Zone>, Problem> {
        let path = format!("/zones?name={}", escaped(name));
        let found: Option<List<Named>> = self.0.get(&path).await?;
        let found = found.and_then(|list| list.result.into_iter().find(|zone| zone.name == name));
        Ok(found.map(|zone| Zone {
            name: zone.name,
            id: zone.id,
            least_ttl: LEAST_TTL,
        }))
    }

    async fn present(&self, zone: &Zone, names: &[String]) -> Result<Vec<Present>, Problem> {
        let mut all = Vec::new();
        for name in names {
            let path = format!(
                "/zones/{}/dns_records?name={}&per_page=100",
                zone.id,
                escaped(name)
            );
            let found: Option<List<Found>> = self.0.get(&path).await?;
            let found = found.map(|list| list.result).unwrap_or_default();
            all.extend(found.into_iter().filter_map(Found::present));
        }
        all.retain(|present| names.contains(&present.record.name));
        Ok(all)
    }

    async fn change(&self, zone: &Zone, changes: &[Change]) -> Result<(), Problem> {
        let records = format!("/zones/{}/dns_records", zone.id);
        for change in changes {
            let body = |data: &Data| Ok(body(&change.name, change.ttl, data));
            self.0.change_each(&records, change, body).await?;
        }
        Ok(())
    }
}
