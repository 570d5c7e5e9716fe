//! Amazon Route 53: records come in sets, all changes go in one batch, in XML.

use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Request, StatusCode, Uri};
use quick_xml::Reader;
use quick_xml::escape::escape;
use quick_xml::events::Event;
use serde::Deserialize;

use super::credentials::Read;
use super::data::{self, Data, Kind, Record};
use super::http::{Answer, Api};
use super::sigv4::{Signed, Signer};
use super::{Change, Present, Problem, Service, Zone};
use crate::uri::escaped;

/// Where it is.
const URL: &str = "https://route53.amazonaws.com";
/// All of Route 53 is signed for there.
const REGION: &str = "us-east-1";
/// The version of the API.
const VERSION: &str = "/2013-04-01";
/// Sets of one name that are read: one of each type.
const SETS: usize = 100;

pub(super) struct Route53 {
    api: Api,
    with: With,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct With {
    access_key_id: String,
    secret_access_key: String,
    session_token: Option<String>,
    url: Option<String>,
}

/// An element and its text or its children.
#[derive(Debug, Default)]
struct Element {
    name: String,
    text: String,
    children: Vec<Element>,
}

impl Element {
    fn all(&self, name: &'static str) -> impl Iterator<Item = &Element> {
        self.children.iter().filter(move |child| child.name == name)
    }

    fn at(&self, path: &[&'static str]) -> Option<&Element> {
        let mut here = self;
        for name in path {
            here = here.all(name).next()?;
        }
        Some(here)
    }

    fn text(&self, name: &'static str) -> Option<&str> {
        Some(self.at(&[name])?.text.trim())
    }
}

/// Reads a document, which is no deeper than Amazon's are.
fn parse(xml: &[u8]) -> Result<Element, String> {
    const DEPTH: usize = 16;
    let mut reader = Reader::from_reader(xml);
    let mut open = vec![Element::default()];
    loop {
        let event = reader.read_event().map_err(|error| error.to_string())?;
        match event {
            Event::Start(start) => {
                if open.len() > DEPTH {
                    return Err("it is too deep".to_owned());
                }
                open.push(Element {
                    name: start.local_name().as_ref().to_owned(),
                    ..Element::default()
                });
            }
            Event::End(_) => {
                let done = open.pop().unwrap_or_default();
                match open.last_mut() {
                    Some(above) => above.children.push(done),
                    None => return Err("it ends too early".to_owned()),
                }
            }
            Event::Text(text) => {
                if let Some(here) = open.last_mut() {
                    here.text += &text;
                }
            }
            Event::GeneralRef(reference) => {
                let whole = format!("&{};", &*reference);
                let text = quick_xml::escape::unescape(&whole);
                if let Some(here) = open.last_mut() {
                    here.text += &text.map_err(|error| error.to_string())?;
                }
            }
            Event::Eof => break,
            _ => {}
        }
    }
    match (open.pop(), open.is_empty()) {
        (Some(root), true) => Ok(root),
        _ => Err("it ends too early".to_owned()),
    }
}

/// A name as it writes it: `\052` is an asterisk.
fn owner(text: &str) -> String {
    data::name(&text.replace("\\052", "*"))
}

impl Route53 {
    pub(super) fn new(read: Read) -> Result<Route53, Problem> {
        let with: With = read.parse()?;
        let api = Api::new(&read, with.url.as_deref(), URL)?;
        Ok(Route53 { api, with })
    }

    async fn ask(
        &self,
        method: &str,
        path: &str,
        query: &str,
        body: &str,
    ) -> Result<Answer, Problem> {
        let what = format!("{method} {path}");
        let url = match query {
            "" => self.api.url(path),
            query => self.api.url(&format!("{path}?{query}")),
        };
        let authority = url.parse::<Uri>().ok();
        let host = authority.as_ref().and_then(Uri::authority);
        let host = host.map_or(String::new(), ToString::to_string);
        self.api
            .ask(&what, || {
                let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
                let now = now.map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(0));
                let now = jiff::Timestamp::from_second(now).map_err(|error| error.to_string())?;
                let time = now.strftime("%Y%m%dT%H%M%SZ").to_string();
                let mut headers = vec![("host", host.as_str()), ("x-amz-date", time.as_str())];
                if let Some(token) = &self.with.session_token {
                    headers.push(("x-amz-security-token", token));
                }
                let signer = Signer {
                    id: &self.with.access_key_id,
                    secret: &self.with.secret_access_key,
                    region: REGION,
                    service: "route53",
                };
                let authorization = signer.authorization(&Signed {
                    method,
                    path,
                    query,
                    headers: &headers,
                    body: body.as_bytes(),
                    time: &time,
                });
                let mut request = Request::builder()
                    .method(method)
                    .uri(&url)
                    .header(HOST, &host)
                    .header("x-amz-date", &time)
                    .header(AUTHORIZATION, authorization);
                if let Some(token) = &self.with.session_token {
                    request = request.header("x-amz-security-token", token);
                }
                if !body.is_empty() {
                    request = request.header(CONTENT_TYPE, "application/xml");
                }
                request
                    .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))
                    .map_err(|error| error.to_string())
            })
            .await
    }

    async fn read(&self, path: &str, query: &str, root: &str) -> Result<Option<Element>, Problem> {
        let answer = self.ask("GET", path, query, "").await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let mut document = parse(&answer.body).map_err(|why| self.api.malformed(why))?;
        let found = document
            .children
            .iter_mut()
            .find(|child| child.name == root);
        match found {
            Some(found) => Ok(Some(std::mem::take(found))),
            None => Err(self.api.malformed(format!("no {root}"))),
        }
    }
}

/// What becomes of a set.
fn change(change: &Change) -> String {
    let whole = change.whole();
    // A set is deleted with exactly the records that it has.
    let (action, values): (_, Vec<String>) = match whole.is_empty() {
        true => {
            let old = change.remove.iter();
            (
                "DELETE",
                old.map(|old| old.record.data.to_string()).collect(),
            )
        }
        false => ("UPSERT", whole.iter().map(ToString::to_string).collect()),
    };
    let values: String = values
        .iter()
        .map(|value| {
            format!(
                "<ResourceRecord><Value>{}</Value></ResourceRecord>",
                escape(value)
            )
        })
        .collect();
    format!(
        "<Change><Action>{action}</Action><ResourceRecordSet><Name>{}.</Name><Type>{}</Type>\
         <TTL>{}</TTL><ResourceRecords>{values}</ResourceRecords></ResourceRecordSet></Change>",
        escape(&change.name),
        change.kind.name(),
        change.ttl
    )
}

#[async_trait]
impl Service for Route53 {
    async fn zone(&self, name: &str) -> Result<Option<Zone>, Problem> {
        let path = format!("{VERSION}/hostedzonesbyname");
        let query = format!("dnsname={}", escaped(&format!("{name}.")));
        let Some(list) = self
            .read(&path, &query, "ListHostedZonesByNameResponse")
            .await?
        else {
            return Ok(None);
        };
        let zones = list.at(&["HostedZones"]);
        let zones = zones.into_iter().flat_map(|zones| zones.all("HostedZone"));
        // One of the same name may be private: nobody else asks it.
        let found = zones
            .filter(|zone| zone.text("Name").map(owner).as_deref() == Some(name))
            .find(|zone| {
                let private = zone.at(&["Config", "PrivateZone"]);
                private.is_none_or(|private| private.text != "true")
            });
        Ok(found.and_then(|zone| {
            Some(Zone {
                name: name.to_owned(),
                id: zone
                    .text("Id")?
                    .trim_start_matches("/hostedzone/")
                    .to_owned(),
                least_ttl: 0,
            })
        }))
    }

    async fn present(&self, zone: &Zone, names: &[String]) -> Result<Vec<Present>, Problem> {
        let path = format!("{VERSION}/hostedzone/{}/rrset", escaped(&zone.id));
        let mut all = Vec::new();
        for name in names {
            // The list begins at that name and goes on behind it.
            let query = format!("maxitems={SETS}&name={}", escaped(&format!("{name}.")));
            let list = self
                .read(&path, &query, "ListResourceRecordSetsResponse")
                .await?;
            let list = list.unwrap_or_default();
            let sets = list.at(&["ResourceRecordSets"]);
            for set in sets
                .into_iter()
                .flat_map(|sets| sets.all("ResourceRecordSet"))
            {
                let kind = set.text("Type").and_then(Kind::of);
                let (Some(kind), Some(here)) = (kind, set.text("Name").map(owner)) else {
                    continue;
                };
                if here != *name {
                    continue;
                }
                let ttl = set.text("TTL").and_then(|ttl| ttl.parse().ok());
                let records = set.at(&["ResourceRecords"]);
                let records = records
                    .into_iter()
                    .flat_map(|list| list.all("ResourceRecord"));
                all.extend(records.filter_map(|record| {
                    Some(Present {
                        record: Record::new(name, Data::parse(kind, record.text("Value")?)?),
                        ttl: ttl?,
                        id: String::new(),
                    })
                }));
            }
        }
        Ok(all)
    }

    async fn change(&self, zone: &Zone, changes: &[Change]) -> Result<(), Problem> {
        let path = format!("{VERSION}/hostedzone/{}/rrset", escaped(&zone.id));
        let changes: String = changes.iter().map(change).collect();
        let body = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <ChangeResourceRecordSetsRequest xmlns=\"https://route53.amazonaws.com/doc/2013-04-01/\">\
             <ChangeBatch><Changes>{changes}</Changes></ChangeBatch>\
             </ChangeResourceRecordSetsRequest>"
        );
        let answer = self.ask("POST", &path, "", &body).await?;
        match answer.status {
            StatusCode::NOT_FOUND => Err(self.api.refused(&zone.name, &answer)),
            _ => Ok(()),
        }
    }
}
