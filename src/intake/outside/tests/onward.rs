//! Mail that is sent elsewhere after it came.

use super::*;

/// Mail that came for a mailbox of ours and is sent elsewhere by an operator.
#[tokio::test]
async fn q17_what_an_operator_redirects_leaves_as_an_alias_would_have_sent_it() {
    use crate::onward::onward;
    use crate::queue::store::new_message;
    use queue_schema::{Origin, Recipient};

    let world = world().await;
    let signed = world.signed(content(HONEST));
    // Nothing leaves: the alias is a mailbox here.
    let passed = world
        .send(
            [192, 0, 2, 1],
            "her@src.example",
            &["me@ours.example"],
            signed,
        )
        .await
        .expect("passed");
    let (mut envelope, marked) = (passed.envelope, passed.content);
    let alias = envelope.forwarded_as.take().expect("SRS");
    let seal = passed.seal.expect("a seal");
    let origin = Origin::Outside {
        client: [192, 0, 2, 1].into(),
        verified: true,
    };
    envelope.recipients = vec![Recipient::new("me@ours.example")];
    let message = new_message(QueueId(1), NOW, origin, envelope);
    let house = (&world.config, &world.identity, &world.outside);
    let to = ["me@elsewhere.example".to_owned()];
    let found = onward(house, (&message, &marked), "me@ours.example", &to, NOW);
    assert_eq!(found.forwarded_as, Some(alias));
    let redirected = found.seal.expect("a seal");
    assert_eq!(redirected.results, seal.results);
    assert_eq!((redirected.domain, redirected.now), (seal.domain, seal.now));
    assert_eq!(redirected.state, seal.state);

    // To another mailbox of ours nothing of that is done, nor with mail of a user.
    let near = ["both@ours.example".to_owned()];
    let found = onward(house, (&message, &marked), "me@ours.example", &near, NOW);
    assert_eq!((found.forwarded_as, found.seal.is_none()), (None, true));
    let mut of_user = message.clone();
    of_user.origin = Origin::User {
        user: "me@ours.example".into(),
        client: [192, 0, 2, 9].into(),
    };
    let found = onward(house, (&of_user, &marked), "me@ours.example", &to, NOW);
    assert_eq!((found.forwarded_as, found.seal.is_none()), (None, true));
    // Who is sealed already keeps that seal.
    let mut sealed = message;
    sealed.top = "ARC-Seal: i=1\r\n".into();
    let found = onward(house, (&sealed, &marked), "me@ours.example", &to, NOW);
    assert!(found.seal.is_none() && found.forwarded_as.is_some());
}
