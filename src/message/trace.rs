//! The Received header field we put on top (RFC 5321 section 4.4, RFC 3848).

use std::net::IpAddr;

use queue_schema::{Millis, QueueId};

use super::date;

/// How a message came.
#[derive(Debug, Clone)]
pub struct Trace<'a> {
    /// The name of EHLO or HELO.
    pub hello: &'a str,
    /// Whether it was EHLO.
    pub extended: bool,
    /// The client's address; `None` hides client and name, for users who sent from home.
    pub client: Option<IpAddr>,
    /// The client's name, where it has one that leads back to its address.
    pub client_name: Option<&'a str>,
    /// Our host name.
    pub hostname: &'a str,
    /// The message's id.
    pub id: QueueId,
    /// TLS version and cipher suite.
    pub tls: Option<&'a str>,
    /// Whether a user logged in.
    pub authenticated: bool,
    /// Whether SMTPUTF8 was needed (RFC 6531 section 4.3).
    pub utf8: bool,
    /// The recipient, if there is one only: more would betray Bcc.
    pub recipient: Option<&'a str>,
    /// When it came.
    pub at: Millis,
}

/// The field with its last CR LF. `hello` was checked by the command parser; everything else is
/// ours.
pub fn received(trace: &Trace<'_>) -> String {
    let base = match (trace.extended, trace.utf8) {
        (false, _) => "SMTP",
        (true, false) => "ESMTP",
        (true, true) => "UTF8SMTP",
    };
    let suffix = match (trace.extended, trace.tls.is_some(), trace.authenticated) {
        (false, _, _) | (true, false, false) => "",
        (true, true, false) => "S",
        (true, false, true) => "A",
        (true, true, true) => "SA",
    };
    let from = match trace.client {
        Some(client) => {
            let name = trace.client_name.unwrap_or("unknown");
            format!("from {} ({name} {})\r\n\t", trace.hello, literal(client))
        }
        // RFC 5321 section 4.4 wants a FROM; where a user sat is nobody's business.
        None => "from localhost\r\n\t".to_owned(),
    };
    let tls = trace
        .tls
        .map(|tls| format!("\r\n\t({tls})"))
        .unwrap_or_default();
    let to = trace
        .recipient
        .map(|to| format!("\r\n\tfor <{to}>"))
        .unwrap_or_default();
    let Trace {
        hostname, id, at, ..
    } = trace;
    format!(
        "Received: {from}by {hostname} with {base}{suffix} id {id}{tls}{to};\r\n\t{}\r\n",
        date(*at)
    )
}

/// Whether the value of a Received field is one that [`received`] wrote for `hostname`; then the
/// recipient it names, if it names one.
pub fn own<'a>(value: &'a [u8], hostname: &str) -> Option<Option<&'a str>> {
    let text = std::str::from_utf8(value).ok()?;
    let mut words = text.split_ascii_whitespace();
    words.find(|word| *word == "by")?;
    if !words.next()?.eq_ignore_ascii_case(hostname) {
        return None;
    }
    let recipient = words
        .skip_while(|word| *word != "for")
        .nth(1)
        .map(|word| word.trim_start_matches('<').trim_end_matches([';', '>']));
    Some(recipient)
}

/// An address as an address literal (RFC 5321 section 4.1.3).
pub fn literal(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => format!("[{address}]"),
        IpAddr::V6(address) => format!("[IPv6:{address}]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trace_tells_what_happened_and_hides_users_at_home() {
        let mut trace = Trace {
            hello: "client.example.net",
            extended: true,
            client: Some([192, 0, 2, 7].into()),
            client_name: Some("client.example.net"),
            hostname: "mx.example.org",
            id: QueueId(1),
            tls: Some("TLSv1.3 TLS13_AES_256_GCM_SHA384"),
            authenticated: false,
            utf8: false,
            recipient: Some("me@example.org"),
            at: 1_764_000_000_000,
        };
        assert_eq!(
            received(&trace),
            "Received: from client.example.net (client.example.net [192.0.2.7])\r\n\
             \tby mx.example.org with ESMTPS id 0000000000001\r\n\
             \t(TLSv1.3 TLS13_AES_256_GCM_SHA384)\r\n\
             \tfor <me@example.org>;\r\n\
             \tMon, 24 Nov 2025 16:00:00 +0000\r\n"
        );
        trace.client = None;
        trace.authenticated = true;
        trace.recipient = None;
        trace.tls = None;
        assert_eq!(
            received(&trace),
            "Received: from localhost\r\n\
             \tby mx.example.org with ESMTPA id 0000000000001;\r\n\
             \tMon, 24 Nov 2025 16:00:00 +0000\r\n"
        );
    }
}
