//! Runs every dialogue against the real binary.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chapar::lab::{Answer, Client, Mx, MxConfig};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::script::{Line, Opening, Script, matches, parse};
use crate::world::{DOMAIN, HOST, PASSWORD, PATIENCE, USER, World, write};

/// Dialogues that run at the same time.
const AT_ONCE: usize = 16;

/// A running daemon and where its mail goes.
struct House {
    world: World,
    remote: Mx,
}

/// What each world has in its configuration.
fn configuration(world: &str) -> Option<String> {
    let calm = "[limits]\nconnections_per_client = 1000\nerror_delay = \"0s\"\n\
                guess_delay = \"1ms\"\nguesses = 1000000\nauth_attempts = 10\n";
    Some(match world {
        "plain" => calm.to_owned(),
        "open" => format!("relay_networks = [\"127.0.0.0/8\"]\n{calm}"),
        "off" => format!(
            "{calm}[smtp]\ndisable = [\"SIZE\", \"8BITMIME\", \"SMTPUTF8\", \"PIPELINING\", \
             \"ENHANCEDSTATUSCODES\", \"CHUNKING\", \"DSN\", \"SCRAM\", \"REQUIRETLS\", \
             \"DELIVERBY\", \"FUTURERELEASE\", \"MT-PRIORITY\", \"LIMITS\", \"VRFY\", \"HELP\"]\n"
        ),
        "small" => format!(
            "{calm}message = \"10KiB\"\nheader = \"2KiB\"\nmemory_body = \"1KiB\"\nrecipients = 3\n\
             errors = 5\nidle_commands = 5\ntransactions = 3\nchunks = 4\nhops = 5\n\
             user_messages = 2\ncommands = 60\n"
        ),
        "seven" => format!("{calm}memory_body = \"1KiB\"\n[smtp]\nseven_bit = true\n"),
        "every" => format!("{calm}[smtp]\ndisable = []\n"),
        "xclient" => format!(
            "xclient_networks = [\"127.0.0.0/8\"]\nrelay_networks = [\"10.0.0.0/8\"]\n{calm}"
        ),
        "proxy" => {
            format!("proxy_networks = [\"127.0.0.0/8\"]\nrelay_networks = [\"10.0.0.0/8\"]\n{calm}")
        }
        _ => return None,
    })
}

impl House {
    async fn start(name: &str) -> Result<House, String> {
        let config = configuration(name).ok_or_else(|| format!("no world {name}"))?;
        let mx = MxConfig {
            smtputf8: true,
            ..MxConfig::default()
        };
        let remote = Mx::start(mx).await.expect("MX");
        // Networks belong to the top of the file.
        let (top, rest) = config.split_at(config.find("[limits]").unwrap_or_default());
        let mut world = World::new(remote.address().port(), rest).await;
        let written = std::fs::read_to_string(world.config()).expect("configuration");
        write(world.config(), &format!("{top}{written}"), 0o644);
        for domain in [
            "box.example",
            "one.example",
            "two.example",
            "xn--bcher-kva.example",
        ] {
            let host = format!("mx.{domain}");
            world.dns.mx(domain, 10, &host);
            world.dns.a(&host, std::net::Ipv4Addr::LOCALHOST);
        }
        let root = world.dir.path().join("domains").join(DOMAIN);
        let users = std::fs::read_to_string(root.join("users.toml")).expect("users");
        let bob = users.replace(USER, "bob@example.org");
        let bob = bob.split(", send_as").next().expect("an entry");
        write(
            root.join("users.toml"),
            &format!("{users}{bob} }}\n"),
            0o600,
        );
        let aliases = "sales: a@one.example, b@two.example\ninfo: me@box.example\n\
                       me: me@box.example\nbob: bob@box.example\nloop: loop2\nloop2: loop\n";
        write(root.join("aliases"), aliases, 0o644);
        world.start().await;
        Ok(House { world, remote })
    }
}

/// One dialogue under way.
struct Talk<'a> {
    house: &'a House,
    script: &'a Script,
    client: Option<Client>,
    last: Answer,
    accepted: Vec<String>,
    message: Vec<u8>,
}

impl Talk<'_> {
    async fn run(&mut self) -> Result<(), String> {
        for (at, line) in &self.script.lines {
            let step = tokio::time::timeout(PATIENCE, self.step(line));
            match step.await {
                Ok(Ok(())) => {}
                Ok(Err(why)) => return Err(format!("line {at}: {why}")),
                Err(_) => return Err(format!("line {at}: nothing happened")),
            }
        }
        Ok(())
    }

    async fn step(&mut self, line: &Line) -> Result<(), String> {
        let gone = |error: std::io::Error| format!("the connection: {error}");
        match line {
            Line::Connect { listener, how } => {
                self.client = Some(self.connect(listener, *how).await?);
            }
            Line::Tls => {
                let client = self.client.take().ok_or("no connection")?;
                self.client = Some(client.into_tls(HOST).await.map_err(gone)?);
            }
            Line::Send(bytes) => {
                let client = self.client.as_mut().ok_or("no connection")?;
                if !self.script.bytewise {
                    // The server may close while we still talk.
                    let _ = client.write(bytes).await;
                    return Ok(());
                }
                for byte in bytes {
                    client.write(&[*byte]).await.map_err(gone)?;
                    tokio::task::yield_now().await;
                }
            }
            Line::Reply(pattern) => {
                let client = self.client.as_mut().ok_or("no connection")?;
                self.last = client.reply().await.map_err(gone)?;
                let last = self.last.text.trim_end_matches(['\r', '\n']);
                let last = last.rsplit("\r\n").next().unwrap_or_default();
                if !matches(pattern, last) {
                    return Err(format!("wanted {pattern:?}, got {last:?}"));
                }
                if let Some(id) = last.strip_prefix("250 2.0.0 Queued as ") {
                    self.accepted.push(id.to_owned());
                }
                if let Some(id) = last.strip_prefix("250 Queued as ") {
                    self.accepted.push(id.to_owned());
                }
            }
            Line::Some(pattern) => {
                if !lines(&self.last.text).any(|line| matches(pattern, line)) {
                    return Err(format!("no line like {pattern:?} in {:?}", self.last.text));
                }
            }
            Line::None(pattern) => {
                if lines(&self.last.text).any(|line| matches(pattern, line)) {
                    return Err(format!("a line like {pattern:?} in {:?}", self.last.text));
                }
            }
            Line::Closed => {
                let mut client = self.client.take().ok_or("no connection")?;
                let rest = client.rest().await;
                if !rest.is_empty() {
                    return Err(format!("it said {rest:?}"));
                }
            }
            Line::Arrives => self.message = self.arrival().await?,
            Line::Message(pattern) => {
                let text = String::from_utf8_lossy(&self.message);
                if !lines(&text).any(|line| matches(pattern, line)) {
                    return Err(format!("no line like {pattern:?} in {text:?}"));
                }
            }
            Line::NotInMessage(pattern) => {
                let text = String::from_utf8_lossy(&self.message);
                if lines(&text).any(|line| matches(pattern, line)) {
                    return Err(format!("a line like {pattern:?} in {text:?}"));
                }
            }
            Line::Nothing => {
                if !self.accepted.is_empty() {
                    return Err(format!("accepted: {:?}", self.accepted));
                }
            }
        }
        Ok(())
    }

    async fn connect(&self, listener: &str, how: Opening) -> Result<Client, String> {
        let name = match listener {
            "mx" => "mx/starttls",
            "submission" => "submission/starttls",
            "submissions" => "submission/implicit",
            other => return Err(format!("no listener {other}")),
        };
        let address = self.house.world.daemon().port(name);
        let open = async {
            let mut client = match listener {
                "submissions" => Client::connect_tls(address, HOST).await?,
                _ => Client::connect(address).await?,
            };
            if how == Opening::Raw {
                return Ok(client);
            }
            client.reply().await?;
            client.expect("EHLO client.example.net", 250).await?;
            if how == Opening::Tls {
                client.expect("STARTTLS", 220).await?;
                client = client.into_tls(HOST).await?;
                client.expect("EHLO client.example.net", 250).await?;
            }
            if how == Opening::User {
                client.auth_plain(USER, PASSWORD).await?;
            }
            Ok(client)
        };
        open.await
            .map_err(|error: std::io::Error| format!("connect: {error}"))
    }

    /// The bytes of the message that was accepted last, as its next hop got them.
    async fn arrival(&self) -> Result<Vec<u8>, String> {
        let id = self.accepted.last().ok_or("no message was accepted")?;
        let mark = format!("id {id}");
        loop {
            let received = self.house.remote.received();
            let found = received
                .iter()
                .find(|message| memchr::memmem::find(&message.data, mark.as_bytes()).is_some());
            if let Some(found) = found {
                return Ok(found.data.clone());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.split("\r\n").filter(|line| !line.is_empty())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_dialogue_goes_as_written() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/dialogues");
    let mut scripts: BTreeMap<String, Vec<(String, Script)>> = BTreeMap::new();
    let mut failures = Vec::new();
    let mut count = 0;
    for entry in std::fs::read_dir(dir).expect("dialogues") {
        let path = entry.expect("entry").path();
        if path.extension().is_none_or(|extension| extension != "smtp") {
            continue;
        }
        let name = path
            .file_stem()
            .expect("name")
            .to_string_lossy()
            .into_owned();
        count += 1;
        match parse(&std::fs::read_to_string(&path).expect("file")) {
            Ok(script) => scripts
                .entry(script.world.clone())
                .or_default()
                .push((name, script)),
            Err(why) => failures.push(format!("{name}: {why}")),
        }
    }
    assert!(count >= 150, "{count} dialogues");
    for (world, scripts) in scripts {
        let house = match House::start(&world).await {
            Ok(house) => Arc::new(house),
            Err(why) => {
                failures.push(why);
                continue;
            }
        };
        let slots = Arc::new(Semaphore::new(AT_ONCE));
        let mut running = JoinSet::new();
        for (name, script) in scripts {
            let (house, slots) = (house.clone(), slots.clone());
            running.spawn(async move {
                let _slot = slots.acquire_owned().await.expect("open");
                let mut talk = Talk {
                    house: &house,
                    script: &script,
                    client: None,
                    last: Answer {
                        code: 0,
                        text: String::new(),
                    },
                    accepted: Vec::new(),
                    message: Vec::new(),
                };
                let outcome = talk.run().await;
                (
                    outcome.err().map(|why| format!("{name}.smtp: {why}")),
                    talk.accepted.len(),
                )
            });
        }
        while let Some(done) = running.join_next().await {
            let (failure, _) = done.expect("the runner itself");
            failures.extend(failure);
        }
    }
    failures.sort();
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}
