//! 8-bit mail to a server that takes none: encoded, signed again, and verified there by the code of
//! others.

use chapar::lab::{Client, Mx, MxConfig};

use crate::journey::records;
use crate::oracle;
use crate::world::{USER, World};

/// Submits with BODY=8BITMIME.
async fn eight_bit(user: &mut Client, message: &str) {
    let mail = format!("MAIL FROM:<{USER}> BODY=8BITMIME");
    for (line, code) in [
        (mail.as_str(), 250),
        ("RCPT TO:<you@box.example>", 250),
        ("DATA", 354),
    ] {
        user.expect(line, code).await.expect(line);
    }
    let data = format!("{message}.\r\n");
    user.write(data.as_bytes()).await.expect("written");
    assert_eq!(user.reply().await.expect("a reply").code, 250);
}

#[tokio::test]
async fn c044_i12_a_hop_without_8bitmime_gets_seven_bits_and_signatures_that_hold() {
    let mx = Mx::start(MxConfig {
        eight_bit: false,
        ..MxConfig::default()
    })
    .await
    .expect("an MX");
    let mut world = World::new(mx.address().port(), "").await;
    world.dns.mx("box.example", 10, "mx.box.example");
    world.dns.a("mx.box.example", [127, 0, 0, 1].into());
    world.start().await;
    let head = "From: me@example.org\r\nSubject: gr=?utf-8?q?=C3=BC?=n\r\nMIME-Version: 1.0\r\n\
                DKIM-Signature: v=1; a=rsa-sha256; d=else.example; s=x; h=from; bh=eHh4; b=eHh4\r\n\
                Content-Type: text/plain; charset=utf-8\r\n\
                Content-Transfer-Encoding: 8bit\r\n\r\n";
    // The second is longer than what is kept in memory.
    for lines in [1, 20_000] {
        let text = format!("{head}{}", "gr\u{fc}n ist die Heide\r\n".repeat(lines));
        let mut user = world.user().await;
        let reply = user
            .send(USER, &["you@box.example"], text.as_bytes())
            .await
            .expect("a reply");
        assert_eq!(reply.code, 250, "{reply:?}");
    }
    for message in mx.wait(2).await {
        assert!(message.data.is_ascii());
        assert!(!message.parameters.contains("8BITMIME"), "{message:?}");
        let text = String::from_utf8_lossy(&message.data);
        assert!(
            text.starts_with("Received: from localhost\r\n\tby mx.example.org with ESMTPSA id ")
        );
        assert!(text.contains("\r\ngr=C3=BCn ist die Heide\r\n"));
        // Both of ours hold; that of somebody else, who signed nothing like it, is left as it was.
        assert_eq!(oracle::dkimpy(&message.data, &records(&world)), (2, 3));
    }
    // Only the parts that need it.
    let mixed = "From: me@example.org\r\nSubject: two\r\nMIME-Version: 1.0\r\n\
                 Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nplain\r\n--b\r\n\
                 Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n\
                 gr\u{fc}\u{df}e\r\n--b--\r\n";
    let mut user = world.user().await;
    eight_bit(&mut user, mixed).await;
    let message = mx.wait(3).await.remove(2);
    assert!(message.data.is_ascii());
    let text = String::from_utf8_lossy(&message.data);
    assert!(text.contains("--b\r\n\r\nplain\r\n--b\r\n"), "{text}");
    assert!(text.contains("\r\ngr=C3=BC=C3=9Fe\r\n--b--\r\n"), "{text}");
    assert_eq!(oracle::dkimpy(&message.data, &records(&world)), (2, 2));
    // A signed part would not be what was signed: its sender hears of it at once.
    let signed = mixed.replace("multipart/mixed", "multipart/signed");
    eight_bit(&mut user, &signed).await;
    let notice = mx.wait(4).await.remove(3);
    assert_eq!(notice.reverse_path, "");
    assert!(notice.data.is_ascii());
    let text = String::from_utf8_lossy(&notice.data);
    assert!(text.contains("Status: 5.6.3\r\n"), "{text}");
    world
        .wait_queue("the queue is empty", |queue| queue.is_empty())
        .await;
    assert_eq!(world.stop().await, Some(0));
}
