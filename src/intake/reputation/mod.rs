//! What is known of a client before its message: DNS lists, and whether it was here before.
//!
//! Off until the configuration names a list or turns greylisting on. Nothing here refuses mail
//! because something does not answer: without an answer a client is one like any other.

pub mod greylist;
pub mod keeper;

use std::net::IpAddr;

use futures_util::future::join_all;
use hickory_resolver::TokioResolver;

use crate::config::DnsLists;
use crate::config::ListZone;
use crate::verify::Listing;
use crate::verify::lookup::Lookup;

/// Characters of a list's reason that are repeated.
const MOST_REASON: usize = 200;

/// What lists say of a client.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Standing {
    /// Nothing, or nobody was asked, or nobody answered.
    #[default]
    Unknown,
    /// It is on a list of `dnslists.allow`.
    Allowed(Listing),
    /// It is on a list of `dnslists.block`, and on none of the others.
    Blocked(Listing),
}

/// Asks every list about `client` at once. Whatever takes longer than `dnslists.time` said nothing.
pub async fn standing(resolver: &TokioResolver, lists: &DnsLists, client: IpAddr) -> Standing {
    if lists.allow.is_empty() && lists.block.is_empty() {
        return Standing::Unknown;
    }
    let lookup = Lookup::new(resolver.clone());
    let ask = async |zone: &ListZone| {
        let found = tokio::time::timeout(lists.time.0, listing(&lookup, zone, client)).await;
        found.ok().flatten()
    };
    let (allowed, blocked) = tokio::join!(
        join_all(lists.allow.iter().map(&ask)),
        join_all(lists.block.iter().map(&ask)),
    );
    match (
        allowed.into_iter().flatten().next(),
        blocked.into_iter().flatten().next(),
    ) {
        (Some(listing), _) => Standing::Allowed(listing),
        (None, Some(listing)) => Standing::Blocked(listing),
        (None, None) => Standing::Unknown,
    }
}

async fn listing(lookup: &Lookup, zone: &ListZone, client: IpAddr) -> Option<Listing> {
    let name = zone.query(client);
    let Ok(answers) = lookup.a(&name).await.records() else {
        tracing::warn!(target: "session", zone = zone.name(), "a DNS list does not answer; nobody is refused for that");
        return None;
    };
    if ListZone::refuses(&answers) {
        tracing::warn!(target: "session", zone = zone.name(), ?answers, "a DNS list does not serve this resolver; ask it for an account, or remove it from [dnslists]");
    }
    let answer = zone.listed(&answers)?;
    let texts = lookup.txt(&name).await.records().unwrap_or_default();
    let reason = texts.first().map(|text| readable(text));
    Some(Listing {
        zone: zone.name().to_owned(),
        answer,
        reason: reason.unwrap_or_default(),
    })
}

/// What may stand in a reply.
fn readable(text: &[u8]) -> String {
    let characters = text.iter().take(MOST_REASON);
    characters
        .map(|byte| match byte {
            b' '..=b'~' => char::from(*byte),
            _ => ' ',
        })
        .collect()
}
