//! `[[route]]`: exceptions to the MX lookup.

use crate::config::Route;

/// A route that can not be used, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("[[route]] to = \"{to}\": {problem}")]
pub struct RouteError {
    /// The route.
    pub to: String,
    /// What is wrong with it.
    pub problem: String,
}

/// A host to send to instead of the MX hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    /// Its name, or an address.
    pub host: String,
    /// Its port.
    pub port: u16,
}

/// The routes in order.
#[derive(Debug, Clone, Default)]
pub struct Routes(Vec<(Pattern, Hop)>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    All,
    Domain(String),
    /// Its sub-domains, not the domain itself; with the leading dot.
    Below(String),
}

/// Checks routes without keeping them.
pub fn check_routes(routes: &[Route]) -> Result<(), RouteError> {
    Routes::new(routes).map(|_| ())
}

impl Routes {
    /// Reads the routes of the configuration.
    pub fn new(routes: &[Route]) -> Result<Routes, RouteError> {
        let read = |route: &Route| {
            let problem = |problem: &str| RouteError {
                to: route.to.clone(),
                problem: problem.to_owned(),
            };
            let to = route.to.to_ascii_lowercase();
            let pattern = match to.strip_prefix('*') {
                Some("") => Pattern::All,
                Some(rest) if rest.len() > 1 && rest.starts_with('.') => {
                    Pattern::Below(rest.to_owned())
                }
                None if !to.is_empty() && !to.contains('*') => Pattern::Domain(to),
                _ => {
                    return Err(problem(
                        "write a domain, *.domain for what is below it, or *",
                    ));
                }
            };
            let hop = hop(&route.via).ok_or_else(|| {
                problem("via must be smtp://host:port, such as smtp://relay.example.com:25")
            })?;
            Ok((pattern, hop))
        };
        routes
            .iter()
            .map(read)
            .collect::<Result<_, _>>()
            .map(Routes)
    }

    /// The first route for a domain in lower case.
    pub fn find(&self, domain: &str) -> Option<&Hop> {
        let matches = |pattern: &Pattern| match pattern {
            Pattern::All => true,
            Pattern::Domain(name) => name == domain,
            Pattern::Below(suffix) => domain.ends_with(suffix) && domain.len() > suffix.len(),
        };
        self.0
            .iter()
            .find(|(pattern, _)| matches(pattern))
            .map(|(_, hop)| hop)
    }
}

/// `smtp://host:port`, `smtp://[address]:port`; without a port it is 25.
fn hop(via: &str) -> Option<Hop> {
    let rest = via.strip_prefix("smtp://")?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (host, port) = match rest.strip_prefix('[') {
        Some(bracketed) => {
            let (inner, after) = bracketed.split_once(']')?;
            inner.parse::<std::net::IpAddr>().ok()?;
            (
                inner,
                after
                    .strip_prefix(':')
                    .or(after.is_empty().then_some("25"))?,
            )
        }
        None => rest.split_once(':').unwrap_or((rest, "25")),
    };
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':');
    if host.is_empty() || !host.bytes().all(good) {
        return None;
    }
    let port = port.parse().ok().filter(|port| *port > 0)?;
    Some(Hop {
        host: host.to_ascii_lowercase(),
        port,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(list: &[(&str, &str)]) -> Result<Routes, RouteError> {
        let route = |(to, via): &(&str, &str)| Route {
            to: (*to).to_owned(),
            via: (*via).to_owned(),
        };
        Routes::new(&list.iter().map(route).collect::<Vec<_>>())
    }

    #[test]
    fn the_first_match_wins() {
        let routes = routes(&[
            ("a.example", "smtp://one:2525"),
            ("*.Corp.example", "smtp://[2001:db8::1]:26"),
            ("*", "smtp://relay.example"),
        ])
        .expect("routes");
        let find = |domain| {
            let hop = routes.find(domain).expect("a hop");
            format!("{} {}", hop.host, hop.port)
        };
        assert_eq!(find("a.example"), "one 2525");
        assert_eq!(find("x.corp.example"), "2001:db8::1 26");
        assert_eq!(find("x.y.corp.example"), "2001:db8::1 26");
        assert_eq!(find("corp.example"), "relay.example 25");
        assert_eq!(find("xcorp.example"), "relay.example 25");
        assert_eq!(Routes::default().find("a.example"), None);
    }

    #[test]
    fn what_can_not_be_read_is_named() {
        for (to, via) in [
            ("", "smtp://a"),
            ("*a", "smtp://a"),
            ("*.", "smtp://a"),
            ("a*", "smtp://a"),
            ("a", "a:25"),
            ("a", "smtp://"),
            ("a", "smtp://:25"),
            ("a", "smtp://a:0"),
            ("a", "smtp://a:99999"),
            ("a", "smtp://user@a:25"),
            ("a", "smtp://[a]:25"),
            ("a", "smtp://[::1]25"),
            ("a", "lmtp://a"),
        ] {
            let error = routes(&[(to, via)]).expect_err(via);
            assert_eq!(error.to, to);
            assert!(!error.problem.is_empty());
        }
    }
}
