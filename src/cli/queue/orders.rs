//! `mta-queue order` and `mta-queue orders`: standing orders about the mail of somebody.

use clap::{Args, Subcommand};

use super::ask::{self, Failure};
use super::steer::{operator, recipients};
use super::{lines, show};
use crate::config::{Config, Network};
use crate::control::protocol::{Answer, Request, StandingOrder};
use crate::queue::order::{Does, Whose};

/// `mta-queue order`.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Hold the mail until the order ends, then it goes on
    #[command(
        after_help = "Examples:\n  mta-queue order hold --user ann@example.org --for 8h --reason 'a stolen password'\n  mta-queue order hold --client 192.0.2.0/24"
    )]
    Hold(Give),
    /// Take the mail and end it here; nobody is told
    #[command(
        after_help = "Example:\n  mta-queue order discard --from 'spam*@example.org' --for 1d"
    )]
    Discard(Give),
    /// Take the mail, end it here and tell its sender
    #[command(
        after_help = "Example:\n  mta-queue order bounce --domain example.net --tell 'that site is closed until Monday' --for 2d"
    )]
    Bounce {
        #[command(flatten)]
        give: Give,
        /// What the sender is told
        #[arg(long, value_name = "TEXT", default_value = "")]
        tell: String,
    },
    /// End an order; what it held goes on
    #[command(after_help = "Examples:\n  mta-queue order end 3\n  mta-queue order end all")]
    End {
        /// Its number, as `orders` prints it, or `all`
        id: String,
        /// Only count the recipients it holds
        #[arg(long)]
        dry_run: bool,
    },
}

/// Whose mail an order means; what is said adds up.
#[derive(Debug, Args)]
pub(super) struct Give {
    /// Mail of this sender; `<>` for notices, `*` stands for anything
    #[arg(long, value_name = "ADDRESS")]
    from: Option<String>,
    /// Mail that this user submitted; `*` stands for anything
    #[arg(long, value_name = "LOGIN")]
    user: Option<String>,
    /// Mail from this client or network, such as 192.0.2.0/24
    #[arg(long, value_name = "ADDRESS")]
    client: Option<Network>,
    /// Mail to this domain; `*` stands for anything
    #[arg(long)]
    domain: Option<String>,
    /// For how long, such as 8h; without it until `order end`
    #[arg(long = "for", value_name = "SPAN")]
    span: Option<String>,
    /// Why; for operators, senders never see it
    #[arg(long, default_value = "")]
    reason: String,
    /// Only count the recipients in the queue that it means
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn act(config: &Config, command: Command, json: bool) -> Result<(), Failure> {
    match command {
        Command::Hold(give) => order(config, Does::Hold, give, String::new(), json),
        Command::Discard(give) => order(config, Does::Discard, give, String::new(), json),
        Command::Bounce { give, tell } => order(config, Does::Bounce, give, tell, json),
        Command::End { id, dry_run } => end(config, id, dry_run, json),
    }
}

fn order(
    config: &Config,
    does: Does,
    give: Give,
    tells: String,
    json: bool,
) -> Result<(), Failure> {
    let dry_run = give.dry_run;
    let whose = Whose {
        from: give.from,
        user: give.user,
        client: give.client,
        domain: give.domain,
    };
    if whose.is_everything() {
        return Err(Failure::Usage(
            "say whose mail: --from, --user, --client or --domain".into(),
        ));
    }
    let request = Request::Order {
        does,
        whose,
        span: give.span,
        reason: give.reason,
        tells,
        dry_run,
        by: operator(),
    };
    if json {
        return lines(config, request).map(drop);
    }
    let (list, touched) = answered(config, request)?;
    let touched = recipients(touched);
    for one in &list {
        let (what, until) = (meaning(one), ends(one));
        match dry_run {
            true => say!("mail {what} would be {} until {until}", done(does)),
            false => say!(
                "order {}: mail {what} is {} until {until}",
                one.id,
                done(does)
            ),
        }
    }
    match dry_run {
        true => say!("{touched} in the queue would be {}", done(does)),
        false => say!("{touched} in the queue {}", done(does)),
    }
    Ok(())
}

fn end(config: &Config, id: String, dry_run: bool, json: bool) -> Result<(), Failure> {
    let request = Request::EndOrder {
        id,
        dry_run,
        by: operator(),
    };
    if json {
        return lines(config, request).map(drop);
    }
    let (list, touched) = answered(config, request)?;
    let would = if dry_run { "would be " } else { "" };
    if list.is_empty() {
        say!("No order stands.");
    }
    for one in &list {
        say!("order {} {would}ended: mail {}", one.id, meaning(one));
    }
    say!("{} {would}released", recipients(touched));
    Ok(())
}

/// `mta-queue orders`.
pub(super) fn list(config: &Config, ended: bool, json: bool) -> Result<(), Failure> {
    let request = Request::Orders { ended };
    if json {
        return lines(config, request).map(drop);
    }
    let (list, _) = answered(config, request)?;
    if list.is_empty() {
        say!("No order stands.");
        return Ok(());
    }
    let row = |one: &StandingOrder| {
        vec![
            one.id.clone(),
            word(one.does).to_owned(),
            meaning(one),
            match &one.ended {
                Some(at) => format!("ended {at}"),
                None => ends(one),
            },
            one.recipients.to_string(),
            one.by.clone(),
            one.reason.clone(),
        ]
    };
    let rows: Vec<Vec<String>> = list.iter().map(row).collect();
    for line in show::orders(&rows) {
        say!("{line}");
    }
    Ok(())
}

fn answered(config: &Config, request: Request) -> Result<(Vec<StandingOrder>, u64), Failure> {
    let mut list = Vec::new();
    let count = ask::ask(config, request, &mut |answer| {
        if let Answer::Order(one) = answer {
            list.push(*one);
        }
        Ok(())
    })?;
    Ok((list, count))
}

/// Whose mail, in words.
fn meaning(one: &StandingOrder) -> String {
    let words = [
        one.from.as_ref().map(|from| format!("from {from}")),
        one.user.as_ref().map(|user| format!("of user {user}")),
        one.client
            .as_ref()
            .map(|client| format!("by client {client}")),
        one.domain.as_ref().map(|domain| format!("to {domain}")),
    ];
    let words: Vec<String> = words.into_iter().flatten().collect();
    words.join(" ")
}

fn ends(one: &StandingOrder) -> String {
    one.until
        .clone()
        .unwrap_or_else(|| "it is ended".to_owned())
}

fn word(does: Does) -> &'static str {
    match does {
        Does::Hold => "hold",
        Does::Discard => "discard",
        Does::Bounce => "bounce",
    }
}

fn done(does: Does) -> &'static str {
    match does {
        Does::Hold => "held",
        Does::Discard => "removed",
        Does::Bounce => "returned to its sender",
    }
}
