//! For people: tables that fit the terminal, one row a line; what does not fit is cut with `…`.
//! Where standard output is no terminal nothing is cut, unless `COLUMNS` says how wide it is.

use std::fmt::Write as _;

use crate::control::protocol::{AGES, By, HeldBy, Item, Row, Suspended, Told};

/// The width to fit into; `None`: any.
fn width() -> Option<usize> {
    let asked = std::env::var("COLUMNS").ok();
    let asked = asked.and_then(|columns| columns.parse().ok());
    let terminal = rustix::termios::tcgetwinsize(std::io::stdout()).ok();
    let terminal = terminal.map(|size| usize::from(size.ws_col));
    terminal.or(asked).filter(|columns| *columns >= 40)
}

/// `text` in `width` columns; the last one says that something is missing.
pub(super) fn fit(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(width.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

/// Rows of cells in columns as wide as they need to be; `shrink` names columns that give way, with
/// the least that each keeps.
pub(super) fn table(
    head: &[&str],
    rows: &[Vec<String>],
    right: &[usize],
    shrink: &[(usize, usize)],
    width: Option<usize>,
) -> Vec<String> {
    let mut widths: Vec<usize> = head.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (own, cell) in widths.iter_mut().zip(row) {
            *own = (*own).max(cell.chars().count());
        }
    }
    if let Some(width) = width {
        let gaps = 2 * widths.len().saturating_sub(1);
        let mut over = (widths.iter().sum::<usize>() + gaps).saturating_sub(width);
        // The widest gives way first, until it is as narrow as the next.
        while over > 0 {
            let widest = shrink
                .iter()
                .filter_map(|(column, least)| {
                    let own = *widths.get(*column)?;
                    (own > *least).then_some((own, *column))
                })
                .max();
            let Some((_, column)) = widest else { break };
            if let Some(own) = widths.get_mut(column) {
                *own -= 1;
                over -= 1;
            }
        }
    }
    let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
    let line = |row: &Vec<String>| {
        let mut line = String::new();
        for (at, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let cell = fit(cell, *width);
            let _ = match right.contains(&at) {
                true => write!(line, "{cell:>width$}  "),
                false => write!(line, "{cell:<width$}  "),
            };
        }
        let line = line.trim_end();
        width.map_or_else(|| line.to_owned(), |width| fit(line, width))
    };
    std::iter::once(&head).chain(rows).map(line).collect()
}

/// `mta-queue list`.
#[derive(Default)]
pub struct List {
    items: Vec<Item>,
}

impl List {
    /// Adds a row.
    pub fn add(&mut self, item: Item) {
        self.items.push(item);
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Prints it; there are `all` in the queue.
    pub fn print(&self, all: u64) {
        if self.items.is_empty() {
            say!("Nothing.");
            return;
        }
        let width = width();
        // The sender is the first to go where there is little room.
        let senders = width.is_none_or(|width| width >= 120);
        for line in rows(&self.items, senders, width) {
            say!("{line}");
        }
        let shown = self.items.len() as u64;
        if all > shown {
            say!(
                "… and {} more: filter, or use --limit or --json",
                all - shown
            );
        }
    }
}

/// The table of `mta-queue list`.
pub(super) fn rows(items: &[Item], senders: bool, width: Option<usize>) -> Vec<String> {
    let mut head = vec!["ID", "AGE", "TO", "STATE", "TRIES", "NEXT", "LAST REPLY"];
    if senders {
        head.insert(2, "FROM");
    }
    let row = |item: &Item| {
        let mut cells = vec![
            item.id.clone(),
            since(&item.arrived),
            item.to.clone(),
            item.state.clone(),
            item.attempts.to_string(),
            item.next_due.as_deref().map(until).unwrap_or_default(),
            why(item),
        ];
        if senders {
            cells.insert(2, sender(&item.from));
        }
        cells
    };
    let rows: Vec<Vec<String>> = items.iter().map(row).collect();
    let more = usize::from(senders);
    let shrink = [(2, 10), (2 + more, 14), (6 + more, 12)];
    table(&head, &rows, &[1, 4 + more], &shrink, width)
}

/// What a recipient waits for: a hold, a suspension, or what the last reply said.
fn why(item: &Item) -> String {
    match (item.held.first(), &item.suspended) {
        (Some(hold), _) => held(hold),
        (None, Some(suspended)) => suspended.clone(),
        (None, None) => item.last_reply.clone().unwrap_or_default(),
    }
}

/// One hold in words.
fn held(hold: &HeldBy) -> String {
    let by = match (hold.kind.as_str(), hold.who.as_str()) {
        ("order", id) => format!("held by order {id}"),
        ("quarantine", "") => "in quarantine".to_owned(),
        ("quarantine", who) => format!("in quarantine by {who}"),
        (_, "") => "held".to_owned(),
        (_, who) => format!("held by {who}"),
    };
    let until = hold.until.as_deref().map(|at| format!(" until {at}"));
    let why = match hold.why.as_str() {
        "" => String::new(),
        why => format!(": {why}"),
    };
    format!("{by}{}{why}", until.unwrap_or_default())
}

/// `mta-queue show`: the story of one message.
pub fn message(items: &[Item]) {
    let Some(first) = items.first() else { return };
    say!("Message   {}, {} bytes", first.id, first.size);
    say!("From      {}", sender(&first.from));
    let ago = since(&first.arrived);
    say!(
        "Accepted  {} ({ago} ago) from {}",
        first.arrived,
        first.origin
    );
    match first.signed_by.as_deref() {
        None | Some([]) => say!("Signed    by no key of ours"),
        Some(keys) => say!("Signed    by {}", keys.join(", ")),
    }
    for item in items {
        say!("");
        match &item.alias_of {
            Some(alias) => say!("To        {} (from {alias})", item.to),
            None => say!("To        {}", item.to),
        }
        for event in item.events.iter().flatten() {
            say!("  {}", event_line(event));
        }
        let tries = match item.attempts {
            1 => "1 attempt".to_owned(),
            attempts => format!("{attempts} attempts"),
        };
        say!("  state   {}, {tries}", item.state);
        for hold in &item.held {
            say!("  hold    {}, since {}", held(hold), hold.since);
        }
        if let Some(suspended) = &item.suspended {
            say!("  waits   {suspended}");
        }
        if let Some(reply) = &item.last_reply {
            say!("  reply   {reply}");
            let by = item.remote.as_deref().unwrap_or("ourselves");
            say!("  by      {by}");
        }
        if let Some(due) = &item.next_due {
            say!("  next    {due} ({})", until(due));
        }
    }
}

fn event_line(event: &Told) -> String {
    let mut line = format!("{} {}", event.at, event.event);
    if !event.remote.is_empty() {
        let _ = write!(line, " at {}", event.remote);
        match event.tls.as_str() {
            "" => line.push_str(" in clear"),
            tls => {
                let _ = write!(line, " over {tls}");
            }
        }
    }
    if !event.by.is_empty() {
        let _ = write!(line, " by {}", event.by);
    }
    if !event.text.is_empty() {
        let _ = write!(line, ": {}", event.text);
    }
    line
}

/// `mta-queue suspend` without a destination.
pub fn suspensions(list: &[Suspended]) {
    if list.is_empty() {
        say!("Nothing is suspended.");
        return;
    }
    for line in holding_rows(list, width()) {
        say!("{line}");
    }
}

/// The table of `mta-queue orders`.
pub fn orders(rows: &[Vec<String>]) -> Vec<String> {
    let head = ["ID", "DOES", "MAIL", "UNTIL", "RECIPIENTS", "BY", "REASON"];
    table(&head, rows, &[4], &[(6, 12), (2, 14), (5, 8)], width())
}

/// When a suspension ends, in words.
pub fn end(one: &Suspended) -> String {
    one.until
        .clone()
        .unwrap_or_else(|| "it is resumed".to_owned())
}

/// What holds for destinations: a line, and the reason below it where there is no room beside.
fn holding_rows(list: &[Suspended], width: Option<usize>) -> Vec<String> {
    let beside = width.is_none();
    let row = |one: &Suspended| {
        let holds = match one.slowed_to.as_str() {
            "" => one.effect.clone(),
            to => format!("slowed to {to}"),
        };
        let mut cells = vec![
            one.destination.clone(),
            holds,
            one.until.as_deref().map_or("resumed".to_owned(), until),
            one.by.clone(),
        ];
        if beside {
            cells.push(one.reason.clone());
        }
        cells
    };
    let rows: Vec<Vec<String>> = list.iter().map(row).collect();
    let mut head = vec!["DESTINATION", "HOLDS", "ENDS", "BY"];
    if beside {
        head.push("REASON");
    }
    let mut table = table(&head, &rows, &[], &[(3, 10), (0, 12), (1, 9)], width).into_iter();
    let mut lines: Vec<String> = table.by_ref().take(1).collect();
    for (line, one) in table.zip(list) {
        lines.push(line);
        if !beside && !one.reason.is_empty() {
            lines.push(format!("    {}", one.reason));
        }
    }
    lines
}

/// `mta-queue summary`.
pub fn summary(rows: &[Row], holding: &[Suspended]) {
    if rows.is_empty() {
        say!("Nothing.");
    }
    let width = width();
    if !rows.is_empty() {
        for line in summary_rows(rows, width) {
            say!("{line}");
        }
    }
    if !holding.is_empty() {
        say!("");
        for line in holding_rows(holding, width) {
            say!("{line}");
        }
    }
}

/// The table of `mta-queue summary`: as qshape(1), with the commonest reply behind the numbers, or
/// below them where there is no room.
pub(super) fn summary_rows(rows: &[Row], width: Option<usize>) -> Vec<String> {
    let ages = AGES.iter().map(|minutes| match minutes {
        minutes if minutes % 60 == 0 => format!("{}h", minutes / 60),
        minutes => format!("{minutes}m"),
    });
    let ages: Vec<String> = ages.collect();
    let beside = width.is_none_or(|width| width >= 120);
    let by = rows.first().map_or(By::Domain, |row| row.by);
    let name = match by {
        By::Domain => "DOMAIN",
        By::Reason => "REASON",
        By::Sender => "SENDER",
        By::User => "USER",
        By::NextHop => "NEXT HOP",
        By::State => "STATE",
    };
    // What is the row need not stand behind it again.
    let replies = by != By::Reason;
    let mut head = vec![name, "T"];
    head.extend(ages.iter().map(String::as_str));
    head.push("more");
    let numbers = head.len();
    if beside && replies {
        head.push("COMMONEST REPLY");
    }
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let mut cells = vec![row.key.clone(), row.total.to_string()];
            cells.extend(row.ages.iter().map(|count| match count {
                0 => ".".to_owned(),
                count => count.to_string(),
            }));
            if beside && replies {
                cells.push(row.reply.clone().unwrap_or_default());
            }
            cells
        })
        .collect();
    let right: Vec<usize> = (1..numbers).collect();
    let shrink = [(0, 12), (numbers, 15)];
    let shrink = if beside { &shrink[..] } else { &shrink[..1] };
    let mut lines = table(&head, &cells, &right, shrink, width);
    if !beside && replies {
        let table = std::mem::take(&mut lines);
        let replies = std::iter::once(None).chain(rows.iter().map(|row| row.reply.as_ref()));
        for (line, reply) in table.into_iter().zip(replies) {
            lines.push(line);
            if let Some(reply) = reply {
                let line = format!("    {reply}");
                lines.push(width.map_or_else(|| line.clone(), |width| fit(&line, width)));
            }
        }
    }
    lines
}

pub(super) fn sender(from: &str) -> String {
    if from.is_empty() {
        "<>".to_owned()
    } else {
        from.to_owned()
    }
}

pub(super) fn since(time: &str) -> String {
    seconds_from_now(time)
        .map(|seconds| span(seconds.saturating_neg().max(0)))
        .unwrap_or_default()
}

pub(super) fn until(time: &str) -> String {
    match seconds_from_now(time) {
        Some(seconds) if seconds <= 0 => "now".to_owned(),
        Some(seconds) => format!("in {}", span(seconds)),
        None => String::new(),
    }
}

fn seconds_from_now(time: &str) -> Option<i64> {
    let time: jiff::Timestamp = time.parse().ok()?;
    let now = i64::try_from(crate::time::now() / 1000).ok()?;
    Some(time.as_second() - now)
}

/// Seconds in the largest unit that leaves a number people read at a glance.
pub(super) fn span(seconds: i64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item() -> Item {
        Item {
            id: "01kb9zq8n3c00".into(),
            from: "someone@example.org".into(),
            to: "a.very.long.recipient.name@sub.domain.example.net".into(),
            state: "deferred".into(),
            attempts: 12,
            last_reply: Some("450 4.2.1 the mailbox is busy, try again later".into()),
            arrived: "2026-01-01T00:00:00Z".into(),
            ..Item::default()
        }
    }

    #[test]
    fn a_list_fits_the_terminal_and_keeps_ids_whole() {
        for width in [80, 160] {
            let lines = rows(&[item(), item()], width >= 120, Some(width));
            assert_eq!(lines.len(), 3);
            for line in &lines {
                assert!(line.chars().count() <= width, "{line}");
            }
            assert!(lines[1].starts_with("01kb9zq8n3c00  "));
            assert!(lines[1].contains("deferred") && lines[1].contains("450"));
        }
        let wide = rows(&[item()], true, None).join("\n");
        assert!(wide.contains("try again later") && wide.contains("sub.domain.example.net"));
    }

    #[test]
    fn a_summary_fits_the_terminal_and_names_the_reason() {
        let row = Row {
            domain: String::new(),
            by: By::Domain,
            key: "a.domain.with.a.long.name.example.net".into(),
            total: 123_456,
            ages: [1, 20, 300, 4000, 50_000, 0, 0, 0, 0, 7],
            queued: 0,
            held: 0,
            reply: Some("421 4.7.28 too much mail from your address; slow down, please".into()),
        };
        for width in [80, 160] {
            let lines = summary_rows(std::slice::from_ref(&row), Some(width));
            for line in &lines {
                assert!(line.chars().count() <= width, "{width}: {line}");
            }
            assert!(lines.join("\n").contains("421 4.7.28 too much mail"));
            assert!(lines[1].contains("123456"));
        }
    }

    #[test]
    fn spans_are_short() {
        for (seconds, text) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (7200, "2h"),
            (200_000, "2d"),
        ] {
            assert_eq!(span(seconds), text);
        }
    }
}
