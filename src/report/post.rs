//! The way of every report by mail: signed, with a null reverse-path, into the queue.

use actix::prelude::*;
use queue_schema::{Envelope, Millis, Origin, QueueId};

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
        held: false,
    };
    match queue.send(accept).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}
