//! Verbs that change something: every one takes a selector or a destination, can be tried with
//! `--dry-run`, and says how many recipients it touched.

use clap::Args;
use queue_schema::HoldKind;

use super::ask::{self, Failure};
use super::which::Which;
use super::{lines, show};
use crate::config::Config;
use crate::control::protocol::{Answer, Request, Suspended};
use crate::queue::Verb;
use crate::queue::suspend::Rate;

/// Which recipients a verb is about.
#[derive(Debug, Args)]
pub(super) struct Steering {
    #[command(flatten)]
    which: Which,
    /// Only print which they are and count them
    #[arg(long)]
    dry_run: bool,
}

/// `mta-queue suspend`.
#[derive(Debug, Args)]
pub(super) struct Suspend {
    /// A recipient domain such as gmail.com, or the name of a next hop; `*` stands for anything
    destination: Option<String>,
    /// For how long, such as 2h; without it until `resume`
    #[arg(long = "for", value_name = "SPAN", requires = "destination")]
    span: Option<String>,
    /// Why; it is printed by `list` and `show`
    #[arg(long, default_value = "", requires = "destination")]
    reason: String,
    /// Only count the recipients that wait for it
    #[arg(long)]
    dry_run: bool,
}

/// `mta-queue resume`.
#[derive(Debug, Args)]
pub(super) struct Resume {
    /// A destination as it was suspended, or `all`
    destination: String,
    /// Spread what is due over this span by chance
    #[arg(long, value_name = "SPAN")]
    spread: Option<String>,
    /// Only count the recipients that would be due
    #[arg(long)]
    dry_run: bool,
}

/// What a verb needs to know besides.
#[derive(Debug, Default)]
pub(super) struct Manner {
    pub(super) spread: Option<String>,
    pub(super) rate: Option<String>,
    pub(super) reset_attempts: bool,
    pub(super) address: Option<String>,
    pub(super) reason: Option<String>,
    pub(super) span: Option<String>,
    pub(super) kind: Option<HoldKind>,
    pub(super) who: Option<String>,
}

/// The kind of a hold as an operator writes it.
pub(super) fn kind(text: &str) -> Result<HoldKind, String> {
    match text {
        "operator" => Ok(HoldKind::Operator),
        "quarantine" => Ok(HoldKind::Quarantine),
        "order" => Ok(HoldKind::Order),
        _ => Err("write operator, quarantine or order".to_owned()),
    }
}

/// The operator, for the log; the daemon adds what the system says.
pub(super) fn operator() -> String {
    std::env::var("SUDO_USER")
        .or_else(|_| std::env::var("USER"))
        .unwrap_or_default()
}

pub(super) fn steer(
    config: &Config,
    verb: Verb,
    steering: &Steering,
    manner: Manner,
    json: bool,
) -> Result<(), Failure> {
    let selector = steering.which.chosen()?;
    let dry_run = steering.dry_run;
    let spread = manner.spread.clone();
    let rate = manner.rate.clone();
    let target = manner.address.clone().unwrap_or_default();
    let request = Request::Steer {
        verb,
        selector,
        dry_run,
        by: operator(),
        spread: manner.spread,
        rate: manner.rate,
        reset_attempts: manner.reset_attempts,
        address: manner.address,
        reason: manner.reason,
        span: manner.span,
        kind: manner.kind,
        who: manner.who,
        quiet: !json && !dry_run,
    };
    if json {
        return lines(config, request).map(drop);
    }
    let mut table = show::List::default();
    let touched = ask::ask(config, request, &mut |answer| {
        if let Answer::Item(item) = answer
            && dry_run
            && table.len() < 1000
        {
            table.add(*item);
        }
        Ok(())
    })?;
    let done = match (verb, spread) {
        (Verb::Replay, None) if rate.is_some() => at_rate(rate.as_deref(), touched),
        (Verb::Replay, Some(span)) => format!("due within {span}"),
        (Verb::Replay, None) => "due now".to_owned(),
        (Verb::Remove, _) => "removed".to_owned(),
        (Verb::Hold, _) => "held".to_owned(),
        (Verb::Release, _) => "released".to_owned(),
        (Verb::Bounce, _) => "returned to their senders".to_owned(),
        (Verb::Redirect, _) => format!("redirected to {target}"),
        (Verb::Requeue, _) => "resolved again and due now".to_owned(),
        (Verb::Obey, _) => String::new(),
    };
    if dry_run {
        table.print(touched);
        say!("{} would be {done}", recipients(touched));
    } else {
        say!("{} {done}", recipients(touched));
    }
    Ok(())
}

/// When those of a rate are due.
fn at_rate(rate: Option<&str>, count: u64) -> String {
    let rate = rate.unwrap_or_default();
    let interval = rate.parse::<Rate>().map(Rate::interval);
    let last = interval.map_or(0, |interval| {
        let steps = u32::try_from(count.saturating_sub(1)).unwrap_or(u32::MAX);
        interval.saturating_mul(steps).as_secs()
    });
    match last {
        0 => format!("due at {rate}"),
        last => {
            let last = i64::try_from(last).unwrap_or(i64::MAX);
            format!("due at {rate}, the last in {}", show::span(last))
        }
    }
}

pub(super) fn recipients(count: u64) -> String {
    match count {
        1 => "1 recipient".to_owned(),
        count => format!("{count} recipients"),
    }
}

pub(super) fn suspend(config: &Config, suspend: Suspend, json: bool) -> Result<(), Failure> {
    let Suspend {
        destination,
        span,
        reason,
        dry_run,
    } = suspend;
    let Some(destination) = destination else {
        if json {
            return lines(config, Request::Suspensions {}).map(drop);
        }
        let (list, _) = suspended(config, Request::Suspensions {})?;
        show::suspensions(&list);
        return Ok(());
    };
    let request = Request::Suspend {
        destination,
        span,
        reason,
        dry_run,
        by: operator(),
    };
    if json {
        return lines(config, request).map(drop);
    }
    let (list, waiting) = suspended(config, request)?;
    let would = if dry_run { "would be " } else { "" };
    for one in list {
        let (name, until) = (&one.destination, show::end(&one));
        say!("{name} {would}suspended until {until}");
    }
    say!("{} at that domain wait now", recipients(waiting));
    Ok(())
}

pub(super) fn resume(config: &Config, resume: Resume, json: bool) -> Result<(), Failure> {
    let Resume {
        destination,
        spread,
        dry_run,
    } = resume;
    let request = Request::Resume {
        destination: match destination.as_str() {
            "all" => String::new(),
            _ => destination,
        },
        spread: spread.clone(),
        dry_run,
        by: operator(),
    };
    if json {
        return lines(config, request).map(drop);
    }
    let (list, touched) = suspended(config, request)?;
    let would = if dry_run { "would be " } else { "" };
    for one in &list {
        say!("{} {would}resumed", one.destination);
    }
    let when = spread.map_or("now".to_owned(), |span| format!("within {span}"));
    say!("{} {would}due {when}", recipients(touched));
    Ok(())
}

fn suspended(config: &Config, request: Request) -> Result<(Vec<Suspended>, u64), Failure> {
    let mut list = Vec::new();
    let count = ask::ask(config, request, &mut |answer| {
        if let Answer::Suspended(one) = answer {
            list.push(*one);
        }
        Ok(())
    })?;
    Ok((list, count))
}
