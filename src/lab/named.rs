//! A name server that takes dynamic updates: BIND's `named` with one zone and one TSIG key, on
//! loopback.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::net::TcpStream;

/// How long it may take to start.
const START: Duration = Duration::from_secs(20);
/// How often it is tried.
const TRIES: usize = 5;
/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// A running one; it ends when dropped.
pub struct Named {
    dir: tempfile::TempDir,
    child: Child,
    port: u16,
}

impl Drop for Named {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Named {
    /// The name of the key that may change everything in each zone.
    pub const KEY: &'static str = "chapar.key";
    /// Its secret, base64.
    pub const SECRET: &'static str = "y1sjjtuDtSAfNlpWhNwOLvdRNuMtXRFLcuuSbYGSgjQ=";
    /// Another key, which it knows and which may change nothing.
    pub const READER: &'static str = "reader.key";

    /// Serves zones with these records, each a line of a zone file, from `ns.ZONE`, which is here.
    pub async fn start(zones: &[(&str, &str)]) -> io::Result<Named> {
        // A port that was free may be taken by somebody else before named has it.
        for _ in 1..TRIES {
            if let Ok(named) = Named::once(zones).await {
                return Ok(named);
            }
        }
        Named::once(zones).await
    }

    async fn once(zones: &[(&str, &str)]) -> io::Result<Named> {
        let dir = tempfile::tempdir()?;
        let probe = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = probe.local_addr()?.port();
        drop(probe);
        let at = dir.path().display();
        let mut conf = format!(
            "options {{ directory \"{at}\"; listen-on port {port} {{ 127.0.0.1; }}; \
             listen-on-v6 {{ none; }};\nrecursion no; pid-file none; session-keyfile none; \
             empty-zones-enable no; dnssec-validation no; notify no; }};\ncontrols {{ }};\n"
        );
        for key in [Named::KEY, Named::READER] {
            conf += &format!(
                "key \"{key}\" {{ algorithm hmac-sha256; secret \"{}\"; }};\n",
                Named::SECRET
            );
        }
        for (zone, records) in zones {
            conf += &format!(
                "zone \"{zone}\" {{ type primary; file \"{zone}.zone\"; \
                 update-policy {{ grant {} zonesub ANY; }}; }};\n",
                Named::KEY
            );
            let text = format!(
                "$TTL 300\n@ SOA ns hostmaster 1 3600 600 86400 60\n@ NS ns\nns A 127.0.0.1\n{records}\n"
            );
            std::fs::write(dir.path().join(format!("{zone}.zone")), text)?;
        }
        std::fs::write(dir.path().join("named.conf"), conf)?;
        let log = std::fs::File::create(dir.path().join("log"))?;
        let child = Command::new("named")
            .args(["-g", "-n", "1", "-c"])
            .arg(dir.path().join("named.conf"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        let named = Named { dir, child, port };
        match tokio::time::timeout(START, named.ready()).await {
            Ok(Ok(())) => Ok(named),
            Ok(Err(())) | Err(_) => Err(io::Error::other(named.log())),
        }
    }

    async fn ready(&self) -> Result<(), ()> {
        loop {
            let log = self.log();
            if log.contains("address in use") || log.contains("exiting") {
                return Err(());
            }
            // Somebody else may listen there.
            if log.contains("all zones loaded") && TcpStream::connect(self.address()).await.is_ok()
            {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Where it listens, UDP and TCP.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Writes `secrets/dns/rfc2136.toml` below `dir` with this key.
    pub fn credentials(&self, dir: &Path, key: &str) -> io::Result<()> {
        let text = format!(
            "server = \"{}\"\nkey = \"{key}\"\nsecret = \"{}\"\n",
            self.address(),
            Named::SECRET
        );
        let file = dir.join("secrets/dns/rfc2136.toml");
        crate::base::files::create_dir(file.parent().unwrap_or(dir), 0o700)?;
        crate::base::files::replace(&file, text.as_bytes(), 0o600)
    }
}
