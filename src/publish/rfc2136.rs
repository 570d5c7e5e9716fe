//! Dynamic updates of a name server (RFC 2136) that are signed with a shared key (TSIG, RFC 8945).
//!
//! Questions are signed, too: a server with views shows the one that the key may see, and an answer
//! that is not signed with our key is not believed. All changes of a zone go in one message, which
//! is done whole or not at all.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::tsig::{TsigAlgorithm, TsigError};
use hickory_proto::rr::{DNSClass, Name, RData, RecordType, TSigner};
use serde::Deserialize;

use super::credentials::Read;
use super::data::{self, Data, Kind, Record};
use super::{Change, Present, Problem, Provider, Service, Zone, wire};

/// Seconds that the clocks may differ (RFC 8945 section 10).
const FUDGE: u16 = 300;
/// The port of name servers.
const PORT: u16 = 53;

pub(super) struct Rfc2136 {
    server: String,
    signer: TSigner,
    read: Read,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct With {
    server: String,
    key: String,
    secret: String,
    #[serde(default)]
    algorithm: Option<String>,
}

impl Rfc2136 {
    pub(super) fn new(read: Read) -> Result<Rfc2136, Problem> {
        let with: With = read.parse()?;
        let algorithm = match with.algorithm.as_deref().unwrap_or("hmac-sha256") {
            "hmac-sha256" => TsigAlgorithm::HmacSha256,
            "hmac-sha384" => TsigAlgorithm::HmacSha384,
            "hmac-sha512" => TsigAlgorithm::HmacSha512,
            other => {
                return Err(read.wrong(format!(
                    "algorithm = \"{other}\" is none of hmac-sha256, hmac-sha384, hmac-sha512"
                )));
            }
        };
        let secret = STANDARD
            .decode(with.secret.trim())
            .map_err(|_| read.wrong("secret is no base64"))?;
        let key = wire::fqdn(&with.key).ok_or_else(|| read.wrong("key is no name"))?;
        let signer = TSigner::new(secret, algorithm, key, FUDGE)
            .map_err(|error| read.wrong(error.to_string()))?;
        Ok(Rfc2136 {
            server: with.server,
            signer,
            read,
        })
    }

    fn away(&self, why: impl Into<String>) -> Problem {
        Problem::Away {
            provider: Provider::Rfc2136.name(),
            why: format!("{}: {}", self.server, why.into()),
        }
    }

    fn denied(&self, said: &str) -> Problem {
        Problem::Denied {
            provider: Provider::Rfc2136.name(),
            said: format!("{}: {said}", self.server),
            file: self.read.file.clone(),
            wants: Provider::Rfc2136.wants(),
        }
    }

    async fn address(&self) -> Result<SocketAddr, Problem> {
        let server = self.server.as_str();
        if let Ok(ip) = server.parse() {
            return Ok(SocketAddr::new(ip, PORT));
        }
        let with_port = match server.rsplit_once(':') {
            Some((_, port)) if port.parse::<u16>().is_ok() => server.to_owned(),
            _ => format!("{server}:{PORT}"),
        };
        let mut found = tokio::net::lookup_host(with_port)
            .await
            .map_err(|error| self.away(error.to_string()))?;
        found.next().ok_or_else(|| self.away("it has no address"))
    }

    /// The signed answer to a message that is signed here.
    async fn ask(&self, mut message: Message) -> Result<Message, Problem> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.as_ref().map_or(0, Duration::as_secs);
        let proto = |error: hickory_proto::ProtoError| self.away(error.to_string());
        let verifier = message.finalize(&self.signer, now).map_err(proto)?;
        let request = message.to_vec().map_err(proto)?;
        let work = async {
            let server = self.address().await?;
            let answer = wire::exchange(server, &request).await;
            answer.map_err(|error| self.away(error.to_string()))
        };
        let answer = match tokio::time::timeout(self.read.time, work).await {
            Ok(answer) => answer?,
            Err(_) => {
                let wait = self.read.time.as_secs_f32();
                return Err(self.away(format!("no answer within {wait} s (dns.provider_time)")));
            }
        };
        let read = wire::answer_to(message.metadata.id, &answer);
        let read = read.map_err(|why| Problem::Malformed {
            provider: Provider::Rfc2136.name(),
            why,
        })?;
        // An error about the key comes without a signature (RFC 8945 section 5.3.2).
        if let Some(error) = read.signature().and_then(|tsig| tsig.data.error) {
            return Err(self.denied(match error {
                TsigError::BadKey => "it knows no key of this name and algorithm",
                TsigError::BadSig => "it has another secret for this key",
                TsigError::BadTime => "its clock and ours differ by more than five minutes",
                _ => "it does not take the signature",
            }));
        }
        let signed = verifier.and_then(|mut verifier| verifier.verify(&answer).ok());
        if signed.is_none() {
            return Err(match read.metadata.response_code {
                ResponseCode::NoError => self.denied("its answer is not signed with our key"),
                code => self.denied(&code.to_string()),
            });
        }
        Ok(read)
    }

    async fn question(&self, name: &Name, kind: RecordType) -> Result<Message, Problem> {
        let mut message = Message::query();
        message.add_query(Query::query(name.clone(), kind));
        self.ask(message).await
    }

    fn name(&self, text: &str) -> Result<Name, Problem> {
        wire::fqdn(text).ok_or_else(|| Problem::Refused {
            provider: Provider::Rfc2136.name(),
            what: text.to_owned(),
            said: "it is no domain name".to_owned(),
        })
    }
}

#[async_trait]
impl Service for Rfc2136 {
    async fn zone(&self, name: &str) -> Result<Option<Zone>, Problem> {
        let owner = self.name(name)?;
        let answer = self.question(&owner, RecordType::SOA).await?;
        let is_soa = |record: &hickory_proto::rr::Record| {
            record.name == owner && matches!(record.data, RData::SOA(_))
        };
        let ours = answer.metadata.authoritative && answer.answers.iter().any(is_soa);
        Ok(ours.then(|| Zone {
            name: name.to_owned(),
            id: name.to_owned(),
            least_ttl: 0,
        }))
    }

    async fn present(&self, _: &Zone, names: &[String]) -> Result<Vec<Present>, Problem> {
        let mut all = Vec::new();
        for name in names {
            let owner = self.name(name)?;
            for kind in Kind::ALL {
                let wanted = wire::record_type(kind);
                let answer = self.question(&owner, wanted).await?;
                match answer.metadata.response_code {
                    ResponseCode::NoError => {}
                    // Then there is no other type either.
                    ResponseCode::NXDomain => break,
                    code => return Err(self.away(format!("{name} {}: {code}", kind.name()))),
                }
                let here = answer
                    .answers
                    .iter()
                    // What a CNAME leads to is elsewhere, and so is what a wildcard stands for.
                    .filter(|record| record.name == owner && record.record_type() == wanted);
                all.extend(here.filter_map(|record| {
                    Some(Present {
                        record: Record::new(name, wire::of_rdata(&record.data)?),
                        ttl: record.ttl,
                        id: String::new(),
                    })
                }));
            }
        }
        Ok(all)
    }

    async fn change(&self, zone: &Zone, changes: &[Change]) -> Result<(), Problem> {
        let mut message = Message::new(fastrand::u16(..), MessageType::Query, OpCode::Update);
        message.add_query(Query::query(self.name(&zone.name)?, RecordType::SOA));
        let record = |name: &str, ttl: u32, data: &Data| {
            let rdata = wire::rdata(data).ok_or_else(|| Problem::Refused {
                provider: Provider::Rfc2136.name(),
                what: Record::new(name, data.clone()).to_string(),
                said: "it names what is no domain name".to_owned(),
            })?;
            Ok::<_, Problem>(hickory_proto::rr::Record::from_rdata(
                self.name(name)?,
                ttl,
                rdata,
            ))
        };
        for change in changes {
            for old in &change.remove {
                // One record of a set goes (RFC 2136 section 2.5.4).
                let mut gone = record(&change.name, 0, &old.record.data)?;
                gone.dns_class = DNSClass::NONE;
                message.add_authority(gone);
            }
            for data in &change.add {
                message.add_authority(record(&change.name, change.ttl, data)?);
            }
        }
        let answer = self.ask(message).await?;
        let said = match answer.metadata.response_code {
            ResponseCode::NoError => return Ok(()),
            ResponseCode::Refused => {
                "REFUSED: the key may not change this; give it update-policy { grant KEY zonesub ANY; } or allow-update"
                    .to_owned()
            }
            ResponseCode::NotAuth => "NOTAUTH: it is no primary of this zone".to_owned(),
            ResponseCode::ServFail => {
                "SERVFAIL: its log says why; often it may not write the zone's journal".to_owned()
            }
            code => code.to_string(),
        };
        let names: Vec<&str> = changes.iter().map(|change| change.name.as_str()).collect();
        Err(Problem::Refused {
            provider: Provider::Rfc2136.name(),
            what: format!(
                "changes of {} in {}",
                names.join(", "),
                data::name(&zone.name)
            ),
            said,
        })
    }
}
