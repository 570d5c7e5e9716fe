//! How much each user may send: messages in an hour, recipients in a day. Pure, told the time.

use std::collections::HashMap;

use queue_schema::Millis;

use crate::config::Limits;

const HOUR: Millis = 3_600_000;
const DAY: Millis = 24 * HOUR;

/// What was sent, by user. Only users that exist come here, so their number is bounded.
#[derive(Debug, Default)]
pub struct Quota {
    users: HashMap<String, Usage>,
}

#[derive(Debug, Default)]
struct Usage {
    hour: Millis,
    messages: usize,
    day: Millis,
    recipients: usize,
}

impl Quota {
    /// Counts a message to so many recipients, if `user` may still send it; none asks only whether
    /// another message is allowed.
    pub fn spend(&mut self, user: &str, recipients: usize, limits: &Limits, now: Millis) -> bool {
        let usage = self.users.entry(user.to_owned()).or_default();
        if usage.hour != now / HOUR {
            usage.hour = now / HOUR;
            usage.messages = 0;
        }
        if usage.day != now / DAY {
            usage.day = now / DAY;
            usage.recipients = 0;
        }
        let within = |limit: usize, used: usize| limit == 0 || used <= limit;
        let allowed = within(limits.user_messages, usage.messages + 1)
            && within(limits.user_recipients, usage.recipients + recipients.max(1));
        if allowed && recipients > 0 {
            usage.messages += 1;
            usage.recipients += recipients;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_have_their_share_and_get_it_back() {
        let limits = Limits {
            user_messages: 2,
            user_recipients: 5,
            ..Limits::default()
        };
        let mut quota = Quota::default();
        assert!(quota.spend("a", 0, &limits, 0));
        assert!(quota.spend("a", 2, &limits, 0));
        assert!(!quota.spend("a", 4, &limits, 0), "recipients of the day");
        assert!(quota.spend("a", 2, &limits, 0));
        assert!(!quota.spend("a", 0, &limits, 0), "messages of the hour");
        assert!(quota.spend("b", 1, &limits, 0));
        assert!(quota.spend("a", 1, &limits, HOUR));
        assert!(!quota.spend("a", 1, &limits, HOUR));
        assert!(quota.spend("a", 5, &limits, DAY));
        let unlimited = Limits {
            user_messages: 0,
            user_recipients: 0,
            ..limits
        };
        assert!((0..100).all(|_| quota.spend("a", 1000, &unlimited, DAY)));
    }
}
