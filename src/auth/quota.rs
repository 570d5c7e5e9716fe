//! How much each user may send: messages in an hour, recipients in a day. Pure, told the time.
//! The counts are in memory: a restart forgets them.

use std::collections::HashMap;

use queue_schema::Millis;

use crate::config::Limits;
use crate::identity::UserQuota;
use crate::time::DAY;

const HOUR: Millis = 3_600_000;

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

/// What one user may send; 0: no limit.
#[derive(Debug, Clone, Copy)]
pub struct Allowance {
    /// Messages in an hour.
    pub messages: usize,
    /// Recipients in a day.
    pub recipients: usize,
}

impl Allowance {
    /// By `users.toml` where it says something, else by `[limits]`.
    pub fn of(limits: &Limits, own: Option<UserQuota>) -> Allowance {
        let own = own.unwrap_or_default();
        Allowance {
            messages: own.messages.unwrap_or(limits.user_messages),
            recipients: own.recipients.unwrap_or(limits.user_recipients),
        }
    }
}

impl Quota {
    /// Counts a message to so many recipients, if `user` may still send it; none asks only whether
    /// another message is allowed.
    pub fn spend(&mut self, user: &str, recipients: usize, may: Allowance, now: Millis) -> bool {
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
        let allowed = within(may.messages, usage.messages + 1)
            && within(may.recipients, usage.recipients + recipients.max(1));
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
        let may = Allowance {
            messages: 2,
            recipients: 5,
        };
        let mut quota = Quota::default();
        assert!(quota.spend("a", 0, may, 0));
        assert!(quota.spend("a", 2, may, 0));
        assert!(!quota.spend("a", 4, may, 0), "recipients of the day");
        assert!(quota.spend("a", 2, may, 0));
        assert!(!quota.spend("a", 0, may, 0), "messages of the hour");
        assert!(quota.spend("b", 1, may, 0));
        assert!(quota.spend("a", 1, may, HOUR));
        assert!(!quota.spend("a", 1, may, HOUR));
        assert!(quota.spend("a", 5, may, DAY));
        let unlimited = Allowance {
            messages: 0,
            recipients: 0,
        };
        assert!((0..100).all(|_| quota.spend("a", 1000, unlimited, DAY)));
    }
    #[test]
    fn the_users_own_quota_goes_first() {
        let limits = Limits {
            user_messages: 2,
            user_recipients: 5,
            ..Limits::default()
        };
        let of = |own| {
            let may = Allowance::of(&limits, own);
            (may.messages, may.recipients)
        };
        assert_eq!(of(None), (2, 5));
        let own = |messages, recipients| {
            Some(UserQuota {
                messages,
                recipients,
            })
        };
        assert_eq!(of(own(None, None)), (2, 5));
        assert_eq!(of(own(Some(7), None)), (7, 5));
        assert_eq!(of(own(None, Some(0))), (2, 0));
    }
}
