//! What a reply means for a recipient: delivered, deferred or failed.
//!
//! Every answer of a next hop is judged here and nowhere else. Pure: no I/O, no clock.

use std::time::Duration;

use queue_schema::Suspended;

use crate::config::providers::{Action, Rule};
use crate::queue::{LOST, Outcome};
use crate::smtp::client::own_words::UNKNOWN;
use crate::smtp::client::{Answer, Loss, Refusal, Said, Stage};
use crate::smtp::reply::Reply;

/// A wait that a reply names is obeyed, but not beyond this.
pub const LONGEST_NAMED_WAIT: Duration = Duration::from_secs(24 * 3600);

/// A wait that a reply names is not shorter than this: "again in 2 seconds" would otherwise be an
/// attempt every two seconds.
pub const SHORTEST_NAMED_WAIT: Duration = Duration::from_secs(60);

/// An outcome and the words for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// What becomes of the recipient.
    pub outcome: Outcome,
    /// What the server said, or what we say where it said nothing.
    pub reply: Reply,
}

impl Verdict {
    /// Tried, and to be tried again after the next step of the backoff.
    pub fn deferred(code: u16, enhanced: &str, text: &str) -> Verdict {
        Verdict {
            outcome: Outcome::Deferred {
                retry_after: None,
                counts: true,
            },
            reply: Reply::new(code, enhanced, text),
        }
    }

    /// Not tried, through no fault of the message; to be tried again after `wait`.
    pub fn postponed(wait: Duration, reply: Reply) -> Verdict {
        Verdict {
            outcome: Outcome::Deferred {
                retry_after: Some(wait),
                counts: false,
            },
            reply,
        }
    }

    /// Not tried, because the destination is suspended or slowed. Who did that and why is for
    /// operators; the reply, which may reach senders, does not say it.
    pub fn suspended(what: &Suspended, wait: Duration) -> Verdict {
        Verdict {
            outcome: Outcome::Suspended {
                what: Box::new(what.clone()),
                wait,
            },
            reply: Reply::new(
                450,
                "4.3.2",
                "delivery to this destination is held back here",
            ),
        }
    }

    /// Theirs now, or ours no more.
    pub fn delivered(enhanced: &str, text: &str) -> Verdict {
        Verdict {
            outcome: Outcome::Delivered,
            reply: Reply::new(250, enhanced, text),
        }
    }

    /// The message can not be read any more.
    pub fn lost() -> Verdict {
        Verdict {
            outcome: Outcome::Lost,
            reply: Reply::new(554, "5.3.0", LOST),
        }
    }

    /// Never to be tried again.
    pub fn failed(code: u16, enhanced: &str, text: &str) -> Verdict {
        Verdict {
            outcome: Outcome::Failed,
            reply: Reply::new(code, enhanced, text),
        }
    }
}

/// Judges what a server said about a recipient.
pub fn judge(answer: &Answer) -> Verdict {
    match &answer.said {
        Said::Reply(reply) => Verdict {
            outcome: judge_reply(answer.stage, reply),
            reply: reply.clone(),
        },
        Said::Nothing(loss) => judge_loss(answer.stage, loss),
    }
}

fn judge_reply(stage: Stage, reply: &Reply) -> Outcome {
    let temporary = match reply.code {
        // That we may not log in is for the operator to correct; the mail can wait for it.
        _ if stage == Stage::Auth => true,
        // Only the reply to the final dot takes a message over (RFC 5321 section 4.2.5).
        200..=299 if stage == Stage::FinalDot => return Outcome::Delivered,
        200..=399 => true,
        400..=499 => true,
        // RFC 5321 section 4.5.3.1.10: 552 to RCPT was once "too many recipients" and is to be
        // read as 452; and a full mailbox, which it means today, may be emptied.
        552 if stage == Stage::Recipient => true,
        // We and the server disagree about where in the session we are, which says nothing about
        // the message.
        503 => true,
        _ => false,
    };
    match temporary {
        true => Outcome::Deferred {
            retry_after: named_wait(&reply.text),
            counts: true,
        },
        false => Outcome::Failed,
    }
}

/// A verdict as a rule of the provider changes it. Mail that is not `ours` waits for nothing that its
/// author's domain did wrong.
pub fn follow(judged: Verdict, rule: &Rule, ours: bool) -> Verdict {
    let named = match judged.outcome {
        Outcome::Deferred { retry_after, .. } => retry_after,
        Outcome::Delivered | Outcome::Failed | Outcome::Lost | Outcome::Suspended { .. } => None,
    };
    let outcome = match rule.action {
        Action::Permanent => Outcome::Failed,
        // Providers say never to repeat what they refused for good: its sender hears of it at once,
        // and the operator by the alarm. Only a destination that pauses as a whole keeps its mail.
        Action::Alarm if !rule.pause && (!ours || judged.outcome == Outcome::Failed) => {
            judged.outcome
        }
        _ => Outcome::Deferred {
            retry_after: rule.wait.or(named),
            counts: true,
        },
    };
    Verdict { outcome, ..judged }
}

fn judge_loss(stage: Stage, loss: &Loss) -> Verdict {
    // RFC 3463: X.4.1 no answer from host, X.4.2 bad connection, X.5.0 protocol trouble.
    let enhanced = match loss {
        Loss::Ourselves => return Verdict::failed(554, "5.4.6", &loss.to_string()),
        Loss::Closed | Loss::Network(_) if stage != Stage::Connect => "4.4.2",
        Loss::Closed | Loss::Network(_) | Loss::TimedOut => "4.4.1",
        Loss::Malformed(_) | Loss::OutOfStep => "4.5.0",
    };
    // RFC 1047: after the final dot silence means neither yes nor no.
    let unknown = match stage {
        Stage::FinalDot => UNKNOWN,
        _ => "",
    };
    Verdict::deferred(451, enhanced, &format!("{loss} (at {stage}){unknown}"))
}

/// Judges that a message can not go over a connection at all.
pub fn judge_refusal(refusal: &Refusal) -> Verdict {
    let (code, enhanced) = match refusal {
        Refusal::TooLarge { .. } => (552, "5.3.4"),
        Refusal::EightBit => (554, "5.6.3"),
        Refusal::Utf8 => (554, "5.6.7"),
        Refusal::RequireTls => (550, "5.7.30"),
        Refusal::TooLate { .. } => (550, "5.4.7"),
        Refusal::Address => (553, "5.1.3"),
    };
    Verdict::failed(code, enhanced, &refusal.to_string())
}

/// The wait a reply asks for, as in "try again in 300 seconds" or "retry after 5 minutes".
fn named_wait(text: &str) -> Option<Duration> {
    let lower = text.to_ascii_lowercase();
    // A full stop in a word makes an address or a status code of it, and no number.
    let words: Vec<&str> = lower
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '.')
        .map(|word| word.trim_matches('.'))
        .filter(|word| !word.is_empty())
        .collect();
    // A number counts only after "in" or "after" and before a unit: texts are full of numbers.
    words.iter().enumerate().find_map(|(at, word)| {
        if !matches!(*word, "in" | "after" | "for" | "wait" | "least") {
            return None;
        }
        let number = words.get(at + 1)?;
        let digits = number.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let count: u64 = digits.parse().ok()?;
        let attached = number.get(digits.len()..).unwrap_or_default();
        let unit = if attached.is_empty() {
            *words.get(at + 2)?
        } else {
            attached
        };
        let seconds = match unit {
            "s" | "sec" | "secs" | "second" | "seconds" => 1,
            "m" | "min" | "mins" | "minute" | "minutes" => 60,
            "h" | "hr" | "hrs" | "hour" | "hours" => 3600,
            _ => return None,
        };
        let wait = Duration::from_secs(count.saturating_mul(seconds));
        let rate = is_rate(word, words.get(..at).unwrap_or_default());
        (count > 0 && !rate).then(|| wait.clamp(SHORTEST_NAMED_WAIT, LONGEST_NAMED_WAIT))
    })
}

/// Whether a span of time with `word` and these words before it is that of a rate, as in "max 10
/// messages in 2 seconds" or "too many connections in 1 hour": it says how much is allowed, not
/// when to come again.
fn is_rate(word: &str, before: &[&str]) -> bool {
    let near = || before.iter().rev().take(WORDS_OF_A_RATE);
    let again = |last: &&str| matches!(*last, "again" | "back" | "retry" | "later" | "wait");
    if before.last().is_some_and(again) || matches!(word, "wait" | "least") {
        return false;
    }
    let number = |said: &&str| said.bytes().all(|byte| byte.is_ascii_digit());
    let limit = |said: &&str| {
        matches!(
            *said,
            "many" | "much" | "more" | "than" | "max" | "maximum" | "limit" | "most"
        )
    };
    near().any(number) || (word == "in" && near().any(limit))
}

/// Words between the number, or the limit, of a rate and its span of time.
const WORDS_OF_A_RATE: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::client::own_words::{STAGES, is_own_words};
    use crate::smtp::reply::ReplyError;

    const LATER: Outcome = Outcome::Deferred {
        retry_after: None,
        counts: true,
    };

    fn outcome(stage: Stage, code: u16, enhanced: &str) -> Outcome {
        judge(&Answer {
            stage,
            said: Said::Reply(Reply::new(code, enhanced, "text")),
        })
        .outcome
    }

    #[test]
    fn replies_by_stage() {
        use Stage::*;
        for (stage, code, enhanced, expected) in [
            (FinalDot, 250, "2.0.0", Outcome::Delivered),
            (FinalDot, 200, "", Outcome::Delivered),
            (FinalDot, 299, "", Outcome::Delivered),
            (Mail, 250, "", LATER),
            (Data, 250, "", LATER),
            (FinalDot, 451, "4.7.1", LATER),
            (FinalDot, 552, "", Outcome::Failed),
            (Mail, 552, "", Outcome::Failed),
            (Recipient, 552, "", LATER),
            (Recipient, 552, "5.5.3", LATER),
            (Recipient, 552, "5.2.2", LATER),
            (Recipient, 550, "5.1.1", Outcome::Failed),
            (Recipient, 450, "4.2.0", LATER),
            (Recipient, 421, "", LATER),
            (Recipient, 503, "5.5.1", LATER),
            (Mail, 503, "", LATER),
            (FinalDot, 554, "5.7.1", Outcome::Failed),
            (Greeting, 554, "", Outcome::Failed),
            (Greeting, 421, "", LATER),
            (Hello, 550, "", Outcome::Failed),
        ] {
            assert_eq!(
                outcome(stage, code, enhanced),
                expected,
                "{code} {enhanced} at {stage}"
            );
        }
    }

    #[test]
    fn silence_defers_and_says_where() {
        for (stage, loss, enhanced, text) in [
            (
                Stage::Connect,
                Loss::TimedOut,
                "4.4.1",
                "no answer in time (at connecting)",
            ),
            (
                Stage::Connect,
                Loss::Network("connection refused".to_owned()),
                "4.4.1",
                "connection refused (at connecting)",
            ),
            (
                Stage::FinalDot,
                Loss::Closed,
                "4.4.2",
                "the server closed the connection (at the end of data); whether it has taken the \
                 message is not known",
            ),
            (
                Stage::Content,
                Loss::Closed,
                "4.4.2",
                "the server closed the connection (at sending the message)",
            ),
            (
                Stage::Mail,
                Loss::OutOfStep,
                "4.5.0",
                "the server sent a reply that belongs to no command (at MAIL FROM)",
            ),
            (
                Stage::Greeting,
                Loss::Malformed(ReplyError::TooLong),
                "4.5.0",
                "the server sent a reply without end (at the greeting)",
            ),
        ] {
            let verdict = judge(&Answer {
                stage,
                said: Said::Nothing(loss),
            });
            assert_eq!(verdict, Verdict::deferred(451, enhanced, text));
        }
    }

    #[test]
    fn waits_that_are_named() {
        let secs = |n| Some(Duration::from_secs(n));
        for (text, wait) in [
            ("Greylisted, try again in 300 seconds", secs(300)),
            ("Greylisted for 5 minutes", secs(300)),
            ("please retry after 10m.", secs(600)),
            ("come back in 2 hours", secs(7200)),
            ("wait 60s", secs(60)),
            // A floor.
            ("try again in 2 seconds", secs(60)),
            ("retry after 59 s", secs(60)),
            ("wait at least 90 sec", secs(90)),
            ("try again in 0 seconds", None),
            ("try again in 99999999999999999999 seconds", None),
            ("try again in 18446744073709551615 hours", secs(86_400)),
            ("try again later", None),
            ("1000 seconds", None),
            ("blocked after 5 errors in 3", None),
            ("", None),
        ] {
            let reply = Reply::new(451, "4.7.1", text);
            let answer = Answer {
                stage: Stage::Recipient,
                said: Said::Reply(reply),
            };
            let expected = Outcome::Deferred {
                retry_after: wait,
                counts: true,
            };
            assert_eq!(judge(&answer).outcome, expected, "{text}");
        }
    }

    #[test]
    fn d13_a_rate_is_no_wait() {
        for text in [
            "policy: max 10 messages in 2 seconds",
            "more than 100 recipients from 192.0.2.1 in 1 hour",
            "Too many connections in 60 seconds",
            "too many messages received from you in 10 minutes",
            "rate limit of 20 per sender in 5 minutes exceeded",
            "you are limited to 30 messages for 1 hour",
            "blocked: 5 errors after 10 minutes of connection",
            "at most 3 connections in 10 s are taken",
        ] {
            assert_eq!(named_wait(text), None, "{text}");
        }
        for (text, wait) in [
            ("max 10 messages in 2 seconds, try again in 5 minutes", 300),
            ("Too many connections, retry in 90 seconds", 90),
            ("limit of 10 messages reached; please wait 2 minutes", 120),
            ("In 5 minutes it will be taken", 300),
            ("4.7.1 Greylisted for 5 minutes", 300),
            ("please come back in 120 seconds", 120),
        ] {
            let wait = Some(Duration::from_secs(wait));
            assert_eq!(named_wait(text), wait, "{text}");
        }
    }

    #[test]
    fn o8_words_of_ours_are_told_from_those_of_a_server() {
        for refusal in [
            Refusal::TooLarge { limit: 1000 },
            Refusal::EightBit,
            Refusal::Utf8,
            Refusal::RequireTls,
            Refusal::TooLate {
                left: 1,
                minimum: 2,
            },
            Refusal::Address,
        ] {
            assert!(
                is_own_words(&judge_refusal(&refusal).reply.text),
                "{refusal}"
            );
        }
        for stage in STAGES {
            for loss in [Loss::Closed, Loss::TimedOut, Loss::OutOfStep] {
                let said = Said::Nothing(loss);
                let text = judge(&Answer { stage, said }).reply.text;
                assert!(is_own_words(&text), "{text}");
            }
        }
        for theirs in [
            "message too large",
            "no mailbox (at all)",
            "busy (at DATA) today",
            "",
        ] {
            assert!(!is_own_words(theirs), "{theirs}");
        }
    }
}
