//! Keys that take one of a few words.

use serde::Deserialize;

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

    /// What is done while the DNS does not answer.
    DnsTrouble {
        /// The sender is asked to come back.
        Defer,
        /// The message is taken as if nothing were published.
        Accept,
    }

    /// How the CA is shown that a name is ours.
    AcmeChallenge {
        /// A file over http (RFC 8555 section 8.3).
        #[serde(rename = "http-01")]
        Http01,
        /// A certificate in a TLS handshake (RFC 8737).
        #[serde(rename = "tls-alpn-01")]
        TlsAlpn01,
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

impl AcmeChallenge {
    /// As it is written in the configuration and in RFCs.
    pub fn name(self) -> &'static str {
        match self {
            AcmeChallenge::Http01 => "http-01",
            AcmeChallenge::TlsAlpn01 => "tls-alpn-01",
        }
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
            crate::identity::address::check_domain(&name)?;
        }
        Ok(DomainName(name))
    }
}
