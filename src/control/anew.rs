//! Where recipients go when an operator redirects them or has them resolved again, and what that
//! makes of the message: as if it had come now.

use queue_schema::{Message, Origin};

use crate::message::Content;
use crate::queue::{Anew, Handle, Onward};

/// Finds out where these recipients of a message go: to `target`, or to where their own addresses
/// lead now.
pub(super) async fn anew(
    message: &std::sync::Arc<Message>,
    recipients: &[u32],
    target: Option<&str>,
    queue: &Handle,
) -> Anew {
    let mut anew = Anew::default();
    let mut forwarder = None;
    for position in recipients {
        let at = usize::try_from(*position).ok();
        let Some(recipient) = at.and_then(|at| message.envelope.recipients.get(at)) else {
            continue;
        };
        let own = recipient.alias_of.as_ref().unwrap_or(&recipient.address);
        forwarder = forwarder.or(Some(own.as_str()));
        let targets = match target {
            Some(target) => vec![target.to_owned()],
            None => (queue.leads)(own),
        };
        anew.places.push((*position, targets));
    }
    let outside = matches!(message.origin, Origin::Outside { .. });
    if let (Some(forwarder), true, Some((onward, sealer))) = (forwarder, outside, &queue.onward) {
        let targets: Vec<String> = anew.places.iter().flat_map(|(_, to)| to.clone()).collect();
        // A message that cannot be read fails when it is tried, and says why.
        if let Ok(content) = queue.view.content(message.clone()).await {
            let Onward { forwarded_as, seal } = onward(message, &content, forwarder, &targets);
            if forwarded_as != message.envelope.forwarded_as {
                anew.forwarded_as = Some(forwarded_as);
            }
            if let Some(seal) = seal {
                anew.top = sealed(sealer.send(seal).await, &content);
            }
        }
    }
    anew
}

/// A seal helps, but mail without one is better than none.
fn sealed<E: std::fmt::Display, M: std::fmt::Display>(
    answer: Result<Result<bytes::Bytes, E>, M>,
    content: &Content,
) -> Option<String> {
    let failed = match answer {
        Ok(Ok(set)) => return String::from_utf8(set.to_vec()).ok(),
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    tracing::error!(
        error = failed,
        size = content.len(),
        "redirected without a seal"
    );
    None
}
