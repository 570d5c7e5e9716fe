//! The sections of `chapar.toml`: each key once, with its meaning, type and default.
//!
//! The structs, their defaults, `chapar config --defaults` and the table in
//! `docs/configuration.md` all come from here.

use std::net::{IpAddr, SocketAddr};

use serde::Deserialize;

use super::dns_list::ListZone;
use super::table::{Row, Shown};
use super::{
    AcmeChallenge, CertificateName, Dmarc, DnsProvider, DnsTrouble, Dnssec, DomainName, Failing,
    Family, FieldName, HttpsUrl, LogFormat, MilterChanges, MissingFrom, MtaSts, Network,
    OwnDomains, Rewrite, SeveralAuthors, Size, Spam, Span, SpfFail, Steps, TlsRules, TlsVersion,
};
use crate::smtp::extension::Extension;

macro_rules! sections {
    ($(
        $(#[doc = $about:literal])+
        $section:ident: $name:ident {
            $( $(#[doc = $doc:literal])+ $key:ident: $type:ty = $default:expr, )+
        }
    )+) => {
        $(
            $(#[doc = $about])+
            #[derive(Debug, Clone, PartialEq, Deserialize)]
            #[serde(default, deny_unknown_fields)]
            // The texts are also the table's: "[::]:80" is no link.
            #[allow(rustdoc::broken_intra_doc_links)]
            pub struct $name {
                $( $(#[doc = $doc])+ pub $key: $type, )+
            }

            impl Default for $name {
                fn default() -> Self {
                    $name { $( $key: $default, )+ }
                }
            }
        )+

        /// Every key of every section.
        pub(super) fn rows() -> Vec<Row> {
            let mut rows = Vec::new();
            $(
                let section = $name::default();
                $( rows.push(Row::of(
                    concat!(stringify!($section), ".", stringify!($key)),
                    Some(section.$key.shown()),
                    <$type as Shown>::UNIT,
                    concat!($($doc),+),
                )); )+
            )+
            rows
        }
    };
}

sections! {
    /// `[dns]`.
    dns: Dns {
        /// Resolvers to ask; empty: the system's.
        servers: Vec<SocketAddr> = Vec::new(),
        /// Whether answers are validated (DNSSEC); auto: as soon as the servers hand on signatures.
        dnssec: Dnssec = Dnssec::Auto,
        /// DNSKEY records that are trusted instead of the root's (labs); empty: the root's.
        trust_anchor: String = String::new(),
        /// Who has the zones of our domains: `setup --dns`, `dkim rotate` and dns-01 publish there with `secrets/dns/PROVIDER.toml`; empty: records are printed for you to publish.
        provider: DnsProvider = DnsProvider(None),
        /// How long one answer of the provider may take.
        provider_time: Span = Span::secs(30),
    }

    /// `[delivery]`.
    delivery: Delivery {
        /// Port of remote MX hosts.
        port: u16 = 25,
        /// Addresses to send from; of several of one family each message keeps to one; empty: the kernel's choice.
        source: Vec<IpAddr> = Vec::new(),
        /// Which address family to use; auto: IPv4, and IPv6 if a `source` or a public address of this host is one.
        family: Family = Family::Auto,
        /// May deliver to loopback and private addresses (labs, tests).
        private_targets: bool = false,
        /// Connections to one destination at the same time.
        connections: usize = 20,
        /// Messages for which attempts may be under way at the same time.
        active: usize = 20_000,
        /// How long an idle connection is kept for the next message.
        keep_idle: Span = Span::secs(5),
    }

    /// `[retry]`: `delay(n) = min(first * factor^n, longest)`, give or take a tenth.
    retry: Retry {
        /// Waits as a list such as "1m, 5m*2, 1h*3, 4h", the last one for ever; in place of first, factor and longest.
        steps: Steps = Steps::NONE,
        /// Wait after the first failed attempt.
        first: Span = Span::mins(5),
        /// Each wait is this times the one before.
        factor: f64 = 2.0,
        /// No wait is longer.
        longest: Span = Span::hours(4),
        /// After this time the sender is told that it failed.
        give_up: Span = Span::days(5),
        /// The same for DSNs.
        bounce_give_up: Span = Span::days(2),
        /// After this time the sender is told, once, that it is late; `never` turns that off.
        warn_after: Span = Span::hours(4),
    }

    /// `[timeouts]` of our client (RFC 5321 section 4.5.3.2).
    timeouts: Timeouts {
        /// For the TCP connection.
        connect: Span = Span::secs(30),
        /// For the 220.
        greeting: Span = Span::mins(5),
        /// For the reply to EHLO, MAIL, RCPT, DATA, and for a TLS handshake.
        command: Span = Span::mins(5),
        /// For each block of data to leave.
        data: Span = Span::mins(3),
        /// For the reply to the final dot; shorter makes duplicates.
        final_dot: Span = Span::mins(10),
        /// For a session until its first MAIL, and for each transaction after it, however steadily a server answers.
        transaction: Span = Span::mins(60),
        /// For a program that a route or an alias gives mail to; then it is killed and tried again.
        pipe: Span = Span::mins(10),
    }

    /// `[incoming]`: what is asked about mail from outside, and what follows; `domain.toml` may say otherwise for one domain.
    incoming: Incoming {
        /// Failing mail that is refused: none, what its author's domain wants rejected, or also what it wants quarantined (RFC 9989).
        dmarc: Dmarc = Dmarc::Reject,
        /// Whether a fail of SPF alone refuses a message (RFC 7208 section 8.4).
        spf_fail: SpfFail = SpfFail::Accept,
        /// Mail of strangers whose author is of a domain of ours, which neither SPF nor DKIM proves, whatever that domain publishes: a forwarder would vouch for it with its own name.
        own_domains: OwnDomains = OwnDomains::Reject,
        /// Domains whose passing SPF or DKIM is enough for an author of ours, such as that of a newsletter service that signs as itself.
        own_domains_from: Vec<DomainName> = Vec::new(),
        /// Mail that names several authors in From; accept: all are judged, and the one that fares worst counts.
        several_authors: SeveralAuthors = SeveralAuthors::Reject,
        /// What is done while the DNS does not answer and the verdict depends on it.
        dns_trouble: DnsTrouble = DnsTrouble::Defer,
        /// How long the DNS may take for one message, twice (RFC 7208 section 4.6.4 asks for 20 s).
        dns_time: Span = Span::secs(20),
        /// Whether a Received-SPF field is added (RFC 7208 section 9.1).
        received_spf: bool = false,
        /// Whether clients with loopback or private addresses are judged like others (labs); a proxy or NAT before us hides who they are.
        judge_private: bool = false,
    }

    /// `[dnslists]`: lists of clients in the DNS (RFC 5782), asked about clients from outside.
    dnslists: DnsLists {
        /// Lists of clients whose mail is not wanted, such as "zen.spamhaus.org", or with the answers that count "zen.spamhaus.org=127.0.0.2-11"; mail to postmaster@ and abuse@ passes.
        block: Vec<ListZone> = Vec::new(),
        /// Lists of clients that pass `block` and greylisting, such as "list.dnswl.org=127.0.*.1-3".
        allow: Vec<ListZone> = Vec::new(),
        /// What becomes of mail of a client on a list of `block`: refused at RCPT, held for an operator, or tagged with `milter.spam_header: Yes`.
        listed: Spam = Spam::Refuse,
        /// How long a list may take; then it has said nothing.
        time: Span = Span::secs(5),
    }

    /// `[greylist]`: who has not been here before is asked to come again (RFC 6647).
    greylist: Greylist {
        /// Whether that is done.
        enabled: bool = false,
        /// How long a client has to wait before it may come again.
        wait: Span = Span::mins(5),
        /// In which time it has to come again, or it is new.
        window: Span = Span::days(2),
        /// How long who came again is remembered after its last mail.
        keep: Span = Span::days(35),
        /// How often a domain that SPF proves, or a network, has to come again until it is asked no more.
        known: usize = 5,
        /// Entries that are kept, of about 100 bytes; without room mail passes.
        entries: usize = 100_000,
    }

    /// `[reports]` about mail from outside.
    reports: Reports {
        /// Whether the domains of authors that ask for it are told once a day how mail in their name fared here (RFC 9990).
        dmarc: bool = true,
        /// The domain whose postmaster@ those reports are from, and whose DKIM key signs them; empty: the one of `hostname`, or the first that has a key.
        domain: DomainName = DomainName::default(),
        /// Reports of a day leave at a time between its end (UTC) and so much later.
        spread: Span = Span::hours(1),
        /// Rows of one report, and domains of one day.
        rows: usize = 10_000,
        /// Bytes of what is kept of one day's messages until its reports are sent.
        day: Size = Size::mib(64),
        /// Bytes of the reports of others that `chapar report` keeps; then the oldest go.
        received: Size = Size::mib(256),
    }

    /// `[forwarding]` of mail from outside to addresses elsewhere.
    forwarding: Forwarding {
        /// Whose reverse-path becomes one of ours (SRS): always, only of mail without a passing DKIM signature of its author, or never.
        rewrite: Rewrite = Rewrite::Always,
        /// The domain of rewritten reverse-paths; empty: that of the alias.
        srs_domain: DomainName = DomainName::default(),
        /// How long a bounce to a rewritten reverse-path is taken, at most 255d.
        srs_valid: Span = Span::days(21),
        /// Whether a rewritten reverse-path takes mail from <> only, as bounces come.
        bounces_only: bool = true,
        /// Bounces to one rewritten reverse-path in a day; 0: no limit.
        bounces: usize = 20,
        /// What becomes of mail that would leave and that failed DMARC under quarantine, or that a filter or list tagged as spam: refused, held for an operator, or (tag) it leaves with its tag.
        suspect: Spam = Spam::Refuse,
        /// Whether an ARC set with our verdicts is added (RFC 8617).
        seal: bool = true,
        /// Whether X-Forwarded-For and X-Forwarded-To are added.
        trace_headers: bool = false,
    }

    /// `[milter]`: the programs in `listen.milters` (rspamd, clamav-milter and others; protocol 6).
    milter: Milter {
        /// What is done with mail while one of them can not be reached, is too slow or does what it may not.
        failure: Failing = Failing::Defer,
        /// How long a connection may take.
        connect: Span = Span::secs(5),
        /// How long one answer may take.
        reply: Span = Span::mins(1),
        /// How long all answers to one command of the client may take, so also those to a whole message.
        message: Span = Span::mins(5),
        /// What they may change: add header fields, also change and remove them, also replace the body.
        changes: MilterChanges = MilterChanges::Headers,
        /// What becomes of a message that one of them rejects: refused, held for an operator, or tagged with `spam_header: Yes`.
        rejected: Spam = Spam::Refuse,
        /// The same for a message to which one of them adds `spam_header: Yes`; tag: it goes on.
        tagged: Spam = Spam::Tag,
        /// The header field that says that a message is spam.
        spam_header: FieldName = FieldName::fixed("X-Spam"),
    }

    /// `[hooks]`: a program of your own.
    hooks: Hooks {
        /// A program that gets every message, as chasquid's hooks/post-data: exit code 20 refuses it, any other but 0 defers it, header fields it prints go on top; empty: none.
        post_data: String = String::new(),
        /// How long it may run.
        post_data_time: Span = Span::mins(1),
        /// How many of it run at the same time; messages beyond wait as long as it may run, then they are deferred.
        post_data_at_once: usize = 20,
    }

    /// `[auth]`: passwords that others know.
    auth: Auth {
        /// Dovecot's socket for logins, such as "/run/dovecot/auth-client"; it is asked about users of domains with `dovecot = true` who are in no users.toml; empty: nobody is.
        dovecot: String = String::new(),
        /// Dovecot's socket for lookups of users, such as "/run/dovecot/auth-userdb"; it is asked about addresses of domains with `dovecot = true`; empty: nobody is.
        dovecot_users: String = String::new(),
        /// How long it may take; it answers to wrong passwords up to 15 s late.
        dovecot_time: Span = Span::secs(20),
    }

    /// `[limits]`.
    limits: Limits {
        /// Bytes of one message.
        message: Size = Size::mib(50),
        /// Bytes of its header block.
        header: Size = Size::kib(256),
        /// A body beyond this goes to disk as it arrives.
        memory_body: Size = Size::kib(256),
        /// Recipients of one message.
        recipients: usize = 1000,
        /// Bytes of one command line with its CR LF.
        command_line: usize = 2048,
        /// Received header fields after which a message is taken to loop.
        hops: usize = 50,
        /// Connections at the same time, of all clients to one listener.
        connections: usize = 1000,
        /// Connections at the same time from one IPv4 address or IPv6 /64.
        connections_per_client: usize = 50,
        /// Commands of one connection that may be refused before it is closed.
        errors: usize = 20,
        /// Commands of one connection that move no mail (NOOP, RSET, VRFY) before it is closed.
        idle_commands: usize = 100,
        /// Commands of one connection that may be refused before each further one costs `error_delay`.
        soft_errors: usize = 5,
        /// How long the reply to a refused command waits then.
        error_delay: Span = Span::secs(1),
        /// Commands of one connection.
        commands: usize = 100_000,
        /// Messages of one connection; told with the LIMITS extension.
        transactions: usize = 1000,
        /// The same for clients in `relay_networks`, which send whole queues.
        relay_transactions: usize = 999_999,
        /// Chunks (BDAT) of one message.
        chunks: usize = 10_000,
        /// Failed logins of one connection before it is closed.
        auth_attempts: usize = 3,
        /// Different wrong passwords from one IPv4 address or IPv6 /64 within `ban` before it is banned; where users have logged in, only the one whose password is guessed is.
        guesses: usize = 10,
        /// How long an address is banned from logging in; the count of its guesses is forgotten as fast.
        ban: Span = Span::hours(1),
        /// Clients that are never banned from logging in, such as a webmail, a NAT or a container gateway behind which many are: "172.17.0.1" or "10.0.0.0/8"; they are slowed only.
        never_ban: Vec<Network> = Vec::new(),
        /// How long the reply to a failed login waits; doubles with each guess, up to 64 times.
        guess_delay: Span = Span::millis(500),
        /// Messages of one user in an hour; 0: no limit.
        user_messages: usize = 300,
        /// Recipients of one user in a day; 0: no limit.
        user_recipients: usize = 5000,
        /// How far ahead a message may be released (HOLDFOR, HOLDUNTIL).
        future_release: Span = Span::days(7),
        /// Received header fields of our own after which a message is taken to loop.
        own_hops: usize = 5,
        /// Bytes of one line of a message without its line end (RFC 5322 section 2.1.1).
        line: usize = 998,
        /// Bytes a second below which message data is too slow, once `data_timeout` has passed.
        data_rate: Size = Size(500),
        /// Instead of `command_timeout` and `data_timeout` when three quarters of `connections` are taken.
        busy_timeout: Span = Span::secs(10),
        /// How long a client may take for a command.
        command_timeout: Span = Span::mins(5),
        /// How long a client may pause within message data.
        data_timeout: Span = Span::mins(3),
        /// How long a whole session may last.
        session: Span = Span::hours(1),
        /// How long a TLS handshake may take.
        handshake: Span = Span::secs(60),
        /// Below it new mail gets 452.
        free_space: Size = Size::gib(1),
        /// Free inodes of the file system of data_dir; below it new mail gets 452.
        free_inodes: usize = 1000,
        /// Bytes of bodies kept in memory for a first attempt.
        memory_bodies: Size = Size::mib(1),
        /// Bytes of memory that all messages together may take while they arrive, one client a quarter of it; beyond it bodies go to disk at once, and a header block over 16KiB gets 452.
        memory_arrivals: Size = Size::mib(16),
        /// How long a stopping daemon waits for sessions and attempts under way.
        drain: Span = Span::secs(30),
    }

    /// `[smtp]`: what our listeners offer.
    smtp: Smtp {
        /// Extensions that no listener offers, such as "CHUNKING"; a listener can have more.
        disable: Vec<Extension> = vec![Extension::DeliverBy, Extension::MtPriority],
        /// Write the address of authenticated clients into the Received header.
        show_client: bool = false,
        /// What becomes of a user's message without From: its reverse-path is added as its author (RFC 6409 section 8.1), or it is refused.
        missing_from: MissingFrom = MissingFrom::Add,
        /// Whether EHLO names that are no host names are refused; else they are written down with a hyphen for what is none.
        strict_hello: bool = false,
        /// Turn the 8-bit messages of users into 7-bit ones before they are signed.
        seven_bit: bool = false,
    }

    /// `[tls]`.
    tls: Tls {
        /// A certificate of your own, PEM with its chain; it is watched. Empty: the one in `secrets/tls/`.
        certificate: String = String::new(),
        /// Its key, PEM; the daemon must be able to read it, and nobody but its owner and group may.
        key: String = String::new(),
        /// Extra roots (labs); empty: the system's.
        ca_file: String = String::new(),
        /// The oldest version that is spoken.
        min_version: TlsVersion = TlsVersion::V12,
        /// Whether TLSA records of mail hosts are looked for and obeyed (DANE, RFC 7672); takes DNSSEC.
        dane: bool = true,
        /// Whether MTA-STS policies of other domains are fetched and obeyed (RFC 8461).
        mta_sts: bool = true,
        /// How long a policy may take to come.
        mta_sts_time: Span = Span::mins(1),
        /// Whether domains that ask for it get a daily report on TLS to their hosts (TLS-RPT, RFC 8460).
        reports: bool = true,
        /// What holds for some domains, or `*.domain`, whatever they publish: { "example.com" = "verify" }; never, may, encrypt, verify or dane.
        domains: TlsRules = TlsRules::default(),
        /// The port of policy hosts (labs).
        mta_sts_port: u16 = 443,
    }

    /// `[acme]`: the certificate of `hostname` from a CA (RFC 8555), renewed at two thirds of its life.
    acme: Acme {
        /// Whether `secrets/tls/` is kept up by ACME; who turns it on agrees to the CA's terms of service.
        enabled: bool = false,
        /// The CA.
        directory: HttpsUrl = HttpsUrl::fixed("https://acme-v02.api.letsencrypt.org/directory"),
        /// How the CA is shown that a name is ours: over port 80, in a handshake on port 443, or by a TXT record at `dns.provider`.
        challenge: AcmeChallenge = AcmeChallenge::Http01,
        /// More names for the certificate; the host name and those of MTA-STS policies are in it. With dns-01 also wildcards, such as "*.example.org".
        names: Vec<CertificateName> = Vec::new(),
        /// Where another web server on port 80 takes files from; empty: `web.http` answers.
        webroot: String = String::new(),
        /// Whether a renewal keeps the private key, so that a TLSA record (DANE, RFC 7672) stays true; it is among the records of `chapar dns` then.
        keep_key: bool = false,
        /// How long the name servers of a zone may take to show an answer to the CA (dns-01).
        dns_wait: Span = Span::mins(5),
        /// The port of name servers that are asked for it (labs).
        dns_port: u16 = 53,
    }

    /// `[log]`: where the daemon tells what it does; changes at a restart.
    log: Log {
        /// How lines on stderr look; auto: for people, under systemd as entries of the journal with a field for each value.
        format: LogFormat = LogFormat::Auto,
        /// A file that gets each line as a JSON object, too; opened anew at a reload, so that logrotate can move it away; empty: none.
        file: String = String::new(),
    }

    /// `[web]`: what others fetch from this host over http and https.
    web: Web {
        /// Addresses for http: answers to the CA, such as "[::]:80"; empty: none.
        http: Vec<SocketAddr> = Vec::new(),
        /// Addresses for https: MTA-STS policies, such as "[::]:443"; empty: none.
        https: Vec<SocketAddr> = Vec::new(),
        /// What the MTA-STS policies of our domains ask of others (RFC 8461).
        mta_sts: MtaSts = MtaSts::Testing,
        /// How long others may remember a policy.
        mta_sts_age: Span = Span::days(7),
        /// The IMAP server that mail clients are told of, such as "imap.example.org" or "imap.example.org:993"; empty: they are told how to send alone.
        imap: String = String::new(),
        /// Connections at the same time.
        connections: usize = 200,
        /// How long a connection may last.
        connection: Span = Span::secs(30),
    }
}
