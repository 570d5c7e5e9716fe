//! What is said over a connection, and what is made of the answers.

use chapar::lab::{Act, MxConfig, Stage};

use crate::world::{World, small};

#[actix::test]
async fn a_message_arrives_byte_for_byte() {
    let (mut world, mx) = World::with_mx(MxConfig::default()).await;
    let content = small("line\r\n.\r\n..two\r\nlast");
    let message = world.message(&["b@example.com"]);
    world.wake(message, Some(content)).await;
    let (_, attempt) = world.heard().await;
    assert_eq!(attempt.reply.to_string(), "250 2.0.0 Ok: queued");
    assert_eq!(
        attempt.reply.remote,
        format!("mx.example.com[127.0.0.1]:{}", mx.address().port())
    );
    assert_eq!(attempt.tls, "");
    let received = mx.received();
    assert_eq!(received.len(), 1);
    assert_eq!(received[0].reverse_path, "sender@example.org");
    assert_eq!(received[0].recipients, ["b@example.com"]);
    assert_eq!(received[0].hello, "mx.example.org");
    assert_eq!(
        String::from_utf8_lossy(&received[0].data),
        "From: sender@example.org\r\nSubject: test\r\n\r\nline\r\n.\r\n..two\r\nlast\r\n"
    );
    world.end().await;
}

#[actix::test]
async fn several_recipients_share_a_transaction_and_each_has_its_own_reply() {
    for pipelining in [true, false] {
        let (mut world, mx) = World::with_mx(MxConfig {
            pipelining,
            ..MxConfig::default()
        })
        .await;
        mx.on(Stage::Rcpt, |line| match line {
            line if line.contains("<b@") => Act::reply("450-4.2.0 try b\n450 4.2.0 later"),
            line if line.contains("<c@") => Act::reply("550-5.1.1 no\n550 5.1.1 c here"),
            line if line.contains("<d@") => Act::reply("552 too many"),
            _ => Act::Default,
        });
        let to = ["a", "b", "c", "d", "e"].map(|local| format!("{local}@example.com"));
        world.send(&to.each_ref().map(String::as_str)).await;
        assert_eq!(
            world.outcomes(5).await,
            [
                "a@example.com delivered 250 2.0.0 Ok: queued",
                "b@example.com deferred 450 4.2.0 try b later",
                "c@example.com failed 550 5.1.1 no c here",
                "d@example.com deferred 552 too many",
                "e@example.com delivered 250 2.0.0 Ok: queued",
            ]
        );
        let received = mx.received();
        assert_eq!(received.len(), 1, "one transaction");
        assert_eq!(received[0].recipients, ["a@example.com", "e@example.com"]);
        world.end().await;
    }
}
