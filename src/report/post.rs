//! The way of every report by mail: compressed, from one of our domains, signed, with a null
//! reverse-path, into the queue.

use std::io::{self, Write as _};

use actix::prelude::*;
use queue_schema::{Envelope, Millis, Origin, QueueId};

use crate::config::Config;
use crate::identity::Identity;
use crate::message::{Body, Content};
use crate::queue::Accept;
use crate::signing::Sign;

/// A report that is to be sent.
pub(super) struct Report {
    /// Its id in the queue.
    pub id: QueueId,
    /// When it was written.
    pub arrived: Millis,
    /// The domain whose key signs.
    pub domain: String,
    /// Who gets it.
    pub recipients: Vec<queue_schema::Recipient>,
    /// Header and body.
    pub message: (String, String),
}

/// The domain that reports, one whose key can sign: `reports.domain`, or the one that the host is
/// in, or the first. None where no domain of ours has a key.
pub(super) fn domain(config: &Config, identity: &Identity) -> Option<String> {
    let named = config.reports.domain.as_str();
    if !named.is_empty() {
        return Some(named.to_owned());
    }
    let own = |name: &&str| {
        let rest = config.hostname.strip_suffix(*name);
        rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    let signs = identity
        .domains()
        .filter(|(_, domain)| !domain.selectors.is_empty())
        .map(|(name, _)| name)
        .collect::<Vec<_>>();
    let found = signs.iter().find(|name| own(name)).or(signs.first());
    found.map(|name| (*name).to_owned())
}

/// A report as it is attached or posted.
pub(super) fn gzip(report: &[u8]) -> io::Result<Vec<u8>> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(report)?;
    gzip.finish()
}

/// Hands a report to the queue; in words, why it could not be.
pub(super) async fn post(
    signer: &Recipient<Sign>,
    queue: &Recipient<Accept>,
    report: Report,
) -> Result<(), String> {
    let (head, body) = report.message;
    let mut content = Content {
        head: head.into(),
        body: Body::Memory(body.into()),
    };
    let sign = Sign {
        domain: report.domain,
        content: content.clone(),
    };
    let signature = match signer.send(sign).await {
        Ok(Ok(signature)) => signature,
        Ok(Err(error)) => return Err(error.to_string()),
        Err(error) => return Err(error.to_string()),
    };
    content.head = [&signature[..], &content.head].concat().into();
    let accept = Accept {
        id: report.id,
        arrived: report.arrived,
        origin: Origin::Network {
            client: std::net::Ipv4Addr::LOCALHOST.into(),
        },
        // From the null reverse-path: nobody is told if it can not be delivered.
        envelope: Envelope::new("", report.recipients),
        content,
        held: Vec::new(),
    };
    match queue.send(accept).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}
