//! `[[route]]`: exceptions to the MX lookup, and the one reader of what stands in `via`.
//!
//! Pure: text in, hops out. What a target of an alias may say (`lmtp:`, `maildir:`, `pipe:`,
//! `discard:`) is read here as well ([`Via::parse`]).

use std::net::IpAddr;
use std::path::PathBuf;

use super::{Route, TlsRule};
use crate::base::names::{self as address, dns_domain};

/// Targets on this machine, or over LMTP, begin like this. No address of SMTP looks like that:
/// before the `@` of one, a colon stands in quotes only (RFC 5321 section 4.1.2).
pub const TARGETS: [&str; 4] = ["lmtp:", "maildir:", "pipe:", "discard:"];

/// A route that can not be used, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("[[route]] to = \"{to}\": {problem}")]
pub struct RouteError {
    /// The route.
    pub to: String,
    /// What is wrong with it.
    pub problem: String,
}

/// Where a route, or the target of an alias, leads.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Via {
    /// The MX hosts of the domain, as without a route; it may say where to send from.
    Mx,
    /// A host that speaks SMTP or LMTP.
    Hop(Hop),
    /// A directory in Maildir format; `{local}` and `{domain}` stand for the recipient's.
    Maildir(String),
    /// A program and its arguments.
    Pipe(Vec<String>),
    /// Nowhere: taken and forgotten.
    Discard,
}

/// A host to send to instead of the MX hosts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Hop {
    /// What it speaks.
    pub protocol: Protocol,
    /// Its name, or an address; for a Unix socket its path.
    pub host: String,
    /// Its port; 0 for a Unix socket.
    pub port: u16,
    /// Who we are to it; the password lies in `secrets/relay/USER@HOST`.
    pub user: Option<String>,
}

/// What a hop speaks, and how TLS begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// `smtp://`: SMTP, STARTTLS where it is offered; with a user it has to be.
    Smtp,
    /// `smtps://`: SMTP over TLS from the first byte (RFC 8314), the certificate verified.
    Smtps,
    /// `lmtp://`: LMTP (RFC 2033) over TCP.
    Lmtp,
    /// `lmtp:/path`: LMTP over a Unix socket.
    LmtpSocket,
}

impl Protocol {
    /// Whether each recipient has its own reply at the end of data.
    pub fn is_lmtp(self) -> bool {
        matches!(self, Protocol::Lmtp | Protocol::LmtpSocket)
    }

    fn scheme(self) -> &'static str {
        match self {
            Protocol::Smtp => "smtp://",
            Protocol::Smtps => "smtps://",
            Protocol::Lmtp => "lmtp://",
            Protocol::LmtpSocket => "lmtp:",
        }
    }
}

impl std::fmt::Display for Hop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.protocol.scheme())?;
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        match self.protocol {
            Protocol::LmtpSocket => f.write_str(&self.host),
            _ if self.host.contains(':') => write!(f, "[{}]:{}", self.host, self.port),
            _ => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl Hop {
    /// Where its password lies, below the directory of the configuration.
    pub fn password_file(&self) -> Option<PathBuf> {
        let user = self.user.as_ref()?;
        let name = format!("{user}@{}", self.host);
        Some(PathBuf::from("secrets/relay").join(name))
    }
}

const REMEDY: &str = "write smtp://relay.example.org:25, smtps://user@relay.example.org:465, \
    lmtp://127.0.0.1:24, lmtp:/run/dovecot/lmtp, maildir:/var/mail/{domain}/{local}, \
    pipe:/usr/local/bin/command argument, discard: or mx:";

impl Via {
    /// Reads one `via`, or the target of an alias; an error says what to write instead.
    pub fn parse(text: &str) -> Result<Via, String> {
        let bad = |why: &str| format!("via = \"{text}\" {why}; {REMEDY}");
        if text.chars().any(char::is_control) {
            return Err(bad("holds a control character"));
        }
        let (scheme, rest) = text
            .split_once(':')
            .ok_or_else(|| bad("has no kind such as smtp: before it"))?;
        match scheme {
            "mx" if rest.is_empty() => Ok(Via::Mx),
            "discard" if rest.is_empty() => Ok(Via::Discard),
            "maildir" => match is_safe_path(rest) {
                true => Ok(Via::Maildir(rest.trim_end_matches('/').to_owned())),
                false => Err(bad("is no absolute path without ..")),
            },
            "pipe" => {
                let argv = words(rest).ok_or_else(|| bad("has a quote without its end"))?;
                match argv.first() {
                    Some(program) if program.starts_with('/') => Ok(Via::Pipe(argv)),
                    _ => Err(bad("does not begin with the full path of a program")),
                }
            }
            "lmtp" if !rest.starts_with("//") || rest.starts_with("///") => {
                let path = rest.strip_prefix("//").unwrap_or(rest);
                match is_safe_path(path) {
                    true => Ok(Via::Hop(Hop {
                        protocol: Protocol::LmtpSocket,
                        host: path.to_owned(),
                        port: 0,
                        user: None,
                    })),
                    false => Err(bad("is neither lmtp://host:port nor the path of a socket")),
                }
            }
            "smtp" => hop(Protocol::Smtp, 25, rest).map(Via::Hop).map_err(bad),
            "smtps" => hop(Protocol::Smtps, 465, rest).map(Via::Hop).map_err(bad),
            "lmtp" => hop(Protocol::Lmtp, 24, rest).map(Via::Hop).map_err(bad),
            _ => Err(bad("is of no kind that is known")),
        }
    }

    /// Whether the recipient is served on this machine, without a connection.
    pub fn is_local(&self) -> bool {
        matches!(self, Via::Maildir(_) | Via::Pipe(_) | Via::Discard)
    }

    /// What is written in an envelope as the address of a recipient that an alias leads to such a
    /// target; `None` for an ordinary address.
    pub fn of_address(address: &str) -> Option<Result<Via, String>> {
        TARGETS
            .iter()
            .any(|kind| address.starts_with(kind))
            .then(|| Via::parse(address))
    }
}

fn is_safe_path(path: &str) -> bool {
    path.len() > 1 && path.starts_with('/') && !path.split('/').any(|part| part == "..")
}

/// Words separated by spaces; double quotes keep spaces, a backslash keeps what follows it.
fn words(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            '\\' => word.get_or_insert_default().push(characters.next()?),
            ' ' if !quoted => words.extend(word.take()),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    (!quoted).then_some(words)
}

/// `//[user@]host[:port]`, an IPv6 address in brackets.
fn hop(protocol: Protocol, usual: u16, rest: &str) -> Result<Hop, &'static str> {
    let rest = rest.strip_prefix("//").ok_or("has no // before the host")?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (user, rest) = match rest.rsplit_once('@') {
        Some((user, rest)) => (Some(user), rest),
        None => (None, rest),
    };
    // It names a file.
    let odd = |user: &str| user.is_empty() || user.contains(['/', '\0']) || user.starts_with('.');
    if user.is_some_and(odd) {
        return Err("has no user whose name could be that of a file");
    }
    if user.is_some() && protocol.is_lmtp() {
        return Err("has a user, which LMTP has not");
    }
    let bracketed = rest.strip_prefix('[').map(|rest| rest.split_once(']'));
    let (host, port) = match bracketed {
        Some(found) => {
            let (host, after) = found.ok_or("has no ] after the address")?;
            let port = after.strip_prefix(':');
            if port.is_none() && !after.is_empty() {
                return Err("has no valid host and port");
            }
            (host, port)
        }
        None => rest
            .split_once(':')
            .map_or((rest, None), |(host, port)| (host, Some(port))),
    };
    let well = match host.parse::<IpAddr>() {
        Ok(ip) => ip.is_ipv6() == bracketed.is_some(),
        Err(_) => bracketed.is_none() && address::is_domain(host),
    };
    let port = port.map_or(Some(usual), |port| port.parse().ok());
    match port {
        Some(port) if well && port != 0 => Ok(Hop {
            protocol,
            host: host.to_ascii_lowercase(),
            port,
            user: user.map(str::to_owned),
        }),
        _ => Err("has no valid host and port"),
    }
}

/// One route, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    from: Pattern,
    to: Pattern,
    /// In the order to try them; more than one only of hosts.
    pub vias: Vec<Via>,
    /// Addresses to send from instead of `delivery.source`.
    pub source: Vec<IpAddr>,
    /// What holds for TLS on it.
    pub tls: Option<TlsRule>,
}

/// The routes in order.
#[derive(Debug, Clone, Default)]
pub struct Routes(Vec<Way>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    All,
    Domain(String),
    /// Its sub-domains, not the domain itself; with the leading dot.
    Below(String),
}

impl Pattern {
    fn parse(text: &str) -> Option<Pattern> {
        let text = text.to_ascii_lowercase();
        match text.strip_prefix('*') {
            Some("") => Some(Pattern::All),
            Some(rest) => {
                let domain = rest.strip_prefix('.')?;
                address::is_domain(domain).then(|| Pattern::Below(rest.to_owned()))
            }
            None => address::is_domain(&text).then_some(Pattern::Domain(text)),
        }
    }

    fn matches(&self, domain: &str) -> bool {
        match self {
            Pattern::All => true,
            Pattern::Domain(name) => name == domain,
            Pattern::Below(suffix) => domain.ends_with(suffix) && domain.len() > suffix.len(),
        }
    }
}

/// Checks routes without keeping them.
pub fn check_routes(routes: &[Route]) -> Result<(), RouteError> {
    Routes::new(routes).map(|_| ())
}

/// Reads one route; an error is about this key of it.
pub fn read(route: &Route) -> Result<Way, (&'static str, String)> {
    let pattern = |key: &'static str, text: &str| {
        let problem = || {
            let remedy = "write example.org, *.example.org for its sub-domains, or *";
            let name = key.trim_start_matches("route.");
            (key, format!("{name} = \"{text}\" is no domain; {remedy}"))
        };
        Pattern::parse(text).ok_or_else(problem)
    };
    let to = pattern("route.to", &route.to)?;
    let from = pattern("route.from", &route.from)?;
    let vias: Result<Vec<Via>, String> = route.via.iter().map(|via| Via::parse(via)).collect();
    let vias = vias.map_err(|problem| ("route.via", problem))?;
    let hops = vias.iter().all(|via| matches!(via, Via::Hop(_)));
    match vias.len() {
        0 => Err(("route.via", format!("via = [] leads nowhere; {REMEDY}"))),
        1 => Ok(()),
        _ if hops => Ok(()),
        _ => {
            let problem = "via: only hosts (smtp://, smtps://, lmtp:) can follow each other; \
                           keep one of them";
            Err(("route.via", problem.to_owned()))
        }
    }?;
    if let Some(rule) = route.tls {
        check_tls(rule, &vias).map_err(|problem| ("route.tls", problem))?;
    }
    Ok(Way {
        from,
        to,
        vias,
        source: route.source.clone(),
        tls: route.tls,
    })
}

/// A rule that its hops can not keep would be void, or would keep the mail for ever.
fn check_tls(rule: TlsRule, vias: &[Via]) -> Result<(), String> {
    let name = rule.name();
    let here = |via: &Via| match via {
        Via::Hop(hop) => hop.protocol == Protocol::LmtpSocket,
        Via::Mx => false,
        Via::Maildir(_) | Via::Pipe(_) | Via::Discard => true,
    };
    if vias.iter().any(here) {
        return Err(format!(
            "tls = \"{name}\" on a way that ends on this machine; leave it out"
        ));
    }
    let proves = |via: &Via| matches!(via, Via::Hop(hop) if hop.user.is_some() || hop.protocol == Protocol::Smtps);
    if rule == TlsRule::Never && vias.iter().any(proves) {
        return Err(format!(
            "tls = \"{name}\" on a way with smtps:// or a password, which travel over TLS only; \
             leave it out"
        ));
    }
    Ok(())
}

impl Routes {
    /// Reads the routes of the configuration.
    pub fn new(routes: &[Route]) -> Result<Routes, RouteError> {
        let read = |route: &Route| {
            read(route).map_err(|(_, problem)| RouteError {
                to: route.to.clone(),
                problem,
            })
        };
        let ways: Result<Vec<Way>, RouteError> = routes.iter().map(read).collect();
        ways.map(Routes)
    }

    /// The first route for mail from one domain to another, both in lower case, and its number.
    pub fn find(&self, from: &str, to: &str) -> Option<(usize, &Way)> {
        self.0
            .iter()
            .enumerate()
            .find(|(_, way)| way.to.matches(to) && way.from.matches(from))
    }

    /// The name of the host, or the kind of local target, that serves a recipient; none where the
    /// MX records decide. For people: several hosts are told by the first.
    pub fn next_host(&self, from: &str, to: &str) -> Option<String> {
        let via = match Via::of_address(to) {
            Some(local) => local.ok()?,
            None => {
                let (from, to) = (dns_domain(from), dns_domain(to));
                self.find(&from, &to)?.1.vias.first()?.clone()
            }
        };
        match via {
            Via::Mx => None,
            Via::Hop(hop) => Some(hop.host),
            Via::Maildir(_) => Some("maildir".to_owned()),
            Via::Pipe(_) => Some("pipe".to_owned()),
            Via::Discard => Some("discard".to_owned()),
        }
    }

    /// Whether who sends matters for where mail goes.
    pub fn ask_for_sender(&self) -> bool {
        self.0.iter().any(|way| way.from != Pattern::All)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(list: &[(&str, &str, &str)]) -> Result<Routes, RouteError> {
        let route = |(from, to, via): &(&str, &str, &str)| Route {
            to: (*to).to_owned(),
            from: (*from).to_owned(),
            via: vec![(*via).to_owned()],
            ..Route::default()
        };
        Routes::new(&list.iter().map(route).collect::<Vec<_>>())
    }

    #[test]
    fn the_first_match_wins() {
        let routes = routes(&[
            ("*", "a.example", "smtp://one:2525"),
            ("b.example", "c.example", "lmtp:/run/lmtp"),
            ("*", "*.Corp.example", "smtp://[2001:db8::1]:26"),
            ("*", "*", "smtps://me@relay.example"),
        ])
        .expect("routes");
        let find = |from, to| {
            let (_, way) = routes.find(from, to).expect("a route");
            match &way.vias[..] {
                [Via::Hop(hop)] => hop.to_string(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(find("", "a.example"), "smtp://one:2525");
        assert_eq!(find("", "x.corp.example"), "smtp://[2001:db8::1]:26");
        assert_eq!(find("", "x.y.corp.example"), "smtp://[2001:db8::1]:26");
        assert_eq!(find("", "corp.example"), "smtps://me@relay.example:465");
        assert_eq!(find("", "xcorp.example"), "smtps://me@relay.example:465");
        assert_eq!(find("b.example", "c.example"), "lmtp:/run/lmtp");
        assert_eq!(find("", "c.example"), "smtps://me@relay.example:465");
        assert!(routes.ask_for_sender());
        assert!(Routes::default().find("", "a.example").is_none());
        assert!(!Routes::default().ask_for_sender());
    }

    #[test]
    fn people_are_told_the_host_of_a_route() {
        let routes = routes(&[
            ("*", "a.example", "smtp://One.example:2525"),
            ("b.example", "*", "mx:"),
            ("*", "m.example", "maildir:/m/{local}"),
        ])
        .expect("routes");
        let host = |from, to| routes.next_host(from, to);
        assert_eq!(
            host("x@y.example", "u@A.example").as_deref(),
            Some("one.example")
        );
        assert_eq!(host("x@b.example", "u@c.example"), None);
        assert_eq!(host("x@y.example", "u@c.example"), None);
        assert_eq!(host("", "u@m.example").as_deref(), Some("maildir"));
        assert_eq!(host("", "lmtp:/run/lmtp").as_deref(), Some("/run/lmtp"));
    }

    #[test]
    fn every_kind_of_target() {
        let good = |text: &str| Via::parse(text).expect(text);
        assert_eq!(good("mx:"), Via::Mx);
        assert_eq!(good("discard:"), Via::Discard);
        assert_eq!(
            good("maildir:/m/{local}/"),
            Via::Maildir("/m/{local}".into())
        );
        let argv = ["/bin/x", "a b", "c\"d", ""].map(str::to_owned).to_vec();
        assert_eq!(good("pipe:/bin/x \"a b\"  c\\\"d \"\""), Via::Pipe(argv));
        let Via::Hop(hop) = good("smtp://me@example.org@Relay.example:587") else {
            panic!("a hop");
        };
        assert_eq!(hop.user.as_deref(), Some("me@example.org"));
        assert_eq!((hop.host.as_str(), hop.port), ("relay.example", 587));
        let file = hop.password_file().expect("a file");
        assert_eq!(
            file.to_str(),
            Some("secrets/relay/me@example.org@relay.example")
        );
        for text in ["lmtp:/run/x", "lmtp:///run/x", "lmtp://[::1]:24"] {
            assert!(matches!(good(text), Via::Hop(hop) if hop.protocol.is_lmtp()));
        }
        assert_eq!(Via::of_address("pipe@example.org"), None);
        assert_eq!(Via::of_address("discard:"), Some(Ok(Via::Discard)));
    }

    #[test]
    fn d12_a_rule_for_tls_that_a_way_can_not_keep_is_refused() {
        use TlsRule::*;
        for (via, rule, fits) in [
            ("smtp://a", Never, true),
            ("smtp://a", Dane, true),
            ("lmtp://a:24", Verify, true),
            ("smtps://a", Verify, true),
            ("mx:", Encrypt, true),
            ("smtps://a", Never, false),
            ("smtp://me@a:587", Never, false),
            ("lmtp:/run/x", Encrypt, false),
            ("maildir:/m", May, false),
            ("discard:", Verify, false),
        ] {
            let route = Route {
                via: vec![via.to_owned()],
                tls: Some(rule),
                ..Route::default()
            };
            let read = read(&route).map(|way| way.tls);
            match fits {
                true => assert_eq!(read, Ok(Some(rule))),
                false => {
                    let (key, problem) = read.expect_err(via);
                    assert_eq!(key, "route.tls");
                    assert!(problem.ends_with("; leave it out"), "{problem}");
                }
            }
        }
    }

    #[test]
    fn what_can_not_be_read_is_named() {
        for (from, to, via) in [
            ("*", "", "smtp://a"),
            ("*", "*a", "smtp://a"),
            ("*", "*.", "smtp://a"),
            ("*", "a*", "smtp://a"),
            ("", "*", "smtp://a"),
            ("*", "a", "a:25"),
            ("*", "a", "smtp://"),
            ("*", "a", "smtp://:25"),
            ("*", "a", "smtp://a:0"),
            ("*", "a", "smtp://a:65536"),
            ("*", "a", "smtp://a:b"),
            ("*", "a", "smtp://a/b"),
            ("*", "a", "smtp://[::1"),
            ("*", "a", "smtp://[::1]25"),
            ("*", "a", "smtp://[127.0.0.1]"),
            ("*", "a", "smtp://::1:25"),
            ("*", "a", "smtp://@a"),
            ("*", "a", "smtp://../x@a"),
            ("*", "a", "lmtp://me@a"),
            ("*", "a", "lmtp:run/x"),
            ("*", "a", "maildir:x"),
            ("*", "a", "maildir:/a/../b"),
            ("*", "a", "pipe:cat"),
            ("*", "a", "pipe:"),
            ("*", "a", "pipe:/bin/x \"a"),
            ("*", "a", "discard:x"),
            ("*", "a", "ftp://a"),
            ("*", "a", "smtp://a\nb"),
        ] {
            assert!(routes(&[(from, to, via)]).is_err(), "{from} {to} {via}");
        }
        let mut route = Route {
            to: "a".into(),
            via: Vec::new(),
            ..Route::default()
        };
        assert!(read(&route).is_err());
        route.via = vec!["smtp://a".into(), "discard:".into()];
        assert!(read(&route).is_err());
        route.via = vec!["smtp://a".into(), "lmtp://b".into()];
        assert!(read(&route).is_ok());
    }
}
