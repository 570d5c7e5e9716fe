//! Verifies the signatures of a delivered message as its receiver does.

use anyhow::{Context as _, ensure};
use mail_auth::{AuthenticatedMessage, DkimResult, MessageAuthenticator};

use super::world::World;
use crate::config::Dns;
use crate::dns::Resolver;

/// The selectors whose signatures of `data` hold; an error unless both of ours do.
pub(super) async fn signatures(world: &World, data: &[u8]) -> anyhow::Result<Vec<String>> {
    let resolver = Resolver::new(&Dns {
        servers: vec![world.dns.address()],
        ..Dns::default()
    })?;
    let authenticator = MessageAuthenticator(resolver.hickory());
    let message =
        AuthenticatedMessage::parse(data).context("the delivered message is no message")?;
    let mut held = Vec::new();
    for output in authenticator.verify_dkim(&message).await {
        let signature = output
            .signature()
            .context("a signature that can not be read")?;
        let name = format!("{}._domainkey.{} pass", signature.s, signature.d);
        ensure!(
            *output.result() == DkimResult::Pass,
            "{name}: {:?}",
            output.result()
        );
        held.push(name);
    }
    ensure!(held.len() == 2, "{} signatures instead of two", held.len());
    Ok(held)
}
