//! Hetzner's API for DNS, which is part of its Cloud API: records come in sets.

use async_trait::async_trait;
use hyper::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::credentials::Read;
use super::data::{Data, Kind, Record};
use super::http::Api;
use super::{Change, Present, Problem, Provider, Service, Zone};
use crate::uri::escaped;

/// Where it is.
const URL: &str = "https://api.hetzner.cloud/v1";
/// The least TTL it takes, seconds.
const LEAST_TTL: u32 = 60;
/// A set without a TTL of its own has that of its zone, which is this at first.
const USUAL_TTL: u32 = 3600;

pub(super) struct Hetzner(Api);

#[derive(Deserialize)]
struct Zones {
    zones: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    id: u64,
    name: String,
}

#[derive(Deserialize)]
struct Sets {
    rrsets: Vec<Set>,
}

#[derive(Deserialize)]
struct Set {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    ttl: Option<u32>,
    records: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    value: String,
}

/// What became of a change.
#[derive(Default, Deserialize)]
struct Done {
    action: Action,
}

#[derive(Default, Deserialize)]
struct Action {
    status: String,
    error: Option<Said>,
}

#[derive(Deserialize)]
struct Said {
    message: String,
}

impl Hetzner {
    pub(super) fn new(read: Read) -> Result<Hetzner, Problem> {
        Ok(Hetzner(Api::with_token(&read, "Bearer", URL)?))
    }
}

fn entries(all: impl IntoIterator<Item = String>) -> Value {
    all.into_iter()
        .map(|value| json!({ "value": value }))
        .collect()
}

#[async_trait]
impl Service for Hetzner {
    async fn zone(&self, name: &str) -> Result<Option<Zone>, Problem> {
        let path = format!("/zones?name={}", escaped(name));
        let found: Option<Zones> = self.0.get(&path).await?;
        let found = found.and_then(|list| list.zones.into_iter().find(|zone| zone.name == name));
        Ok(found.map(|zone| Zone {
            name: zone.name,
            id: zone.id.to_string(),
            least_ttl: LEAST_TTL,
        }))
    }

    async fn present(&self, zone: &Zone, names: &[String]) -> Result<Vec<Present>, Problem> {
        let mut all = Vec::new();
        for name in names {
            let relative = escaped(zone.relative(name, "@"));
            let path = format!("/zones/{}/rrsets?name={relative}&per_page=50", zone.id);
            let found: Option<Sets> = self.0.get(&path).await?;
            for set in found.map(|list| list.rrsets).unwrap_or_default() {
                let owner = zone.absolute(&set.name);
                let Some(kind) = Kind::of(&set.kind).filter(|_| owner == *name) else {
                    continue;
                };
                all.extend(set.records.into_iter().filter_map(|entry| {
                    let data = Data::parse(kind, &entry.value)?;
                    // A name without its last dot is one of the zone.
                    let data = match (data, entry.value.ends_with('.')) {
                        (Data::Cname(host), false) => Data::Cname(zone.absolute(&host)),
                        (Data::Mx(preference, host), false) => {
                            Data::Mx(preference, zone.absolute(&host))
                        }
                        (data, _) => data,
                    };
                    Some(Present {
                        record: Record::new(&owner, data),
                        ttl: set.ttl.unwrap_or(USUAL_TTL),
                        // As it is written there, which is how it is called.
                        id: entry.value,
                    })
                }));
            }
        }
        Ok(all)
    }

    async fn change(&self, zone: &Zone, changes: &[Change]) -> Result<(), Problem> {
        for change in changes {
            let name = zone.relative(&change.name, "@");
            let kind = change.kind.name();
            let set = format!("/zones/{}/rrsets/{}/{kind}", zone.id, escaped(name));
            let what = format!("{}. {kind}", change.name);
            let leaving = change.remove.iter().map(|old| old.id.clone());
            let staying = change.keep.iter().map(|old| old.id.clone());
            let coming = change.add.iter().map(ToString::to_string);
            let (action, body) = match (change.remove.is_empty(), change.add.is_empty()) {
                // Makes the set if it is not there, and keeps what others add meanwhile.
                (true, _) => (
                    "add_records",
                    json!({ "ttl": change.ttl, "records": entries(coming) }),
                ),
                // The last one of a set takes the set with it.
                (false, true) => ("remove_records", json!({ "records": entries(leaving) })),
                (false, false) => (
                    "set_records",
                    json!({ "records": entries(staying.chain(coming)) }),
                ),
            };
            let path = format!("{set}/actions/{action}");
            let answer = self.0.json(Method::POST, &path, Some(&body)).await?;
            let gone = answer.status == StatusCode::NOT_FOUND;
            if gone && action != "remove_records" {
                return Err(self.0.refused(&what, &answer));
            }
            let done: Done = match gone {
                true => Done::default(),
                false => self.0.read(&answer.body)?,
            };
            if done.action.status == "error" {
                let said = done.action.error.map(|error| error.message);
                return Err(Problem::Refused {
                    provider: Provider::Hetzner.name(),
                    what,
                    said: said.unwrap_or_default(),
                });
            }
        }
        Ok(())
    }
}
