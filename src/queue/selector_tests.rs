//! Tests of [`super`]: what each filter means, how filters add up, and what older versions say.

use super::*;
use crate::own_reply;
use crate::store::new_message;
use proptest::prelude::*;
use queue_schema::{Envelope, Origin, Recipient};

/// What spans are counted from.
const NOW: Millis = 2_000_000;

fn message() -> Message {
    let recipient = |address: &str, alias: Option<&str>| Recipient {
        alias_of: alias.map(str::to_owned),
        ..Recipient::new(address)
    };
    let envelope = Envelope::new(
        "a@example.org",
        vec![
            recipient("Bob@gmail.example", None),
            recipient("c@example.net", Some("info@example.org")),
        ],
    );
    let origin = Origin::User {
        user: "anna@example.org".into(),
        client: [192, 0, 2, 9].into(),
    };
    let mut message = new_message(QueueId(77), 1_000_000, origin, envelope);
    message.size = 10 << 10;
    message.message_id = "<1@example.org>".into();
    message.subject = "Zwei ÄPFEL".into();
    message.states[0].next_due = NOW;
    message.states[1].last_attempt = 1;
    message.states[1].attempts = 4;
    message.states[1].next_due = NOW + 600_000;
    let mut reply = own_reply(450, "4.2.2", "mailbox full");
    reply.remote = "mx1.example.net[192.0.2.1]:25".into();
    message.states[1].last_reply = Some(reply);
    message
}

fn selected(change: impl FnOnce(&mut Selector)) -> Vec<u32> {
    let mut selector = Selector::default();
    change(&mut selector);
    selector.compile(NOW).unwrap().recipients(&message())
}

fn any(values: &[&str]) -> AnyOf {
    let values: Vec<String> = values.iter().map(|value| (*value).to_owned()).collect();
    values.into()
}

#[test]
fn filters_add_up() {
    assert_eq!(selected(|_| {}), [0, 1]);
    assert_eq!(selected(|s| s.to = "bob@GMAIL.example".into()), [0]);
    assert_eq!(
        selected(|s| s.to = "info@example.org".into()),
        [1],
        "the alias counts"
    );
    assert_eq!(selected(|s| s.domain = "*.example".into()), [0]);
    assert_eq!(selected(|s| s.domain = "example.net".into()), [1]);
    assert_eq!(selected(|s| s.from = "a@*".into()), [0, 1]);
    assert!(selected(|s| s.from = "<>".into()).is_empty());
    assert_eq!(selected(|s| s.state = "queued".into()), [0]);
    assert_eq!(selected(|s| s.state = "deferred".into()), [1]);
    assert_eq!(selected(|s| s.reply = "^4.*full$".into()), [1]);
    assert_eq!(selected(|s| s.older = "999s".into()), [0, 1]);
    assert!(selected(|s| s.older = "1000s".into()).is_empty());
    assert_eq!(selected(|s| s.id = QueueId(77).to_string().into()), [0, 1]);
    assert!(selected(|s| s.id = QueueId(78).to_string().into()).is_empty());
    let both = |s: &mut Selector| {
        s.domain = "example.net".into();
        s.state = "queued".into();
    };
    assert!(selected(both).is_empty());
}

#[test]
fn q18_each_new_filter_means_what_it_says() {
    assert_eq!(selected(|s| s.newer = "1000s".into()), [0, 1]);
    assert!(selected(|s| s.newer = "999s".into()).is_empty());
    assert_eq!(selected(|s| s.size = "10k".into()), [0, 1]);
    assert!(selected(|s| s.size = "+10k".into()).is_empty());
    assert_eq!(selected(|s| s.attempts = "+3".into()), [1]);
    assert_eq!(selected(|s| s.attempts = "0".into()), [0]);
    assert_eq!(selected(|s| s.due = "now".into()), [0]);
    assert_eq!(selected(|s| s.due = "10m".into()), [0, 1]);
    assert_eq!(selected(|s| s.due = "+9m".into()), [1]);
    assert_eq!(selected(|s| s.user = "ANNA@*".into()), [0, 1]);
    assert!(selected(|s| s.user = "bob@*".into()).is_empty());
    assert_eq!(selected(|s| s.client = "192.0.2.9".into()), [0, 1]);
    assert_eq!(selected(|s| s.client = "192.0.2.0/24".into()), [0, 1]);
    assert!(selected(|s| s.client = "2001:db8::/32".into()).is_empty());
    assert_eq!(selected(|s| s.code = "450".into()), [1]);
    assert_eq!(selected(|s| s.code = "4.2.*".into()), [1]);
    assert!(selected(|s| s.code = "5xx".into()).is_empty());
    assert_eq!(selected(|s| s.next_hop = "mx*.example.net".into()), [1]);
    assert_eq!(selected(|s| s.next_hop = "gmail.example".into()), [0]);
    assert_eq!(selected(|s| s.message_id = "1@EXAMPLE.org".into()), [0, 1]);
    assert_eq!(
        selected(|s| s.message_id = "<1@example.org>".into()),
        [0, 1]
    );
    assert!(selected(|s| s.message_id = "2@*".into()).is_empty());
    assert_eq!(selected(|s| s.subject = "*äpfel*".into()), [0, 1]);
    assert!(selected(|s| s.subject = "Äpfel".into()).is_empty());
    assert!(selected(|s| s.not = "subject=*äpfel*".into()).is_empty());
}

#[test]
fn q18_values_of_a_filter_are_alternatives_and_not_leaves_out() {
    assert_eq!(
        selected(|s| s.domain = any(&["gmail.example", "example.net"])),
        [0, 1]
    );
    assert_eq!(selected(|s| s.state = any(&["held", "deferred"])), [1]);
    let ids = [78, 77].map(|id| QueueId(id).to_string());
    assert_eq!(selected(|s| s.id = ids.to_vec().into()), [0, 1]);
    assert_eq!(selected(|s| s.not = "domain=gmail.example".into()), [1]);
    assert_eq!(selected(|s| s.not = "--domain=gmail.example".into()), [1]);
    assert!(selected(|s| s.not = "from=a@*".into()).is_empty());
    assert!(selected(|s| s.not = any(&["state=queued", "code=4xx"])).is_empty());
    let range = |s: &mut Selector| {
        s.size = "+1k".into();
        s.not = any(&["size=+10k", "next-hop=gmail.example"]);
    };
    assert_eq!(selected(range), [1]);
    let id = QueueId(77).to_string();
    assert!(selected(|s| s.not = format!("id={id}").into()).is_empty());
}

#[test]
fn what_ended_is_history_that_only_an_id_or_a_state_asks_for() {
    let mut message = message();
    message.states[0].status = Status::Delivered;
    let selected = |change: &dyn Fn(&mut Selector)| {
        let mut selector = Selector::default();
        change(&mut selector);
        selector.compile(NOW).unwrap().recipients(&message)
    };
    assert_eq!(selected(&|_| {}), [1]);
    assert_eq!(selected(&|s| s.state = any(&["delivered", "bounced"])), [0]);
    assert_eq!(selected(&|s| s.id = QueueId(77).to_string().into()), [0, 1]);
    assert_eq!(selected(&|s| s.not = "state=deferred".into()), [0; 0]);
    assert_eq!(selected(&|s| s.due = "now".into()), [0; 0]);
}

#[test]
fn a_held_message_is_due_at_no_time() {
    let mut message = message();
    message.states[0].hold(crate::Held::default().since(1));
    message.states[1].hold(crate::Held::default().since(1));
    for due in ["now", "10m", "+1m"] {
        let selector = Selector {
            due: due.into(),
            ..Selector::default()
        };
        assert!(
            selector
                .compile(NOW)
                .unwrap()
                .recipients(&message)
                .is_empty()
        );
    }
}

#[test]
fn what_older_tools_say_is_understood_and_one_value_is_said_as_they_do() {
    let old = r#"{"id":null,"to":null,"from":"<>","domain":"example.net","state":null,"older":"2h","reply":null}"#;
    let selector: Selector = serde_json::from_str(old).unwrap();
    assert_eq!(selector.domain, "example.net".into());
    assert!(selector.id.is_empty() && selector.not.is_empty());
    assert_eq!(serde_json::to_string(&selector).unwrap(), old);
    let new = r#"{"domain":["a.example","b.example"],"not":"state=held"}"#;
    let selector: Selector = serde_json::from_str(new).unwrap();
    assert_eq!(selector.domain, any(&["a.example", "b.example"]));
    assert!(serde_json::from_str::<Selector>(r#"{"domian":"a"}"#).is_err());
    assert!(serde_json::from_str::<Selector>(r#"{"domain":5}"#).is_err());
}

#[test]
fn what_can_not_be_understood_says_what_to_write() {
    let error = |change: &dyn Fn(&mut Selector)| {
        let mut selector = Selector::default();
        change(&mut selector);
        selector.compile(0).err().unwrap().to_string()
    };
    assert!(error(&|s| s.id = "x".into()).contains("13 letters"));
    assert!(error(&|s| s.state = "waiting".into()).contains("queued, deferred, suspended, held"));
    assert!(error(&|s| s.older = "5".into()).contains("5m"));
    assert!(error(&|s| s.reply = "(".into()).starts_with("'('"));
    assert!(error(&|s| s.reply = "x".repeat(1001).into()).contains("1000 bytes"));
    assert!(error(&|s| s.size = "big".into()).contains("+1M"));
    assert!(error(&|s| s.code = "9".into()).contains("4xx"));
    assert!(error(&|s| s.client = "example.net".into()).contains("192.0.2.0/24"));
    assert!(error(&|s| s.not = "gmail.com".into()).contains("domain=gmail.com"));
    assert!(error(&|s| s.not = "colour=red".into()).contains("next-hop"));
    assert!(error(&|s| s.not = "event=held".into()).contains("no filter"));
}

#[test]
fn events_have_an_id_addresses_a_word_and_a_text() {
    let watch = |change: &dyn Fn(&mut Selector)| {
        let mut selector = Selector::default();
        change(&mut selector);
        selector.watch(NOW)
    };
    let event = super::super::Happened {
        at: String::new(),
        event: "bounced".into(),
        id: QueueId(77).to_string(),
        from: "a@example.org".into(),
        to: vec!["b@example.net".into(), "c@example.com".into()],
        text: "550 no".into(),
        remote: String::new(),
        tls: String::new(),
        by: String::new(),
    };
    let happened = |change: &dyn Fn(&mut Selector)| watch(change).unwrap().happened(&event);
    assert!(happened(&|_| {}));
    assert!(happened(&|s| s.state = any(&["deferred", "bounced"])));
    assert!(!happened(&|s| s.state = "deferred".into()));
    assert!(!happened(&|s| s.not = "state=bounced".into()));
    assert!(happened(&|s| s.domain = "example.com".into()));
    assert!(!happened(&|s| s.domain = "example.org".into()));
    assert!(!happened(&|s| s.not = "domain=example.net".into()));
    assert!(happened(&|s| s.id = QueueId(77).to_string().into()));
    assert!(happened(&|s| s.reply = "^550".into()));
    let refused = watch(&|s| s.size = "+1".into()).err().unwrap().to_string();
    assert!(refused.contains("--reply"), "{refused}");
    assert!(watch(&|s| s.not = "size=+1".into()).is_err());
}

/// A filter and a value that are well written.
fn one() -> impl Strategy<Value = (&'static str, &'static str)> {
    prop::sample::select(vec![
        ("to", "*bob*"),
        ("from", "a@*"),
        ("from", "<>"),
        ("domain", "example.net"),
        ("domain", "gmail.example"),
        ("state", "queued"),
        ("state", "deferred"),
        ("state", "held"),
        ("older", "500s"),
        ("newer", "500s"),
        ("reply", "full"),
        ("code", "4xx"),
        ("size", "+1k"),
        ("attempts", "-2"),
        ("due", "now"),
        ("user", "anna*"),
        ("client", "192.0.2.0/24"),
        ("next_hop", "mx*"),
    ])
}

fn built(filters: &[(&str, &str)], not: &[(&str, &str)]) -> Vec<u32> {
    let mut object = serde_json::Map::new();
    for (name, value) in filters {
        let values = object
            .entry(*name)
            .or_insert_with(|| Vec::<String>::new().into());
        values.as_array_mut().unwrap().push((*value).into());
    }
    let not: Vec<String> = not
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    object.insert("not".into(), not.into());
    let selector: Selector = serde_json::from_value(object.into()).unwrap();
    selector.compile(NOW).unwrap().recipients(&message())
}

proptest! {
    #[test]
    fn filters_are_sets((name, value) in one(), (other, word) in one()) {
        let all = built(&[], &[]);
        let with = built(&[(name, value)], &[]);
        // What a filter means and what it leaves out are all there is, and nothing twice.
        let without = built(&[], &[(name, value)]);
        prop_assert!(with.iter().all(|one| !without.contains(one)));
        let mut both: Vec<u32> = with.iter().chain(&without).copied().collect();
        both.sort_unstable();
        prop_assert_eq!(&both, &all);
        // Different filters add up, values of one are alternatives.
        let (first, second) = (with, built(&[(other, word)], &[]));
        let expected: Vec<u32> = all
            .iter()
            .copied()
            .filter(|one| match name == other {
                true => first.contains(one) || second.contains(one),
                false => first.contains(one) && second.contains(one),
            })
            .collect();
        prop_assert_eq!(built(&[(name, value), (other, word)], &[]), expected);
    }

    #[test]
    fn no_text_breaks_a_selector(values in proptest::collection::vec("\\PC{0,12}", 20)) {
        let mut values = values.into_iter();
        let mut next = || AnyOf::from(values.next().unwrap_or_default());
        let selector = Selector {
            id: next(), to: next(), from: next(), domain: next(), state: next(), older: next(),
            newer: next(), reply: next(), code: next(), size: next(), attempts: next(),
            due: next(), user: next(), client: next(), next_hop: next(), suspended: next(), whose: None, not: next(),
            message_id: next(), subject: next(),
        };
        if let Ok(matcher) = selector.compile(NOW) {
            matcher.recipients(&message());
        }
    }
}
