//! deSEC's API: records come in sets, and all changes go in one request, which is done whole or not
//! at all. It takes few requests a minute, so that a zone is read at once.

use async_trait::async_trait;
use hyper::header::LINK;
use hyper::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::credentials::Read;
use super::data::{Data, Kind, Record};
use super::http::Api;
use super::{Change, Present, Problem, Service, Zone};
use crate::uri::escaped;

/// Where it is.
const URL: &str = "https://desec.io/api/v1";
/// Pages of 500 sets that are read.
const PAGES: usize = 40;

pub(super) struct Desec(Api);

#[derive(Deserialize)]
struct Domain {
    name: String,
    minimum_ttl: u32,
}

#[derive(Deserialize)]
struct Set {
    subname: String,
    #[serde(rename = "type")]
    kind: String,
    ttl: u32,
    records: Vec<String>,
}

impl Desec {
    pub(super) fn new(read: Read) -> Result<Desec, Problem> {
        Ok(Desec(Api::with_token(&read, "Token", URL)?))
    }
}

/// The query of the next page, if a Link header (RFC 8288) names one.
fn next(links: &str) -> Option<&str> {
    let links = links.split(',').map(str::trim);
    let mut next = links.filter(|link| link.contains("rel=\"next\""));
    let address = next.next()?.strip_prefix('<')?.split('>').next()?;
    Some(address.split_once('?')?.1)
}

#[async_trait]
impl Service for Desec {
    async fn zone(&self, name: &str) -> Result<Option<Zone>, Problem> {
        let path = format!("/domains/{}/", escaped(name));
        let found: Option<Domain> = self.0.get(&path).await?;
        Ok(found.map(|found| Zone {
            id: found.name.clone(),
            name: found.name,
            least_ttl: found.minimum_ttl,
        }))
    }

    async fn present(&self, zone: &Zone, names: &[String]) -> Result<Vec<Present>, Problem> {
        let sets = format!("/domains/{}/rrsets/", escaped(&zone.id));
        let mut path = format!("{sets}?cursor=");
        let mut all = Vec::new();
        for _ in 0..PAGES {
            let answer = self.0.json(Method::GET, &path, None).await?;
            if answer.status == StatusCode::NOT_FOUND {
                break;
            }
            let found: Vec<Set> = self.0.read(&answer.body)?;
            for set in found {
                let owner = zone.absolute(&set.subname);
                let Some(kind) = Kind::of(&set.kind).filter(|_| names.contains(&owner)) else {
                    continue;
                };
                let data = set
                    .records
                    .iter()
                    .filter_map(|written| Data::parse(kind, written));
                all.extend(data.map(|data| Present {
                    record: Record::new(&owner, data),
                    ttl: set.ttl,
                    id: String::new(),
                }));
            }
            let links = answer.headers.get(LINK).and_then(|link| link.to_str().ok());
            match links.and_then(next) {
                Some(query) => path = format!("{sets}?{query}"),
                None => return Ok(all),
            }
        }
        Ok(all)
    }

    async fn change(&self, zone: &Zone, changes: &[Change]) -> Result<(), Problem> {
        let sets = changes.iter().map(|change| {
            let records = change.whole();
            let records: Vec<String> = records.iter().map(ToString::to_string).collect();
            // Without records a set goes.
            json!({
                "subname": zone.relative(&change.name, ""),
                "type": change.kind.name(),
                "ttl": change.ttl,
                "records": records,
            })
        });
        let body: Value = sets.collect();
        let path = format!("/domains/{}/rrsets/", escaped(&zone.id));
        let what = format!("changes of {}", zone.name);
        self.0.put(Method::PATCH, &path, Some(&body), &what).await
    }
}

#[cfg(test)]
mod tests {
    use super::next;

    #[test]
    fn the_next_page_is_found() {
        let links = "<https://desec.io/api/v1/domains/e.org/rrsets/?cursor=>; rel=\"first\", \
                     <https://desec.io/api/v1/domains/e.org/rrsets/?cursor=abc%3D>; rel=\"next\"";
        assert_eq!(next(links), Some("cursor=abc%3D"));
        let last = "<https://desec.io/api/v1/domains/e.org/rrsets/?cursor=>; rel=\"first\"";
        assert_eq!(next(last), None);
        assert_eq!(next(""), None);
    }
}
