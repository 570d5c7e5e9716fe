//! What of a transaction is tried again at once, in the same attempt. Pure.
//!
//! A server that takes no more recipients in one transaction gets the others in the next one; a
//! host that breaks off before it has the message leaves the other hosts to be asked (RFC 5321
//! section 5.1), and so does one that lacks what the message needs. Nothing is tried again once the
//! message may have been taken.

use super::opening::Unreached;
use super::verdict::Verdict;
use crate::queue::Outcome;
use crate::smtp::client::{Answer, Finished, Said, Stage};

/// Sessions that one attempt may have beyond its first.
pub(super) const MORE_SESSIONS: usize = 2;

/// How it is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    /// Over the same connection.
    Here,
    /// At another host.
    Elsewhere,
    /// At another host, which may have the extension that this one lacks. Nothing was said about
    /// the message, so it costs no session.
    Lacking,
    /// Over a new connection, so many recipients in a transaction.
    Fewer(usize),
}

/// What was said about recipients that are tried again: their verdicts if that leads nowhere.
pub(super) struct Held {
    pub(super) verdicts: Vec<Verdict>,
    pub(super) remote: String,
    pub(super) tls: String,
}

impl Held {
    /// Whether it is the last word when no other host has a session, and `why`. That some hosts can
    /// never take a message ends it only if no other one may yet be reached.
    pub(super) fn is_final(&self, why: &Unreached) -> bool {
        let failed = |verdict: &Verdict| verdict.outcome == Outcome::Failed;
        why.nobody_left
            || why.verdict.outcome == Outcome::Failed
            || !self.verdicts.iter().all(failed)
    }
}

/// Which answers are not the last word, by their positions, and what to do about them. `verdicts`
/// are what the answers mean, `ruled` whether a rule of the provider means one of them: then it
/// decides.
pub(super) fn plan(
    finished: &Finished,
    verdicts: &[Verdict],
    ruled: bool,
    sessions: usize,
) -> Option<(Again, Vec<usize>)> {
    let answers = &finished.answers;
    let positions = |fits: fn(&Answer) -> bool| -> Vec<usize> {
        let all = answers.iter().enumerate();
        all.filter(|(_, answer)| fits(answer))
            .map(|(at, _)| at)
            .collect()
    };
    let taken = verdicts
        .iter()
        .any(|verdict| verdict.outcome == Outcome::Delivered);
    let over = positions(is_too_many);
    if taken && !over.is_empty() {
        return Some((Again::Here, over));
    }
    if ruled || sessions >= MORE_SESSIONS {
        return None;
    }
    // RFC 5321 section 4.5.3.1.10 wants 452; some close instead.
    let open = positions(is_cut_off);
    let at_recipients = open.first().and_then(|at| answers.get(*at));
    let told = at_recipients.is_some_and(|answer| {
        answer.stage == Stage::Recipient && matches!(&answer.said, Said::Reply(_))
    });
    if told && (1..open.len()).contains(&finished.accepted) {
        return Some((Again::Fewer(finished.accepted), open));
    }
    let rest = positions(|answer| is_cut_off(answer) || is_refused_mail(answer));
    (!rest.is_empty()).then_some((Again::Elsewhere, rest))
}

/// RCPT was refused because the transaction has too many.
fn is_too_many(answer: &Answer) -> bool {
    let Said::Reply(reply) = &answer.said else {
        return false;
    };
    let said = || {
        let text = reply.text.to_ascii_lowercase();
        matches!(reply.enhanced.as_str(), "4.5.3" | "5.5.3") || text.contains("too many recipients")
    };
    answer.stage == Stage::Recipient && matches!(reply.code, 452 | 552) && said()
}

/// The connection ended before the server had the message.
fn is_cut_off(answer: &Answer) -> bool {
    let early = matches!(
        answer.stage,
        Stage::Mail | Stage::Recipient | Stage::Data | Stage::Content
    );
    early
        && match &answer.said {
            Said::Reply(reply) => reply.code == 421,
            Said::Nothing(_) => true,
        }
}

/// The host takes no mail for now, whoever it is for.
fn is_refused_mail(answer: &Answer) -> bool {
    let Said::Reply(reply) = &answer.said else {
        return false;
    };
    answer.stage == Stage::Mail && (400..=499).contains(&reply.code)
}

#[cfg(test)]
mod tests {
    use super::super::verdict::judge;
    use super::*;
    use crate::smtp::client::Loss;
    use crate::smtp::reply::Reply;

    fn said(stage: Stage, code: u16, enhanced: &str, text: &str) -> Answer {
        Answer {
            stage,
            said: Said::Reply(Reply::new(code, enhanced, text)),
        }
    }

    fn lost(stage: Stage) -> Answer {
        Answer {
            stage,
            said: Said::Nothing(Loss::Closed),
        }
    }

    fn planned(answers: Vec<Answer>, accepted: usize) -> Option<(Again, Vec<usize>)> {
        let verdicts: Vec<_> = answers.iter().map(judge).collect();
        let finished = Finished {
            answers,
            untouched: false,
            no_chunks: false,
            accepted,
        };
        let ruled = plan(&finished, &verdicts, true, 0);
        assert!(!matches!(
            ruled,
            Some((Again::Elsewhere | Again::Fewer(_), _))
        ));
        let late = plan(&finished, &verdicts, false, MORE_SESSIONS);
        assert_eq!(late, ruled, "only the same connection has no limit");
        plan(&finished, &verdicts, false, 0)
    }

    #[test]
    fn what_is_tried_again_and_where() {
        use Stage::*;
        let ok = || said(FinalDot, 250, "2.0.0", "queued");
        let full = || said(Recipient, 452, "4.5.3", "too many recipients");
        let old = || said(Recipient, 552, "", "Too many recipients");
        let bye = |stage| said(stage, 421, "4.7.0", "bye");
        let nobody = || said(Recipient, 550, "5.1.1", "nobody");
        for (answers, accepted, expected) in [
            (
                vec![ok(), full(), old(), nobody()],
                1,
                Some((Again::Here, vec![1, 2])),
            ),
            // A mailbox that is full stays full.
            (
                vec![ok(), said(Recipient, 452, "4.2.2", "over quota")],
                1,
                None,
            ),
            // Nobody was taken: another transaction would bring the same.
            (vec![full(), full()], 0, None),
            (
                vec![ok(), said(Recipient, 450, "4.7.1", "greylisted")],
                1,
                None,
            ),
            (
                vec![nobody(), bye(Recipient), bye(Recipient)],
                1,
                Some((Again::Fewer(1), vec![1, 2])),
            ),
            (
                vec![bye(Recipient), bye(Recipient)],
                0,
                Some((Again::Elsewhere, vec![0, 1])),
            ),
            (
                vec![lost(Recipient), nobody(), lost(Recipient)],
                1,
                Some((Again::Elsewhere, vec![0, 2])),
            ),
            (vec![bye(Mail)], 0, Some((Again::Elsewhere, vec![0]))),
            (
                vec![said(Mail, 452, "4.3.1", "full")],
                0,
                Some((Again::Elsewhere, vec![0])),
            ),
            (vec![said(Mail, 550, "5.7.1", "no")], 0, None),
            (vec![lost(Data)], 1, Some((Again::Elsewhere, vec![0]))),
            (vec![lost(Content)], 1, Some((Again::Elsewhere, vec![0]))),
            // It may have the message.
            (vec![lost(FinalDot)], 1, None),
            (vec![bye(FinalDot)], 1, None),
        ] {
            let what = format!("{answers:?}");
            assert_eq!(planned(answers, accepted), expected, "{what}");
        }
    }
}
