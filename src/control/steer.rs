//! Steering: what an operator does to messages and destinations, in pages, each page durable
//! before the next.

use std::time::Duration;

use tokio::sync::mpsc;

use super::answer::{compile, only};
use super::protocol::{Answer, Item, Refusal, Suspended};
use crate::config::Span;
use crate::queue::suspend::{Effect, MARK, SLOWED, Suspension};
use crate::queue::{Handle, Manner, Selector, Steer, Verb};
use crate::smtp::address::{Address, Charset};
use queue_schema::QueueId;

/// Bytes of a reason.
const REASON: usize = 300;

/// One order of an operator.
pub(super) struct Order {
    /// What to do.
    pub verb: Verb,
    /// Only say which they are.
    pub dry_run: bool,
    /// The operator.
    pub by: String,
    /// See [`super::protocol::Request::Steer`].
    pub spread: Option<String>,
    /// See there.
    pub address: Option<String>,
    /// See there.
    pub reason: Option<String>,
}

impl Order {
    /// What the queue is to know besides the verb; wrong where the verb does not go with it.
    fn manner(&self, queue: &Handle) -> Result<Manner, Refusal> {
        let wrong = Refusal::wrong;
        let verb = self.verb;
        if self.spread.is_some() && verb != Verb::Replay {
            return Err(wrong("only replay is spread"));
        }
        if self.reason.is_some() && verb != Verb::Bounce {
            return Err(wrong("only bounce gives a reason"));
        }
        let address = match (verb, &self.address) {
            (Verb::Redirect, Some(address)) => target(address, queue)?,
            (Verb::Redirect, None) => return Err(wrong("say where to redirect it")),
            (_, Some(_)) => return Err(wrong("only redirect takes an address")),
            (_, None) => String::new(),
        };
        Ok(Manner {
            spread: span(self.spread.as_deref())?,
            address,
            reason: reason(self.reason.as_deref().unwrap_or_default()),
        })
    }
}

fn span(text: Option<&str>) -> Result<Duration, Refusal> {
    match text {
        None => Ok(Duration::ZERO),
        Some(text) => text
            .parse::<Span>()
            .map(|span| span.0)
            .map_err(Refusal::wrong),
    }
}

fn reason(text: &str) -> String {
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
    let matcher = compile(selector)?;
    let manner = order.manner(queue)?;
    let (verb, dry_run) = (order.verb, order.dry_run);
    // First, or what is replayed would be sent back to wait for the end of the pause.
    if verb == Verb::Replay
        && !dry_run
        && let Some(resume) = &queue.resume
    {
        let _ = resume.send(crate::delivery::Resume).await;
    }
    let mut touched = 0;
    let mut found = false;
    let mut from = Some(QueueId(0));
    while let Some(start) = from {
        let page = queue
            .view
            .page(start, matcher.clone())
            .await
            .map_err(Refusal::unavailable)?;
        found |= !page.found.is_empty();
        let mut targets = Vec::new();
        for (message, recipients) in page.found {
            // A message is held as a whole.
            let recipients = match verb {
                Verb::Hold | Verb::Release => (0..).take(message.states.len()).collect(),
                _ => recipients,
            };
            let waiting: Vec<u32> = recipients
                .into_iter()
                .filter(|position| {
                    let item = Item::new(&message, *position);
                    item.is_some_and(|item| applies(verb, &item.state))
                })
                .collect();
            for item in waiting
                .iter()
                .filter_map(|position| Item::new(&message, *position))
            {
                if out.send(Answer::Item(Box::new(item))).await.is_err() {
                    return Ok(touched);
                }
            }
            if !waiting.is_empty() {
                targets.push((message.id, waiting));
            }
        }
        if dry_run {
            touched += targets
                .iter()
                .map(|(_, recipients)| recipients.len() as u64)
                .sum::<u64>();
        } else if !targets.is_empty() {
            let steer = Steer {
                verb,
                targets,
                by: super::operator(&order.by),
                manner: manner.clone(),
            };
            let steered = queue.addr.send(steer).await;
            touched += steered
                .map_err(Refusal::unavailable)?
                .map_err(Refusal::unavailable)?;
        }
        from = page.next;
    }
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

/// Whether a verb changes a recipient in this state.
fn applies(verb: Verb, state: &str) -> bool {
    match verb {
        Verb::Replay => state == "deferred",
        Verb::Remove | Verb::Bounce | Verb::Redirect => {
            matches!(state, "queued" | "deferred" | "held")
        }
        Verb::Hold => matches!(state, "queued" | "deferred"),
        Verb::Release => state == "held",
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
        let _ = dispatcher.send(crate::delivery::Suspensions(list)).await;
    }
    Ok(())
}

/// Counts recipients that are meant.
async fn count(selector: &Selector, queue: &Handle) -> Result<u64, Refusal> {
    let matcher = compile(selector)?;
    let mut count = 0;
    super::answer::pages(&matcher, queue, async |_, recipients| {
        count += recipients.len() as u64;
        true
    })
    .await?;
    Ok(count)
}

/// Suspends a destination: its name, for how long, and why.
pub(super) async fn suspend(
    (destination, length, why): (&str, &str, &str),
    dry_run: bool,
    by: &str,
    queue: &Handle,
    out: &mpsc::Sender<Answer>,
) -> Result<u64, Refusal> {
    let destination = name(destination)?;
    let length = span(Some(length))?;
    let now = crate::time::now();
    let suspension = Suspension {
        destination: destination.clone(),
        hosts: Vec::new(),
        effect: Effect::Stop,
        rule: String::new(),
        until: now.saturating_add(crate::time::millis(length)),
        reason: reason(why),
        by: super::operator(by),
        since: now,
    };
    let waits = Selector {
        domain: Some(destination),
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
    }
    let mut touched = 0;
    for suspension in ended {
        let waits = Selector {
            reply: Some(format!(
                "^450 4\\.3\\.2 {} ({MARK}|{SLOWED})",
                escaped(&suspension.destination)
            )),
            ..Selector::default()
        };
        let order = Order {
            verb: Verb::Replay,
            dry_run,
            by: by.to_owned(),
            spread: spread.map(str::to_owned),
            address: None,
            reason: None,
        };
        // What is found is told by the suspension already.
        let (nowhere, mut unread) = mpsc::channel(64);
        let drain = async { while unread.recv().await.is_some() {} };
        let (done, ()) = tokio::join!(
            async {
                let done = steer(order, &waits, queue, &nowhere).await;
                drop(nowhere);
                done
            },
            drain
        );
        touched += done?;
    }
    Ok(touched)
}

/// A text as a regular expression for itself.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if !c.is_alphanumeric() {
            out.push('\\');
        }
        out.push(c);
    }
    out
}
