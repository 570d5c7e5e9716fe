//! The world of the demo: DNS, a remote MX, a directory with a configuration.

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, ensure};
use serde::Deserialize;
use tempfile::TempDir;

use crate::cli::site::{Leads, NewConfig, SELECTORS, Site};
use crate::config::{Listen, Service, TlsMode};
use crate::identity::password;
use crate::lab::{DnsServer, Mx, MxConfig};
use crate::signing::keys::PrivateKey;

/// The user who submits.
pub(super) const USER: &str = "me@example.org";
/// Who is to get the message.
pub(super) const RECIPIENT: &str = "you@gmail.example";
/// The host name of the daemon.
pub(super) const HOST: &str = "mx.example.org";

const DOMAIN: &str = "example.org";
const MX_HOST: &str = "mx.gmail.example";
/// How much of the daemon's log is shown when something fails, bytes.
const LOG_TAIL: u64 = 4096;

/// Everything but the daemon.
pub(super) struct World {
    pub(super) dns: DnsServer,
    pub(super) mx: Mx,
    pub(super) config: PathBuf,
    /// Where the daemon takes submissions with TLS from the first byte.
    pub(super) submission: SocketAddr,
    pub(super) password: String,
    dir: TempDir,
}

/// What `chapar queue list --json` tells of a recipient.
#[derive(Debug, Deserialize)]
pub(super) struct Entry {
    pub(super) id: String,
    pub(super) state: String,
    pub(super) attempts: u64,
    /// None before its first attempt.
    pub(super) last_reply: Option<String>,
}

impl World {
    /// Starts DNS and the MX and names them to each other.
    pub(super) async fn new() -> anyhow::Result<World> {
        let dns = DnsServer::start()
            .await
            .context("no DNS server on loopback")?;
        let own = MxConfig {
            hostname: MX_HOST.into(),
            starttls: true,
            greylist: true,
            ..MxConfig::default()
        };
        let mx = Mx::start(own).await.context("no MX on loopback")?;
        dns.mx("gmail.example", 10, MX_HOST);
        dns.a(MX_HOST, Ipv4Addr::LOCALHOST);
        let dir = tempfile::Builder::new().prefix("chapar-demo-").tempdir()?;
        let config = dir.path().join("chapar.toml");
        let submission = free_port()?;
        Ok(World {
            dns,
            mx,
            config,
            submission,
            password: password::generate()?,
            dir,
        })
    }

    /// What `chapar setup example.org` writes, with listeners and waits that suit a demo; and its
    /// records.
    pub(super) fn set_up(&mut self) -> anyhow::Result<()> {
        let listen = |address: SocketAddr, service, tls| Listen {
            address: address.to_string(),
            service,
            tls,
            disable: Vec::new(),
            milters: Vec::new(),
        };
        let new = NewConfig {
            hostname: HOST.into(),
            data_dir: "data".into(),
            postmaster: RECIPIENT.into(),
            listeners: vec![
                listen(self.submission, Service::Submission, TlsMode::Implicit),
                listen(free_port()?, Service::Submission, TlsMode::Starttls),
                listen(free_port()?, Service::Mx, TlsMode::Starttls),
            ],
            rest: format!(
                "\n[dns]\nservers = [\"{}\"]\n\n[delivery]\nport = {}\nprivate_targets = true\n\n\
                 [retry]\nfirst = \"3s\"\nlongest = \"10s\"\n\n[limits]\nfree_space = \"16MiB\"\n",
                self.dns.address(),
                self.mx.address().port()
            ),
        };
        let mut site = Site::new(&self.config);
        site.config(&new)?;
        site.domain(
            DOMAIN,
            Leads {
                forward: Some(RECIPIENT),
                mailbox: None,
            },
            None,
        )?;
        site.certificate(HOST, None, SystemTime::now())?;
        let password = self.password.clone();
        site.first_user(DOMAIN, USER, || Ok(password::secrets(password.as_bytes())?))?;
        self.dns.a(HOST, Ipv4Addr::LOCALHOST);
        for selector in SELECTORS {
            let key = PrivateKey::load(site.dir(), DOMAIN, selector)?;
            self.dns
                .txt(&format!("{selector}._domainkey.{DOMAIN}"), &key.record());
        }
        Ok(())
    }

    /// A message as a mail client writes it, without what the server completes.
    pub(super) fn message(&self) -> String {
        format!(
            "From: Me <{USER}>\r\nTo: You <{RECIPIENT}>\r\nSubject: The journey of a message\r\n\
             MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\
             Content-Transfer-Encoding: 8bit\r\n\r\n\
             Hello,\r\n\r\nthis was signed, deferred, survived a kill, and arrived: \u{2713}\r\n\
             .a line that begins with a dot\r\n"
        )
    }

    /// The recipients in the queue, from the daemon or, when none runs, from its store.
    pub(super) async fn queue(&self) -> anyhow::Result<Vec<Entry>> {
        let executable = std::env::current_exe()?;
        let config = self.config.clone();
        let asked = tokio::task::spawn_blocking(move || {
            std::process::Command::new(executable)
                .args(["queue", "list", "--json", "--config"])
                .arg(config)
                .output()
        });
        let output = asked.await?.context("chapar queue can not be run")?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "chapar queue list: {}",
            error.trim_end()
        );
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .map(|line| serde_json::from_str(line).with_context(|| format!("no entry: {line}")))
            .collect()
    }

    /// The directory of all of it.
    pub(super) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Where the daemon logs.
    pub(super) fn log(&self) -> PathBuf {
        self.dir().join("log")
    }

    /// The end of the daemon's log.
    pub(super) fn last_log(&self) -> String {
        let read = || -> std::io::Result<String> {
            let mut file = fs::File::open(self.log())?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL)))?;
            let mut end = Vec::new();
            file.read_to_end(&mut end)?;
            Ok(String::from_utf8_lossy(&end).into_owned())
        };
        read().unwrap_or_default()
    }

    /// Leaves the directory on disk for whoever wants to know what went wrong.
    pub(super) fn leave(self) -> PathBuf {
        self.dir.keep()
    }
}

/// A port of loopback that nobody listens on. The daemon takes it a moment later, and again after
/// it was killed, so it can not be the system's choice.
fn free_port() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port on loopback")?;
    Ok(listener.local_addr()?)
}
