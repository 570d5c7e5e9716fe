//! The screen of `top`.

use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Block, Borders, Paragraph};

use super::super::{show, watch};
use super::state::{Mode, State, View};

pub(super) fn draw(frame: &mut Frame<'_>, state: &State) {
    let [top, middle, bottom, last] = Layout::vertical([
        Constraint::Length(3),
        Constraint::Min(4),
        Constraint::Length(5),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(Paragraph::new(head(state)), top);
    table(frame, state, middle);
    errors(frame, state, bottom);
    frame.render_widget(Paragraph::new(footer(state)), last);
}

fn head(state: &State) -> Vec<Line<'static>> {
    let rates = state.rates();
    let Some(numbers) = state.numbers() else {
        return vec![Line::from("asking the queue …")];
    };
    let count =
        |of: fn(&crate::control::protocol::Row) -> u64| state.rows.iter().map(of).sum::<u64>();
    let (total, queued, held) = (count(|r| r.total), count(|r| r.queued), count(|r| r.held));
    let deferred = total.saturating_sub(queued + held);
    let writable = match numbers.writable {
        true => "",
        false => "   READ-ONLY: see the log",
    };
    vec![
        Line::from(format!(
            "in {:.1}/s   out {:.1}/s   deferred {:.1}/s   failed {:.1}/s{writable}",
            rates.accepted, rates.delivered, rates.deferred, rates.failed
        )),
        Line::from(format!(
            "{} messages   {total} recipients: {queued} queued, {deferred} deferred, {held} held   \
             journal {} MiB in {} segments",
            numbers.messages,
            numbers.used >> 20,
            numbers.segments
        )),
        Line::from(match state.filter.as_str() {
            "" => String::new(),
            filter => format!("filter: {filter}"),
        }),
    ]
}

fn table(frame: &mut Frame<'_>, state: &State, area: Rect) {
    let title = match state.view {
        View::Destinations => " Destinations ",
        View::Messages => " Messages ",
        View::Events => " Events ",
    };
    let block = Block::default().borders(Borders::TOP).title(title);
    let inner = block.inner(area);
    let width = usize::from(inner.width);
    let (lines, cursor) = match state.view {
        View::Destinations => {
            let lines = show::summary_rows(&state.rows, Some(width));
            // Where there is little room each row has a second line with its reply.
            let at = lines.iter().enumerate().skip(1);
            let starts: Vec<usize> = at
                .filter(|(_, line)| !line.starts_with(' '))
                .map(|(at, _)| at)
                .collect();
            let cursor = starts.get(state.cursor).copied();
            (lines, cursor)
        }
        View::Messages => {
            let lines = show::rows(&state.items, width >= 120, Some(width));
            (lines, Some(state.cursor + 1))
        }
        View::Events => {
            let events = state.events.iter();
            let lines = events
                .map(|event| show::fit(&watch::line(event), width))
                .collect();
            (lines, Some(state.cursor))
        }
    };
    let height = usize::from(inner.height);
    let heading = usize::from(state.view != View::Events);
    let first = cursor
        .unwrap_or_default()
        .saturating_sub(height.saturating_sub(2))
        .max(heading);
    let shown = lines
        .iter()
        .enumerate()
        .filter(|(at, _)| *at < heading || *at >= first)
        .take(height);
    let text: Vec<Line<'_>> = shown
        .map(|(at, line)| {
            let style = match Some(at) == cursor {
                true => Style::default().add_modifier(Modifier::REVERSED),
                false if at < heading => Style::default().add_modifier(Modifier::BOLD),
                false => Style::default(),
            };
            Line::styled(line.clone(), style)
        })
        .collect();
    frame.render_widget(block, area);
    frame.render_widget(Paragraph::new(text), inner);
}

/// The newest trouble, whatever is looked at.
fn errors(frame: &mut Frame<'_>, state: &State, area: Rect) {
    let block = Block::default().borders(Borders::TOP).title(" Errors ");
    let inner = block.inner(area);
    let width = usize::from(inner.width);
    let bad = ["deferred", "bounced", "expired"];
    let happened = state.events.iter();
    let mut lines: Vec<String> = happened
        .filter(|event| bad.contains(&event.event.as_str()))
        .map(watch::line)
        .collect();
    if lines.is_empty() {
        // Before anything happened: the last that is known.
        let known = state.items.iter().filter_map(|item| {
            let reply = item.last_reply.as_ref()?;
            Some(format!("{} -> {}: {reply}", item.id, item.to))
        });
        lines.extend(known.take(usize::from(inner.height)));
    }
    let lines = lines.iter().map(|line| Line::from(show::fit(line, width)));
    let lines: Vec<Line<'_>> = lines.take(usize::from(inner.height)).collect();
    frame.render_widget(block, area);
    frame.render_widget(Paragraph::new(lines), inner);
}

fn footer(state: &State) -> Line<'static> {
    match &state.mode {
        Mode::Typing(text) => Line::from(format!(
            "filter (domain, or to: from: state: reply: older:): {text}▏"
        )),
        Mode::Sure(verb, _, name) => Line::from(format!("{verb:?} {name}? y: yes, other keys: no")),
        Mode::Look if !state.said.is_empty() => Line::from(state.said.clone()),
        Mode::Look => Line::from(
            "tab view  enter open  / filter  r replay  h hold  u release  x remove  q quit",
        ),
    }
}

/// A screen as lines of text.
pub(super) fn text(buffer: &Buffer) -> Vec<String> {
    let width = usize::from(buffer.area.width).max(1);
    let cells: Vec<&str> = buffer.content.iter().map(|cell| cell.symbol()).collect();
    let lines = cells.chunks(width).map(|line| line.concat());
    lines.map(|line| line.trim_end().to_owned()).collect()
}
