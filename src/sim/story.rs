//! What a run did, in lines: the newest are kept, and those about one message are told apart when
//! something is wrong with it.

use std::collections::VecDeque;
use std::fmt::Write;

/// Lines that are kept.
const KEPT: usize = 6000;
/// Lines of a shortened story: the last of all, and the last about what is wrong.
const LAST: usize = 25;
const ABOUT: usize = 60;

/// See the module.
#[derive(Debug, Default)]
pub struct Story {
    lines: VecDeque<(u64, String)>,
    /// The step that is being made.
    pub step: u64,
}

impl Story {
    /// Adds a line.
    pub fn tell(&mut self, line: impl Into<String>) {
        if self.lines.len() == KEPT {
            self.lines.pop_front();
        }
        self.lines.push_back((self.step, line.into()));
    }

    /// The lines that matter for `problem`: those that name an id which it names, those about the
    /// whole store, and the last ones.
    pub fn shortened(&self, problem: &str) -> String {
        let is_id = |word: &&str| word.len() >= 11 && word.chars().all(char::is_alphanumeric);
        let separate = |c: char| !c.is_alphanumeric();
        let ids: Vec<&str> = problem.split(separate).filter(is_id).collect();
        let mut chosen: Vec<usize> = Vec::new();
        let total = self.lines.len();
        for (place, (_, line)) in self.lines.iter().enumerate().rev() {
            let about = ids.iter().any(|id| line.contains(id)) || line.starts_with("== ");
            if total - place <= LAST || (about && chosen.len() < LAST + ABOUT) {
                chosen.push(place);
            }
        }
        let mut out = String::new();
        for place in chosen.into_iter().rev() {
            if let Some((step, line)) = self.lines.get(place) {
                let _ = writeln!(out, "  {step:>7}  {line}");
            }
        }
        out
    }
}
