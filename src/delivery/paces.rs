//! What holds for destinations at the moment: limits of their providers, suspensions, and what
//! rules did.
//!
//! Owned by the dispatcher, which asks it how a destination may be sent to ([`Paces::standing`])
//! and tells it of replies that a rule means ([`Paces::ruled`]). Destinations of one provider are
//! one scope: they share connections, rate and counts. No I/O, no clock; times are given.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use queue_schema::{Millis, Suspended};
use tokio::sync::Semaphore;

use super::counts::Counts;
use super::reach::Destination;
use crate::config::providers::{self, Action, Rule};
use crate::queue::suspend::{Effect, Rate, Slow, Suspension, UNTIL_RESUMED};
use crate::smtp::reply::Reply;

/// Replies that count towards a rule's `after` are forgotten after this time.
pub(super) const COUNTED: Duration = Duration::from_secs(3600);
/// A message waits for its turn in a connection's hands for at most this long.
pub(super) const SHORT_WAIT: Duration = Duration::from_secs(30);
/// Beyond, it waits in the queue, at most this long before it asks again.
const LONG_WAIT: Duration = Duration::from_secs(3600);
/// Suspensions that are kept.
const MOST: usize = crate::queue::suspend::MOST;

/// How a destination may be sent to.
#[derive(Debug, Clone)]
pub(super) struct Standing {
    /// Later ones are higher.
    pub(super) epoch: u64,
    /// Nothing may be tried.
    pub(super) stop: Option<Suspension>,
    /// Connections at the same time.
    pub(super) connections: usize,
    /// The same, of all destinations of the provider together.
    pub(super) places: Option<Arc<Semaphore>>,
    /// Messages in one connection.
    pub(super) messages: usize,
    /// Messages in a time: then each asks for its turn.
    pub(super) rate: Option<Rate>,
    /// Why a message waits whose turn is far away.
    pub(super) slowed: Suspended,
}

impl Default for Standing {
    fn default() -> Standing {
        Standing {
            epoch: 0,
            stop: None,
            connections: usize::MAX,
            places: None,
            messages: usize::MAX,
            rate: None,
            slowed: Suspended::default(),
        }
    }
}

impl Standing {
    /// Whether another one asks for the same.
    pub(super) fn is_like(&self, other: &Standing) -> bool {
        let places = |one: &Standing| one.places.as_ref().map(Arc::as_ptr);
        self.stop == other.stop
            && self.connections == other.connections
            && places(self) == places(other)
            && self.messages == other.messages
            && self.rate == other.rate
    }

    /// Messages that go out before others have waited too long.
    pub(super) fn room(&self) -> usize {
        let Some(rate) = self.rate else {
            return usize::MAX;
        };
        let most = SHORT_WAIT.as_nanos() / rate.interval().as_nanos().max(1);
        usize::try_from(most).unwrap_or(usize::MAX).max(1)
    }
}

/// When a message may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// After this time, which is kept for it.
    After(Duration),
    /// Not soon: it is to ask again after this time.
    Later(Duration),
}

/// What destinations of one provider share.
#[derive(Debug, Default)]
struct Scope {
    connections: Option<usize>,
    places: Option<Arc<Semaphore>>,
    counted: HashMap<String, VecDeque<Instant>>,
    /// The next turn.
    next: Option<Instant>,
    /// When those that were sent away are to ask again.
    later: Option<Instant>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Paces {
    suspensions: Vec<Suspension>,
    scopes: HashMap<Arc<str>, Scope>,
    epoch: u64,
}

/// What destinations with the same one share.
pub(super) fn scope(destination: &Destination) -> Arc<str> {
    match destination.provider.name.as_str() {
        "" | providers::DEFAULT => Arc::clone(&destination.key),
        name => name.into(),
    }
}

impl Paces {
    /// Replaces what holds.
    pub(super) fn replace(&mut self, list: Vec<Suspension>) {
        self.suspensions = list;
    }

    /// Whether nothing holds for anybody.
    pub(super) fn is_empty(&self) -> bool {
        self.suspensions.is_empty()
    }

    /// What holds for a destination.
    fn holding(&self, destination: &Destination, now: Millis) -> impl Iterator<Item = &Suspension> {
        self.suspensions.iter().filter(move |one| {
            let mut hosts = destination.hosts.iter();
            hosts.any(|host| one.holds(host.name.trim_end_matches('.'), now))
        })
    }

    /// What stops a destination.
    pub(super) fn stopped(&self, destination: &Destination, now: Millis) -> Option<&Suspension> {
        self.holding(destination, now)
            .find(|one| one.effect == Effect::Stop)
    }

    /// Forgets what is over; how long until the next one is.
    pub(super) fn expire(&mut self, now: Millis) -> Option<Duration> {
        self.suspensions.retain(|one| one.until > now);
        let ends = self.suspensions.iter().map(|one| one.until);
        let next = ends.filter(|end| *end != UNTIL_RESUMED).min()?;
        Some(Duration::from_millis(next.saturating_sub(now).max(1)))
    }

    /// How a destination may be sent to now.
    pub(super) fn standing(&mut self, destination: &Destination, now: Millis) -> Standing {
        let provider = &destination.provider;
        let mut most = provider.connections;
        let mut messages = provider.messages;
        let mut rate = provider.rate;
        let mut slowed = Suspended {
            destination: provider.name.clone(),
            by: "the configuration".to_owned(),
            reason: String::new(),
            until: UNTIL_RESUMED,
            slowed_to: format!("{} messages", rate_text(rate)),
        };
        let mut stop = None;
        for one in self.holding(destination, now) {
            match one.effect {
                Effect::Stop if stop.is_none() => stop = Some(one.clone()),
                Effect::Stop | Effect::Alarm => {}
                Effect::Slow(slow) => {
                    most = least(most, slow.connections);
                    messages = least(messages, slow.messages_per_connection);
                    if let Some(slower) = slow.rate
                        && rate.is_none_or(|rate| rate.interval() < slower.interval())
                    {
                        rate = Some(slower);
                        slowed = one.into();
                    }
                }
            }
        }
        let scope = self.scopes.entry(scope(destination)).or_default();
        if scope.connections != most {
            scope.connections = most;
            scope.places =
                most.map(|most| Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS))));
        }
        if rate.is_none() {
            (scope.next, scope.later) = (None, None);
        }
        self.epoch += 1;
        Standing {
            epoch: self.epoch,
            stop,
            connections: most.unwrap_or(usize::MAX),
            places: scope.places.clone(),
            messages: messages.unwrap_or(usize::MAX),
            rate,
            slowed,
        }
    }

    /// Rules and limits were read anew: turns begin afresh, replies that were counted still count.
    pub(super) fn renew(&mut self) {
        for scope in self.scopes.values_mut() {
            *scope = Scope {
                counted: std::mem::take(&mut scope.counted),
                ..Scope::default()
            };
        }
        self.scopes.retain(|_, scope| !scope.counted.is_empty());
    }

    /// When replies came that still count.
    pub(super) fn counts(&self, (now, at): (Millis, Instant)) -> Counts {
        let when = |then: &Instant| {
            let age = at.duration_since(*then);
            (age < COUNTED).then(|| now.saturating_sub(crate::time::millis(age)))
        };
        let mut counts = Counts::new();
        for (name, scope) in &self.scopes {
            for (rule, seen) in &scope.counted {
                let seen: Vec<Millis> = seen.iter().filter_map(when).collect();
                if !seen.is_empty() {
                    let rules = counts.entry(name.to_string()).or_default();
                    rules.insert(rule.clone(), seen);
                }
            }
        }
        counts
    }

    /// Goes on counting from these.
    pub(super) fn recount(&mut self, counts: Counts, (now, at): (Millis, Instant)) {
        for (name, rules) in counts {
            let scope = self.scopes.entry(name.into()).or_default();
            for (rule, seen) in rules {
                let ages = seen
                    .into_iter()
                    .map(|then| Duration::from_millis(now.saturating_sub(then)));
                let seen = ages
                    .filter(|age| *age < COUNTED)
                    .filter_map(|age| at.checked_sub(age));
                scope.counted.insert(rule, seen.collect());
            }
        }
    }

    /// A worker ended: what only its destination had is not kept.
    pub(super) fn forget(&mut self, destination: &Destination) {
        let scope = scope(destination);
        if scope == destination.key {
            self.scopes.remove(&scope);
        }
    }

    /// The turn of one more message of this scope.
    pub(super) fn turn(&mut self, scope: &str, rate: Rate, now: Instant) -> Turn {
        let Some(scope) = self.scopes.get_mut(scope) else {
            return Turn::After(Duration::ZERO);
        };
        let interval = rate.interval();
        let next = scope.next.map_or(now, |next| next.max(now));
        let wait = next.duration_since(now);
        if wait <= SHORT_WAIT {
            scope.next = next.checked_add(interval);
            return Turn::After(wait);
        }
        // Each of those that were sent away comes back when it may expect to be sent.
        let later = scope.later.map_or(next, |later| later.max(next));
        let wait = later.duration_since(now);
        scope.later = later.checked_add(interval).filter(|_| wait < LONG_WAIT);
        Turn::Later(wait.min(LONG_WAIT))
    }

    /// A destination gave this reply: what that brings about anew.
    pub(super) fn ruled(
        &mut self,
        destination: &Destination,
        reply: &Reply,
        (now, at): (Millis, Instant),
        chance: f64,
    ) -> Vec<Suspension> {
        let provider = &destination.provider;
        let mut met: Vec<Arc<Rule>> = provider.rule(reply).cloned().into_iter().collect();
        let scope = self.scopes.entry(scope(destination)).or_default();
        for rule in provider.counting(reply) {
            let seen = scope.counted.entry(rule.name.clone()).or_default();
            seen.retain(|then| at.duration_since(*then) < COUNTED);
            seen.push_back(at);
            if seen.len() >= rule.after {
                seen.clear();
                met.push(Arc::clone(rule));
            }
        }
        let mut new = Vec::new();
        for rule in met.iter().filter(|rule| rule.concerns_destination()) {
            for suspension in measures(destination, rule, reply, now, chance) {
                let same = |one: &Suspension| {
                    one.destination == suspension.destination
                        && one.rule == suspension.rule
                        && one.effect == suspension.effect
                };
                // Said again and again, it is not written again and again.
                let half = crate::time::millis(rule.lasts / 2);
                let fresh = |one: &Suspension| same(one) && one.until > now.saturating_add(half);
                if self.suspensions.iter().any(fresh) {
                    continue;
                }
                self.suspensions.retain(|one| !same(one));
                if self.suspensions.len() < MOST {
                    self.suspensions.push(suspension.clone());
                    new.push(suspension);
                }
            }
        }
        new
    }
}

fn rate_text(rate: Option<Rate>) -> String {
    rate.map(|rate| rate.to_string()).unwrap_or_default()
}

fn least(one: Option<usize>, other: Option<usize>) -> Option<usize> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// What a rule does to a destination.
fn measures(
    destination: &Destination,
    rule: &Rule,
    reply: &Reply,
    now: Millis,
    chance: f64,
) -> Vec<Suspension> {
    let provider = &destination.provider;
    let known = *scope(destination) != *destination.key;
    let hosts: Vec<String> = match known {
        true => provider.mx.clone(),
        false => {
            let hosts = destination.hosts.iter();
            hosts
                .map(|host| host.name.trim_end_matches('.').to_owned())
                .collect()
        }
    };
    let Some(first) = hosts.first() else {
        // A target on this machine.
        return Vec::new();
    };
    let (destination, name) = match known {
        true => (provider.name.clone(), provider.name.as_str()),
        false => (first.clone(), providers::DEFAULT),
    };
    // A tenth more or less, so that not all who were told the same come back at once.
    let lasts = rule.lasts.mul_f64(0.95 + chance.clamp(0.0, 1.0) / 10.0);
    let said: String = reply.to_string().chars().take(160).collect();
    let remedy = match rule.remedy.as_str() {
        "" => String::new(),
        remedy => format!("; {remedy}"),
    };
    let suspension = |effect| Suspension {
        destination: destination.clone(),
        hosts: hosts.clone(),
        effect,
        rule: format!("{name}/{}", rule.name),
        until: now.saturating_add(crate::time::millis(lasts)),
        reason: format!("{}{remedy} (\"{said}\")", rule.reason),
        by: format!("rule {name}/{}", rule.name),
        since: now,
    };
    let mut all = Vec::new();
    if rule.pause {
        all.push(suspension(Effect::Stop));
    }
    match rule.action {
        Action::Slow => all.push(suspension(Effect::Slow(Slow {
            connections: rule.connections,
            messages_per_connection: rule.messages,
            rate: rule.rate,
        }))),
        Action::Alarm => all.push(suspension(Effect::Alarm)),
        Action::Pause | Action::Permanent | Action::Temporary | Action::Mailbox => {}
    }
    all
}
