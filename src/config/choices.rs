//! Keys that take one of a few words.

use serde::Deserialize;

macro_rules! choices {
    ($(
        $(#[doc = $about:literal])+
        $name:ident { $( $(#[doc = $doc:literal])+ $variant:ident, )+ }
    )+) => {$(
        $(#[doc = $about])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum $name { $( $(#[doc = $doc])+ $variant, )+ }
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
