//! After setup: starts the service and shows that it works, as its users and others meet it.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mail_auth::{AuthenticatedMessage, DkimResult, MessageAuthenticator};

use super::super::check::net;
use super::super::send::{self, Message};
use super::super::socket;
use crate::config::{Config, Service, TlsMode};
use crate::control::protocol::{Answer, Request};
use crate::dns::Resolver;
use crate::doctor::{Finding, Level, worst};
use crate::identity::Identity;
use crate::queue::{Selector, Verb};

/// How long the service may take to answer.
const START: Duration = Duration::from_secs(60);
/// A running daemon needs a moment until it knows a new user.
const LOGIN: Duration = Duration::from_secs(10);
/// How long a test message is followed.
const FOLLOW: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);

/// What is proved.
pub(super) struct Proof<'a> {
    pub(super) config: &'a Config,
    pub(super) user: &'a str,
    /// Known only in the run that made it.
    pub(super) password: Option<&'a str>,
    /// An address elsewhere.
    pub(super) to: Option<&'a str>,
}

/// Starts the service where systemd runs; whether a daemon answers now.
pub(super) fn start(config: &Config, with_systemd: bool) -> Result<bool, String> {
    if answers(config) {
        return Ok(true);
    }
    if !with_systemd || !Path::new("/run/systemd/system").exists() {
        return Ok(false);
    }
    let run = Command::new("systemctl")
        .args(["enable", "--now", "chapar"])
        .output()
        .map_err(|error| format!("systemctl can not be run: {error}"))?;
    if !run.status.success() {
        let why = String::from_utf8_lossy(&run.stderr);
        return Err(format!(
            "systemctl enable --now chapar failed: {}; journalctl -u chapar says more",
            why.trim()
        ));
    }
    let end = Instant::now() + START;
    while Instant::now() < end {
        if answers(config) {
            return Ok(true);
        }
        std::thread::sleep(LOOK);
    }
    Err("the service was started and does not answer; journalctl -u chapar says why".into())
}

fn answers(config: &Config) -> bool {
    socket::ask(config, &Request::Counts {}, &mut |_| Ok(())).is_ok()
}

impl Proof<'_> {
    /// Prints a line for each thing that was tried; the worst of them.
    pub(super) fn run(&self) -> anyhow::Result<Level> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let mut findings = Vec::new();
        let mut tell = |finding: Finding| {
            say!("{}", finding.line());
            findings.push(finding);
        };
        for finding in runtime.block_on(self.logins()) {
            tell(finding);
        }
        let identity = Identity::load(&self.config.dir, &self.config.postmaster)?;
        match self.queued(&identity) {
            Ok((bytes, id)) => {
                tell(Finding::good(
                    "queue",
                    &id,
                    "a message was signed and made durable",
                ));
                for finding in runtime.block_on(self.signatures(&bytes)) {
                    tell(finding);
                }
            }
            Err(problem) => tell(Finding::wrong(
                "queue",
                self.user,
                problem,
                "no message can be taken",
                "chapar log --trouble",
            )),
        }
        if let Some(to) = self.to {
            tell(self.delivered(&identity, to));
        }
        Ok(worst(&findings))
    }

    /// AUTH on every port for users.
    async fn logins(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        for listen in &self.config.listeners {
            if listen.service != Service::Submission {
                continue;
            }
            let usual = if listen.tls == TlsMode::Implicit {
                465
            } else {
                587
            };
            let Some(target) = net::reachable(&listen.address, usual) else {
                continue;
            };
            let about = format!("{} ({})", listen.address, listen.tls.name());
            let Some(password) = self.password else {
                let what = "not tried: only the run that makes a user knows the password";
                findings.push(Finding::good("login", &about, what));
                continue;
            };
            let proof = STANDARD.encode(format!("\0{}\0{password}", self.user));
            let end = Instant::now() + LOGIN;
            let result = loop {
                let tried = net::login(self.config, target, listen.tls, &proof).await;
                match tried {
                    Err(_) if Instant::now() < end => tokio::time::sleep(LOOK).await,
                    tried => break tried,
                }
            };
            findings.push(match result {
                Ok(said) => Finding::good("login", &about, format!("{}: {said}", self.user)),
                Err(problem) => Finding::wrong(
                    "login",
                    &about,
                    format!("{} can not log in: {problem}", self.user),
                    "nobody can send from there",
                    "chapar status shows whether the listener answers",
                ),
            });
        }
        findings
    }

    /// A message that is held, read back and removed: its bytes as they lie in the queue.
    fn queued(&self, identity: &Identity) -> Result<(Vec<u8>, String), String> {
        let message = Message {
            from: self.user,
            to: self.user,
            subject: "A test of chapar setup",
        };
        let text = |failure: socket::Failure| failure.to_string();
        let to = [self.user.to_owned()];
        let taken = message
            .hold(self.config, identity, &to)
            .map_err(|error| format!("{error:#}"))?;
        let mut bytes = Vec::new();
        let cat = Request::Cat {
            id: taken.id.clone(),
        };
        let read = socket::ask(self.config, &cat, &mut |answer| {
            if let Answer::Bytes(piece) = answer {
                let piece = STANDARD.decode(piece);
                bytes.extend(piece.map_err(|error| socket::Failure::Broken(error.to_string()))?);
            }
            Ok(())
        });
        let which = Selector {
            id: taken.id.clone().into(),
            ..Selector::default()
        };
        let remove = Request::steer(Verb::Remove, which, "chapar setup".to_owned());
        socket::ask(self.config, &remove, &mut |_| Ok(())).map_err(text)?;
        read.map_err(text)?;
        Ok((bytes, taken.id))
    }

    /// What a receiver makes of the signatures, with the keys that the DNS has now.
    async fn signatures(&self, bytes: &[u8]) -> Vec<Finding> {
        let domain = self.user.rsplit_once('@').map_or("", |(_, domain)| domain);
        let publish = format!("publish the records above; then: chapar check {domain}");
        let unsigned = |what: &str| {
            vec![Finding::wrong(
                "dkim",
                domain,
                what,
                "mail without a signature is taken for spam",
                "chapar check tells which key is missing",
            )]
        };
        let Ok(resolver) = Resolver::new(&self.config.dns) else {
            return vec![Finding::unasked("dkim", domain, "the DKIM keys")];
        };
        let Some(message) = AuthenticatedMessage::parse(bytes) else {
            return unsigned("the message in the queue is no message");
        };
        let authenticator = MessageAuthenticator(resolver.hickory());
        let mut findings = Vec::new();
        for output in authenticator.verify_dkim(&message).await {
            let Some(signature) = output.signature() else {
                continue;
            };
            let name = format!("{}._domainkey.{}", signature.s, signature.d);
            findings.push(match output.result() {
                DkimResult::Pass => {
                    Finding::good("dkim", &name, "our signature holds with the key in the DNS")
                }
                DkimResult::TempError(_) => Finding::unasked("dkim", &name, "the key"),
                other => Finding::warning(
                    "dkim",
                    &name,
                    format!("the signature can not be verified yet: {other:?}"),
                    "without the key in the DNS our mail is taken for spam",
                    publish.clone(),
                ),
            });
        }
        if findings.is_empty() {
            return unsigned("the message in the queue has no signature");
        }
        findings
    }

    /// A message to somebody elsewhere, followed to its end.
    fn delivered(&self, identity: &Identity, to: &str) -> Finding {
        let message = Message {
            from: self.user,
            to,
            subject: "A test of chapar setup",
        };
        let mut last = String::new();
        let sent = message.send(self.config, identity, FOLLOW, &mut |step| {
            if let send::Step::Event(event) = step {
                last = send::event_line(event);
            }
        });
        let why = "what becomes of this message becomes of all";
        match sent {
            Ok(ended) if ended.delivered() => Finding::good("delivery", to, last),
            Ok(ended) if ended.whole => Finding::wrong(
                "delivery",
                to,
                last,
                why,
                "the reply says what that server wants; chapar check looks for the cause",
            ),
            Ok(ended) => Finding::warning(
                "delivery",
                to,
                format!("not at its end yet; {last}"),
                why,
                format!("chapar trace {}", ended.id),
            ),
            Err(error) => {
                Finding::wrong("delivery", to, format!("{error:#}"), why, "chapar status")
            }
        }
    }
}
