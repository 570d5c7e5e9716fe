//! A DNS server whose records can be changed while it runs.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hickory_proto::op::{Metadata, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, MX, NS, PTR, SOA, TLSA, TXT};
use hickory_proto::rr::{LowerName, Name, RData, Record, RecordType};
use hickory_server::Server;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use tokio::net::{TcpListener, UdpSocket};

/// Ports are tried so often until one is free for UDP and TCP both.
const BIND_ATTEMPTS: u32 = 50;

/// A DNS server on 127.0.0.1, UDP and TCP on one port the system chose.
///
/// A name it knows nothing of does not exist (NXDOMAIN); one without records of the type asked for
/// gets an empty answer. Answers have a TTL of 0 at first, so that a change is seen at once. It runs until
/// the last clone is dropped.
#[derive(Clone)]
pub struct DnsServer {
    address: SocketAddr,
    zones: Zones,
    _server: Arc<Server<Zones>>,
}

#[derive(Clone, Default)]
struct Zones(Arc<Mutex<Data>>);

#[derive(Default)]
struct Data {
    records: BTreeMap<LowerName, Vec<RData>>,
    failing: BTreeSet<LowerName>,
    /// Answers SERVFAIL for types it has no record of.
    partly_failing: BTreeSet<LowerName>,
    /// Answers REFUSED.
    refusing: BTreeSet<LowerName>,
    /// Strings of TXT records that stand in every answer about a name.
    stray: BTreeMap<LowerName, String>,
    /// Is never answered.
    silent: BTreeSet<LowerName>,
    /// Is never answered for types it has no record of.
    partly_silent: BTreeSet<LowerName>,
    queries: u64,
    /// Sets AD, as a resolver that has verified DNSSEC.
    authentic: bool,
    /// Seconds.
    ttl: u32,
}

impl DnsServer {
    /// Starts one with no records.
    pub async fn start() -> io::Result<DnsServer> {
        let (udp, tcp) = bind().await?;
        let address = udp.local_addr()?;
        let zones = Zones::default();
        let mut server = Server::new(zones.clone());
        server.register_socket(udp);
        server.register_listener(tcp, Duration::from_secs(30), 32);
        Ok(DnsServer {
            address,
            zones,
            _server: Arc::new(server),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many questions were asked so far.
    pub fn queries(&self) -> u64 {
        self.zones.lock().queries
    }

    /// Adds an MX record.
    pub fn mx(&self, domain: &str, preference: u16, host: &str) {
        self.add(domain, RData::MX(MX::new(preference, name(host))));
    }

    /// Says that a domain takes no mail (RFC 7505).
    pub fn null_mx(&self, domain: &str) {
        self.add(domain, RData::MX(MX::new(0, Name::root())));
    }

    /// Adds an NS record.
    pub fn ns(&self, domain: &str, host: &str) {
        self.add(domain, RData::NS(NS(name(host))));
    }

    /// Adds an A record.
    pub fn a(&self, host: &str, address: Ipv4Addr) {
        self.add(host, RData::A(A(address)));
    }

    /// Adds an AAAA record.
    pub fn aaaa(&self, host: &str, address: Ipv6Addr) {
        self.add(host, RData::AAAA(AAAA(address)));
    }

    /// Adds a CNAME record.
    pub fn cname(&self, alias: &str, target: &str) {
        self.add(alias, RData::CNAME(CNAME(name(target))));
    }

    /// Adds a TXT record; text of more than 255 bytes is split as RFC 1035 wants.
    pub fn txt(&self, owner: &str, text: &str) {
        let mut pieces = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let end = (1..=rest.len().min(255))
                .rev()
                .find(|at| rest.is_char_boundary(*at));
            let (piece, after) = rest.split_at(end.unwrap_or(rest.len()));
            pieces.push(piece.to_owned());
            rest = after;
        }
        self.add(owner, RData::TXT(TXT::new(pieces)));
    }

    /// Makes a name exist without any record.
    pub fn empty(&self, owner: &str) {
        self.zones
            .lock()
            .records
            .entry(name(owner).into())
            .or_default();
    }

    /// Answers SERVFAIL for a name from now on.
    pub fn servfail(&self, owner: &str) {
        self.zones.lock().failing.insert(name(owner).into());
    }

    /// Answers REFUSED for a name from now on.
    pub fn refuse(&self, owner: &str) {
        self.zones.lock().refusing.insert(name(owner).into());
    }

    /// Puts a TXT record that nobody asked for into every answer about a name.
    pub fn stray_txt(&self, owner: &str, text: &str) {
        let mut data = self.zones.lock();
        data.stray.insert(name(owner).into(), text.to_owned());
    }

    /// Never answers questions about a name, or names below it, from now on.
    pub fn silent(&self, owner: &str) {
        self.zones.lock().silent.insert(name(owner).into());
    }

    /// Says of every answer that it was verified (AD), or not; at first not.
    pub fn authentic(&self, authentic: bool) {
        self.zones.lock().authentic = authentic;
    }

    /// Gives answers this TTL in seconds from now on, also those that say there is nothing.
    pub fn ttl(&self, seconds: u32) {
        self.zones.lock().ttl = seconds;
    }

    /// Adds a TLSA record.
    pub fn tlsa(&self, owner: &str, usage: u8, selector: u8, matching: u8, data: &[u8]) {
        let tlsa = TLSA::new(
            usage.into(),
            selector.into(),
            matching.into(),
            data.to_vec(),
        );
        self.add(owner, RData::TLSA(tlsa));
    }

    /// Adds a PTR record.
    pub fn ptr(&self, address: IpAddr, host: &str) {
        self.ptr_at(&Name::from(address).to_ascii(), host);
    }

    /// Adds a PTR record at a name.
    pub fn ptr_at(&self, owner: &str, host: &str) {
        self.add(owner, RData::PTR(PTR(name(host))));
    }

    /// Adds a TXT record of these strings, which may hold any byte.
    pub fn txt_strings(&self, owner: &str, strings: &[&[u8]]) {
        self.add(owner, RData::TXT(TXT::from_bytes(strings.to_vec())));
    }

    /// Answers SERVFAIL for a name from now on, but for the types it has records of.
    pub fn servfail_otherwise(&self, owner: &str) {
        self.zones.lock().partly_failing.insert(name(owner).into());
    }

    /// Never answers questions about a name from now on, but for the types it has records of.
    pub fn silent_otherwise(&self, owner: &str) {
        self.zones.lock().partly_silent.insert(name(owner).into());
    }

    /// Forgets everything about a name.
    pub fn remove(&self, owner: &str) {
        let owner = LowerName::from(name(owner));
        let mut data = self.zones.lock();
        data.records.remove(&owner);
        data.failing.remove(&owner);
        data.partly_failing.remove(&owner);
        data.silent.remove(&owner);
        data.partly_silent.remove(&owner);
        data.refusing.remove(&owner);
        data.stray.remove(&owner);
    }

    fn add(&self, owner: &str, rdata: RData) {
        self.zones
            .lock()
            .records
            .entry(name(owner).into())
            .or_default()
            .push(rdata);
    }
}

impl Zones {
    fn lock(&self) -> MutexGuard<'_, Data> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_silent(&self, owner: &LowerName, kind: RecordType) -> bool {
        let mut data = self.lock();
        let known = data.records.get(owner).into_iter().flatten();
        let known = known.into_iter().any(|data| data.record_type() == kind);
        let silent = data.silent.iter().any(|silent| silent.zone_of(owner))
            || (data.partly_silent.contains(owner) && !known);
        data.queries += u64::from(silent);
        silent
    }

    fn answer(&self, owner: &LowerName, kind: RecordType) -> (ResponseCode, Vec<Record>) {
        let mut data = self.lock();
        data.queries += 1;
        let mut answers = Vec::new();
        let mut owner = owner.clone();
        if data.refusing.contains(&owner) {
            return (ResponseCode::Refused, Vec::new());
        }
        let ttl = data.ttl;
        if let Some(text) = data.stray.get(&owner) {
            let stray = RData::TXT(TXT::new(vec![text.clone()]));
            answers.push(Record::from_rdata(owner.clone().into(), ttl, stray));
        }
        // A chain of CNAMEs is followed for so long; a loop ends with what was found.
        for _ in 0..8 {
            if data.failing.contains(&owner) {
                return (ResponseCode::ServFail, Vec::new());
            }
            let has = |kind: RecordType| {
                let records = data.records.get(&owner).into_iter().flatten();
                records.into_iter().any(|data| data.record_type() == kind)
            };
            if data.partly_failing.contains(&owner) && !has(kind) && !has(RecordType::CNAME) {
                return (ResponseCode::ServFail, Vec::new());
            }
            let Some(records) = data.records.get(&owner) else {
                // A name above one that exists does exist (RFC 8020).
                let code = match data.records.keys().any(|known| owner.zone_of(known)) {
                    true => ResponseCode::NoError,
                    false => ResponseCode::NXDomain,
                };
                return (code, answers);
            };
            let here = Name::from(owner.clone());
            let mut next = None;
            for rdata in records {
                if rdata.record_type() == kind || kind == RecordType::ANY {
                    answers.push(Record::from_rdata(here.clone(), ttl, rdata.clone()));
                } else if let RData::CNAME(target) = rdata {
                    answers.push(Record::from_rdata(here.clone(), ttl, rdata.clone()));
                    next = Some(LowerName::from(target.0.clone()));
                }
            }
            match next {
                Some(target) => owner = target,
                None => break,
            }
        }
        (ResponseCode::NoError, answers)
    }
}

#[async_trait::async_trait]
impl RequestHandler for Zones {
    async fn handle_request<R: ResponseHandler, T: hickory_server::net::runtime::Time>(
        &self,
        request: &Request,
        mut respond: R,
    ) -> ResponseInfo {
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.authoritative = true;
        metadata.recursion_available = true;
        metadata.authentic_data = self.lock().authentic;
        let mut answers = Vec::new();
        let mut soa = None;
        match request.request_info() {
            Ok(info) if self.is_silent(info.query.name(), info.query.query_type()) => {
                let counts = hickory_proto::op::HeaderCounts::default();
                return hickory_proto::op::Header { metadata, counts }.into();
            }
            Ok(info) => {
                let (code, found) = self.answer(info.query.name(), info.query.query_type());
                metadata.response_code = code;
                // What does not exist may be remembered as long as what does.
                let said = matches!(code, ResponseCode::NoError | ResponseCode::NXDomain);
                if found.is_empty() && said {
                    let ttl = self.lock().ttl;
                    let data = SOA::new(Name::root(), Name::root(), 1, 1, 1, 1, ttl);
                    soa = Some(Record::from_rdata(Name::root(), ttl, RData::SOA(data)));
                }
                answers = found;
            }
            Err(_) => metadata.response_code = ResponseCode::FormErr,
        }
        let response = MessageResponseBuilder::from_message_request(request).build(
            metadata,
            answers.iter(),
            [],
            soa.iter(),
            [],
        );
        match respond.send_response(response).await {
            Ok(info) => info,
            Err(error) => {
                tracing::debug!(%error, "a DNS answer of the lab could not be sent");
                hickory_proto::op::Header {
                    metadata,
                    counts: hickory_proto::op::HeaderCounts::default(),
                }
                .into()
            }
        }
    }
}

async fn bind() -> io::Result<(UdpSocket, TcpListener)> {
    let mut last = None;
    for _ in 0..BIND_ATTEMPTS {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        match TcpListener::bind(udp.local_addr()?).await {
            Ok(tcp) => return Ok((udp, tcp)),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| io::Error::other("no port is free for UDP and TCP")))
}

/// A name as callers write it. One that can not be a name is the root, which nobody asks for.
fn name(text: &str) -> Name {
    let labels = text.strip_suffix('.').unwrap_or(text).split('.');
    let labels = labels.map(str::as_bytes).filter(|label| !label.is_empty());
    let mut name = Name::from_labels(labels).unwrap_or_else(|_| Name::root());
    name.set_fqdn(true);
    name
}
