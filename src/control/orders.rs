//! Standing orders: given, listed, ended. See [`crate::queue::order`].

use std::collections::{HashMap, HashSet};

use queue_schema::{Hold, HoldKind, Message, Millis, QueueId};
use tokio::sync::mpsc;

use super::answer::{compile, pages};
use super::protocol::{Answer, Refusal, StandingOrder};
use super::steer::{later, reason, span};
use crate::queue::order::{Does, Order, Whose, wanted};
use crate::queue::{EndOrder, Handle, Manner, Orders, Release, Selector, Stand, Steer, Verb};

/// Messages in one step of the queue.
const STEP: usize = 256;
/// Bytes of an address or a pattern.
const PATTERN: usize = 320;

/// What an operator asks for.
pub(super) struct Asked {
    pub(super) does: Does,
    pub(super) whose: Whose,
    pub(super) span: Option<String>,
    pub(super) reason: String,
    pub(super) tells: String,
    pub(super) dry_run: bool,
    pub(super) by: String,
}

/// Gives an order, and applies it to what is in the queue. Answered with the number of recipients
/// there are of it now.
pub(super) async fn order(
    asked: Asked,
    queue: &Handle,
    out: &mpsc::Sender<Answer>,
) -> Result<u64, Refusal> {
    let whose = sound(asked.whose)?;
    if !asked.tells.is_empty() && asked.does != Does::Bounce {
        return Err(Refusal::wrong("only bounce tells the sender something"));
    }
    let now = crate::time::now();
    let order = Order {
        id: 0,
        does: asked.does,
        whose: whose.clone(),
        since: now,
        until: match &asked.span {
            None => None,
            Some(text) => Some(later(span(Some(text))?)),
        },
        reason: reason(&asked.reason),
        by: super::operator(&asked.by),
        tells: reason(&asked.tells),
        recipients: 0,
        ended: None,
    };
    let selector = Selector {
        whose: Some(whose),
        ..Selector::default()
    };
    if asked.dry_run {
        tell(std::slice::from_ref(&order), now, out).await;
        return super::steer::count(&selector, queue).await;
    }
    let stood = queue.addr.send(Stand(order)).await;
    let order = stood
        .map_err(Refusal::unavailable)?
        .map_err(Refusal::wrong)?;
    let matcher = compile(&selector, queue).await?;
    let mut steps = Steps::new(queue, order.by.clone());
    pages(&matcher, queue, async |message, recipients| {
        steps.obey(message.id, recipients).await;
        true
    })
    .await?;
    let touched = steps.end().await?;
    tell(&current(queue, &[order.id]).await?, now, out).await;
    Ok(touched)
}

/// Lower case, bounded, and not everything.
fn sound(whose: Whose) -> Result<Whose, Refusal> {
    let whose = whose.lower();
    let patterns = [&whose.from, &whose.user, &whose.domain];
    for pattern in patterns.into_iter().flatten() {
        if pattern.is_empty() || pattern.len() > PATTERN || pattern.chars().any(char::is_control) {
            let shown = crate::queue::clean(pattern, PATTERN);
            return Err(Refusal::wrong(format!(
                "'{shown}' means nobody; write an address, a domain, or `*` for anything"
            )));
        }
    }
    if whose.is_everything() {
        return Err(Refusal::wrong(
            "say whose mail: --from, --user, --client or --domain",
        ));
    }
    Ok(whose)
}

async fn all(queue: &Handle) -> Result<Vec<Order>, Refusal> {
    queue.addr.send(Orders).await.map_err(Refusal::unavailable)
}

async fn current(queue: &Handle, ids: &[u64]) -> Result<Vec<Order>, Refusal> {
    let all = all(queue).await?;
    let named = all.into_iter().filter(|order| ids.contains(&order.id));
    Ok(named.collect())
}

async fn tell(orders: &[Order], now: Millis, out: &mpsc::Sender<Answer>) {
    for order in orders {
        let order = StandingOrder::new(order, now);
        let _ = out.send(Answer::Order(Box::new(order))).await;
    }
}

/// The orders that stand, and with `ended` those that do not any more.
pub(super) async fn orders(
    ended: bool,
    queue: &Handle,
    out: &mpsc::Sender<Answer>,
) -> Result<u64, Refusal> {
    let now = crate::time::now();
    let mut list = all(queue).await?;
    list.retain(|order| ended || order.stands(now));
    tell(&list, now, out).await;
    Ok(list.len() as u64)
}

/// Ends an order, or all for `all`; what it held goes on. Answered with the number of those
/// recipients.
pub(super) async fn end(
    id: &str,
    dry_run: bool,
    by: &str,
    queue: &Handle,
    out: &mpsc::Sender<Answer>,
) -> Result<u64, Refusal> {
    let number = match id {
        "all" => 0,
        id => id.parse().ok().filter(|id| *id > 0).ok_or_else(|| {
            let shown = crate::queue::clean(id, 40);
            Refusal::wrong(format!(
                "'{shown}' is no number of an order; `mta-queue orders` lists them"
            ))
        })?,
    };
    let now = crate::time::now();
    let mut standing = all(queue).await?;
    standing.retain(|order| order.stands(now) && (number == 0 || order.id == number));
    let names: HashSet<String> = standing.iter().map(Order::name).collect();
    if dry_run && !(standing.is_empty() && number != 0) {
        tell(&standing, now, out).await;
        let mut count = 0;
        let is_held = |hold: &Hold| is_by(hold, now, |name| names.contains(name));
        scan_held(queue, |message, recipients| {
            let held = recipients
                .iter()
                .filter(|position| holds(message, **position).iter().any(is_held));
            count += held.count() as u64;
        })
        .await?;
        return Ok(count);
    }
    let by = super::operator(by);
    let end = EndOrder {
        id: number,
        by: by.clone(),
    };
    let ended = queue.addr.send(end).await;
    let ended = ended
        .map_err(Refusal::unavailable)?
        .map_err(Refusal::wrong)?;
    tell(&ended, now, out).await;
    release(queue, &by).await
}

/// Releases what is held by orders that do not stand any more.
async fn release(queue: &Handle, by: &str) -> Result<u64, Refusal> {
    let now = crate::time::now();
    let mut standing = all(queue).await?;
    standing.retain(|order| order.stands(now));
    let names: HashSet<String> = standing.iter().map(Order::name).collect();
    let mut found: HashMap<String, Vec<(QueueId, Vec<u32>)>> = HashMap::new();
    scan_held(queue, |message, recipients| {
        for position in recipients {
            for hold in holds(message, *position) {
                if !is_by(hold, now, |name| !names.contains(name)) {
                    continue;
                }
                let targets = found.entry(hold.by.clone()).or_default();
                match targets.last_mut().filter(|(id, _)| *id == message.id) {
                    Some((_, recipients)) => recipients.push(*position),
                    None => targets.push((message.id, vec![*position])),
                }
            }
        }
    })
    .await?;
    let mut touched = 0;
    for (name, targets) in found {
        for step in targets.chunks(STEP) {
            let steer = Steer {
                verb: Verb::Release,
                targets: step.to_vec(),
                by: by.to_owned(),
                manner: Manner {
                    release: Release {
                        kind: Some(HoldKind::Order),
                        by: Some(name.clone()),
                        reason: None,
                    },
                    ..Manner::default()
                },
            };
            let done = queue.addr.send(steer).await;
            touched += done
                .map_err(Refusal::unavailable)?
                .map_err(Refusal::unavailable)?;
        }
    }
    Ok(touched)
}

/// What an order may have left undone when the daemon ended: applied to what is in the queue, and
/// released where it has ended. Nothing goes out meanwhile that an order means.
pub async fn catch_up(queue: Handle) {
    let done = async {
        let list = all(&queue).await?;
        if list.is_empty() {
            return Ok(0);
        }
        release(&queue, "the daemon").await?;
        let matcher = compile(&Selector::default(), &queue).await?;
        let mut steps = Steps::new(&queue, "the daemon".to_owned());
        let now = crate::time::now();
        pages(&matcher, &queue, async |message, recipients| {
            if !wanted(&list, &message, &[], now).is_empty() {
                steps.obey(message.id, recipients).await;
            }
            true
        })
        .await?;
        steps.end().await
    };
    match done.await {
        Ok(0) => {}
        Ok(touched) => tracing::info!(touched, "standing orders were applied to the queue"),
        Err(refusal) => tracing::error!(%refusal, "standing orders wait for the next attempt"),
    }
}

fn is_by(hold: &Hold, now: Millis, named: impl Fn(&str) -> bool) -> bool {
    hold.kind == HoldKind::Order && hold.until.is_none_or(|until| until > now) && named(&hold.by)
}

fn holds(message: &Message, position: u32) -> &[Hold] {
    let at = usize::try_from(position).ok();
    let state = at.and_then(|at| message.states.get(at));
    state.map_or(&[], |state| &state.holds)
}

/// Looks at every recipient that is held.
async fn scan_held(queue: &Handle, mut each: impl FnMut(&Message, &[u32])) -> Result<(), Refusal> {
    let held = Selector {
        state: "held".into(),
        ..Selector::default()
    };
    pages(
        &compile(&held, queue).await?,
        queue,
        async |message, recipients| {
            each(&message, &recipients);
            true
        },
    )
    .await
}

/// Messages to which orders are applied, some at a time.
struct Steps<'a> {
    queue: &'a Handle,
    by: String,
    targets: Vec<(QueueId, Vec<u32>)>,
    touched: Result<u64, Refusal>,
}

impl<'a> Steps<'a> {
    fn new(queue: &'a Handle, by: String) -> Steps<'a> {
        Steps {
            queue,
            by,
            targets: Vec::new(),
            touched: Ok(0),
        }
    }

    async fn obey(&mut self, id: QueueId, recipients: Vec<u32>) {
        self.targets.push((id, recipients));
        if self.targets.len() >= STEP {
            self.step().await;
        }
    }

    async fn step(&mut self) {
        let Ok(touched) = &mut self.touched else {
            return;
        };
        let steer = Steer {
            verb: Verb::Obey,
            targets: std::mem::take(&mut self.targets),
            by: self.by.clone(),
            manner: Manner::default(),
        };
        let done = self.queue.addr.send(steer).await;
        let done = done
            .map_err(Refusal::unavailable)
            .and_then(|done| done.map_err(Refusal::unavailable));
        match done {
            Ok(more) => *touched += more,
            Err(refusal) => self.touched = Err(refusal),
        }
    }

    async fn end(mut self) -> Result<u64, Refusal> {
        if !self.targets.is_empty() {
            self.step().await;
        }
        self.touched
    }
}
