//! Whether a report may go to an address of `rua=`: one of the same organization, or one whose
//! domain says that it takes reports about this one (RFC 9990 section 4).

use hickory_resolver::TokioResolver;

use crate::verify::dmarc::{self, ReportUri};
use crate::verify::lookup::{Lookup, Trouble};

/// Addresses of one report; the first ones are asked.
const MOST: usize = 10;

/// Those of `rua` that take reports about `domain`; an error if the DNS does not say.
pub async fn takers(
    resolver: &TokioResolver,
    domain: &str,
    rua: &[ReportUri],
) -> Result<Vec<ReportUri>, Trouble> {
    let mut takers: Vec<ReportUri> = Vec::new();
    for uri in rua.iter().take(MOST) {
        let known = |taker: &ReportUri| taker.address == uri.address;
        if !takers.iter().any(known) && takes(resolver, domain, &uri.address).await? {
            takers.push(uri.clone());
        }
    }
    Ok(takers)
}

async fn takes(resolver: &TokioResolver, domain: &str, address: &str) -> Result<bool, Trouble> {
    // A budget for each, so that a long walk leaves the others theirs.
    let lookup = Lookup::new(resolver.clone());
    let Some((_, host)) = address.rsplit_once('@') else {
        return Ok(false);
    };
    if dmarc::same_organization(&lookup, domain, host).await? {
        return Ok(true);
    }
    let texts = lookup.txt(&format!("{domain}._report._dmarc.{host}")).await;
    // `v=DMARC1` alone is enough; its own rua= could send the report elsewhere and is not followed.
    let says = |text: &Vec<u8>| {
        let first = text.split(|byte| *byte == b';').next().unwrap_or_default();
        let word: Vec<u8> = first
            .iter()
            .filter(|b| !b.is_ascii_whitespace())
            .copied()
            .collect();
        word == b"v=DMARC1"
    };
    Ok(texts.records()?.iter().any(says))
}
