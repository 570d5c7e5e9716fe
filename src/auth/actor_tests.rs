//! Logins through the actor itself.

use super::*;
use crate::smtp::sasl::Credentials;

fn config(dir: &std::path::Path) -> Arc<Config> {
    let text = "hostname = \"mx.example.org\"\ndata_dir = \"data\"\n\
                [limits]\nguesses = 3\nguess_delay = \"1ms\"\n";
    Arc::new(Config::parse(text, "chapar.toml", dir).expect("configuration"))
}

/// An authenticator of a directory with one user, whose password is `correct horse`.
fn started(dir: &std::path::Path) -> Addr<Authenticator> {
    let domain = dir.join("domains/example.org");
    std::fs::create_dir_all(&domain).expect("directory");
    let hash = password::hash(b"correct horse").expect("hash");
    let users = format!("\"me@example.org\" = {{ password = \"{hash}\" }}\n");
    std::fs::write(domain.join("domain.toml"), "mode = \"forward\"\n").expect("domain");
    let path = domain.join("users.toml");
    crate::config::files::create(&path, users.as_bytes(), 0o600).expect("users");
    let identity = Identity::load(dir, "").expect("identity");
    let builder = rayon::ThreadPoolBuilder::new().num_threads(1);
    let pool = Arc::new(builder.build().expect("pool"));
    let config = config(dir);
    let files = AuthFiles::open(&config).expect("files");
    Authenticator::new(config, Arc::new(identity), files, pool).start()
}

async fn login(
    auth: &Addr<Authenticator>,
    client: [u8; 4],
    user: &str,
    password: &str,
) -> Result<String, AuthError> {
    let credentials = Credentials {
        user: user.into(),
        password: password.into(),
    };
    let request = Authenticate {
        credentials,
        client: client.into(),
    };
    auth.send(request).await.expect("answer")
}

#[test]
fn known_and_unknown_users_get_the_same_answer() {
    let dir = tempfile::tempdir().expect("directory");
    actix::System::new().block_on(async {
        let auth = started(dir.path());
        for (user, password, expected) in [
            (
                "Me@Example.org",
                "correct horse",
                Ok("me@example.org".to_owned()),
            ),
            ("me@example.org", "wrong horse", Err(AuthError::Wrong)),
            ("you@example.org", "correct horse", Err(AuthError::Wrong)),
        ] {
            let outcome = login(&auth, [192, 0, 2, 1], user, password).await;
            assert_eq!(outcome, expected, "{user}");
        }
        let find = |user: &str| FindVerifier {
            user: user.into(),
            client: [192, 0, 2, 1].into(),
        };
        let mut nonces = Vec::new();
        for user in ["me@example.org", "you@example.org"] {
            let (first, nonce) = auth.send(find(user)).await.expect("answer").expect("one");
            let (second, other) = auth.send(find(user)).await.expect("answer").expect("one");
            assert_eq!(first, second, "{user} has the same salt each time");
            nonces.extend([nonce, other]);
        }
        nonces.dedup();
        assert_eq!(nonces.len(), 4);
    });
    // The right password of a user without a verifier has made one.
    let identity = Identity::load(dir.path(), "").expect("identity");
    let user = identity.user("me@example.org").expect("user");
    assert!(user.scram.is_some());
}

#[test]
fn s10_scram_answers_equally_however_a_name_is_spelled_and_asking_many_is_guessing() {
    let dir = tempfile::tempdir().expect("directory");
    actix::System::new().block_on(async {
        let auth = started(dir.path());
        let one = [192, 0, 2, 1];
        let right = login(&auth, one, "me@example.org", "correct horse").await;
        assert_eq!(right, Ok("me@example.org".into()));
        // The verifier was written meanwhile; with other rounds than ours it is as one of others.
        let text = "SCRAM-SHA-256$8192:c2FsdHNhbHQ=$\
                    AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:\
                    AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        let identity = Identity::load(dir.path(), "").expect("identity");
        let hash = identity
            .user("me@example.org")
            .expect("user")
            .password
            .clone();
        let users =
            format!("\"me@example.org\" = {{ password = \"{hash}\", scram = \"{text}\" }}\n");
        let path = dir.path().join("domains/example.org/users.toml");
        crate::config::files::replace(&path, users.as_bytes(), 0o600).expect("users");
        let identity = Arc::new(Identity::load(dir.path(), "").expect("identity"));
        let reload = Reload(config(dir.path()), identity);
        auth.send(reload).await.expect("reload");
        for user in ["me", "nobody"] {
            let mut seen = Vec::new();
            for spelled in [
                format!("{user}@example.org"),
                format!("{}@Example.ORG", user.to_uppercase()),
                format!(
                    "{}@example.org",
                    user.replace('e', "\u{ff45}").replace('n', "\u{ff2e}")
                ),
            ] {
                let find = FindVerifier {
                    user: spelled,
                    client: one.into(),
                };
                let (verifier, _) = auth.send(find).await.expect("answer").expect("one");
                seen.push(verifier);
            }
            assert!(seen.iter().all(|one| Some(one) == seen.first()), "{user}");
            let shown = seen.first().map(ToString::to_string).unwrap_or_default();
            let head = "SCRAM-SHA-256$8192:".len();
            assert!(shown.starts_with("SCRAM-SHA-256$8192:"), "{user}: {shown}");
            assert_eq!(
                shown.get(head..).and_then(|rest| rest.find('$')),
                Some(12),
                "{shown}"
            );
        }
        // Asking about one again is no further guess, asking about three is three.
        let two = [192, 0, 2, 2];
        let ask = |user: &'static str| {
            auth.send(Proved {
                user: user.into(),
                proof: Proven::Nothing,
                client: two.into(),
            })
        };
        let find = || {
            auth.send(FindVerifier {
                user: "me@example.org".into(),
                client: two.into(),
            })
        };
        for user in [
            "a@example.org",
            "A@example.org",
            "a@example.org",
            "b@example.org",
        ] {
            assert_eq!(ask(user).await.expect("answer"), Err(AuthError::Wrong));
        }
        assert!(find().await.expect("answer").is_ok(), "two are not three");
        let third = ask("c@example.org").await.expect("answer");
        assert_eq!(third, Err(AuthError::Wrong));
        let banned = find().await.expect("answer");
        assert_eq!(banned.map(|_| ()), Err(AuthError::Banned));
    });
}

/// A Dovecot that lets everybody in whose password is `right`, under the name that `names` says.
async fn dovecot(socket: std::path::PathBuf, names: fn(&str) -> &'static str) {
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
    let listener = tokio::net::UnixListener::bind(socket).expect("socket");
    while let Ok((stream, _)) = listener.accept().await {
        let (read, mut write) = stream.into_split();
        let hello = "VERSION\t1\t2\nMECH\tPLAIN\tplaintext\nDONE\n";
        write.write_all(hello.as_bytes()).await.expect("written");
        let mut lines = BufReader::new(read).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let Some((_, response)) = line.split_once("resp=") else {
                continue;
            };
            let plain = STANDARD.decode(response).expect("base64");
            let plain = String::from_utf8(plain).expect("text");
            let mut parts = plain.split('\0').skip(1);
            let (user, password) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
            let answer = match password == "right" {
                true => format!("OK\t1\tuser={}\n", names(user)),
                false => "FAIL\t1\n".to_owned(),
            };
            write.write_all(answer.as_bytes()).await.expect("written");
        }
    }
}

#[test]
fn s19_dovecot_speaks_for_its_own_users_only_and_says_who_they_are() {
    let dir = tempfile::tempdir().expect("directory");
    for (domain, text) in [
        ("example.org", "mode = \"forward\"\n"),
        ("box.example", "mode = \"forward\"\ndovecot = true\n"),
    ] {
        let path = dir.path().join("domains").join(domain);
        std::fs::create_dir_all(&path).expect("directory");
        std::fs::write(path.join("domain.toml"), text).expect("domain");
    }
    let hash = password::hash(b"correct horse").expect("hash");
    let users = format!("\"ours@box.example\" = {{ password = \"{hash}\" }}\n");
    let path = dir.path().join("domains/box.example/users.toml");
    crate::config::files::create(&path, users.as_bytes(), 0o600).expect("users");
    actix::System::new().block_on(async {
        let socket = dir.path().join("auth-client");
        let text = format!(
            "hostname = \"mx.example.org\"\ndata_dir = \"data\"\n\
             [limits]\nguess_delay = \"1ms\"\n[auth]\ndovecot = \"{}\"\n",
            socket.display()
        );
        let _dovecot = actix::spawn(dovecot(socket, |user| match user {
            "alias@box.example" => "Her@Box.example",
            "short@box.example" => "her",
            "thief@box.example" => "ours@box.example",
            "stray@box.example" => "me@example.org",
            _ => "her@box.example",
        }));
        let config = Arc::new(Config::parse(&text, "chapar.toml", dir.path()).expect("parsed"));
        let identity = Arc::new(Identity::load(dir.path(), "").expect("identity"));
        let builder = rayon::ThreadPoolBuilder::new().num_threads(1);
        let pool = Arc::new(builder.build().expect("pool"));
        let files = AuthFiles::open(&config).expect("files");
        let auth = Authenticator::new(config, identity, files, pool).start();
        let one = [192, 0, 2, 1];
        for (user, password, expected) in [
            ("her@box.example", "right", Ok("her@box.example")),
            ("her@box.example", "wrong", Err(AuthError::Wrong)),
            ("alias@box.example", "right", Ok("her@box.example")),
            ("short@box.example", "right", Ok("her@box.example")),
            // One of ours, of a domain that is not its own, and by the name of one of ours.
            ("ours@box.example", "right", Err(AuthError::Wrong)),
            ("me@example.org", "right", Err(AuthError::Wrong)),
            ("thief@box.example", "right", Err(AuthError::Wrong)),
            ("stray@box.example", "right", Err(AuthError::Wrong)),
            ("ours@box.example", "correct horse", Ok("ours@box.example")),
        ] {
            let got = login(&auth, one, user, password).await;
            assert_eq!(got, expected.map(str::to_owned), "{user} {password}");
        }
    });
}

#[test]
fn s7_the_owner_gets_in_where_others_guess_also_after_a_restart() {
    let dir = tempfile::tempdir().expect("directory");
    let (nat, me) = ([192, 0, 2, 1], "me@example.org");
    actix::System::new().block_on(async {
        let auth = started(dir.path());
        let right = login(&auth, nat, me, "correct horse").await;
        assert_eq!(right, Ok(me.into()));
        for guess in ["a", "b", "c", "d", "e"] {
            let outcome = login(&auth, nat, me, guess).await;
            assert_eq!(outcome, Err(AuthError::Wrong));
        }
        for guess in ["a", "b", "c"] {
            let outcome = login(&auth, nat, "you@example.org", guess).await;
            assert_eq!(outcome, Err(AuthError::Wrong));
        }
        let banned = login(&auth, nat, "you@example.org", "d").await;
        assert_eq!(banned, Err(AuthError::Banned), "from there, and alone");
        let right = login(&auth, nat, me, "correct horse").await;
        assert_eq!(right, Ok(me.into()));
    });
    actix::System::new().block_on(async {
        let auth = started(dir.path());
        let banned = login(&auth, nat, "you@example.org", "e").await;
        assert_eq!(banned, Err(AuthError::Banned));
        for guess in ["f", "g", "h"] {
            let outcome = login(&auth, nat, me, guess).await;
            assert_eq!(outcome, Err(AuthError::Wrong), "it is known over a restart");
        }
        let right = login(&auth, nat, me, "correct horse").await;
        assert_eq!(right, Ok(me.into()));
    });
}

#[test]
fn s8_the_same_wrong_password_again_costs_no_hash_and_one_client_has_a_share() {
    let dir = tempfile::tempdir().expect("directory");
    actix::System::new().block_on(async {
        let auth = started(dir.path());
        let one = [192, 0, 2, 1];
        let begun = std::time::Instant::now();
        let first = login(&auth, one, "me@example.org", "stale").await;
        assert_eq!(first, Err(AuthError::Wrong));
        let hash = begun.elapsed();
        let begun = std::time::Instant::now();
        for _ in 0..50 {
            let again = login(&auth, one, "me@example.org", "stale").await;
            assert_eq!(again, Err(AuthError::Wrong));
        }
        // Each waits its delay of 1 ms; fifty hashes would take fifty times the first.
        assert!(begun.elapsed() < hash * 10 + Duration::from_millis(200));
        let right = login(&auth, one, "me@example.org", "correct horse").await;
        assert_eq!(right, Ok("me@example.org".into()), "one guess is no ban");

        // Many at once from one client find no place; another client does.
        let guesses: Vec<String> = (0..40).map(|guess| format!("guess {guess}")).collect();
        let other = [192, 0, 2, 9];
        let all = guesses
            .iter()
            .map(|guess| login(&auth, other, "me@example.org", guess));
        let all = futures_util::future::join_all(all);
        let owner = login(&auth, [192, 0, 2, 3], "me@example.org", "correct horse");
        let (all, owner) = futures_util::future::join(all, owner).await;
        let busy = all.iter().filter(|one| **one == Err(AuthError::Busy));
        // Some places may have become free meanwhile.
        assert!((12..=40 - MAX_WAITING_OF_ONE).contains(&busy.count()));
        assert_eq!(owner, Ok("me@example.org".into()));
    });
}

#[test]
fn s8_a_password_that_was_wrong_is_right_once_it_is_the_users() {
    let dir = tempfile::tempdir().expect("directory");
    actix::System::new().block_on(async {
        let auth = started(dir.path());
        let one = [192, 0, 2, 1];
        let wrong = login(&auth, one, "me@example.org", "battery staple").await;
        assert_eq!(wrong, Err(AuthError::Wrong));
        let hash = password::hash(b"battery staple").expect("hash");
        let users = format!("\"me@example.org\" = {{ password = \"{hash}\" }}\n");
        let path = dir.path().join("domains/example.org/users.toml");
        crate::config::files::replace(&path, users.as_bytes(), 0o600).expect("users");
        let identity = Identity::load(dir.path(), "").expect("identity");
        let reload = Reload(config(dir.path()), Arc::new(identity));
        auth.send(reload).await.expect("reload");
        let right = login(&auth, one, "me@example.org", "battery staple").await;
        assert_eq!(right, Ok("me@example.org".into()));
    });
}

#[test]
fn guessers_are_banned_across_restarts_until_an_operator_clears_them() {
    let dir = tempfile::tempdir().expect("directory");
    let guesser = [192, 0, 2, 1];
    actix::System::new().block_on(async {
        let auth = started(dir.path());
        for guess in ["a", "b", "c"] {
            let outcome = login(&auth, guesser, "me@example.org", guess).await;
            assert_eq!(outcome, Err(AuthError::Wrong));
        }
        let right = login(&auth, guesser, "me@example.org", "correct horse").await;
        assert_eq!(right, Err(AuthError::Banned));
        let elsewhere = login(&auth, [192, 0, 2, 2], "me@example.org", "correct horse").await;
        assert_eq!(elsewhere, Ok("me@example.org".into()));
    });
    actix::System::new().block_on(async {
        let auth = started(dir.path());
        let right = login(&auth, guesser, "me@example.org", "correct horse").await;
        assert_eq!(right, Err(AuthError::Banned));
        let data = dir.path().join("data");
        assert_eq!(bans::clear(&data, guesser.into(), 0).ok(), Some(true));
        let right = login(&auth, guesser, "me@example.org", "correct horse").await;
        assert_eq!(right, Ok("me@example.org".into()));
    });
}
