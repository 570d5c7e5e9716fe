//! What sessions have to do with reputation: each recipient that a client from outside names is
//! asked about, after it is known to exist, so that guesses cost no questions.

use std::path::Path;

use super::session::Session;
use crate::auth::dovecot;
use crate::config::{Service, Spam};
use crate::intake::Client;
use crate::intake::reputation::greylist::{self, Verdict};
use crate::intake::reputation::keeper::Ask;
use crate::intake::reputation::{self, Standing};
use crate::smtp::address::Address;
use crate::smtp::replies::{self, Reply};
use crate::verify::{self, spf};
use chapar_base::net::is_private;

/// Whoever is on a list may still write to these.
const ALWAYS: [&str; 2] = ["postmaster", "abuse"];

impl Session {
    /// Whether the user who logged in was not removed since.
    pub(super) fn is_still_known(&self) -> Result<(), Reply> {
        let Client::User(user) = self.client() else {
            return Ok(());
        };
        let identity = &self.shared.identity;
        let asked = !self.shared.config.auth.dovecot.is_empty();
        let theirs = asked && identity.may_be_dovecots(user);
        match theirs || identity.user(user).is_some() {
            true => Ok(()),
            false => Err(replies::USER_GONE),
        }
    }

    /// Whether mail of this client to `to` is wanted now.
    pub(super) async fn is_welcome(&mut self, to: &Address) -> Result<(), Reply> {
        let shared = self.shared.clone();
        let config = &shared.config;
        let client = self.peer.ip().to_canonical();
        let judged = config.incoming.judge_private || !is_private(client);
        if self.client() != Client::Outside || self.listen.service != Service::Mx || !judged {
            return Ok(());
        }
        if !matches!(&self.standing, Some((about, _)) if *about == client) {
            let standing =
                reputation::standing(&shared.resolver.hickory(), &config.dnslists, client).await;
            self.standing = Some((client, standing));
        }
        let local = to.local().to_ascii_lowercase();
        match &self.standing {
            Some((_, Standing::Allowed(_))) => return Ok(()),
            Some((_, Standing::Blocked(listing)))
                if config.dnslists.listed == Spam::Refuse && !ALWAYS.contains(&local.as_str()) =>
            {
                return Err(listing.refusal(client));
            }
            _ => {}
        }
        if !config.greylist.enabled {
            return Ok(());
        }
        let Some(open) = self.server.transaction() else {
            return Ok(());
        };
        let from = open.mail.from.as_ref().map(Address::to_string);
        let from = from.unwrap_or_default();
        let who = match &self.who {
            Some(who) => who.clone(),
            None => {
                let who = self.sends(&from).await;
                self.who.insert(who).clone()
            }
        };
        let ask = Ask {
            who: greylist::key(&[&who]),
            triplet: greylist::key(&[&who, &from, to.as_str()]),
            now: crate::time::now(),
        };
        match shared.greylist.send(ask).await {
            Ok(Verdict::Wait(left)) => {
                let seconds = left.div_ceil(1000);
                let text = format!(
                    "Mail of {who} is new here: please come again in {seconds} seconds (greylisting)"
                );
                Err(Reply::new(451, "4.7.1", text))
            }
            // Without the keeper nobody waits.
            Ok(Verdict::Pass) | Err(_) => Ok(()),
        }
    }

    /// The mailbox that an address is of, if only Dovecot knows it.
    pub(super) async fn mailbox_of_dovecot(&self, to: &Address) -> Result<Option<String>, Reply> {
        let auth = &self.shared.config.auth;
        if auth.dovecot_users.is_empty() {
            return Ok(None);
        }
        let socket = Path::new(&auth.dovecot_users);
        for (name, target) in self.shared.identity.ask_dovecot(to.as_str()) {
            match dovecot::exists(socket, auth.dovecot_time.0, &name).await {
                Ok(true) => return Ok(Some(target)),
                Ok(false) => {}
                Err(error) => {
                    tracing::error!(target: "alarm", %error, "Dovecot can not be asked about users; mail for them waits at its senders");
                    return Err(replies::USERS_UNAVAILABLE);
                }
            }
        }
        Ok(None)
    }

    /// The domain of the reverse-path if SPF proves it, else the client's network.
    async fn sends(&self, from: &str) -> String {
        let client = self.peer.ip().to_canonical();
        let hello = self.server.hello();
        let hello = hello.map(|hello| hello.name.as_str()).unwrap_or_default();
        let config = &self.shared.config;
        let sender = spf::Sender {
            client,
            hello,
            from,
            receiver: &config.hostname,
            now: crate::time::now() / 1000,
        };
        let passes = verify::spf_passes(
            &self.shared.resolver.hickory(),
            sender,
            config.incoming.dns_time.0,
        )
        .await;
        greylist::sender(passes.then(|| sender.domain()), client)
    }
}
