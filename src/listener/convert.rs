//! Encodes a message anew where its lines or bytes would not survive the way, off the arbiter.

use std::io;

use bytes::Bytes;
use queue_schema::QueueId;

use crate::message::reencode::{self, Rule};
use crate::message::{Body, Content};
use crate::queue::store::Spool;

/// Why a message stays as it is.
#[derive(Debug)]
pub enum NotConverted {
    /// It would break.
    Unencodable,
    /// The disk failed (I7).
    Failed,
}

/// The message by `rule`, and whether its body is ASCII now. A body that is longer than memory
/// allows goes to the file of the message in `spool`, instead of the one it came from.
pub async fn convert(
    content: Content,
    rule: Rule,
    (spool, max_memory, id): (&Spool, usize, QueueId),
) -> Result<(Content, bool), NotConverted> {
    let spool = spool.clone();
    let work = move || {
        let failed = |error: io::Error| {
            tracing::error!(target: "session", %error, "message can not be encoded");
            NotConverted::Failed
        };
        let body = match &content.body {
            Body::Memory(bytes) => bytes.clone(),
            Body::Spool(file) => std::fs::read(file.path.as_path()).map_err(failed)?.into(),
        };
        let (head, body) = reencode::reencode(&content.head, &body, rule)
            .map_err(|_| NotConverted::Unencodable)?;
        let ascii = body.is_ascii();
        let in_file = matches!(content.body, Body::Spool(_));
        let body = if in_file || body.len() > max_memory {
            let mut writer = spool.begin(id).map_err(failed)?;
            writer.write(&body).map_err(failed)?;
            Body::Spool(writer.finish().map_err(failed)?)
        } else {
            Body::Memory(Bytes::from(body))
        };
        let head = head.into();
        Ok((Content { head, body }, ascii))
    };
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or(Err(NotConverted::Failed))
}
