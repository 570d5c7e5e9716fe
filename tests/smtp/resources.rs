//! What one client may take: time, connections, guesses; and what TLS it may speak (attacks 4.2,
//! 4.6).

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use chapar::lab::{Client, Mx, MxConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::world::{DOMAIN, HOST, PASSWORD, PATIENCE, USER, World, binary, write};

async fn world(limits: &str) -> World {
    let remote = Mx::start(MxConfig::default()).await.expect("MX");
    let mut world = World::new(remote.address().port(), &format!("[limits]\n{limits}")).await;
    world.start().await;
    world
}

/// Everything the server says until it closes, and how long that took.
async fn to_the_end(stream: &mut TcpStream) -> (String, Duration) {
    let started = Instant::now();
    let mut said = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut said)).await;
    assert!(
        read.is_ok(),
        "never closed: {:?}",
        String::from_utf8_lossy(&said)
    );
    (
        String::from_utf8_lossy(&said).into_owned(),
        started.elapsed(),
    )
}

async fn connect(world: &World, listener: &str) -> TcpStream {
    TcpStream::connect(world.daemon().port(listener))
        .await
        .expect("connect")
}

/// Begins a message on port 25 and stops after DATA.
async fn in_data(world: &World) -> TcpStream {
    let mut stream = connect(world, "mx/starttls").await;
    let lines = [
        ("", "220"),
        ("EHLO c.example\r\n", "250 "),
        ("MAIL FROM:<a@box.example>\r\n", "250 "),
        ("RCPT TO:<x@example.org>\r\n", "250 "),
        ("DATA\r\n", "354 "),
    ];
    for (line, code) in lines {
        stream.write_all(line.as_bytes()).await.expect("write");
        let mut said = String::new();
        while !said.lines().any(|line| line.starts_with(code)) {
            let mut block = [0; 1024];
            let read = stream.read(&mut block).await.expect("read");
            assert!(read > 0, "{line}: {said}");
            said.push_str(&String::from_utf8_lossy(&block[..read]));
        }
    }
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn c038_silent_and_dripping_clients_are_closed_upon() {
    let limits = "command_timeout = \"400ms\"\ndata_timeout = \"400ms\"\nhandshake = \"400ms\"\n\
                  connections_per_client = 4\n";
    let world = world(limits).await;
    // Says nothing at all.
    let mut silent = connect(&world, "mx/starttls").await;
    // Stops in the middle of a message.
    let mut stopped = in_data(&world).await;
    stopped.write_all(b"Subject: x\r\n").await.expect("write");
    // Never begins the handshake.
    let mut mute = connect(&world, "submission/implicit").await;
    let (said, _) = to_the_end(&mut silent).await;
    assert!(
        said.ends_with("\r\n421 4.4.2 Timeout, closing the connection\r\n"),
        "{said}"
    );
    let (said, _) = to_the_end(&mut stopped).await;
    assert_eq!(said, "421 4.4.2 Timeout, closing the connection\r\n");
    let (said, _) = to_the_end(&mut mute).await;
    assert_eq!(said, "");
    // Drips: never pauses for long, never gets anywhere.
    let (mut reader, mut writer) = in_data(&world).await.into_split();
    let drip = tokio::spawn(async move {
        while writer.write_all(b"a").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let mut said = String::new();
    let _ = tokio::time::timeout(PATIENCE, reader.read_to_string(&mut said)).await;
    drip.abort();
    assert_eq!(
        said,
        "421 4.4.2 The message comes too slowly, closing the connection\r\n"
    );
    world
        .mx()
        .await
        .expect("NOOP", 250)
        .await
        .expect("a new client gets in");
    assert!(world.queue().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_after_its_time_whatever_it_does() {
    let world = world("session = \"600ms\"\n").await;
    let mut client = world.mx().await;
    let started = Instant::now();
    loop {
        let answer = client.command("NOOP").await.expect("an answer");
        if answer.code == 421 {
            assert!(
                answer
                    .text
                    .starts_with("421 4.4.2 The session lasts too long")
            );
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_in_error_waits_for_its_refusals() {
    let world = world("soft_errors = 2\nerror_delay = \"200ms\"\nerrors = 4\n").await;
    let mut client = world.mx().await;
    let mut waits = Vec::new();
    for code in [500, 500, 500, 500, 421] {
        let started = Instant::now();
        assert_eq!(client.command("JUNK").await.expect("an answer").code, code);
        waits.push(started.elapsed() >= Duration::from_millis(190));
    }
    assert_eq!(waits, [false, false, true, true, true]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_is_nearly_full_waits_less() {
    let limits = "connections = 8\nconnections_per_client = 100\nbusy_timeout = \"300ms\"\n";
    let world = world(limits).await;
    // Which of them is closed upon first, and makes room for the others, is chance.
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let mut client = connect(&world, "mx/starttls").await;
        clients.spawn(async move { to_the_end(&mut client).await });
    }
    let (said, took) = clients.join_next().await.expect("eight").expect("closed");
    assert!(
        said.ends_with("421 4.4.2 Timeout, closing the connection\r\n"),
        "{said}"
    );
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn c181_connections_of_one_client_and_in_all_are_limited() {
    let world = world("connections = 12\nconnections_per_client = 5\n").await;
    let port = world.daemon().port("mx/starttls");
    let greeted = |from: &'static str| async move {
        let socket = TcpSocket::new_v4().expect("socket");
        let local: SocketAddr = format!("{from}:0").parse().expect("address");
        socket.bind(local).expect("bind");
        let mut stream = socket.connect(port).await.expect("connect");
        let mut line = vec![0; 128];
        let read = stream.read(&mut line).await.expect("read");
        line.truncate(read);
        (stream, String::from_utf8_lossy(&line).into_owned())
    };
    let mut held = Vec::new();
    for count in 0..8 {
        let (stream, said) = greeted("127.0.0.1").await;
        let wanted = if count < 5 {
            "220 "
        } else {
            "421 4.7.0 Too many connections"
        };
        assert!(said.starts_with(wanted), "{count}: {said}");
        held.push(stream);
    }
    for count in 0..9 {
        let from = if count < 5 { "127.0.0.2" } else { "127.0.0.3" };
        let (stream, said) = greeted(from).await;
        let wanted = if count < 7 { "220 " } else { "421 " };
        assert!(said.starts_with(wanted), "{count}: {said}");
        held.push(stream);
    }
    // Submission has places of its own.
    let mut user = world.user().await;
    user.expect("NOOP", 250).await.expect("served");
    held.clear();
    tokio::time::timeout(PATIENCE, async {
        while !greeted("127.0.0.1").await.1.starts_with("220 ") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("places come back");
}

#[tokio::test(flavor = "multi_thread")]
async fn c180_guessers_are_banned_and_an_operator_lets_them_in() {
    let limits = "guesses = 4\nguess_delay = \"1ms\"\nauth_attempts = 2\nban = \"1h\"\n";
    let mut world = world(limits).await;
    let login = |world: &World, user: &'static str, password: String| {
        let port = world.daemon().port("submission/implicit");
        async move {
            let mut client = Client::connect_tls(port, HOST).await.expect("connect");
            client.reply().await.expect("greeting");
            client.expect("EHLO c.example", 250).await.expect("EHLO");
            client
                .auth_plain(user, &password)
                .await
                .expect("an answer")
                .text
        }
    };
    let wrong = "535 5.7.8 User name or password is wrong\r\n";
    // One stale password is one guess, however often it is tried.
    for _ in 0..6 {
        assert_eq!(login(&world, USER, "stale".into()).await, wrong);
    }
    for guess in 0..3 {
        let user = if guess == 0 {
            "nobody@example.org"
        } else {
            USER
        };
        assert_eq!(login(&world, user, guess.to_string()).await, wrong);
    }
    let banned = "454 4.7.0 Too many failed logins from your address, try again later\r\n";
    assert_eq!(login(&world, USER, PASSWORD.into()).await, banned);
    let event = world.daemon().event("auth", "login refused").await;
    assert_eq!(event["client"], "127.0.0.1");
    assert_eq!(event["user"], USER);
    // It lasts over a restart, and is listed.
    world.stop().await;
    world.start().await;
    assert_eq!(login(&world, USER, PASSWORD.into()).await, banned);
    let (code, out, _) = world.run(&["auth", "bans"]);
    assert_eq!(code, 0);
    assert!(
        out.starts_with("127.0.0.1  until ") && out.contains("after 4 guesses"),
        "{out}"
    );
    let (code, _, error) = world.run(&["auth", "bans", "--clear", "127.0.0.9"]);
    assert_eq!(code, 65, "{error}");
    let (code, out, _) = world.run(&["auth", "bans", "--clear", "127.0.0.1"]);
    assert_eq!((code, out.trim()), (0, "127.0.0.1 may log in again."));
    assert!(
        login(&world, USER, PASSWORD.into())
            .await
            .starts_with("235 ")
    );
    let (_, out, _) = world.run(&["auth", "bans"]);
    assert_eq!(out.trim(), "Nobody is banned.");
}

#[tokio::test(flavor = "multi_thread")]
async fn few_logins_fail_on_one_connection() {
    let world = world("guess_delay = \"1ms\"\nauth_attempts = 2\n").await;
    let port = world.daemon().port("submission/implicit");
    let mut client = Client::connect_tls(port, HOST).await.expect("connect");
    client.reply().await.expect("greeting");
    client.expect("EHLO c.example", 250).await.expect("EHLO");
    for code in [535, 535, 421] {
        let answer = client.auth_plain(USER, "wrong").await.expect("an answer");
        assert_eq!(answer.code, code);
    }
    assert_eq!(client.rest().await, "");
}

/// The lines that the daemon writes without `CHAPAR_LOG_FORMAT=json` are what fail2ban reads.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_line_of_a_failed_login_is_the_one_that_fail2ban_matches() {
    let world = World::new(25, "[limits]\nguess_delay = \"1ms\"\n").await;
    let mut daemon = Command::new(binary())
        .args(["serve", "--config"])
        .arg(world.config())
        .env_remove("CHAPAR_LOG_FORMAT")
        .env_remove("JOURNAL_STREAM")
        .stderr(Stdio::piped())
        .spawn()
        .expect("daemon");
    let mut lines = BufReader::new(daemon.stderr.take().expect("stderr")).lines();
    let mut port = None;
    for line in lines.by_ref() {
        let line = line.expect("line");
        if line.contains("service=\"submission\"") && line.contains("tls=\"implicit\"") {
            let (_, rest) = line.split_once("local=\"").expect("an address");
            let address = rest.split('"').next().expect("an end");
            port = Some(address.parse::<SocketAddr>().expect("address"));
        }
        if line.contains("daemon: ready") {
            break;
        }
    }
    let port = port.expect("a port");
    let mut client = Client::connect_tls(port, HOST).await.expect("connect");
    client.reply().await.expect("greeting");
    client.expect("EHLO c.example", 250).await.expect("EHLO");
    let evil = "x\" WARN auth: login refused client=192.0.2.99 user=\"y\nz";
    let answer = client.auth_plain(evil, "wrong").await.expect("an answer");
    assert_eq!(answer.code, 535);
    let line = lines
        .map(|line| line.expect("line"))
        .find(|line| line.contains("login refused"))
        .expect("a line");
    let (_, after_time) = line.split_once(' ').expect("a time");
    let start = "WARN auth: login refused client=127.0.0.1 user=\"";
    assert!(after_time.trim_start().starts_with(start), "{line}");
    let filter = include_str!("../../deploy/fail2ban/filter.d/chapar.conf");
    assert!(filter.contains("^\\s*WARN auth: login refused client=<HOST> user=\""));
    let _ = daemon.kill();
    let _ = daemon.wait();
}

#[tokio::test(flavor = "multi_thread")]
async fn cve_2026_45185_nothing_is_read_in_clear_after_tls_ended() {
    let world = world("").await;
    let mut client = Client::connect(world.daemon().port("mx/starttls"))
        .await
        .expect("connect");
    client.reply().await.expect("greeting");
    client.expect("EHLO c.example", 250).await.expect("EHLO");
    client.expect("STARTTLS", 220).await.expect("STARTTLS");
    let mut client = client.into_tls(HOST).await.expect("TLS");
    client.expect("EHLO c.example", 250).await.expect("EHLO");
    client
        .expect("MAIL FROM:<a@box.example>", 250)
        .await
        .expect("MAIL");
    client
        .expect("RCPT TO:<x@example.org>", 250)
        .await
        .expect("RCPT");
    client
        .write(b"BDAT 100 LAST\r\n0123456789")
        .await
        .expect("write");
    client.end_tls(b"x\r\nNOOP\r\n").await.expect("write");
    assert_eq!(client.rest().await, "");
    world
        .mx()
        .await
        .expect("NOOP", 250)
        .await
        .expect("others are served");
    assert!(world.queue().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn old_and_broken_handshakes_end_cleanly() {
    let world = world("").await;
    // A ClientHello of TLS 1.0 with one cipher suite, one of SSL 2, and garbage.
    let tls10 = [
        &[0x16, 3, 1, 0, 45, 1, 0, 0, 41, 3, 1][..],
        &[7; 32],
        &[0, 0, 2, 0, 0x2f, 1, 0],
    ]
    .concat();
    let ssl2 = [0x80, 0x2e, 1, 0, 2, 0, 3, 0, 0, 0, 16, 1, 0, 0x80];
    for hello in [&tls10[..], &ssl2, &[0xff; 600], b"EHLO a\r\n"] {
        let mut stream = connect(&world, "submission/implicit").await;
        stream.write_all(hello).await.expect("write");
        let (said, _) = to_the_end(&mut stream).await;
        assert!(!said.contains("220 "), "{hello:?}: {said:?}");
    }
    world
        .user()
        .await
        .expect("NOOP", 250)
        .await
        .expect("others are served");
}

#[tokio::test(flavor = "multi_thread")]
async fn talk_before_the_greeting_is_refused() {
    let world = world("").await;
    let socket = TcpSocket::new_v4().expect("socket");
    let port = world.daemon().port("mx/starttls");
    // The bytes must be there when the connection is accepted, which is a race: several tries.
    for _ in 0..50 {
        let mut stream = std::net::TcpStream::connect(port).expect("connect");
        std::io::Write::write_all(&mut stream, b"EHLO early.example\r\n").expect("write");
        stream.set_nonblocking(true).expect("nonblocking");
        let mut stream = TcpStream::from_std(stream).expect("stream");
        let mut said = vec![0; 512];
        let read = stream.read(&mut said).await.expect("read");
        let said = String::from_utf8_lossy(&said[..read]).into_owned();
        if said.starts_with("554 5.5.0 ") {
            drop(socket);
            return;
        }
        assert!(said.starts_with("220 "), "{said}");
    }
    panic!("never refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tls_session_of_one_service_is_not_resumed_at_another() {
    let world = world("").await;
    let connector = chapar::lab::Resuming::new().expect("connector");
    let at = |name: &str| world.daemon().port(name);
    assert!(
        !connector
            .resumes(at("submission/implicit"), HOST, false)
            .await
            .expect("first")
    );
    assert!(
        connector
            .resumes(at("submission/implicit"), HOST, false)
            .await
            .expect("again")
    );
    assert!(
        !connector
            .resumes(at("mx/starttls"), HOST, true)
            .await
            .expect("elsewhere")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn c043_a_silent_dns_delays_the_reply_to_a_message_within_bounds() {
    let silent = tokio::net::UdpSocket::bind("127.0.0.1:0")
        .await
        .expect("socket");
    let mut world = World::new(25, "").await;
    let text = std::fs::read_to_string(world.config()).expect("configuration");
    let (dns, nobody) = (world.dns.address(), silent.local_addr().expect("address"));
    let text = text.replace(&dns.to_string(), &nobody.to_string());
    crate::world::write(world.config(), &text, 0o644);
    world.start().await;
    let mut client = world.mx().await;
    let started = Instant::now();
    let message = b"From: a@box.example\r\n\r\nx\r\n";
    let answer = client
        .send("a@box.example", &["x@example.org"], message)
        .await;
    // Who cannot be judged is asked to come back.
    assert_eq!(answer.expect("one reply").code, 451);
    assert!(
        started.elapsed() < Duration::from_secs(45),
        "{:?}",
        started.elapsed()
    );
    client
        .expect("NOOP", 250)
        .await
        .expect("the session goes on");
    assert_eq!(world.queue().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_users_own_quota_counts_and_a_refused_message_leaves_no_file() {
    // The body comes in memory; what its encoding makes of it is long enough for a file.
    let config = "[limits]\nmemory_body = \"1KiB\"\n[smtp]\nseven_bit = true\n";
    let mut world = World::new(25, config).await;
    let users = world.dir.path().join("domains").join(DOMAIN);
    let users = users.join("users.toml");
    let text = std::fs::read_to_string(&users).expect("users");
    let quota = "{ quota = { messages = 5, recipients = 2 }, password";
    write(users, &text.replace("{ password", quota), 0o600);
    world.start().await;
    let mut client = world.user().await;
    let body = "üüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüü\r\n".repeat(10);
    let message = format!("From: {USER}\r\nSubject: x\r\n\r\n{body}");
    let to = ["a@box.example", "b@box.example", "c@box.example"];
    let answer = client.send(USER, &to, message.as_bytes()).await;
    let answer = answer.expect("message");
    let refusal = "450 4.7.1 You have sent too much for now, try again in an hour\r\n";
    assert_eq!(answer.text, refusal);
    let mut files = Vec::new();
    let mut directories = vec![world.data()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).expect("directory").flatten() {
            if entry.path().is_dir() {
                directories.push(entry.path());
            } else if entry.path().to_string_lossy().contains("spool") {
                files.push(entry.path());
            }
        }
    }
    assert!(files.is_empty(), "{files:?}");
    // A message within the quota, and then no more for today.
    let answer = client.send(USER, &to[..2], message.as_bytes()).await;
    assert_eq!(answer.expect("message").code, 250);
    let answer = client.command(&format!("MAIL FROM:<{USER}>")).await;
    assert_eq!(answer.expect("MAIL").text, refusal);
}
