//! Keys that take one of a few words.

use serde::Deserialize;

use super::dns_provider::Provider;

macro_rules! choices {
    ($(
        $(#[doc = $about:literal])+
        $name:ident { $( $(#[$meta:meta])+ $variant:ident, )+ }
    )+) => {$(
        $(#[doc = $about])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum $name { $( $(#[$meta])+ $variant, )+ }
    )+};
}

choices! {
    /// Which failing mail DMARC refuses.
    Dmarc {
        /// None.
        Ignore,
        /// What its author's domain wants rejected.
        Reject,
        /// Also what it wants quarantined.
        Quarantine,
    }

    /// What a fail of SPF alone does.
    SpfFail {
        /// Nothing.
        Accept,
        /// It refuses the message.
        Reject,
    }

    /// What is done with mail of a stranger in the name of a domain of ours.
    OwnDomains {
        /// It is refused.
        Reject,
        /// It is taken and held for an operator.
        Hold,
        /// Nothing.
        Accept,
    }

    /// What is done with mail from outside that names several authors.
    SeveralAuthors {
        /// It is refused.
        Reject,
        /// It is judged by the one who fares worst.
        Accept,
    }

    /// What is done with a user's message without From.
    MissingFrom {
        /// Its reverse-path becomes its author.
        Add,
        /// It is refused.
        Reject,
    }

    /// Whether answers of the DNS are validated.
    Dnssec {
        /// As soon as the servers hand on what that takes.
        Auto,
        /// Always: without it there is no answer.
        On,
        /// Never.
        Off,
    }

    /// What is done while the DNS does not answer.
    DnsTrouble {
        /// The sender is asked to come back.
        Defer,
        /// The message is taken as if nothing were published.
        Accept,
    }

    /// How log lines look on stderr.
    LogFormat {
        /// For people; under systemd, entries of the journal with a field for each value.
        Auto,
        /// For people.
        Human,
        /// One JSON object a line.
        Json,
    }

    /// How the CA is shown that a name is ours.
    AcmeChallenge {
        /// A file over http (RFC 8555 section 8.3).
        #[serde(rename = "http-01")]
        Http01,
        /// A certificate in a TLS handshake (RFC 8737).
        #[serde(rename = "tls-alpn-01")]
        TlsAlpn01,
        /// A TXT record (RFC 8555 section 8.4), by way of `dns.provider`.
        #[serde(rename = "dns-01")]
        Dns01,
    }

    /// What our MTA-STS policies ask of others (RFC 8461 section 5).
    MtaSts {
        /// Nothing: no policy is served.
        None,
        /// To report what fails, and to deliver all the same.
        Testing,
        /// To deliver to us over verified TLS only.
        Enforce,
    }

    /// What is done with mail while a milter or hook fails.
    Failing {
        /// The sender is asked to come back.
        Defer,
        /// It is taken unseen.
        Accept,
    }

    /// What is done with mail that is spam by a milter's word.
    Spam {
        /// It is refused.
        Refuse,
        /// It is taken and held for an operator.
        Hold,
        /// It goes on with a header field that says so.
        Tag,
    }

    /// What a milter may change.
    MilterChanges {
        /// It may add header fields.
        Add,
        /// Also change and remove them.
        Headers,
        /// Also replace the body.
        All,
    }

    /// Whose reverse-path is rewritten when mail is forwarded.
    Rewrite {
        /// All mail.
        Always,
        /// Mail without a passing DKIM signature of its author's domain.
        WithoutDkim,
        /// None.
        Never,
    }
}

impl LogFormat {
    /// As it is written in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            LogFormat::Auto => "auto",
            LogFormat::Human => "human",
            LogFormat::Json => "json",
        }
    }
}

impl AcmeChallenge {
    /// As it is written in the configuration and in RFCs.
    pub fn name(self) -> &'static str {
        match self {
            AcmeChallenge::Http01 => "http-01",
            AcmeChallenge::TlsAlpn01 => "tls-alpn-01",
            AcmeChallenge::Dns01 => "dns-01",
        }
    }
}

impl std::str::FromStr for AcmeChallenge {
    type Err = String;

    fn from_str(name: &str) -> Result<AcmeChallenge, String> {
        let known = [
            AcmeChallenge::Http01,
            AcmeChallenge::TlsAlpn01,
            AcmeChallenge::Dns01,
        ];
        let found = known.into_iter().find(|known| known.name() == name);
        found.ok_or_else(|| format!("'{name}' is none of http-01, tls-alpn-01, dns-01"))
    }
}

impl MtaSts {
    /// As it is written in the configuration and in a policy.
    pub fn name(self) -> &'static str {
        match self {
            MtaSts::None => "none",
            MtaSts::Testing => "testing",
            MtaSts::Enforce => "enforce",
        }
    }
}

/// An address of the web that begins with https://.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct HttpsUrl(String);

impl HttpsUrl {
    /// The address.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A known one.
    pub(super) fn fixed(url: &'static str) -> HttpsUrl {
        HttpsUrl(url.to_owned())
    }
}

impl std::str::FromStr for HttpsUrl {
    type Err = String;

    fn from_str(url: &str) -> Result<HttpsUrl, String> {
        HttpsUrl::try_from(url.to_owned())
    }
}

impl TryFrom<String> for HttpsUrl {
    type Error = String;

    fn try_from(url: String) -> Result<HttpsUrl, String> {
        match url.strip_prefix("https://") {
            Some(rest) if !rest.is_empty() => Ok(HttpsUrl(url)),
            _ => Err(format!("'{url}' does not begin with https://")),
        }
    }
}

/// Where a milter listens.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum MilterAddress {
    /// A Unix socket.
    Unix(String),
    /// A host and its port.
    Inet(String, u16),
}

impl std::fmt::Display for MilterAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            MilterAddress::Unix(path) => write!(f, "unix:{path}"),
            MilterAddress::Inet(host, port) if host.contains(':') => {
                write!(f, "inet:[{host}]:{port}")
            }
            MilterAddress::Inet(host, port) => write!(f, "inet:{host}:{port}"),
        }
    }
}

impl TryFrom<String> for MilterAddress {
    type Error = String;

    fn try_from(text: String) -> Result<MilterAddress, String> {
        let bad = || {
            format!("'{text}' is no milter; write inet:127.0.0.1:11332 or unix:/run/milter.sock")
        };
        if let Some(path) = text.strip_prefix("unix:") {
            let well = path.starts_with('/');
            return well
                .then(|| MilterAddress::Unix(path.to_owned()))
                .ok_or_else(bad);
        }
        let rest = text.strip_prefix("inet:").ok_or_else(bad)?;
        let (host, port) = rest.rsplit_once(':').ok_or_else(bad)?;
        let host = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        match port.parse() {
            Ok(port @ 1..) if !host.is_empty() => Ok(MilterAddress::Inet(host.to_owned(), port)),
            _ => Err(bad()),
        }
    }
}

/// The name of a header field.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct FieldName(String);

impl FieldName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A known one.
    pub(super) fn fixed(name: &'static str) -> FieldName {
        FieldName(name.to_owned())
    }
}

impl TryFrom<String> for FieldName {
    type Error = String;

    fn try_from(name: String) -> Result<FieldName, String> {
        let well = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        match !name.is_empty() && name.len() <= 64 && name.bytes().all(well) {
            true => Ok(FieldName(name)),
            false => Err(format!(
                "'{name}' is no name of a header field; write letters, digits and hyphens"
            )),
        }
    }
}

/// A domain of ours in lower case A-labels; empty: none.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(try_from = "String")]
pub struct DomainName(String);

impl DomainName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for DomainName {
    type Error = String;

    fn try_from(name: String) -> Result<DomainName, String> {
        if !name.is_empty() {
            if name.starts_with('*') {
                return Err(format!("'{name}' is a wildcard; write one name"));
            }
            crate::base::names::check_domain(&name)?;
        }
        Ok(DomainName(name))
    }
}

/// Who has the zones of our domains; none: records are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(try_from = "String")]
pub struct DnsProvider(pub Option<Provider>);

impl TryFrom<String> for DnsProvider {
    type Error = String;

    fn try_from(name: String) -> Result<DnsProvider, String> {
        match (name.as_str(), Provider::of(&name)) {
            ("", _) => Ok(DnsProvider(None)),
            (_, Some(known)) => Ok(DnsProvider(Some(known))),
            (_, None) => {
                let known = Provider::ALL.map(Provider::name).join(", ");
                Err(format!(
                    "'{name}' is no DNS provider that is known: {known}"
                ))
            }
        }
    }
}

/// A name for a certificate, in lower-case A-labels: a domain, or all names right below one.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct CertificateName(String);

impl CertificateName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it stands for others.
    pub fn is_wildcard(&self) -> bool {
        self.0.starts_with("*.")
    }
}

impl TryFrom<String> for CertificateName {
    type Error = String;

    fn try_from(name: String) -> Result<CertificateName, String> {
        let whole = name.strip_prefix("*.").unwrap_or(&name);
        crate::base::names::check_domain(whole)?;
        if whole.starts_with('*') {
            return Err(format!("'{name}' has two wildcards; write one"));
        }
        Ok(CertificateName(name))
    }
}
