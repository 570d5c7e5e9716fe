//! What a reply says, without what differs from message to message: ids, addresses, times. By it
//! replies are grouped, so that a hundred of Gmail's, each with an id of its own, are one. Pure.

use std::net::IpAddr;

use queue_schema::Reply;

/// What stands for words that were left out.
const LEFT_OUT: &str = "…";
/// The shortest word that can be an id.
const SHORTEST_ID: usize = 8;
/// The shortest number that can be one, or a time.
const SHORTEST_NUMBER: usize = 5;
/// Digits in an id that has letters.
const DIGITS: usize = 2;

/// Code, enhanced code and text of a reply without its ids.
pub fn gist(reply: &Reply) -> String {
    let mut out = reply.code.to_string();
    let enhanced = reply.enhanced.as_str();
    if !enhanced.is_empty() {
        out.push(' ');
        out.push_str(enhanced);
    }
    let mut left_out = false;
    for word in reply.text.split_whitespace() {
        // Replies of several lines repeat it in each (RFC 2034 section 4).
        if word == enhanced {
            continue;
        }
        let word = plain(word);
        if word == LEFT_OUT {
            if !left_out {
                out.push(' ');
                out.push_str(LEFT_OUT);
            }
            left_out = true;
            continue;
        }
        left_out = false;
        out.push(' ');
        out.push_str(&word);
    }
    out
}

/// A word without ids in it.
fn plain(word: &str) -> String {
    let edge = |c: char| !c.is_alphanumeric();
    let core = word.trim_matches(edge);
    if core.is_empty() {
        return word.to_owned();
    }
    if is_id(core) || core.contains('@') {
        return LEFT_OUT.to_owned();
    }
    // Parts of a web address, of `key=value`, of `[host]/id`.
    let inner = |c: char| "/?&=#()[]<>,;\"'".contains(c);
    if !core.contains(inner) {
        return word.to_owned();
    }
    let mut out = String::new();
    let mut rest = word;
    loop {
        let end = rest.find(inner).unwrap_or(rest.len());
        let (part, after) = rest.split_at(end);
        let bare = part.trim_matches(edge);
        match !bare.is_empty() && (is_id(bare) || bare.contains('@')) {
            true => out.push_str(LEFT_OUT),
            false => out.push_str(part),
        }
        let mut after = after.chars();
        let Some(separator) = after.next() else { break };
        out.push(separator);
        rest = after.as_str();
    }
    out
}

/// Whether a word names one message, connection, address or moment.
fn is_id(word: &str) -> bool {
    if word.parse::<IpAddr>().is_ok() {
        return true;
    }
    let digits = word.chars().filter(char::is_ascii_digit).count();
    let letters = word.chars().any(char::is_alphabetic);
    let sound = word
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || "-_.:+=~".contains(c));
    match letters {
        true => sound && digits >= DIGITS && word.len() >= SHORTEST_ID,
        false => sound && digits >= SHORTEST_NUMBER,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reply(code: u16, enhanced: &str, text: &str) -> Reply {
        Reply {
            code,
            enhanced: enhanced.into(),
            text: text.into(),
            remote: String::new(),
        }
    }

    #[test]
    fn q18_replies_that_differ_by_their_ids_are_one() {
        for (enhanced, one, other, is) in [
            (
                "4.7.28",
                "Gmail has detected an unusual rate of unsolicited mail originating from your IP \
                 address [192.0.2.1]. 4.7.28 For more information, go to \
                 https://support.google.com/mail/?p=UnsolicitedRateLimitError \
                 af79cd13be357-7c5b8e1d9f2si1234567285a.123 - gsmtp",
                "Gmail has detected an unusual rate of unsolicited mail originating from your IP \
                 address [2001:db8::7]. 4.7.28 For more information, go to \
                 https://support.google.com/mail/?p=UnsolicitedRateLimitError \
                 d2e1a72fcca58-72f1a2b3c4dsi987654b3a.401 - gsmtp",
                "421 4.7.28 Gmail has detected an unusual rate of unsolicited mail originating \
                 from your IP address … For more information, go to \
                 https://support.google.com/mail/?p=UnsolicitedRateLimitError … - gsmtp",
            ),
            (
                "4.7.650",
                "The mail server [192.0.2.1] has been temporarily rate limited due to IP \
                 reputation. (S775) [AM7EUR06FT012.eop-eur06.prod.protection.outlook.com \
                 2026-11-30T10:11:12.345Z 08DD0F5C1B2A3948]",
                "The mail server [192.0.2.77] has been temporarily rate limited due to IP \
                 reputation. (S775) [DB1PEPF00039233.eurprd03.prod.outlook.com \
                 2026-11-30T11:59:00.000Z 08DD0F5C1B2A3000]",
                "421 4.7.650 The mail server … has been temporarily rate limited due to IP \
                 reputation. (S775) …",
            ),
            (
                "4.2.2",
                "<bob@example.net>: mailbox is full, try again in 300 seconds (id 4Fsw2T1bYwz1c)",
                "<carl@example.net>: mailbox is full, try again in 300 seconds (id 3B1F21A0C9)",
                "421 4.2.2 … mailbox is full, try again in 300 seconds (id …",
            ),
            (
                "",
                "[TSS04] Messages from 192.0.2.1 temporarily deferred; see \
                 https://example.net/query?ip=192.0.2.1&t=1700000000",
                "[TSS04] Messages from 198.51.100.9 temporarily deferred; see \
                 https://example.net/query?ip=198.51.100.9&t=1700009999",
                "421 [TSS04] Messages from … temporarily deferred; see \
                 https://example.net/query?ip=…&t=…",
            ),
        ] {
            assert_eq!(gist(&reply(421, enhanced, one)), is);
            assert_eq!(gist(&reply(421, enhanced, other)), is);
        }
    }

    #[test]
    fn what_says_something_stays() {
        for text in [
            "greylisted, try again in 300 seconds",
            "[TSS04] see (S3140) and RP-001 of mx1.example.net",
            "TLSv1.3 is required, IPv6 has no PTR",
            "5.1.1 user unknown",
        ] {
            assert_eq!(gist(&reply(450, "", text)), format!("450 {text}"));
        }
        assert_ne!(
            gist(&reply(450, "4.2.1", "a")),
            gist(&reply(450, "4.2.2", "a"))
        );
        assert_ne!(gist(&reply(450, "", "a")), gist(&reply(451, "", "a")));
    }

    proptest! {
        #[test]
        fn a_gist_has_no_id_that_was_given(text in "[a-z ]{0,30}", id in "[0-9a-f]{4}[0-9]{2}[0-9a-z]{6}") {
            let with = |id: &str| gist(&reply(450, "4.2.1", &format!("{text} {id} end")));
            prop_assert_eq!(with(&id), with("0123456789abcdef"));
        }

        #[test]
        fn no_text_breaks_it_and_a_gist_is_its_own(text in "\\PC{0,80}", code in 200u16..600) {
            let once = gist(&reply(code, "", &text));
            let again = once.strip_prefix(&format!("{code}")).unwrap_or_default().trim();
            prop_assert_eq!(gist(&reply(code, "", again)), once);
        }
    }
}
