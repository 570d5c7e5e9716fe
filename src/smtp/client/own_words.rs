//! Which replies are no server's: what is said for one that was silent, or that can not take a
//! message. Pure.

use super::Stage;

/// Beginnings of what [`Refusal`] says.
const REFUSALS: [&str; 6] = [
    "the message is longer than the ",
    "the message has 8-bit content and the server has no 8BITMIME",
    "the message has internationalised addresses or headers and the server has no SMTPUTF8",
    "the sender requires TLS on every hop (REQUIRETLS) and the server does not promise that",
    "the message is to be delivered within ",
    "an address of the envelope holds a control character",
];

/// Whether a reply is in words of ours about a host, not its own: what is made of
/// silence and of what the host offers.
pub fn is_own_words(text: &str) -> bool {
    let of_loss = |stage: &Stage| {
        let front = text.strip_suffix(UNKNOWN).unwrap_or(text);
        let front = front.strip_suffix(')');
        front.is_some_and(|front| front.ends_with(&format!(" (at {stage}")))
    };
    REFUSALS.iter().any(|own| text.starts_with(own)) || STAGES.iter().any(of_loss)
}

/// Where a connection can be lost.
pub const STAGES: [Stage; 11] = [
    Stage::Connect,
    Stage::Greeting,
    Stage::Hello,
    Stage::StartTls,
    Stage::Auth,
    Stage::Reset,
    Stage::Mail,
    Stage::Recipient,
    Stage::Data,
    Stage::Content,
    Stage::FinalDot,
];

/// What is added to a silence after the final dot.
pub const UNKNOWN: &str = "; whether it has taken the message is not known";
