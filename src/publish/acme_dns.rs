//! An acme-dns server: it keeps two TXT records at one name, which `_acme-challenge` names of ours
//! point to, and forgets the older for a newer.

use async_trait::async_trait;
use hyper::Method;
use serde::Deserialize;
use serde_json::json;

use super::credentials::Read;
use super::data::{self, Data, Kind, Record};
use super::http::Api;
use super::{Change, Present, Problem, Provider, Service, Zone};

pub(super) struct AcmeDns {
    api: Api,
    subdomain: String,
    fulldomain: String,
}

/// As `/register` answers, but for `allowfrom`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct With {
    url: String,
    username: String,
    password: String,
    subdomain: String,
    fulldomain: String,
    #[serde(default, rename = "allowfrom")]
    _allow_from: Vec<String>,
}

impl AcmeDns {
    pub(super) fn new(read: Read) -> Result<AcmeDns, Problem> {
        let with: With = read.parse()?;
        let api = Api::new(&read, Some(&with.url), "")?
            .secret(&read, "x-api-user", &with.username)?
            .secret(&read, "x-api-key", &with.password)?;
        Ok(AcmeDns {
            api,
            subdomain: with.subdomain,
            fulldomain: data::name(&with.fulldomain),
        })
    }

    fn unsupported(&self, kind: Kind, record: String) -> Problem {
        Problem::Unsupported {
            provider: Provider::AcmeDns.name(),
            kind: kind.name(),
            record,
            remedy: "it answers the CA alone; publish the records of `chapar dns` yourself, or set dns.provider to who has the zone",
        }
    }
}

#[async_trait]
impl Service for AcmeDns {
    async fn zone(&self, name: &str) -> Result<Option<Zone>, Problem> {
        if name == self.fulldomain {
            return Ok(Some(Zone {
                name: name.to_owned(),
                id: self.subdomain.clone(),
                least_ttl: 1,
            }));
        }
        // The name that the CA asks about must be an alias of ours.
        let record = match name.starts_with("_acme-challenge.") {
            true => format!(
                "{name}. is no CNAME of {0}. yet: make the record {name}. CNAME {0}.",
                self.fulldomain
            ),
            false => name.to_owned(),
        };
        Err(self.unsupported(Kind::Txt, record))
    }

    async fn present(&self, _: &Zone, _: &[String]) -> Result<Vec<Present>, Problem> {
        Ok(Vec::new())
    }

    async fn change(&self, _: &Zone, changes: &[Change]) -> Result<(), Problem> {
        for change in changes {
            for data in &change.add {
                let Data::Text(text) = data else {
                    let record = Record::new(&change.name, data.clone());
                    return Err(self.unsupported(change.kind, record.to_string()));
                };
                let body = json!({ "subdomain": self.subdomain, "txt": text });
                let what = format!("a TXT record at {}", change.name);
                self.api
                    .put(Method::POST, "/update", Some(&body), &what)
                    .await?;
            }
        }
        Ok(())
    }

    fn walks(&self) -> bool {
        false
    }
}
