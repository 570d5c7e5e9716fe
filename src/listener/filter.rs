//! What sessions have to do with hooks: milters hear of MAIL as it comes, and a body that one of
//! them replaced gets its place.

use std::io;

use bytes::Bytes;
use queue_schema::QueueId;

use super::session::Session;
use crate::intake::hooks::post_data::About;
use crate::intake::hooks::{Checked, Filters, Sender};
use crate::message::{Body, Content};
use crate::queue::store::Spool;
use crate::smtp::address::Address;
use crate::smtp::replies::{self, Reply};

impl Session {
    /// Tells the listener's milters of the client and its MAIL.
    pub(super) async fn begin_filters(&mut self, from: Option<&Address>) -> Result<(), Reply> {
        self.filters = None;
        if self.listen.milters.is_empty() {
            return Ok(());
        }
        let client = self.peer.ip().to_canonical();
        let name = crate::verify::host_name(&self.shared.resolver.hickory(), client).await;
        let hello = self.server.hello();
        let sender = Sender {
            client,
            port: self.peer.port(),
            name: name.as_deref(),
            hello: hello.map(|hello| hello.name.as_str()).unwrap_or_default(),
            hostname: &self.shared.config.hostname,
            user: self.server.user(),
            tls: self.tls.as_deref(),
            from: from.map(Address::as_str).unwrap_or_default(),
        };
        let begun = Box::pin(Filters::begin(
            &self.listen.milters,
            &self.shared.config,
            &sender,
        ));
        self.filters = Some(Box::new(begun.await?));
        Ok(())
    }

    /// Asks milters and hook about a message of a user or a trusted network.
    pub(super) async fn hooks(
        &self,
        content: Content,
        filters: Option<Box<Filters>>,
        id: QueueId,
    ) -> Result<Checked, Reply> {
        let config = &self.shared.config;
        let mut checked = match filters {
            Some(filters) => filters.message(config, &id.to_string(), content).await?,
            None => Checked::new(content),
        };
        let transaction = self.server.transaction().ok_or(replies::MAIL_FIRST)?;
        let hello = self.server.hello();
        let about = About {
            client: self.peer.ip().to_canonical().to_string(),
            hello: hello.map(|hello| hello.name.clone()).unwrap_or_default(),
            user: self.server.user().unwrap_or_default().to_owned(),
            tls: self.tls.is_some(),
            ..About::of(&self.shared.identity, transaction)
        };
        self.shared
            .outside
            .hook
            .ask(config, &about, &mut checked)
            .await?;
        Ok(checked)
    }

    /// `content` with another body; one that is longer than memory allows goes to the file of the
    /// message, as does one in whose place there was such a file.
    pub(super) async fn with_body(
        &self,
        content: Content,
        body: Option<Bytes>,
        (id, in_file): (QueueId, bool),
    ) -> Result<Content, Reply> {
        let Some(bytes) = body else {
            return Ok(content);
        };
        let body = if in_file || bytes.len() > self.shared.config.limits.memory_body.bytes() {
            let spool = self.shared.spool.clone();
            let written = tokio::task::spawn_blocking(move || write(&spool, id, &bytes)).await;
            match written.unwrap_or_else(|error| Err(io::Error::other(error))) {
                Ok(body) => body,
                Err(error) => {
                    tracing::error!(target: "session", %error, "another body can not be written");
                    return Err(replies::QUEUE_FAILED);
                }
            }
        } else {
            Body::Memory(bytes)
        };
        Ok(Content {
            head: content.head,
            body,
        })
    }
}

fn write(spool: &Spool, id: QueueId, bytes: &[u8]) -> io::Result<Body> {
    let mut writer = spool.begin(id)?;
    writer.write(bytes)?;
    Ok(Body::Spool(writer.finish()?))
}
