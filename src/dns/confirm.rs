//! Whether an address has a name that leads back to it.

use std::net::IpAddr;

use hickory_resolver::proto::rr::{Name, RData, RecordType};

use super::{Addresses, Resolver, absence, host_text};

/// Names of one address that are looked at.
const MOST_NAMES: usize = 10;

impl Resolver {
    /// Whether one of the names in the PTR records of an address has that address; `None`: could
    /// not find out.
    pub async fn confirms(&self, address: IpAddr) -> Option<bool> {
        let found = match self
            .asked()
            .lookup(Name::from(address), RecordType::PTR)
            .await
        {
            Ok(found) => found,
            Err(error) => return absence(&error).map(|_| false),
        };
        let names = found
            .answers()
            .iter()
            .filter_map(|record| match &record.data {
                RData::PTR(ptr) => Some(host_text(&ptr.0)),
                _ => None,
            });
        let mut known = true;
        for name in names.take(MOST_NAMES) {
            let addresses = match address {
                IpAddr::V4(_) => self.ipv4(&name).await,
                IpAddr::V6(_) => self.ipv6(&name).await,
            };
            match addresses {
                Addresses::Found(all) if all.contains(&address) => return Some(true),
                Addresses::Found(_) | Addresses::None => {}
                Addresses::Failed(_) => known = false,
            }
        }
        known.then_some(false)
    }
}
