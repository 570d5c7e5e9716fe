//! One connection of a lab MX: reads commands, does the usual or what the script says.

use std::io;
use std::net::IpAddr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::mx::{Line, Received, Shared};
use super::script::{Act, Stage};
use crate::smtp::sasl::{self, Progress, Proven};
use crate::smtp::scram::Verifier;

/// Number and peer of a connection.
pub(super) type Who = (u64, IpAddr);

pub(super) async fn serve(stream: TcpStream, who: Who, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let local = stream.local_addr()?.ip().to_string();
    let greeting = format!("220 {} ESMTP lab", shared.config.hostname);
    if shared.config.implicit_tls {
        let stream = shared.acceptor.accept(stream).await?;
        let mut session = Session::new(stream, who, true, shared);
        if session.act(Stage::Greeting, &local, &greeting).await? != Flow::Close {
            session.run().await?;
        }
        return session.close().await;
    }
    let mut session = Session::new(stream, who, false, shared);
    if session.act(Stage::Greeting, &local, &greeting).await? == Flow::Close {
        return session.close().await;
    }
    if session.run().await? != Flow::Handshake {
        return session.close().await;
    }
    session.flush().await?;
    if session.act(Stage::Handshake, "", "").await? == Flow::Close {
        return session.close().await;
    }
    session.flush().await?;
    let Session { stream, .. } = session;
    let stream = shared.acceptor.accept(stream).await?;
    let mut session = Session::new(stream, who, true, shared);
    session.run().await?;
    session.close().await
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    /// On with it; the flag says whether the client was told yes.
    Go(bool),
    Handshake,
    Close,
}

struct Session<'a, S> {
    stream: S,
    who: Who,
    tls: bool,
    shared: &'a Shared,
    input: Vec<u8>,
    output: Vec<u8>,
    hello: String,
    mail: Option<(String, String)>,
    recipients: Vec<String>,
    /// What chunks of this message brought.
    chunks: Vec<u8>,
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Session<'a, S> {
    fn new(stream: S, who: Who, tls: bool, shared: &'a Shared) -> Self {
        Session {
            stream,
            who,
            tls,
            shared,
            input: Vec::new(),
            output: Vec::new(),
            hello: String::new(),
            mail: None,
            recipients: Vec::new(),
            chunks: Vec::new(),
        }
    }

    async fn run(&mut self) -> io::Result<Flow> {
        loop {
            let Some(line) = self.line().await? else {
                return Ok(Flow::Close);
            };
            let connection = self.who.0;
            let keep = self.shared.config.keep;
            self.shared.note(|seen| {
                if keep {
                    seen.log.push(Line {
                        connection,
                        line: line.clone(),
                    });
                }
            });
            let flow = self.command(&line).await?;
            if !matches!(flow, Flow::Go(_)) {
                return Ok(flow);
            }
        }
    }

    async fn command(&mut self, line: &str) -> io::Result<Flow> {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        match verb.to_ascii_uppercase().as_str() {
            "EHLO" if self.shared.config.lmtp => self.say("500 5.5.1 LHLO here"),
            "LHLO" if !self.shared.config.lmtp => self.say("500 5.5.1 EHLO here"),
            "EHLO" | "LHLO" => {
                self.hello = rest.to_owned();
                self.forget();
                let usual = self.ehlo();
                self.act(Stage::Ehlo, line, &usual).await
            }
            "HELO" => {
                self.hello = rest.to_owned();
                self.forget();
                self.act(Stage::Helo, line, "250 pleased to meet you").await
            }
            "STARTTLS" if self.shared.config.starttls && !self.tls => Ok(
                match self
                    .act(Stage::StartTls, line, "220 2.0.0 go ahead")
                    .await?
                {
                    Flow::Go(true) => Flow::Handshake,
                    other => other,
                },
            ),
            "AUTH" if self.tls && !self.shared.config.auth.is_empty() => self.auth(rest).await,
            "MAIL" => {
                if self.mail.is_some() {
                    return self.say("503 5.5.1 nested MAIL");
                }
                let flow = self.act(Stage::Mail, line, "250 2.1.0 Ok").await?;
                if flow == Flow::Go(true) {
                    self.mail = Some(path(rest));
                }
                Ok(flow)
            }
            "RCPT" => {
                let (recipient, _) = path(rest);
                if self.mail.is_none() {
                    return self.say("503 5.5.1 MAIL first");
                }
                let mut usual = "250 2.1.5 Ok";
                if self.shared.config.greylist {
                    let key = recipient.clone();
                    if self.shared.note(|seen| seen.greylisted.insert(key)) {
                        usual = "451 4.7.1 Greylisted, please come back later";
                    }
                }
                let flow = self.act(Stage::Rcpt, line, usual).await?;
                if flow == Flow::Go(true) {
                    self.recipients.push(recipient);
                }
                Ok(flow)
            }
            "DATA" => {
                let usual = match self.recipients.is_empty() {
                    true => "554 5.5.1 no valid recipients",
                    false => "354 go ahead",
                };
                match self.act(Stage::Data, line, usual).await? {
                    Flow::Go(true) => self.data().await,
                    other => Ok(other),
                }
            }
            "BDAT"
                if self
                    .shared
                    .config
                    .extensions
                    .iter()
                    .any(|e| e == "CHUNKING") =>
            {
                self.chunk(line, rest).await
            }
            "RSET" => {
                self.forget();
                self.act(Stage::Rset, line, "250 2.0.0 Ok").await
            }
            "NOOP" => self.say("250 2.0.0 Ok"),
            "QUIT" => {
                self.act(Stage::Quit, line, "221 2.0.0 bye").await?;
                Ok(Flow::Close)
            }
            _ => self.say("500 5.5.2 what"),
        }
    }

    async fn data(&mut self) -> io::Result<Flow> {
        self.flush().await?;
        let mut first = true;
        let mut searched = 0;
        let data = loop {
            if let Some(end) = end_of_data(&self.input, searched) {
                let data = unstuffed(&self.input[..end]);
                self.input.drain(..end + 3);
                break data;
            }
            searched = self.input.len().saturating_sub(4);
            if !self.read().await? {
                return Ok(Flow::Close);
            }
            if std::mem::take(&mut first) {
                let flow = self.act(Stage::Body, "", "").await?;
                if flow == Flow::Close {
                    return Ok(flow);
                }
            }
        };
        self.came(data).await
    }

    /// BDAT: takes the chunk, whatever is answered to it.
    async fn chunk(&mut self, line: &str, rest: &str) -> io::Result<Flow> {
        let mut words = rest.split(' ');
        let size = words.next().and_then(|word| word.parse::<usize>().ok());
        let last = words
            .next()
            .is_some_and(|word| word.eq_ignore_ascii_case("LAST"));
        let Some(size) = size else {
            return self.say("501 5.5.4 BDAT size [LAST]");
        };
        self.flush().await?;
        while self.input.len() < size {
            if !self.read().await? {
                return Ok(Flow::Close);
            }
        }
        self.chunks.extend(self.input.drain(..size));
        if self.recipients.is_empty() {
            return self.say("503 5.5.1 no valid recipients");
        }
        if last {
            let data = std::mem::take(&mut self.chunks);
            return self.came(data).await;
        }
        let flow = self.act(Stage::Chunk, line, "250 2.0.0 chunk").await?;
        if flow == Flow::Go(false) {
            // The rest of the message has nobody to go to (RFC 3030 section 2).
            self.recipients.clear();
        }
        Ok(flow)
    }

    /// A whole message came.
    async fn came(&mut self, data: Vec<u8>) -> io::Result<Flow> {
        let flow = if self.shared.config.lmtp {
            let mut kept = Vec::new();
            for recipient in std::mem::take(&mut self.recipients) {
                match self
                    .act(Stage::Dot, &recipient, "250 2.0.0 Ok: stored")
                    .await?
                {
                    Flow::Go(true) => kept.push(recipient),
                    Flow::Go(false) => {}
                    other => return Ok(other),
                }
            }
            self.recipients = kept;
            Flow::Go(!self.recipients.is_empty())
        } else {
            let recipients = self.recipients.join(" ");
            let usual = "250 2.0.0 Ok: queued";
            self.act(Stage::Dot, &recipients, usual).await?
        };
        if flow == Flow::Go(true) && !self.recipients.is_empty() {
            let (reverse_path, parameters) = self.mail.take().unwrap_or_default();
            let received = Received {
                connection: self.who.0,
                client: self.who.1,
                tls: self.tls,
                hello: self.hello.clone(),
                reverse_path,
                parameters,
                recipients: std::mem::take(&mut self.recipients),
                data,
            };
            let keep = self.shared.config.keep;
            self.shared.note(|seen| {
                seen.taken += 1;
                if keep {
                    seen.received.push(received);
                }
            });
        }
        self.forget();
        match flow {
            Flow::Go(_) => {
                let after = self.act(Stage::Done, "", "").await?;
                Ok(if after == Flow::Close { after } else { flow })
            }
            other => Ok(other),
        }
    }

    /// AUTH with our own server's half of it.
    async fn auth(&mut self, rest: &str) -> io::Result<Flow> {
        let (mechanism, initial) = rest.split_once(' ').unwrap_or((rest, ""));
        let offer = sasl::Offer {
            scram: true,
            exporter: None,
        };
        let initial = (!initial.is_empty()).then_some(initial);
        let mut progress = sasl::begin(mechanism, initial, &offer);
        loop {
            progress = match progress {
                Progress::Challenge(exchange, reply) => {
                    self.say(&format!("334 {}", reply.text))?;
                    match self.line().await? {
                        Some(line) => exchange.response(line.as_bytes()),
                        None => return Ok(Flow::Close),
                    }
                }
                Progress::Lookup(first) => {
                    let rounds = std::num::NonZeroU32::MIN.saturating_add(4095);
                    let verifier = Verifier::new(b"pencil", b"salt", rounds);
                    sasl::challenge(*first, verifier, "server")
                }
                Progress::Verify(who) if (&*who.user, &*who.password) == ("user", "pencil") => {
                    return self.say("235 2.7.0 welcome");
                }
                Progress::Proved {
                    proof: Proven::Right,
                    user,
                } if user == "user" => {
                    return self.say("235 2.7.0 welcome");
                }
                Progress::Verify(_)
                | Progress::Proved { .. }
                | Progress::GivenUp { .. }
                | Progress::Refused(_) => {
                    return self.say("535 5.7.8 who are you");
                }
            };
        }
    }

    fn forget(&mut self) {
        self.mail = None;
        self.recipients.clear();
        self.chunks.clear();
    }

    fn ehlo(&self) -> String {
        let config = &self.shared.config;
        let mut lines = vec![config.hostname.clone()];
        let mut offer = |offered: bool, word: &str| {
            if offered {
                lines.push(word.to_owned());
            }
        };
        offer(config.pipelining, "PIPELINING");
        offer(config.starttls && !self.tls, "STARTTLS");
        offer(config.eight_bit, "8BITMIME");
        offer(config.smtputf8, "SMTPUTF8");
        offer(config.dsn, "DSN");
        offer(config.require_tls && self.tls, "REQUIRETLS");
        if self.tls && !config.auth.is_empty() {
            offer(true, &format!("AUTH {}", config.auth.join(" ")));
        }
        for word in &config.extensions {
            offer(true, word);
        }
        if let Some(size) = config.size {
            offer(true, &format!("SIZE {size}"));
        }
        let last = lines.len() - 1;
        let with_code = lines.iter().enumerate().map(|(at, line)| match at == last {
            true => format!("250 {line}"),
            false => format!("250-{line}"),
        });
        with_code.collect::<Vec<_>>().join("\n")
    }

    /// Does what the script says, or answers `usual`; empty for nothing.
    async fn act(&mut self, stage: Stage, line: &str, usual: &str) -> io::Result<Flow> {
        let mut act = self.shared.script.act(stage, line);
        while let Act::After(wait, then) = act {
            self.flush().await?;
            tokio::time::sleep(wait).await;
            act = *then;
        }
        match act {
            Act::Default => {
                if !usual.is_empty() {
                    self.say(usual)?;
                }
                Ok(Flow::Go(usual.is_empty() || is_yes(usual.as_bytes())))
            }
            Act::Reply(text) => {
                self.say(&text)?;
                Ok(Flow::Go(is_yes(text.as_bytes())))
            }
            Act::ReplyThenClose(text) => {
                self.say(&text)?;
                Ok(Flow::Close)
            }
            Act::Close => Ok(Flow::Close),
            Act::Hang => {
                self.flush().await?;
                while self.read().await? {
                    self.input.clear();
                }
                Ok(Flow::Close)
            }
            Act::Raw(bytes) => {
                self.output.extend_from_slice(&bytes);
                Ok(Flow::Go(is_yes(&bytes)))
            }
            Act::Endless(bytes) => {
                self.flush().await?;
                loop {
                    self.stream.write_all(&bytes).await?;
                }
            }
            Act::Pieces(pieces) => {
                let mut yes = true;
                for (at, (wait, piece)) in pieces.into_iter().enumerate() {
                    self.flush().await?;
                    tokio::time::sleep(wait).await;
                    yes = if at == 0 { is_yes(&piece) } else { yes };
                    self.output.extend_from_slice(&piece);
                }
                Ok(Flow::Go(yes))
            }
            Act::Refuse(text) => {
                self.say(&text)?;
                self.flush().await?;
                self.stream.shutdown().await?;
                while self.read().await? {
                    self.input.clear();
                }
                Ok(Flow::Close)
            }
            Act::After(..) => Ok(Flow::Close),
        }
    }

    fn say(&mut self, text: &str) -> io::Result<Flow> {
        for line in text.split('\n') {
            self.output.extend_from_slice(line.as_bytes());
            self.output.extend_from_slice(b"\r\n");
        }
        Ok(Flow::Go(false))
    }

    async fn line(&mut self) -> io::Result<Option<String>> {
        loop {
            if let Some(end) = memchr::memmem::find(&self.input, b"\r\n") {
                let line = String::from_utf8_lossy(&self.input[..end]).into_owned();
                self.input.drain(..end + 2);
                return Ok(Some(line));
            }
            self.flush().await?;
            if !self.read().await? {
                return Ok(None);
            }
        }
    }

    async fn read(&mut self) -> io::Result<bool> {
        self.input.reserve(64 * 1024);
        Ok(self.stream.read_buf(&mut self.input).await? > 0)
    }

    async fn flush(&mut self) -> io::Result<()> {
        if !self.output.is_empty() {
            self.stream.write_all(&self.output).await?;
            self.stream.flush().await?;
            self.output.clear();
        }
        Ok(())
    }

    async fn close(mut self) -> io::Result<()> {
        self.flush().await?;
        self.stream.shutdown().await
    }
}

/// Whether a reply is a 2xx or 3xx.
fn is_yes(reply: &[u8]) -> bool {
    matches!(reply.first(), Some(b'2' | b'3'))
}

/// `FROM:<a@b> X=y` as `a@b` and `X=y`.
fn path(rest: &str) -> (String, String) {
    let after = rest.split_once('<').map_or("", |(_, after)| after);
    let (path, parameters) = after.rsplit_once('>').unwrap_or((after, ""));
    (path.to_owned(), parameters.trim().to_owned())
}

/// Where the final dot is: at the start of data, or behind a line end; it is not before `searched`.
fn end_of_data(input: &[u8], searched: usize) -> Option<usize> {
    if input.starts_with(b".\r\n") {
        return Some(0);
    }
    memchr::memmem::find(&input[searched..], b"\r\n.\r\n").map(|at| searched + at + 2)
}

fn unstuffed(data: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len());
    let mut rest = data;
    while !rest.is_empty() {
        let end = memchr::memmem::find(rest, b"\r\n").map_or(rest.len(), |at| at + 2);
        let (line, after) = rest.split_at(end);
        out.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
        rest = after;
    }
    out
}
