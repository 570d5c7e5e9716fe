//! `mta-queue top`: the queue, live. Asks on a thread of its own, so that the screen answers keys
//! whatever the queue is doing; the state is pure and tested without a terminal.

mod draw;
mod state;

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{self, Event, KeyEventKind};

use super::ask::{self, Failure};
use super::steer;
use crate::config::Config;
use crate::control::protocol::{Answer, By, Item, Numbers, Request, Row};
use crate::queue::{Happened, Selector, Verb};
use state::{Do, State};

/// How often numbers are asked for.
const SECOND: Duration = Duration::from_secs(1);
/// Rows that are asked for.
const ROWS: usize = 200;
/// Updates that wait for the screen.
const WAITING: usize = 256;

/// `mta-queue top`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print one screen of this size as text, such as 80x24, and end
    #[arg(long, value_name = "COLUMNSxROWS")]
    once: Option<String>,
}

/// What the asking thread brings.
pub(super) enum Update {
    /// Numbers, and when they were true.
    Numbers(Numbers, Instant),
    /// Destinations and what waits.
    Rows(Vec<Row>, Vec<Item>),
    /// Something happened.
    Happened(Box<Happened>),
    /// Something could not be asked or done, or was done.
    Said(String),
}

pub(super) fn run(config: &Config, args: &Args) -> Result<(), Failure> {
    if let Some(size) = &args.once {
        return once(config, size);
    }
    let selector = Arc::new(Mutex::new(Selector::default()));
    let (send, updates) = sync_channel(WAITING);
    let asking = (config.clone(), selector.clone(), send.clone());
    std::thread::spawn(move || ask_on(&asking.0, &asking.1, &asking.2));
    let watching = (config.clone(), send.clone());
    std::thread::spawn(move || watch(&watching.0, &watching.1));
    let mut terminal = ratatui::try_init().map_err(Failure::Output)?;
    let done = screen(&mut terminal, config, &selector, &updates, &send);
    ratatui::restore();
    done
}

fn screen(
    terminal: &mut ratatui::DefaultTerminal,
    config: &Config,
    selector: &Arc<Mutex<Selector>>,
    updates: &Receiver<Update>,
    send: &SyncSender<Update>,
) -> Result<(), Failure> {
    let mut state = State::default();
    loop {
        terminal
            .draw(|frame| draw::draw(frame, &state))
            .map_err(Failure::Output)?;
        while let Ok(update) = updates.try_recv() {
            state.update(update);
        }
        if !event::poll(Duration::from_millis(200)).map_err(Failure::Output)? {
            continue;
        }
        let Event::Key(key) = event::read().map_err(Failure::Output)? else {
            continue;
        };
        if key.kind == KeyEventKind::Release {
            continue;
        }
        match state.key(key.code, key.modifiers) {
            None => {}
            Some(Do::Quit) => return Ok(()),
            Some(Do::Filter(new)) => {
                *selector.lock().unwrap_or_else(PoisonError::into_inner) = new;
            }
            Some(Do::Steer(verb, which)) => {
                let (config, send) = (config.clone(), send.clone());
                std::thread::spawn(move || {
                    let said = order(&config, verb, which);
                    let _ = send.send(Update::Said(said));
                });
            }
        }
    }
}

/// Carries out an order and says what came of it.
fn order(config: &Config, verb: Verb, selector: Selector) -> String {
    let request = Request::steer(verb, selector, steer::operator());
    match ask::ask(config, request, &mut |_| Ok(())) {
        Ok(count) => format!("{verb:?}: {count} recipients"),
        Err(failure) => failure.to_string(),
    }
}

/// One screen as text.
fn once(config: &Config, size: &str) -> Result<(), Failure> {
    let sizes = size.split_once('x');
    let sizes = sizes.and_then(|(w, h)| Some((w.parse().ok()?, h.parse().ok()?)));
    let Some((columns, rows)) =
        sizes.filter(|(w, h)| (20..=500).contains(w) && (8..=500).contains(h))
    else {
        let wrong = format!("'{size}' is no size; write one such as 80x24");
        return Err(Failure::Usage(wrong));
    };
    let mut state = State::default();
    let first = numbers(config)?;
    std::thread::sleep(SECOND);
    let (send, updates) = sync_channel(WAITING);
    state.update(first);
    state.update(numbers(config)?);
    state.update(waiting(config, &Selector::default())?);
    drop(send);
    while let Ok(update) = updates.try_recv() {
        state.update(update);
    }
    let backend = TestBackend::new(columns, rows);
    let mut terminal = Terminal::new(backend).map_err(|e| Failure::Runtime(e.to_string()))?;
    terminal
        .draw(|frame| draw::draw(frame, &state))
        .map_err(|e| Failure::Runtime(e.to_string()))?;
    for line in draw::text(terminal.backend().buffer()) {
        say!("{line}");
    }
    Ok(())
}

fn numbers(config: &Config) -> Result<Update, Failure> {
    let mut found = None;
    ask::ask(config, Request::Counts {}, &mut |answer| {
        if let Answer::Counts(numbers) = answer {
            found = Some(Update::Numbers(*numbers, Instant::now()));
        }
        Ok(())
    })?;
    found.ok_or_else(|| Failure::Other("no queue is there yet: no daemon has run".into()))
}

fn waiting(config: &Config, selector: &Selector) -> Result<Update, Failure> {
    let mut rows = Vec::new();
    let selector = selector.clone();
    let request = Request::Summary {
        selector: selector.clone(),
        by: By::Domain,
    };
    ask::ask(config, request, &mut |answer| {
        if let Answer::Row(row) = answer
            && rows.len() < ROWS
        {
            rows.push(*row);
        }
        Ok(())
    })?;
    let mut items = Vec::new();
    let request = Request::List {
        selector,
        limit: Some(ROWS),
        sort: None,
        reverse: false,
        count: false,
    };
    ask::ask(config, request, &mut |answer| {
        if let Answer::Item(item) = answer {
            items.push(*item);
        }
        Ok(())
    })?;
    Ok(Update::Rows(rows, items))
}

/// Asks for numbers every second, and for what waits as often as that is cheap: a queue of a
/// million is not counted each second.
fn ask_on(config: &Config, selector: &Mutex<Selector>, send: &SyncSender<Update>) {
    let mut next = Instant::now();
    let mut before = None;
    loop {
        let mut said = Vec::new();
        match numbers(config) {
            Ok(update) => said.push(update),
            Err(failure) => said.push(Update::Said(failure.to_string())),
        }
        let now = selector
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let begun = Instant::now();
        if begun >= next || before.as_ref() != Some(&now) {
            match waiting(config, &now) {
                Ok(update) => said.push(update),
                Err(failure) => said.push(Update::Said(failure.to_string())),
            }
            before = Some(now);
            next = Instant::now() + SECOND.max(10 * begun.elapsed());
        }
        for update in said {
            if send.send(update).is_err() {
                return;
            }
        }
        std::thread::sleep(SECOND);
    }
}

fn watch(config: &Config, send: &SyncSender<Update>) {
    let request = || Request::Watch {
        selector: Selector::default(),
    };
    loop {
        let _ = ask::ask(config, request(), &mut |answer| match answer {
            Answer::Event(event) => send
                .send(Update::Happened(event))
                .map_err(|gone| Failure::Runtime(gone.to_string())),
            _ => Ok(()),
        });
        // The daemon may come back.
        std::thread::sleep(SECOND);
    }
}
