//! What mailbox providers ask of our pace, and what their replies mean: data, not code.
//!
//! [`Providers`] is read from `providers.toml`, the embedded one and, where it exists, the one
//! beside `chapar.toml`. It answers two questions: who runs these hosts ([`Providers::of`]) and
//! which rule a reply falls under ([`Provider::rule`]). What a rule does to a destination is for
//! delivery. Pure: no I/O, no clock.

use std::sync::Arc;
use std::time::Duration;

use regex_lite::{Regex, RegexBuilder};
use serde::Deserialize;

use super::{Rate, Span};
use crate::smtp::reply::Reply;

/// The file beside `chapar.toml`.
pub const FILE: &str = "providers.toml";
/// The provider whose rules hold for every destination.
pub const DEFAULT: &str = "default";
/// How long an effect lasts where its rule says nothing.
const USUAL: Duration = Duration::from_secs(3600);
/// Providers, and rules of one of them.
const MOST: usize = 1000;

const EMBEDDED: &str = include_str!("providers.toml");

/// What a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// The destination gets fewer connections or fewer messages for a while.
    Slow,
    /// Nothing is tried at the destination for a while.
    Pause,
    /// The recipient has failed.
    Permanent,
    /// The recipient waits; nothing else changes.
    Temporary,
    /// The recipient waits because of its mailbox.
    Mailbox,
    /// Something of ours is wrong: the operator is told what to do, and mail of our own waits
    /// rather than fails.
    Alarm,
}

/// One kind of reply and what follows from it.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Its name within its provider.
    pub name: String,
    /// What it does.
    pub action: Action,
    /// For [`Action::Alarm`]: the destination pauses as well.
    pub pause: bool,
    /// For [`Action::Slow`]: connections at the same time.
    pub connections: Option<usize>,
    /// For [`Action::Slow`]: messages in one connection.
    pub messages: Option<usize>,
    /// For [`Action::Slow`]: messages in a time.
    pub rate: Option<Rate>,
    /// How long that lasts.
    pub lasts: Duration,
    /// How long the recipient waits at least; none: as the backoff says.
    pub wait: Option<Duration>,
    /// So many such replies within an hour are needed.
    pub after: usize,
    /// Why, for people.
    pub reason: String,
    /// What the operator should do.
    pub remedy: String,
    codes: Vec<u16>,
    enhanced: Vec<String>,
    text: Option<Regex>,
}

impl Rule {
    fn means(&self, reply: &Reply) -> bool {
        (self.codes.is_empty() || self.codes.contains(&reply.code))
            && (self.enhanced.is_empty()
                || self.enhanced.contains(&reply.enhanced)
                || reply.others.iter().any(|code| self.enhanced.contains(code)))
            && self.text.as_ref().is_none_or(|text| {
                text.is_match(&reply.text)
                    || text.is_match(&format!("{} {}", reply.enhanced, reply.text))
            })
    }

    /// Whether it changes something for the whole destination.
    pub fn concerns_destination(&self) -> bool {
        matches!(self.action, Action::Slow | Action::Pause | Action::Alarm)
    }
}

/// Who runs a set of hosts, and what it asks of senders.
#[derive(Debug, Clone, Default)]
pub struct Provider {
    /// Its name, by which an operator resumes it.
    pub name: String,
    /// Patterns of its hosts.
    pub mx: Vec<String>,
    /// Connections to all its hosts together.
    pub connections: Option<usize>,
    /// Messages in one connection.
    pub messages: Option<usize>,
    /// Recipients in one transaction.
    pub recipients: Option<usize>,
    /// Messages in a time.
    pub rate: Option<Rate>,
    /// Recipients of one domain only share a transaction.
    pub one_domain: bool,
    /// Its hosts get no mail in clear.
    pub require_tls: bool,
    rules: Vec<Arc<Rule>>,
}

impl PartialEq for Provider {
    fn eq(&self, other: &Provider) -> bool {
        self.name == other.name
    }
}

impl Eq for Provider {}

impl Provider {
    /// What a reply means here: the first rule that it falls under.
    pub fn rule(&self, reply: &Reply) -> Option<&Arc<Rule>> {
        self.rules
            .iter()
            .find(|rule| rule.after == 1 && rule.means(reply))
    }

    /// The rules that count this reply and follow when there were many of them.
    pub fn counting(&self, reply: &Reply) -> impl Iterator<Item = &Arc<Rule>> {
        self.rules
            .iter()
            .filter(move |rule| rule.after > 1 && rule.means(reply))
    }

    fn owns(&self, host: &str) -> bool {
        self.mx
            .iter()
            .any(|pattern| crate::base::text::like(pattern, host))
    }
}

/// All providers that are known.
#[derive(Debug, Clone)]
pub struct Providers {
    list: Vec<Arc<Provider>>,
    default: Arc<Provider>,
    /// What it was read from, to tell whether two are the same.
    source: String,
}

impl PartialEq for Providers {
    fn eq(&self, other: &Providers) -> bool {
        self.source == other.source
    }
}

impl Default for Providers {
    fn default() -> Self {
        // A test reads it; without it there would be no rules, which stops no mail.
        Providers::read("").unwrap_or_else(|_| Providers {
            list: Vec::new(),
            default: Arc::default(),
            source: String::new(),
        })
    }
}

/// What is wrong with a `providers.toml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where, in bytes.
    pub span: Option<std::ops::Range<usize>>,
    /// What, and what to write instead.
    pub text: String,
}

impl Providers {
    /// The embedded providers and those of `own`, the text of an operator's file.
    pub fn read(own: &str) -> Result<Providers, Problem> {
        let mut written = parse(own)?;
        for provider in parse(EMBEDDED)? {
            if !written.iter().any(|own| own.name == provider.name) {
                written.push(provider);
            }
        }
        let rules_of = |name: &str| {
            let found = written.iter().find(|provider| provider.name == name);
            found.map(|provider| provider.rules.clone())
        };
        let mut list = Vec::new();
        for provider in &written {
            let mut rules = Vec::new();
            let borrowed = match provider.like.as_str() {
                "" => Vec::new(),
                like => rules_of(like).ok_or_else(|| Problem {
                    span: None,
                    text: format!(
                        "provider \"{}\": like = \"{like}\" is no provider",
                        provider.name
                    ),
                })?,
            };
            for rule in provider.rules.iter().chain(&borrowed) {
                rules.push(Arc::new(rule.compile(&provider.name)?));
            }
            list.push(Provider {
                name: provider.name.clone(),
                mx: provider
                    .mx
                    .iter()
                    .map(|mx| mx.to_ascii_lowercase())
                    .collect(),
                connections: provider.connections.map(|most| most.max(1)),
                messages: provider.messages_per_connection.map(|most| most.max(1)),
                recipients: provider.recipients.map(|most| most.max(1)),
                rate: provider.rate,
                one_domain: provider.one_domain,
                require_tls: provider.require_tls,
                rules,
            });
        }
        let at = list.iter().position(|provider| provider.name == DEFAULT);
        let default = at.map(|at| list.remove(at)).unwrap_or_default();
        for provider in &mut list {
            provider.rules.extend(default.rules.iter().cloned());
        }
        Ok(Providers {
            list: list.into_iter().map(Arc::new).collect(),
            default: Arc::new(default),
            source: own.to_owned(),
        })
    }

    /// Who runs all of these hosts; somebody without a name where nobody known does. Names in
    /// lower case.
    pub fn of<'a>(&self, hosts: impl Iterator<Item = &'a str> + Clone) -> &Arc<Provider> {
        let none = hosts.clone().next().is_none();
        let found = self
            .list
            .iter()
            .find(|provider| !none && hosts.clone().all(|host| provider.owns(host)));
        found.unwrap_or(&self.default)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    provider: Vec<WrittenProvider>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenProvider {
    name: String,
    mx: Vec<String>,
    #[serde(default)]
    connections: Option<usize>,
    #[serde(default)]
    messages_per_connection: Option<usize>,
    #[serde(default)]
    recipients: Option<usize>,
    #[serde(default)]
    rate: Option<Rate>,
    #[serde(default)]
    one_domain: bool,
    #[serde(default)]
    require_tls: bool,
    #[serde(default)]
    like: String,
    #[serde(default, rename = "rule")]
    rules: Vec<WrittenRule>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenRule {
    name: String,
    #[serde(default)]
    code: Option<OneOrMore<u16>>,
    #[serde(default)]
    enhanced: Option<OneOrMore<String>>,
    #[serde(default)]
    text: Option<String>,
    action: Action,
    #[serde(default)]
    pause: bool,
    #[serde(default)]
    connections: Option<usize>,
    #[serde(default)]
    messages_per_connection: Option<usize>,
    #[serde(default)]
    rate: Option<Rate>,
    #[serde(default, rename = "for")]
    lasts: Option<Span>,
    #[serde(default)]
    wait: Option<Span>,
    #[serde(default)]
    after: Option<usize>,
    reason: String,
    #[serde(default)]
    remedy: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum OneOrMore<T> {
    One(T),
    More(Vec<T>),
}

impl<T: Clone> OneOrMore<T> {
    fn list(&self) -> Vec<T> {
        match self {
            OneOrMore::One(one) => vec![one.clone()],
            OneOrMore::More(list) => list.clone(),
        }
    }
}

fn parse(text: &str) -> Result<Vec<WrittenProvider>, Problem> {
    let file: File = toml::from_str(text).map_err(|error| Problem {
        span: error.span(),
        text: error.message().replace('\n', ", "),
    })?;
    let many = file.provider.len() > MOST
        || file
            .provider
            .iter()
            .any(|provider| provider.rules.len() > MOST);
    if many {
        return Err(Problem {
            span: None,
            text: format!("more than {MOST} providers, or rules of one; remove some"),
        });
    }
    for (at, provider) in file.provider.iter().enumerate() {
        let twin = file
            .provider
            .iter()
            .take(at)
            .any(|other| other.name == provider.name);
        let sound = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if twin || provider.name.is_empty() || !provider.name.chars().all(sound) {
            let text = format!(
                "provider name \"{}\" is used twice, or has more than small letters, digits and -",
                provider.name
            );
            return Err(Problem { span: None, text });
        }
    }
    Ok(file.provider)
}

impl WrittenRule {
    fn compile(&self, provider: &str) -> Result<Rule, Problem> {
        let wrong = |what: String| Problem {
            span: None,
            text: format!("provider \"{provider}\", rule \"{}\": {what}", self.name),
        };
        if self.code.is_none() && self.enhanced.is_none() && self.text.is_none() {
            return Err(wrong(
                "means every reply; give code, enhanced or text".into(),
            ));
        }
        let slows = self.connections.is_some()
            || self.rate.is_some()
            || self.messages_per_connection.is_some();
        if (self.action == Action::Slow) != slows {
            return Err(wrong(
                "connections, messages_per_connection and rate belong to action = \"slow\", which needs one of them".into(),
            ));
        }
        if self.action == Action::Alarm && self.remedy.is_empty() {
            return Err(wrong("an alarm needs a remedy".into()));
        }
        let text = match &self.text {
            None => None,
            Some(text) => Some(
                RegexBuilder::new(text)
                    .case_insensitive(true)
                    .dot_matches_new_line(true)
                    .size_limit(1 << 20)
                    .build()
                    .map_err(|error| wrong(format!("text: {error}")))?,
            ),
        };
        Ok(Rule {
            name: self.name.clone(),
            action: self.action,
            pause: self.pause || self.action == Action::Pause,
            connections: self.connections.map(|most| most.max(1)),
            messages: self.messages_per_connection.map(|most| most.max(1)),
            rate: self.rate,
            lasts: self.lasts.map_or(USUAL, |span| span.0),
            wait: self.wait.map(|span| span.0),
            after: self.after.unwrap_or(1).max(1),
            reason: self.reason.clone(),
            remedy: self.remedy.clone(),
            codes: self.code.as_ref().map(OneOrMore::list).unwrap_or_default(),
            enhanced: self
                .enhanced
                .as_ref()
                .map(OneOrMore::list)
                .unwrap_or_default(),
            text,
        })
    }
}
