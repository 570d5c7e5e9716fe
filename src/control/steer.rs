//! Steering: what an operator does to messages and destinations, in pages. While some become
//! durable the next are read; how many are under way, and how much of what they changed lies in
//! memory, is bounded.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use actix::MailboxError;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::answer::{compile, only};
use super::protocol::{Answer, Item, Refusal, Suspended};
use crate::config::Span;
use crate::queue::store::StoreError;
use crate::queue::suspend::{Effect, Rate, Suspension, UNTIL_RESUMED};
use crate::queue::{
    Handle, Held, Manner, Matcher, Pace, REASON, Release, Selector, Steer, Verb, state_word,
};
use crate::smtp::address::{Address, Charset};
use queue_schema::{HoldKind, Message, Millis, QueueId, RecipientState, Status};

/// Domains that one order to replay remembers to have resumed; more are resumed again.
const RESUMED: usize = 100_000;
/// Pages with the queue at the same time; each has its share of a sync.
const UNDER_WAY: usize = 8;
/// Changed messages that wait for the index, beyond which an order waits for it.
const MOST_CHANGED: usize = 4096;

/// One order of an operator.
pub(super) struct Order {
    /// What to do.
    pub verb: Verb,
    /// Only say which they are.
    pub dry_run: bool,
    /// Do not say which they are.
    pub quiet: bool,
    /// The operator.
    pub by: String,
    /// See [`super::protocol::Request::Steer`].
    pub spread: Option<String>,
    /// See there.
    pub rate: Option<String>,
    /// See there.
    pub reset_attempts: bool,
    /// See there.
    pub address: Option<String>,
    /// See there.
    pub reason: Option<String>,
    /// See there.
    pub span: Option<String>,
    /// See there.
    pub kind: Option<HoldKind>,
    /// See there.
    pub who: Option<String>,
}

impl Order {
    /// Who takes the place of redirected recipients.
    fn target(&self, queue: &Handle) -> Result<Option<String>, Refusal> {
        match (self.verb, &self.address) {
            (Verb::Redirect, Some(address)) => target(address, queue).map(Some),
            (Verb::Redirect, None) => Err(Refusal::wrong("say where to redirect it")),
            (_, Some(_)) => Err(Refusal::wrong("only redirect takes an address")),
            (_, None) => Ok(None),
        }
    }

    /// What the queue is to know besides the verb; wrong where the verb does not go with it.
    fn manner(&self) -> Result<Manner, Refusal> {
        let wrong = Refusal::wrong;
        let verb = self.verb;
        if self.spread.is_some() && verb != Verb::Replay {
            return Err(wrong("only replay is spread"));
        }
        if (self.rate.is_some() || self.reset_attempts) && verb != Verb::Replay {
            return Err(wrong("only replay has a rate, or counts attempts again"));
        }
        if self.rate.is_some() && self.spread.is_some() {
            return Err(wrong("replay is spread by chance or by a rate, not both"));
        }
        let pace = match &self.rate {
            Some(rate) => Some(Pace {
                begun: crate::time::now(),
                interval: rate.parse::<Rate>().map_err(Refusal::wrong)?.interval(),
                placed: 0,
            }),
            None => None,
        };
        if self.reason.is_some() && !matches!(verb, Verb::Bounce | Verb::Hold | Verb::Release) {
            return Err(wrong("only bounce, hold and release know a reason"));
        }
        if self.span.is_some() && verb != Verb::Hold {
            return Err(wrong("only hold has an end of its own"));
        }
        if (self.kind.is_some() || self.who.is_some()) && verb != Verb::Release {
            return Err(wrong("only release asks who holds"));
        }
        Ok(Manner {
            spread: span(self.spread.as_deref())?,
            pace,
            reset: self.reset_attempts,
            anew: HashMap::new(),
            reason: reason(self.reason.as_deref().unwrap_or_default()),
            hold: Held {
                kind: HoldKind::Operator,
                by: super::operator(&self.by),
                reason: reason(self.reason.as_deref().unwrap_or_default()),
                until: match &self.span {
                    None => None,
                    Some(text) => Some(later(span(Some(text))?)),
                },
            },
            release: Release {
                kind: self.kind,
                by: self.who.clone(),
                reason: self.reason.clone(),
            },
        })
    }
}

/// The moment after this span.
pub(super) fn later(span: Duration) -> Millis {
    crate::time::now().saturating_add(crate::time::millis(span))
}

pub(super) fn span(text: Option<&str>) -> Result<Duration, Refusal> {
    match text {
        None => Ok(Duration::ZERO),
        Some(text) => text
            .parse::<Span>()
            .map(|span| span.0)
            .map_err(Refusal::wrong),
    }
}

pub(super) fn reason(text: &str) -> String {
    text.chars()
        .filter(|c| !c.is_control())
        .take(REASON)
        .collect()
}

/// The one address that `address` leads to: itself for a foreign domain.
fn target(address: &str, queue: &Handle) -> Result<String, Refusal> {
    let parsed = Address::parse_in(address.as_bytes(), Charset::Utf8)
        .map_err(|error| Refusal::wrong(format!("'{address}': {error}")))?;
    let led = (queue.leads)(parsed.as_str());
    match &led[..] {
        [one] => Ok(one.clone()),
        [] => Err(Refusal::wrong(format!("'{address}' leads to nobody"))),
        several => Err(Refusal::wrong(format!(
            "'{address}' leads to {} addresses: {}; redirect to one of them",
            several.len(),
            several.join(", ")
        ))),
    }
}

/// Carries out an order on all that is meant.
pub(super) async fn steer(
    order: Order,
    selector: &Selector,
    queue: &Handle,
    out: &mpsc::Sender<Answer>,
) -> Result<u64, Refusal> {
    let matcher = compile(selector, queue).await?;
    let (mut manner, target) = (order.manner()?, order.target(queue)?);
    let (verb, dry_run, quiet) = (order.verb, order.dry_run, order.quiet);
    let mut resumed = Resumed::default();
    let mut touched = 0;
    let mut found = false;
    let mut from = Some(QueueId(0));
    let mut under_way = UnderWay::default();
    while let Some(start) = from {
        let page = queue
            .view
            .page(start, matcher.clone())
            .await
            .map_err(Refusal::unavailable)?;
        found |= !page.found.is_empty();
        let mut targets = Vec::new();
        let mut anew = HashMap::new();
        for (message, recipients) in page.found {
            let meant = |position: &u32| {
                let at = usize::try_from(*position).ok();
                let state = at.and_then(|at| message.states.get(at));
                state.is_some_and(|state| applies(verb, &manner, &message, state, matcher.now))
            };
            let waiting: Vec<u32> = recipients.into_iter().filter(meant).collect();
            if !quiet && !tell_items(&message, &waiting, &matcher, out).await {
                return under_way.done(touched).await;
            }
            if !waiting.is_empty() {
                resumed.add(&message, &waiting);
                if matches!(verb, Verb::Redirect | Verb::Requeue) && !dry_run {
                    let new = super::anew::anew(&message, &waiting, target.as_deref(), queue);
                    anew.insert(message.id, new.await);
                }
                targets.push((message.id, waiting));
            }
        }
        if dry_run {
            touched += targets
                .iter()
                .map(|(_, recipients)| recipients.len() as u64)
                .sum::<u64>();
        } else if !targets.is_empty() {
            // First, or what is replayed would be sent back to wait for the end of the pause.
            if matches!(verb, Verb::Replay | Verb::Requeue) {
                resumed.tell(queue).await;
            }
            let meant = targets
                .iter()
                .map(|(_, recipients)| recipients.len() as u64);
            let meant: u64 = meant.sum();
            let steer = Steer {
                verb,
                targets,
                by: super::operator(&order.by),
                manner: Manner {
                    anew,
                    ..manner.clone()
                },
            };
            if let Some(pace) = &mut manner.pace {
                // One that needs no turn leaves a gap.
                pace.placed = pace.placed.saturating_add(meant);
            }
            touched += under_way.send(steer, queue).await?;
        }
        from = page.next;
        // Whoever ordered it may be gone.
        if quiet && out.send(Answer::Alive).await.is_err() {
            break;
        }
    }
    let touched = under_way.done(touched).await?;
    if !dry_run {
        let by = super::operator(&order.by);
        let which = serde_json::to_string(selector).unwrap_or_default();
        tracing::info!(?verb, by, which, touched, "the queue was steered");
    }
    match matcher.id {
        Some(id) if !found && *selector == only(selector) => Err(Refusal::unknown(id)),
        _ => Ok(touched),
    }
}

/// Pages that were given to the queue and are not durable yet, in order.
#[derive(Default)]
struct UnderWay(VecDeque<JoinHandle<Result<Result<u64, StoreError>, MailboxError>>>);

impl UnderWay {
    /// Gives one more to the queue, once there is room; how many recipients earlier ones touched.
    async fn send(&mut self, steer: Steer, queue: &Handle) -> Result<u64, Refusal> {
        let mut touched = 0;
        while self.0.len() >= UNDER_WAY {
            touched += self.first().await?;
        }
        // What is changed lies in memory until it is in the index.
        queue.view.calm(MOST_CHANGED).await;
        self.0.push_back(actix_rt::spawn(queue.addr.send(steer)));
        Ok(touched)
    }

    async fn first(&mut self) -> Result<u64, Refusal> {
        let Some(first) = self.0.pop_front() else {
            return Ok(0);
        };
        first
            .await
            .map_err(Refusal::unavailable)?
            .map_err(Refusal::unavailable)?
            .map_err(Refusal::unavailable)
    }

    /// Waits for all of them: how many were touched in the end.
    async fn done(&mut self, mut touched: u64) -> Result<u64, Refusal> {
        while !self.0.is_empty() {
            touched += self.first().await?;
        }
        Ok(touched)
    }
}

/// Tells which recipients are meant; whether anybody listens.
async fn tell_items(
    message: &Message,
    recipients: &[u32],
    matcher: &Matcher,
    out: &mpsc::Sender<Answer>,
) -> bool {
    let items = recipients
        .iter()
        .map(|at| Item::new(message, *at, matcher.facts(), matcher.now));
    for item in items.flatten() {
        if out.send(Answer::Item(Box::new(item))).await.is_err() {
            return false;
        }
    }
    true
}

/// Recipient domains whose destinations may be tried at once, since their mail is replayed.
#[derive(Default)]
struct Resumed {
    told: HashSet<String>,
    new: HashSet<String>,
}

impl Resumed {
    fn add(&mut self, message: &Message, recipients: &[u32]) {
        for position in recipients {
            let at = usize::try_from(*position).ok();
            let recipient = at.and_then(|at| message.envelope.recipients.get(at));
            let domain = recipient.and_then(|to| Some(to.address.rsplit_once('@')?.1));
            if let Some(domain) = domain.filter(|domain| !self.told.contains(*domain)) {
                self.new.insert(domain.to_ascii_lowercase());
            }
        }
    }

    /// Ends the pauses of those that were not told of before.
    async fn tell(&mut self, queue: &Handle) {
        let new = std::mem::take(&mut self.new);
        if new.is_empty() {
            return;
        }
        if self.told.len() < RESUMED {
            self.told.extend(new.iter().cloned());
        }
        end_pauses(queue, new).await;
    }
}

/// Destinations that serve these domains or are these next hops may be tried at once.
async fn end_pauses(queue: &Handle, names: HashSet<String>) {
    if let Some(resume) = &queue.resume {
        let only = Some(names);
        // Without a dispatcher nothing pauses.
        let _ = resume.send(crate::queue::Resume { only }).await;
    }
}

/// Whether a verb changes a recipient in this state.
fn applies(
    verb: Verb,
    manner: &Manner,
    message: &Message,
    state: &RecipientState,
    now: Millis,
) -> bool {
    let waits = state.status == Status::Waiting;
    match verb {
        Verb::Replay => match state_word(state, now) {
            "deferred" | "suspended" => true,
            // Its destination was suspended when it was to be tried; or it is to wait (RFC 4865).
            "queued" => {
                let released = message.envelope.release_at;
                state.next_due > now && released.is_none_or(|at| at <= now)
            }
            _ => false,
        },
        Verb::Remove | Verb::Bounce | Verb::Redirect | Verb::Requeue => waits,
        Verb::Hold => waits && !manner.hold.is_among(&state.holds),
        Verb::Obey => waits,
        Verb::Release => {
            waits
                && state
                    .holds
                    .iter()
                    .any(|hold| manner.release.means(hold, now))
        }
    }
}

async fn holding(queue: &Handle) -> Result<Vec<Suspension>, Refusal> {
    let asked = queue.addr.send(crate::queue::Suspended).await;
    asked.map_err(Refusal::unavailable)
}

async fn tell(list: &[Suspension], out: &mpsc::Sender<Answer>) {
    for one in list {
        let _ = out
            .send(Answer::Suspended(Box::new(Suspended::from(one))))
            .await;
    }
}

/// What is suspended.
pub(super) async fn suspensions(
    queue: &Handle,
    out: &mpsc::Sender<Answer>,
) -> Result<u64, Refusal> {
    let list = holding(queue).await?;
    tell(&list, out).await;
    Ok(list.len() as u64)
}

/// The dispatcher keeps next hops apart, so it hears of every change.
async fn pass_on(queue: &Handle) -> Result<(), Refusal> {
    if let Some(dispatcher) = &queue.suspended {
        let list = holding(queue).await?;
        let _ = dispatcher.send(crate::queue::Suspensions(list)).await;
    }
    Ok(())
}

/// Counts recipients that are meant.
pub(super) async fn count(selector: &Selector, queue: &Handle) -> Result<u64, Refusal> {
    let matcher = compile(selector, queue).await?;
    let mut count = 0;
    super::answer::pages(&matcher, queue, async |_, recipients| {
        count += recipients.len() as u64;
        true
    })
    .await?;
    Ok(count)
}

/// Suspends a destination: its name, for how long or until it is resumed, and why.
pub(super) async fn suspend(
    (destination, length, why): (&str, Option<&str>, &str),
    dry_run: bool,
    by: &str,
    queue: &Handle,
    out: &mpsc::Sender<Answer>,
) -> Result<u64, Refusal> {
    let destination = name(destination)?;
    let until = match length {
        None => UNTIL_RESUMED,
        Some(length) => later(span(Some(length))?),
    };
    let now = crate::time::now();
    let suspension = Suspension {
        destination: destination.clone(),
        hosts: Vec::new(),
        effect: Effect::Stop,
        rule: String::new(),
        until,
        reason: reason(why),
        by: super::operator(by),
        since: now,
    };
    let waits = Selector {
        domain: destination.into(),
        ..Selector::default()
    };
    let count = count(&waits, queue).await?;
    tell(std::slice::from_ref(&suspension), out).await;
    if !dry_run {
        let done = queue.addr.send(crate::queue::Suspend(suspension)).await;
        done.map_err(Refusal::unavailable)?
            .map_err(Refusal::unavailable)?;
        pass_on(queue).await?;
    }
    Ok(count)
}

/// A domain or host name, in which `*` stands for anything.
fn name(text: &str) -> Result<String, Refusal> {
    let text = text.to_lowercase();
    let sound = |c: char| c.is_alphanumeric() || "*-._:[]".contains(c);
    if text.is_empty() || text.len() > 255 || !text.chars().all(sound) {
        let wrong = format!("'{text}' is no domain and no host name; write one such as gmail.com");
        return Err(Refusal::wrong(wrong));
    }
    Ok(text)
}

/// Ends suspensions and makes due what waited for them.
pub(super) async fn resume(
    destination: &str,
    spread: Option<&str>,
    dry_run: bool,
    by: &str,
    queue: &Handle,
    out: &mpsc::Sender<Answer>,
) -> Result<u64, Refusal> {
    let destination = match destination {
        "" => String::new(),
        some => name(some)?,
    };
    span(spread)?;
    let all = holding(queue).await?;
    let named = |one: &Suspension| destination.is_empty() || one.destination == destination;
    let ended: Vec<Suspension> = all.iter().filter(|one| named(one)).cloned().collect();
    if ended.is_empty() && !destination.is_empty() {
        let names: Vec<&str> = all.iter().map(|one| one.destination.as_str()).collect();
        let known = match names.is_empty() {
            true => "nothing is".to_owned(),
            false => format!("these are: {}", names.join(", ")),
        };
        return Err(Refusal::wrong(format!(
            "'{destination}' is not suspended; {known}"
        )));
    }
    tell(&ended, out).await;
    if !dry_run {
        let end = crate::queue::Unsuspend {
            destination,
            by: super::operator(by),
        };
        let done = queue.addr.send(end).await;
        done.map_err(Refusal::unavailable)?
            .map_err(Refusal::unavailable)?;
        pass_on(queue).await?;
        let names = ended
            .iter()
            .flat_map(|one| one.hosts.iter().chain([&one.destination]));
        end_pauses(queue, names.cloned().collect()).await;
    }
    let mut touched = 0;
    for suspension in ended {
        let waits = Selector {
            suspended: suspension.destination.into(),
            ..Selector::default()
        };
        let order = Order {
            verb: Verb::Replay,
            dry_run,
            // What is found is told by the suspension already.
            quiet: true,
            by: by.to_owned(),
            spread: spread.map(str::to_owned),
            rate: None,
            reset_attempts: false,
            address: None,
            reason: None,
            span: None,
            kind: None,
            who: None,
        };
        touched += steer(order, &waits, queue, out).await?;
    }
    Ok(touched)
}
