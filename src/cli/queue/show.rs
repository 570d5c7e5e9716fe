//! For people: tables that fit the terminal.

use comfy_table::{ColumnConstraint, ContentArrangement, Table};

use crate::control::protocol::{AGES, Item, Row};

/// `mta-queue list`.
pub struct List {
    limit: usize,
    more: u64,
    items: Vec<Item>,
}

impl List {
    /// At most `limit` rows; 0 for all.
    pub fn new(limit: usize) -> List {
        List {
            limit,
            more: 0,
            items: Vec::new(),
        }
    }

    /// Adds a row.
    pub fn add(&mut self, item: Item) {
        if self.limit == 0 || self.items.len() < self.limit {
            self.items.push(item);
        } else {
            self.more += 1;
        }
    }

    /// Prints it.
    pub fn print(&self) {
        if self.items.is_empty() {
            say!("Nothing.");
            return;
        }
        let mut table = table(&[
            "ID",
            "AGE",
            "FROM",
            "TO",
            "STATE",
            "TRIES",
            "NEXT",
            "LAST REPLY",
        ]);
        for item in &self.items {
            table.add_row([
                item.id.clone(),
                since(&item.arrived),
                sender(&item.from),
                item.to.clone(),
                item.state.clone(),
                item.attempts.to_string(),
                item.next_due.as_deref().map(until).unwrap_or_default(),
                item.last_reply.clone().unwrap_or_default(),
            ]);
        }
        say!("{table}");
        if self.more > 0 {
            say!("… and {} more: filter, or use --limit or --json", self.more);
        }
    }
}

/// `mta-queue show`: the recipients of one message.
pub fn message(items: &[Item]) {
    let Some(first) = items.first() else { return };
    say!("Message   {}", first.id);
    say!(
        "Arrived   {} ({} ago)",
        first.arrived,
        since(&first.arrived)
    );
    say!("From      {}", sender(&first.from));
    say!("Origin    {}", first.origin);
    say!("Size      {} bytes", first.size);
    for item in items {
        say!("");
        match &item.alias_of {
            Some(alias) => say!("To        {} (from {alias})", item.to),
            None => say!("To        {}", item.to),
        }
        say!("  state   {}, {} attempts", item.state, item.attempts);
        if let Some(at) = &item.last_attempt {
            say!("  tried   {at} ({} ago)", since(at));
        }
        if let Some(reply) = &item.last_reply {
            say!("  reply   {reply}");
            say!(
                "  by      {}",
                item.remote.as_deref().unwrap_or("ourselves")
            );
        }
        if let Some(due) = &item.next_due {
            say!("  next    {due} ({})", until(due));
        }
    }
}

/// `mta-queue summary`.
pub fn summary(rows: &[Row]) {
    if rows.is_empty() {
        say!("Nothing.");
        return;
    }
    let mut head = vec!["DOMAIN".to_owned(), "T".to_owned()];
    head.extend(AGES.iter().map(|minutes| format!("<{minutes}m")));
    head.push("older".into());
    head.push("COMMONEST REPLY".into());
    let head: Vec<&str> = head.iter().map(String::as_str).collect();
    let mut table = table(&head);
    for row in rows {
        let mut cells = vec![row.domain.clone(), row.total.to_string()];
        cells.extend(row.ages.iter().map(|n| {
            if *n == 0 {
                String::new()
            } else {
                n.to_string()
            }
        }));
        cells.push(row.reply.clone().unwrap_or_default());
        table.add_row(cells);
    }
    say!("{table}");
}

fn table(head: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(head.iter().copied());
    // What is copied into the next command stays in one piece.
    if let Some(column) = table.column_mut(0) {
        column.set_constraint(ColumnConstraint::ContentWidth);
    }
    table
}

fn sender(from: &str) -> String {
    if from.is_empty() {
        "<>".to_owned()
    } else {
        from.to_owned()
    }
}

fn since(time: &str) -> String {
    seconds_from_now(time)
        .map(|seconds| span(seconds.saturating_neg().max(0)))
        .unwrap_or_default()
}

fn until(time: &str) -> String {
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
fn span(seconds: i64) -> String {
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
