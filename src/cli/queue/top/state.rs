//! What `top` shows, and what its keys do. Pure: updates and keys in, orders out.

use std::collections::VecDeque;
use std::time::Instant;

use ratatui::crossterm::event::{KeyCode, KeyModifiers};

use super::Update;
use crate::control::protocol::{Item, Numbers, Row};
use crate::queue::{Happened, Selector, Verb};

/// Events that are kept.
const EVENTS: usize = 200;
/// Measurements that rates are taken from: half a minute of them.
const MEASURES: usize = 30;

/// What the screen wants done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Do {
    /// End.
    Quit,
    /// Ask for what this means from now on.
    Filter(Selector),
    /// An order to the queue.
    Steer(Verb, Selector),
}

/// Which table has the cursor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum View {
    /// Domains.
    #[default]
    Destinations,
    /// Recipients.
    Messages,
    /// What happened.
    Events,
}

/// What keys mean now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Mode {
    /// Commands.
    #[default]
    Look,
    /// A filter is typed.
    Typing(String),
    /// An order waits for `y`.
    Sure(Verb, Box<Selector>, String),
}

/// Recipients or messages a second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Rates {
    pub accepted: f64,
    pub delivered: f64,
    pub deferred: f64,
    pub failed: f64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct State {
    pub view: View,
    pub mode: Mode,
    pub cursor: usize,
    pub filter: String,
    pub rows: Vec<Row>,
    pub items: Vec<Item>,
    pub events: VecDeque<Happened>,
    pub said: String,
    measures: VecDeque<(Numbers, Instant)>,
}

impl State {
    /// Takes in what was asked for.
    pub fn update(&mut self, update: Update) {
        match update {
            Update::Numbers(numbers, at) => {
                // A daemon that was restarted counts from 0 again.
                let restarted = self
                    .measures
                    .back()
                    .is_some_and(|(last, _)| last.counts.accepted > numbers.counts.accepted);
                if restarted {
                    self.measures.clear();
                }
                if self.measures.len() == MEASURES {
                    self.measures.pop_front();
                }
                self.measures.push_back((numbers, at));
            }
            Update::Rows(rows, items) => {
                self.rows = rows;
                self.items = items;
                self.cursor = self.cursor.min(self.length().saturating_sub(1));
            }
            Update::Happened(event) => {
                if self.events.len() == EVENTS {
                    self.events.pop_back();
                }
                self.events.push_front(*event);
            }
            Update::Said(text) => self.said = text,
        }
    }

    /// The newest numbers.
    pub fn numbers(&self) -> Option<&Numbers> {
        self.measures.back().map(|(numbers, _)| numbers)
    }

    /// Rates over the time that is remembered.
    pub fn rates(&self) -> Rates {
        let (Some((first, from)), Some((last, to))) = (self.measures.front(), self.measures.back())
        else {
            return Rates::default();
        };
        let seconds = to.duration_since(*from).as_secs_f64();
        if seconds <= 0.0 {
            return Rates::default();
        }
        let rate = |new: u64, old: u64| new.saturating_sub(old) as f64 / seconds;
        let (new, old) = (&last.counts, &first.counts);
        Rates {
            accepted: rate(new.accepted, old.accepted),
            delivered: rate(new.delivered, old.delivered),
            deferred: rate(new.deferred, old.deferred),
            failed: rate(new.bounced + new.expired, old.bounced + old.expired),
        }
    }

    fn length(&self) -> usize {
        match self.view {
            View::Destinations => self.rows.len(),
            View::Messages => self.items.len(),
            View::Events => self.events.len(),
        }
    }

    /// What the row under the cursor names.
    fn chosen(&self) -> Option<(Selector, String)> {
        match self.view {
            View::Destinations => {
                let row = self.rows.get(self.cursor)?;
                let selector = Selector {
                    domain: row.domain.clone().into(),
                    ..self.selector()
                };
                Some((selector, row.domain.clone()))
            }
            View::Messages => {
                let item = self.items.get(self.cursor)?;
                let selector = Selector {
                    id: item.id.clone().into(),
                    ..Selector::default()
                };
                Some((selector, item.id.clone()))
            }
            View::Events => None,
        }
    }

    /// The filter as a selector: `domain:`, `to:`, `from:`, `state:`, `reply:`, or words of a
    /// domain.
    pub fn selector(&self) -> Selector {
        let mut selector = Selector::default();
        for word in self.filter.split_whitespace() {
            let (kind, text) = word.split_once(':').unwrap_or(("domain", word));
            if text.is_empty() {
                continue;
            }
            match kind {
                "to" => selector.to = text.into(),
                "from" => selector.from = text.into(),
                "state" => selector.state = text.into(),
                "reply" => selector.reply = text.into(),
                "older" => selector.older = text.into(),
                _ => selector.domain = format!("*{text}*").into(),
            }
        }
        selector
    }

    /// A key was pressed.
    pub fn key(&mut self, key: KeyCode, modifiers: KeyModifiers) -> Option<Do> {
        if key == KeyCode::Char('c') && modifiers.contains(KeyModifiers::CONTROL) {
            return Some(Do::Quit);
        }
        match std::mem::take(&mut self.mode) {
            Mode::Typing(text) => self.typed(text, key),
            Mode::Sure(verb, selector, _) => match key {
                KeyCode::Char('y') => Some(Do::Steer(verb, *selector)),
                _ => {
                    self.said = "nothing was done".into();
                    None
                }
            },
            Mode::Look => self.command(key),
        }
    }

    fn typed(&mut self, mut text: String, key: KeyCode) -> Option<Do> {
        match key {
            KeyCode::Enter => {
                self.filter = text;
                self.cursor = 0;
                return Some(Do::Filter(self.selector()));
            }
            KeyCode::Esc => return None,
            KeyCode::Backspace => drop(text.pop()),
            KeyCode::Char(c) if text.len() < 200 => text.push(c),
            _ => {}
        }
        self.mode = Mode::Typing(text);
        None
    }

    fn command(&mut self, key: KeyCode) -> Option<Do> {
        let last = self.length().saturating_sub(1);
        self.said.clear();
        match key {
            KeyCode::Esc if !self.filter.is_empty() => {
                self.filter.clear();
                self.cursor = 0;
                return Some(Do::Filter(Selector::default()));
            }
            KeyCode::Char('q') | KeyCode::Esc => return Some(Do::Quit),
            KeyCode::Down | KeyCode::Char('j') => self.cursor = (self.cursor + 1).min(last),
            KeyCode::Up | KeyCode::Char('k') => self.cursor = self.cursor.saturating_sub(1),
            KeyCode::Home => self.cursor = 0,
            KeyCode::End => self.cursor = last,
            KeyCode::Tab => {
                self.cursor = 0;
                self.view = match self.view {
                    View::Destinations => View::Messages,
                    View::Messages => View::Events,
                    View::Events => View::Destinations,
                };
            }
            KeyCode::Char('/') | KeyCode::Char('f') => {
                self.mode = Mode::Typing(String::new());
            }
            KeyCode::Enter if self.view == View::Destinations => {
                let domain = self.rows.get(self.cursor)?.domain.clone();
                self.filter = format!("domain:{domain}");
                self.view = View::Messages;
                self.cursor = 0;
                return Some(Do::Filter(Selector {
                    domain: domain.into(),
                    ..Selector::default()
                }));
            }
            KeyCode::Char('r') => return self.order(Verb::Replay),
            KeyCode::Char('h') => return self.order(Verb::Hold),
            KeyCode::Char('u') => return self.order(Verb::Release),
            KeyCode::Char('x') => return self.order(Verb::Remove),
            _ => {}
        }
        None
    }

    /// Asks first: a slip of a finger must not move a thousand messages.
    fn order(&mut self, verb: Verb) -> Option<Do> {
        match self.chosen() {
            Some((selector, name)) => self.mode = Mode::Sure(verb, Box::new(selector), name),
            None => self.said = "choose a destination or a message first".into(),
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::control::protocol::By;
    use crate::queue::Counts;

    fn numbers(accepted: u64, delivered: u64) -> Numbers {
        Numbers {
            counts: Counts {
                accepted,
                delivered,
                ..Counts::default()
            },
            messages: 1,
            used: 0,
            live: 0,
            segments: 1,
            syncs: 0,
            writable: true,
        }
    }

    fn row(domain: &str) -> Row {
        Row {
            domain: domain.into(),
            by: By::Domain,
            key: domain.into(),
            total: 1,
            ages: [0; 10],
            queued: 0,
            held: 0,
            reply: None,
        }
    }

    fn press(state: &mut State, keys: &str) -> Option<Do> {
        let mut last = None;
        for key in keys.chars() {
            let code = match key {
                '\n' => KeyCode::Enter,
                '\t' => KeyCode::Tab,
                key => KeyCode::Char(key),
            };
            last = state.key(code, KeyModifiers::NONE);
        }
        last
    }

    #[test]
    fn rates_are_over_time_and_survive_a_restart() {
        let begun = Instant::now();
        let mut state = State::default();
        assert_eq!(state.rates(), Rates::default());
        state.update(Update::Numbers(numbers(10, 0), begun));
        state.update(Update::Numbers(
            numbers(30, 5),
            begun + Duration::from_secs(2),
        ));
        assert_eq!(
            (state.rates().accepted, state.rates().delivered),
            (10.0, 2.5)
        );
        state.update(Update::Numbers(
            numbers(1, 0),
            begun + Duration::from_secs(3),
        ));
        assert_eq!(state.rates(), Rates::default());
    }

    #[test]
    fn keys_filter_and_steer_after_a_question() {
        let mut state = State::default();
        state.update(Update::Rows(
            vec![row("a.example"), row("b.example")],
            Vec::new(),
        ));
        assert_eq!(press(&mut state, "jr"), None);
        assert!(matches!(&state.mode, Mode::Sure(Verb::Replay, _, name) if name == "b.example"));
        let order = Selector {
            domain: "b.example".into(),
            ..Selector::default()
        };
        assert_eq!(press(&mut state, "y"), Some(Do::Steer(Verb::Replay, order)));
        assert_eq!(press(&mut state, "hn"), None);
        assert_eq!(state.said, "nothing was done");
        let wanted = Selector {
            domain: "*gmail*".into(),
            state: "deferred".into(),
            ..Selector::default()
        };
        assert_eq!(
            press(&mut state, "/gmail state:deferred\n"),
            Some(Do::Filter(wanted))
        );
        press(&mut state, "\t\tr");
        assert_eq!(state.view, View::Events);
        assert!(state.said.starts_with("choose"));
        press(&mut state, "j");
        assert_eq!(state.said, "", "what was said is about the last key");
        // A new filter takes the place of the old one; Esc ends it, and the next one all.
        let wanted = Selector {
            from: "a@b".into(),
            ..Selector::default()
        };
        assert_eq!(press(&mut state, "/from:a@b\n"), Some(Do::Filter(wanted)));
        let esc = |state: &mut State| state.key(KeyCode::Esc, KeyModifiers::NONE);
        assert_eq!(esc(&mut state), Some(Do::Filter(Selector::default())));
        assert_eq!(esc(&mut state), Some(Do::Quit));
        assert_eq!(press(&mut state, "q"), Some(Do::Quit));
    }
}
