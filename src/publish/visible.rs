//! Whether the servers of a zone show what was published: a CA asks them, not a cache.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{RData, RecordType};
use tokio::net::UdpSocket;

use super::data::{self, Record};
use super::wire;
use crate::dns::{Addresses, Resolver};

/// How long one server may take to answer.
const ANSWER: Duration = Duration::from_secs(5);
/// The first pause between two looks; each is half as long again as the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// No pause is longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// Servers of a zone that are asked.
const SERVERS: usize = 26;
/// Bytes of an answer by UDP.
const UDP: usize = 4096;

/// What the servers do not show.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotVisible {
    /// Nobody knows who they are.
    #[error(
        "the name servers of {zone} can not be found ({why}); is the domain delegated to them?"
    )]
    NoServers {
        /// The zone.
        zone: String,
        /// What happened.
        why: String,
    },
    /// None of them answers.
    #[error("none of the name servers of {zone} answers ({servers})")]
    Silent {
        /// The zone.
        zone: String,
        /// Who they are.
        servers: String,
    },
    /// They have it not, or not yet.
    #[error("after {} s {server} does not show {record}", waited.as_secs())]
    NotYet {
        /// One that does not.
        server: String,
        /// What is missing there.
        record: String,
        /// How long it was waited for.
        waited: Duration,
    },
}

/// Looks, and looks again.
pub struct Visibility<'a> {
    /// Finds the servers.
    pub resolver: &'a Resolver,
    /// Their port.
    pub port: u16,
    /// How long to go on.
    pub wait: Duration,
}

/// A server of a zone.
struct Server {
    name: String,
    address: SocketAddr,
}

impl Server {
    fn about(&self) -> String {
        format!("{} ({})", self.name, self.address.ip())
    }
}

impl Visibility<'_> {
    /// Waits until each server of `zone` that answers shows all of these.
    pub async fn wait(&self, zone: &str, wanted: &[Record]) -> Result<(), NotVisible> {
        let begun = Instant::now();
        let servers = self.servers(zone).await?;
        let mut pause = FIRST_PAUSE;
        loop {
            let looks = servers.iter().map(|server| missing(server.address, wanted));
            let looks = join_all(looks).await;
            let answered = looks.iter().any(Result::is_ok);
            let lacking = servers.iter().zip(looks).find_map(|(server, look)| {
                let record = look.ok()??;
                Some((server, record))
            });
            if answered && lacking.is_none() {
                return Ok(());
            }
            if begun.elapsed() + pause > self.wait {
                return Err(match lacking {
                    Some((server, record)) => NotVisible::NotYet {
                        server: server.about(),
                        record: record.to_string(),
                        waited: begun.elapsed(),
                    },
                    None => NotVisible::Silent {
                        zone: zone.to_owned(),
                        servers: all(&servers),
                    },
                });
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 3 / 2).min(LONGEST_PAUSE);
        }
    }

    async fn servers(&self, zone: &str) -> Result<Vec<Server>, NotVisible> {
        let none = |why: String| NotVisible::NoServers {
            zone: zone.to_owned(),
            why,
        };
        let hickory = self.resolver.hickory();
        let found = hickory.lookup(format!("{zone}."), RecordType::NS).await;
        let found = found.map_err(|error| none(error.to_string()))?;
        let mut servers = Vec::new();
        for record in found.answers() {
            let RData::NS(name) = &record.data else {
                continue;
            };
            let name = data::name(&name.0.to_ascii());
            for addresses in [
                self.resolver.ipv4(&name).await,
                self.resolver.ipv6(&name).await,
            ] {
                if let Addresses::Found(addresses) = addresses {
                    servers.extend(addresses.into_iter().map(|ip| Server {
                        name: name.clone(),
                        address: SocketAddr::new(ip, self.port),
                    }));
                }
            }
        }
        servers.truncate(SERVERS);
        match servers.is_empty() {
            true => Err(none("they have no addresses".to_owned())),
            false => Ok(servers),
        }
    }
}

fn all(servers: &[Server]) -> String {
    let mut text = String::new();
    for server in servers {
        let comma = if text.is_empty() { "" } else { ", " };
        let _ = write!(text, "{comma}{}", server.about());
    }
    text
}

/// The first of `wanted` that a server does not show; an error: it does not answer.
async fn missing(server: SocketAddr, wanted: &[Record]) -> Result<Option<&Record>, ()> {
    for record in wanted {
        let name = wire::fqdn(&record.name).ok_or(())?;
        let mut question = Message::query();
        question.metadata.recursion_desired = false;
        let kind = wire::record_type(record.data.kind());
        question.add_query(Query::query(name.clone(), kind));
        let answer = tokio::time::timeout(ANSWER, ask(server, &question)).await;
        let answer = answer.map_err(|_| ())?.ok_or(())?;
        let shown = answer
            .answers
            .iter()
            .filter(|found| found.name == name)
            .filter_map(|found| wire::of_rdata(&found.data))
            .any(|data| data == record.data);
        if !shown {
            return Ok(Some(record));
        }
    }
    Ok(None)
}

/// By UDP, and by TCP what does not fit or is not answered.
async fn ask(server: SocketAddr, question: &Message) -> Option<Message> {
    let request = question.to_vec().ok()?;
    let id = question.metadata.id;
    let short = tokio::time::timeout(ANSWER / 2, udp(server, &request, id)).await;
    if let Ok(Some(answer)) = short
        && !answer.metadata.truncation
    {
        return Some(answer);
    }
    let answer = wire::exchange(server, &request).await.ok()?;
    wire::answer_to(id, &answer).ok()
}

async fn udp(server: SocketAddr, request: &[u8], id: u16) -> Option<Message> {
    let any: IpAddr = match server.is_ipv4() {
        true => Ipv4Addr::UNSPECIFIED.into(),
        false => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await.ok()?;
    socket.connect(server).await.ok()?;
    socket.send(request).await.ok()?;
    let mut answer = vec![0; UDP];
    loop {
        let read = socket.recv(&mut answer).await.ok()?;
        if let Ok(message) = wire::answer_to(id, answer.get(..read)?) {
            return Some(message);
        }
    }
}
