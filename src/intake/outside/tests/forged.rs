//! What strangers make of authors, and what leaves for others in our name.

use super::*;

fn from_header(author: &str) -> String {
    HONEST.replace("Her <her@src.example>", author)
}

#[tokio::test]
async fn s1_a_stranger_in_the_name_of_a_domain_of_ours_is_refused_whatever_it_publishes() {
    let mut world = world().await;
    let to = &["me@ours.example"];
    let forged = content(&from_header("CEO <ceo@ours.example>"));
    world.dns.txt("ours.example", "v=spf1 ip4:192.0.2.9 -all");
    for from in ["ceo@ours.example", "her@src.example", ""] {
        for client in [GOOD, BAD] {
            let refused = world.send(client, from, to, forged.clone()).await;
            assert_eq!(refused.map(|_| ()), Err((550, "5.7.1")), "{from}");
        }
    }
    for author in [
        "ceo@sub.ours.example",
        "me@OURS.example",
        "\"me\"@ours.example",
    ] {
        let refused = world
            .send(GOOD, "her@src.example", to, content(&from_header(author)))
            .await;
        assert_eq!(refused.map(|_| ()), Err((550, "5.7.1")), "{author}");
    }
    // What a host of ours sends, and what another service that is named sends.
    let own = world
        .send([192, 0, 2, 9], "ceo@ours.example", to, forged.clone())
        .await;
    assert!(own.is_ok());
    let service = serde_named("src.example");
    world.config.incoming.own_domains_from = vec![service];
    assert!(
        world
            .send(GOOD, "her@src.example", to, forged.clone())
            .await
            .is_ok()
    );
    world.config.incoming.own_domains_from.clear();
    world.config.incoming.own_domains = crate::config::OwnDomains::Hold;
    let held = world
        .send(GOOD, "her@src.example", to, forged.clone())
        .await;
    assert!(!held.expect("taken").held.is_empty());
    world.config.incoming.own_domains = crate::config::OwnDomains::Accept;
    let taken = world.send(GOOD, "her@src.example", to, forged).await;
    assert!(taken.expect("taken").held.is_empty());
}

fn serde_named(name: &str) -> crate::config::DomainName {
    name.to_owned().try_into().expect("a domain")
}

#[tokio::test]
async fn s1_a_domain_beside_ours_is_ours_to_those_who_look_at_the_organization() {
    let world = world().await;
    let dir = world._dir.path();
    domain(dir, "lists.firm.example", "me: me@box.example\n");
    let identity = Identity::load(dir, "").expect("identity");
    let world = World { identity, ..world };
    world.dns.txt("_dmarc.firm.example", "v=DMARC1; p=none");
    let to = &["me@lists.firm.example"];
    for author in ["ceo@firm.example", "ceo@other.firm.example"] {
        let head = content(&from_header(author));
        let refused = world.send(GOOD, "her@src.example", to, head).await;
        assert_eq!(refused.map(|_| ()), Err((550, "5.7.1")), "{author}");
    }
    let other = content(&from_header("ceo@other.example"));
    assert!(world.send(GOOD, "her@src.example", to, other).await.is_ok());
}

#[tokio::test]
async fn s5_and_r3_every_author_is_seen_and_several_are_refused() {
    let mut world = world().await;
    let to = &["me@ours.example"];
    for author in [
        "CEO <ceo@bank.example.>, x <her@src.example>",
        "\"ceo\"@bank.example, her@src.example",
        "her@src.example, she@src.example",
        "nobody",
        "us:;",
    ] {
        let head = content(&from_header(author));
        let refused = world.send(GOOD, "her@src.example", to, head).await;
        assert_eq!(refused.map(|_| ()), Err((550, "5.7.1")), "{author}");
    }
    // Accepted, the one that fares worst counts.
    world.config.incoming.several_authors = SeveralAuthors::Accept;
    world.dns.txt("_dmarc.bank.example", "v=DMARC1; p=reject");
    let two = content(&from_header("\"ceo\"@bank.example, her@src.example"));
    let refused = world.send(GOOD, "her@src.example", to, two).await;
    assert_eq!(refused.map(|_| ()), Err((550, "5.7.1")));
    let own = content(&from_header("her@src.example, she@src.example"));
    assert!(world.send(GOOD, "her@src.example", to, own).await.is_ok());
}

#[tokio::test]
async fn r4_quoted_and_commented_authors_are_valid() {
    let world = world().await;
    for author in ["\"john doe\"@src.example", "her(a comment)@src.example"] {
        let head = content(&from_header(author));
        let passed = world
            .send(GOOD, "her@src.example", &["me@ours.example"], head)
            .await;
        assert!(passed.is_ok(), "{author}");
    }
}

#[tokio::test]
async fn s12_no_address_is_minted_for_what_failed_and_each_takes_bounces_only() {
    let mut world = world().await;
    world.dns.txt("_dmarc.src.example", "v=DMARC1; p=none");
    let head = || content(&from_header("her@third.example"));
    let to = &["me@ours.example"];
    let failed = world
        .send(BAD, "her@src.example", to, head())
        .await
        .expect("taken");
    assert_eq!(
        failed.envelope.mail_from(),
        "",
        "nobody deserves its bounce"
    );
    let good = world
        .send(GOOD, "her@src.example", to, head())
        .await
        .expect("taken");
    let rewritten = good.envelope.forwarded_as.expect("SRS");
    let mail = world
        .send(GOOD, "her@src.example", &[&rewritten], head())
        .await;
    assert_eq!(mail.map(|_| ()), Err((550, "5.7.1")));
    world.config.forwarding.bounces = 2;
    for _ in 0..2 {
        assert!(world.send(GOOD, "", &[&rewritten], head()).await.is_ok());
    }
    let more = world.send(GOOD, "", &[&rewritten], head()).await;
    assert_eq!(more.map(|_| ()), Err((450, "4.7.1")));
    world.config.forwarding.bounces = 0;
    world.config.forwarding.bounces_only = false;
    assert!(
        world
            .send(GOOD, "her@src.example", &[&rewritten], head())
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn r16_and_r20_long_and_quoted_senders_are_rewritten_and_come_home() {
    let world = world().await;
    let long = format!("{}@src.example", "a".repeat(58));
    for from in [long.as_str(), "\"john doe\"@src.example"] {
        let passed = world
            .send(GOOD, from, &["me@ours.example"], content(HONEST))
            .await
            .expect("taken");
        let rewritten = passed.envelope.forwarded_as.expect("SRS");
        let local = rewritten.split('@').next().expect("a local part");
        assert!(
            local.len() <= 64 && rewritten.ends_with("@ours.example"),
            "{rewritten}"
        );
        let home = world
            .send(
                GOOD,
                "",
                &[&rewritten],
                content("From: <postmaster@box.example>\r\n"),
            )
            .await
            .expect("a bounce");
        assert_eq!(home.envelope.recipients[0].address, from);
    }
}

#[tokio::test]
async fn s21_what_failed_under_quarantine_is_not_forwarded() {
    let mut world = world().await;
    world
        .dns
        .txt("_dmarc.third.example", "v=DMARC1; p=quarantine");
    let head = || content(&from_header("her@third.example"));
    let to = &["me@ours.example"];
    let refused = world.send(GOOD, "her@src.example", to, head()).await;
    assert_eq!(refused.map(|_| ()), Err((550, "5.7.1")));
    world.config.forwarding.suspect = Spam::Hold;
    let held = world.send(GOOD, "her@src.example", to, head()).await;
    assert!(!held.expect("taken").held.is_empty());
    world.config.forwarding.suspect = Spam::Tag;
    let passed = world
        .send(GOOD, "her@src.example", to, head())
        .await
        .expect("taken");
    let head = super::head(&passed);
    assert!(
        passed.held.is_empty() && head.contains("\r\nX-Spam: Yes\r\n"),
        "{head}"
    );
}

#[tokio::test]
async fn s11_a_dead_signature_beside_a_good_one_takes_nothing_from_it() {
    let mut world = world().await;
    world.config.incoming.dns_time = crate::config::Span(std::time::Duration::from_millis(1500));
    world.dns.silent("s._domainkey.dead.example");
    let mut signed = world.signed(content(HONEST));
    let dead = "DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=dead.example; s=s;\r\n\
                \th=from; bh=BODY; b=AAAA\r\n";
    let text = String::from_utf8(signed.head.to_vec()).expect("text");
    let hash = text
        .split("bh=")
        .nth(1)
        .and_then(|rest| rest.split(';').next());
    let dead = dead.replace("BODY", hash.expect("bh="));
    signed.head = join(dead.as_bytes(), &signed.head);
    let passed = world
        .send(BAD, "her@src.example", &["me@ours.example"], signed)
        .await;
    let head = head(&passed.expect("the author's signature holds"));
    assert!(
        head.contains("dmarc=pass") && head.contains("dkim=temperror"),
        "{head}"
    );
}

#[tokio::test]
async fn o13_received_spf_stands_above_our_trace() {
    let mut world = world().await;
    world.config.incoming.received_spf = true;
    let passed = world
        .send(
            GOOD,
            "her@src.example",
            &["me@ours.example"],
            content(HONEST),
        )
        .await
        .expect("taken");
    assert!(
        passed.above.starts_with("Received-SPF: Pass "),
        "{}",
        passed.above
    );
    assert!(!head(&passed).contains("Received-SPF"));
}
