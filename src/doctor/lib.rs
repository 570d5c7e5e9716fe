//! The doctor: what is wrong with a mail host and its domains, why it matters, what to do.
//!
//! Pure: receives facts that `cli::check` gathered, gives [`Finding`]s. No socket, no file, no
//! clock; what could not be found out is told as such and never taken for good or bad.
#![forbid(unsafe_code)]

pub mod address;
pub mod dkim;
pub mod dmarc;
pub mod host;
pub mod hoster;
pub mod machine;
pub mod mx;
pub mod policy;
pub mod rules;
pub mod spf;
pub mod tlsa;

// The rooms that this one enters.
use chapar_config as config;
use chapar_dns as dns;
use chapar_identity as identity;
use chapar_message as message;
use chapar_signing as signing;
use chapar_tls as tls;
use chapar_verify as verify;

use serde::Serialize;

use crate::verify::lookup::Trouble;

/// Records of a lookup, or that nobody knows.
pub type Asked<T> = Result<Vec<T>, Trouble>;

/// How bad it is; the worst of all is the exit code of `chapar check`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Good,
    /// Mail flows, but less well than it could, or it could not be found out.
    Warning,
    /// Mail is lost, refused or taken for spam.
    Wrong,
}

impl Level {
    /// How a line begins.
    pub fn sign(self) -> char {
        match self {
            Level::Good => '✓',
            Level::Warning => '!',
            Level::Wrong => '✗',
        }
    }

    /// The exit code when nothing is worse.
    pub fn exit_code(self) -> u8 {
        match self {
            Level::Good => 0,
            Level::Warning => 1,
            Level::Wrong => 2,
        }
    }
}

/// One line of the doctor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Which check, one word.
    pub check: &'static str,
    /// What was looked at: an address, a domain, a file.
    pub about: String,
    /// How bad it is.
    pub level: Level,
    /// What was found.
    pub what: String,
    /// Why that matters; empty if it is good.
    pub why: String,
    /// What to do, exactly; empty if nothing.
    pub remedy: String,
}

impl Finding {
    /// As it should be.
    pub fn good(check: &'static str, about: &str, what: impl Into<String>) -> Finding {
        Finding {
            check,
            about: about.to_owned(),
            level: Level::Good,
            what: what.into(),
            why: String::new(),
            remedy: String::new(),
        }
    }

    /// Not as well as it could be.
    pub fn warning(
        check: &'static str,
        about: &str,
        what: impl Into<String>,
        why: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Finding {
        Finding {
            level: Level::Warning,
            why: why.into(),
            remedy: remedy.into(),
            ..Finding::good(check, about, what)
        }
    }

    /// Mail suffers from it.
    pub fn wrong(
        check: &'static str,
        about: &str,
        what: impl Into<String>,
        why: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Finding {
        Finding {
            level: Level::Wrong,
            ..Finding::warning(check, about, what, why, remedy)
        }
    }

    /// The DNS could not be asked for `what`.
    pub fn unasked(check: &'static str, about: &str, what: &str) -> Finding {
        Finding::warning(
            check,
            about,
            format!("the DNS did not answer for {what}"),
            "what can not be looked up here may fail elsewhere too",
            "ask again later; if it stays so, look at the name servers of the domain and at dns.servers",
        )
    }

    /// As a line for people. Texts of the DNS and of peers can not break it.
    pub fn line(&self) -> String {
        let mut line = format!(
            "{} {} {}: {}",
            self.level.sign(),
            self.check,
            self.about,
            self.what
        );
        if !self.why.is_empty() {
            line.push_str(&format!("; {}", self.why));
        }
        if !self.remedy.is_empty() {
            line.push_str(&format!(". Remedy: {}", self.remedy));
        }
        line.retain(|c| !c.is_control());
        line
    }
}

/// The worst of all; good if there are none.
pub fn worst(findings: &[Finding]) -> Level {
    let levels = findings.iter().map(|finding| finding.level);
    levels.max().unwrap_or(Level::Good)
}

/// Words of a list for people.
pub fn list<T: ToString>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(T::to_string).collect();
    items.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_why_and_what_to_do() {
        let finding = Finding::wrong("ptr", "192.0.2.1", "no\nPTR", "it matters", "set it");
        assert_eq!(
            finding.line(),
            "✗ ptr 192.0.2.1: noPTR; it matters. Remedy: set it"
        );
        assert_eq!(Finding::good("ptr", "x", "fine").line(), "✓ ptr x: fine");
        assert_eq!(worst(&[]).exit_code(), 0);
        assert_eq!(
            worst(&[Finding::good("a", "b", "c"), finding]).exit_code(),
            2
        );
    }
}
