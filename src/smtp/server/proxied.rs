//! XCLIENT: a proxy of ours tells for whom it speaks (Postfix's XCLIENT_README).

use std::net::IpAddr;

use super::{Server, Step};
use crate::replies;

/// What the proxy said; `None` leaves things as they are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Xclient {
    /// The client's address.
    pub address: Option<IpAddr>,
    /// The client's port.
    pub port: Option<u16>,
    /// Who the client logged in as at the proxy.
    pub login: Option<String>,
}

impl Server {
    pub(super) fn xclient(
        &mut self,
        attributes: &[(String, String)],
        out: &mut Vec<u8>,
    ) -> Option<Step> {
        let refusal = if !self.options.xclient {
            replies::NOT_OFFERED
        } else if self.transaction.is_some() {
            replies::XCLIENT_IN_TRANSACTION
        } else {
            match read(attributes) {
                Some(client) => return Some(Step::Xclient(client)),
                None => replies::BAD_PARAMETER,
            }
        };
        self.refused(refusal, out)
    }

    /// The client is who XCLIENT said: all that was said before is forgotten, and the dialogue
    /// starts with our greeting. `user` is who it logged in as.
    pub fn client_changed(&mut self, trusted: bool, user: Option<String>, out: &mut Vec<u8>) {
        self.options.trusted = trusted;
        self.hello = None;
        self.user = user;
        self.transaction = None;
        self.greeting(out);
    }
}

fn read(attributes: &[(String, String)]) -> Option<Xclient> {
    let mut client = Xclient::default();
    for (name, value) in attributes {
        let known = !matches!(value.as_str(), "[UNAVAILABLE]" | "[TEMPUNAVAIL]");
        match name.as_str() {
            "ADDR" if known => {
                let tagged = value
                    .get(..5)
                    .is_some_and(|tag| tag.eq_ignore_ascii_case("ipv6:"));
                let address = if tagged { value.get(5..)? } else { value };
                client.address = Some(address.parse().ok()?);
            }
            "PORT" if known => client.port = Some(value.parse().ok()?),
            "LOGIN" if known => client.login = Some(value.to_lowercase()),
            // The client will greet again, and nothing depends on its name.
            "ADDR" | "PORT" | "LOGIN" | "NAME" | "HELO" | "PROTO" => {}
            _ => return None,
        }
    }
    Some(client)
}
