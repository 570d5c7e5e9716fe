//! What mail clients fetch to set themselves up: Thunderbird's autoconfig, Outlook's autodiscover,
//! a profile for Apple's. Pure.
//!
//! Nothing here depends on who the users are: whoever asks for an address of our domains gets the
//! same answer, and no answer says whether it exists.

use super::pages::Page;
use crate::config::{Config, Service, TlsMode};
use crate::identity::{Identity, address};

/// Longest address that is put into an answer.
const ADDRESS: usize = 254;

/// The page at `path` of `host`; `None` where it is none of these.
pub fn page(
    config: &Config,
    identity: &Identity,
    host: &str,
    path: &str,
    query: &str,
    posted: &str,
) -> Option<Page> {
    let path = path.to_ascii_lowercase();
    let email = email(query).or_else(|| posted_email(posted));
    match path.as_str() {
        "/mail/config-v1.1.xml" | "/.well-known/autoconfig/mail/config-v1.1.xml" => {
            let domain = domain(identity, host, "autoconfig.", email.as_deref())?;
            Some(xml(thunderbird(config, &domain)?))
        }
        "/autodiscover/autodiscover.xml" => {
            domain(identity, host, "autodiscover.", email.as_deref())?;
            Some(xml(outlook(config, email.as_deref())?))
        }
        "/apple.mobileconfig" => {
            let email = email?;
            let domain = domain(identity, host, "autoconfig.", Some(&email))?;
            Some(Page {
                status: 200,
                kind: "application/x-apple-aspen-config",
                text: apple(config, &domain, &email)?,
            })
        }
        _ => None,
    }
}

/// Whether clients ask for `path` with POST.
pub fn is_posted(path: &str) -> bool {
    path.eq_ignore_ascii_case("/autodiscover/autodiscover.xml")
}

fn xml(text: String) -> Page {
    Page {
        status: 200,
        kind: "text/xml; charset=utf-8",
        text,
    }
}

/// The domain of ours that is asked for: that of the address, else that of the host.
fn domain(identity: &Identity, host: &str, prefix: &str, email: Option<&str>) -> Option<String> {
    let of_email = email
        .and_then(|email| email.rsplit_once('@'))
        .map(|(_, domain)| domain);
    let host = host.to_ascii_lowercase();
    let of_host = host.strip_prefix(prefix).unwrap_or(&host);
    let ours = |name: &str| {
        let name = name.to_ascii_lowercase();
        identity.domain(&name).map(|_| name)
    };
    match of_email {
        Some(name) => ours(name),
        None => ours(of_host),
    }
}

/// `emailaddress=` or `email=` of a query, if it is an address.
fn email(query: &str) -> Option<String> {
    let value = query.split('&').find_map(|part| {
        let (name, value) = part.split_once('=')?;
        ["emailaddress", "email"].contains(&name).then_some(value)
    })?;
    checked(unescaped(value))
}

/// An address that may stand in an answer.
fn checked(value: String) -> Option<String> {
    let plain = value.len() <= ADDRESS && !value.contains(['<', '>', '&', '"', '\'']);
    (plain && address::check(&value).is_ok()).then_some(value)
}

/// The address that Outlook posts ([MS-OXDSCLI] section 2.2.3.1.1.1), if it is one.
fn posted_email(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("<EMailAddress>")?;
    let (value, _) = rest.split_once('<')?;
    checked(value.trim().to_owned())
}

/// Percent-encoding undone.
fn unescaped(text: &str) -> String {
    let mut bytes = text.bytes();
    let mut out = Vec::new();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        let (high, low) = (digit(), digit());
        if let (Some(high), Some(low)) = (high, low)
            && let Ok(byte) = u8::try_from(high * 16 + low)
        {
            out.push(byte);
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Where users send: port, and whether TLS is there from the first byte.
fn submission(config: &Config) -> Vec<(u16, bool)> {
    let mut found = Vec::new();
    for implicit in [true, false] {
        let wanted = match implicit {
            true => TlsMode::Implicit,
            false => TlsMode::Starttls,
        };
        let listen = config
            .listeners
            .iter()
            .find(|listen| listen.service == Service::Submission && listen.tls == wanted);
        if let Some(listen) = listen {
            let usual = if implicit { 465 } else { 587 };
            let port = listen
                .address
                .rsplit_once(':')
                .and_then(|(_, port)| port.parse().ok());
            found.push((port.unwrap_or(usual), implicit));
        }
    }
    found
}

/// Host and port of `web.imap`.
fn imap(config: &Config) -> Option<(String, u16)> {
    let text = config.web.imap.as_str();
    if text.is_empty() {
        return None;
    }
    match text.rsplit_once(':') {
        Some((host, port)) => Some((host.to_owned(), port.parse().ok()?)),
        None => Some((text.to_owned(), 993)),
    }
}

/// <https://wiki.mozilla.org/Thunderbird:Autoconfiguration:ConfigFileFormat>
fn thunderbird(config: &Config, domain: &str) -> Option<String> {
    let host = &config.hostname;
    let mut servers = String::new();
    if let Some((host, port)) = imap(config) {
        servers.push_str(&format!(
            "    <incomingServer type=\"imap\">\n      <hostname>{host}</hostname>\n      \
             <port>{port}</port>\n      <socketType>SSL</socketType>\n      \
             <authentication>password-cleartext</authentication>\n      \
             <username>%EMAILADDRESS%</username>\n    </incomingServer>\n"
        ));
    }
    let ways = submission(config);
    ways.first()?;
    for (port, implicit) in ways {
        let socket = if implicit { "SSL" } else { "STARTTLS" };
        servers.push_str(&format!(
            "    <outgoingServer type=\"smtp\">\n      <hostname>{host}</hostname>\n      \
             <port>{port}</port>\n      <socketType>{socket}</socketType>\n      \
             <authentication>password-cleartext</authentication>\n      \
             <username>%EMAILADDRESS%</username>\n    </outgoingServer>\n"
        ));
    }
    Some(format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<clientConfig version=\"1.1\">\n  \
         <emailProvider id=\"{domain}\">\n    <domain>{domain}</domain>\n    \
         <displayName>{domain}</displayName>\n    \
         <displayShortName>{domain}</displayShortName>\n{servers}  </emailProvider>\n\
         </clientConfig>\n"
    ))
}

/// [MS-OXDSCLI] section 2.2.4.1. Without a LoginName Outlook logs in with the local part.
fn outlook(config: &Config, email: Option<&str>) -> Option<String> {
    let (port, implicit) = *submission(config).first()?;
    let login = email.map_or(String::new(), |email| {
        format!("        <LoginName>{email}</LoginName>\n")
    });
    let mut protocols = String::new();
    let mut protocol = |kind: &str, host: &str, port: u16, implicit: bool| {
        let encryption = if implicit { "SSL" } else { "TLS" };
        protocols.push_str(&format!(
            "      <Protocol>\n        <Type>{kind}</Type>\n        <Server>{host}</Server>\n        \
             <Port>{port}</Port>\n        <DomainRequired>off</DomainRequired>\n{login}        \
             <SPA>off</SPA>\n        <SSL>on</SSL>\n        <Encryption>{encryption}</Encryption>\n        \
             <AuthRequired>on</AuthRequired>\n      </Protocol>\n"
        ));
    };
    if let Some((host, port)) = imap(config) {
        protocol("IMAP", &host, port, true);
    }
    protocol("SMTP", &config.hostname, port, implicit);
    Some(format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n\
         <Autodiscover xmlns=\"http://schemas.microsoft.com/exchange/autodiscover/responseschema/2006\">\n  \
         <Response xmlns=\"http://schemas.microsoft.com/exchange/autodiscover/outlook/responseschema/2006a\">\n    \
         <Account>\n      <AccountType>email</AccountType>\n      <Action>settings</Action>\n\
         {protocols}    </Account>\n  </Response>\n</Autodiscover>\n"
    ))
}

/// A configuration profile with one mail account. Apple's Mail needs a server for mail that comes,
/// so there is none without `web.imap`.
fn apple(config: &Config, domain: &str, email: &str) -> Option<String> {
    let (imap_host, imap_port) = imap(config)?;
    let (port, _) = *submission(config).first()?;
    let host = &config.hostname;
    // The same address has the same profile, so that a second one replaces the first.
    let account = uuid(&format!("account {email}"));
    let profile = uuid(&format!("profile {email}"));
    let entry = |name: &str, value: &str| format!("<key>{name}</key><string>{value}</string>\n");
    let number = |name: &str, value: u16| format!("<key>{name}</key><integer>{value}</integer>\n");
    let yes = |name: &str| format!("<key>{name}</key><true/>\n");
    let content = [
        entry("EmailAccountType", "EmailTypeIMAP"),
        entry("EmailAddress", email),
        entry("EmailAccountDescription", domain),
        entry("IncomingMailServerAuthentication", "EmailAuthPassword"),
        entry("IncomingMailServerHostName", &imap_host),
        number("IncomingMailServerPortNumber", imap_port),
        yes("IncomingMailServerUseSSL"),
        entry("IncomingMailServerUsername", email),
        entry("OutgoingMailServerAuthentication", "EmailAuthPassword"),
        entry("OutgoingMailServerHostName", host),
        number("OutgoingMailServerPortNumber", port),
        yes("OutgoingMailServerUseSSL"),
        entry("OutgoingMailServerUsername", email),
        yes("OutgoingPasswordSameAsIncomingPassword"),
        entry("PayloadType", "com.apple.mail.managed"),
        entry("PayloadIdentifier", &format!("{domain}.mail.{account}")),
        entry("PayloadUUID", &account),
        number("PayloadVersion", 1),
    ]
    .concat();
    let outer = [
        entry("PayloadDisplayName", &format!("Mail of {email}")),
        entry("PayloadIdentifier", &format!("{domain}.profile.{profile}")),
        entry("PayloadType", "Configuration"),
        entry("PayloadUUID", &profile),
        number("PayloadVersion", 1),
    ]
    .concat();
    Some(format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" \
         \"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">\n<plist version=\"1.0\"><dict>\n\
         <key>PayloadContent</key><array><dict>\n{content}</dict></array>\n{outer}</dict></plist>\n"
    ))
}

/// A name-based UUID (RFC 9562 section 5.8).
fn uuid(name: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, name.as_bytes());
    let mut hex: String = digest
        .as_ref()
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    hex.replace_range(12..13, "8");
    hex.replace_range(16..17, "a");
    for at in [20, 16, 12, 8] {
        hex.insert(at, '-');
    }
    hex
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn config(more: &str) -> Config {
        let text = format!(
            "hostname = \"mx.example.org\"\n\
             [[listen]]\naddress = \"[::]:465\"\nservice = \"submission\"\ntls = \"implicit\"\n\
             [[listen]]\naddress = \"systemd:submission\"\nservice = \"submission\"\n{more}"
        );
        Config::parse(&text, "chapar.toml", Path::new("")).expect("configuration")
    }

    fn identity() -> (tempfile::TempDir, Identity) {
        let dir = tempfile::tempdir().expect("directory");
        let domain = dir.path().join("domains/example.org");
        std::fs::create_dir_all(&domain).expect("directory");
        std::fs::write(domain.join("domain.toml"), "mode = \"send-only\"\n").expect("file");
        let identity = Identity::load(dir.path(), "").expect("identity");
        (dir, identity)
    }

    #[test]
    fn thunderbird_finds_both_ports_and_the_imap_server() {
        let (_dir, identity) = identity();
        let config = config("[web]\nimap = \"imap.example.org\"\n");
        let ask =
            |host: &str, path: &str, query: &str| page(&config, &identity, host, path, query, "");
        for (host, path, query) in [
            ("autoconfig.example.org", "/mail/config-v1.1.xml", ""),
            (
                "example.org",
                "/.well-known/autoconfig/mail/config-v1.1.xml",
                "",
            ),
            (
                "mx.example.org",
                "/mail/config-v1.1.xml",
                "emailaddress=me%40example.org",
            ),
        ] {
            let found = ask(host, path, query).expect("a page");
            assert!(found.kind.starts_with("text/xml"));
            for part in [
                "<hostname>mx.example.org</hostname>\n      <port>465</port>\n      <socketType>SSL",
                "<port>587</port>\n      <socketType>STARTTLS",
                "type=\"imap\">\n      <hostname>imap.example.org</hostname>\n      <port>993</port>",
                "<domain>example.org</domain>",
            ] {
                assert!(found.text.contains(part), "{part}: {}", found.text);
            }
        }
        assert_eq!(
            ask("autoconfig.example.net", "/mail/config-v1.1.xml", ""),
            None
        );
        assert_eq!(
            ask(
                "mx.example.org",
                "/mail/config-v1.1.xml",
                "emailaddress=me@example.net"
            ),
            None
        );
        assert_eq!(ask("autoconfig.example.org", "/other", ""), None);
    }

    #[test]
    fn r8_outlook_is_told_to_log_in_with_the_whole_address() {
        let (_dir, identity) = identity();
        let config = config("[web]\nimap = \"imap.example.org\"\n");
        let (host, path) = ("autodiscover.example.org", "/autodiscover/autodiscover.xml");
        let posted = "<Request><EMailAddress> me@example.org </EMailAddress></Request>";
        for (query, posted) in [("email=me@example.org", ""), ("", posted)] {
            let found = page(&config, &identity, host, path, query, posted).expect("a page");
            let names = found.text.matches("<LoginName>me@example.org</LoginName>");
            assert_eq!(names.count(), 2, "{}", found.text);
        }
        let bad = "<EMailAddress>a&lt;b@example.org</EMailAddress>";
        let found = page(&config, &identity, host, path, "", bad).expect("a page");
        assert!(!found.text.contains("LoginName"), "{}", found.text);
    }

    #[test]
    fn outlook_and_apple_get_theirs() {
        let (_dir, identity) = identity();
        let without = config("");
        let host = "autodiscover.example.org";
        let path = "/Autodiscover/Autodiscover.xml";
        let found = page(&without, &identity, host, path, "", "").expect("a page");
        assert!(found.text.contains(
            "<Type>SMTP</Type>\n        <Server>mx.example.org</Server>\n        <Port>465</Port>"
        ));
        assert!(!found.text.contains("IMAP"));
        let (host, path) = ("autoconfig.example.org", "/apple.mobileconfig");
        let query = "email=me@example.org";
        assert_eq!(page(&without, &identity, host, path, query, ""), None);
        let with = config("[web]\nimap = \"imap.example.org:1993\"\n");
        let found = page(&with, &identity, host, path, query, "").expect("a page");
        assert_eq!(found.kind, "application/x-apple-aspen-config");
        for part in [
            "<key>IncomingMailServerPortNumber</key><integer>1993</integer>",
            "<key>OutgoingMailServerHostName</key><string>mx.example.org</string>",
            "<key>EmailAddress</key><string>me@example.org</string>",
        ] {
            assert!(found.text.contains(part), "{part}: {}", found.text);
        }
        for query in [
            "email=%3Cb%3E@example.org",
            "email=nobody",
            "",
            "email=me%ff@example.org",
        ] {
            assert_eq!(
                page(&with, &identity, host, path, query, ""),
                None,
                "{query}"
            );
        }
        let one = uuid("a");
        assert_eq!((one.len(), &one[14..15], &one[19..20]), (36, "8", "a"));
    }
}
