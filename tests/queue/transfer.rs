//! Messages that move between queues: export, import, and from Postfix.

use std::os::unix::fs::PermissionsExt;

use chapar::message::Body;
use chapar::queue::Fetch;
use queue_schema::Status;

use crate::support::*;
use crate::tool::{command, fails, objects, words};

fn slow(config: &mut chapar::config::Config) {
    config.retry.first = "1h".parse().unwrap();
}

async fn bytes_of(world: &World, id: queue_schema::QueueId) -> Vec<u8> {
    let all = world.messages().await;
    let message = all.iter().find(|message| message.id == id).unwrap();
    let location = message.location.clone();
    let fetch = Fetch { id, location };
    let content = world.handle().addr.send(fetch).await.unwrap().unwrap();
    let body = match &content.body {
        Body::Memory(bytes) => bytes.to_vec(),
        Body::Spool(file) => std::fs::read(&*file.path).unwrap(),
    };
    [&content.head[..], &body].concat()
}

#[actix::test]
async fn messages_move_to_another_queue_with_all_that_is_known_of_them() {
    let mut from = World::start(slow).await;
    let control = chapar::control::start(&from.config.data_dir, from.handle().clone()).unwrap();
    let small = from.accept(&["b@example.net", "c@example.com"]).await;
    let job = from.job().await;
    from.report_of(&job, &[0], deferred(true), 450).await;
    let done = chapar::queue::Outcome::Delivered;
    from.report_of(&job, &[1], done, 250).await;
    let large_body: Vec<u8> = b"0123456789abcde\r\n".repeat(40_000);
    let body = large_body.clone();
    let large = from
        .accept_with(&["d@example.net"], move |accept| {
            accept.content.body = Body::Memory(body.into());
        })
        .await;
    let job = from.job().await;
    from.report(&job, deferred(true), 450).await;
    from.until("both are deferred", |all| {
        all.len() == 2 && all.iter().all(|one| one.states[0].attempts == 1)
    })
    .await;
    let before = from.messages().await;

    let dir = from.data("../moved").display().to_string();
    fails(&from, &["export", &dir], 64, "say which").await;
    let told = words(&from, &["export", &dir, "all"]).await;
    assert!(told.starts_with("2 messages written to "), "{told}");
    assert_eq!(from.messages().await.len(), 2, "they stay");
    let eml = std::fs::read(format!("{dir}/{small}.eml")).unwrap();
    assert_eq!(eml, b"Subject: hello\r\n\r\nthe body\r\n");
    let mode = std::fs::metadata(format!("{dir}/{small}.eml")).unwrap();
    assert_eq!(mode.permissions().mode() & 0o777, 0o600);

    let told = words(&from, &["export", &dir, "all", "--remove"]).await;
    assert!(told.contains("removed from this queue"), "{told}");
    from.until("they are gone", |all| all.is_empty()).await;

    // Into a daemon that runs, and into a store that no daemon uses.
    for running in [true, false] {
        let mut to = World::start(slow).await;
        let control = chapar::control::start(&to.config.data_dir, to.handle().clone()).unwrap();
        if !running {
            drop(control);
            to.stop().await;
            to.no_daemon();
        }
        let dry = words(&to, &["import", &dir, "--dry-run"]).await;
        assert!(dry.ends_with("2 messages would be imported\n"), "{dry}");
        let taken = objects(&to, &["import", &dir, "--json"]).await;
        assert_eq!(taken.len(), 2);
        assert_eq!(taken[0]["was"], small.to_string());
        if !running {
            to.open().await;
            to.connect().await;
        }
        let after = to.messages().await;
        assert_eq!(after.len(), 2);
        for (old, new) in before.iter().zip(&after) {
            assert_ne!(old.id, new.id);
            assert_eq!(old.envelope, new.envelope);
            assert_eq!(old.arrived, new.arrived);
            assert_eq!(old.states, new.states, "attempts, due times, replies, ends");
            assert_eq!(old.origin, new.origin);
            assert!(
                !new.states.iter().any(|state| state.is_held(new.arrived)),
                "it was not held when it was exported"
            );
        }
        assert_eq!(bytes_of(&to, after[0].id).await, eml);
        let expected = [&b"Subject: hello\r\n\r\n"[..], &large_body].concat();
        assert_eq!(bytes_of(&to, after[1].id).await, expected);
        let control = chapar::control::start(&to.config.data_dir, to.handle().clone()).unwrap();
        to.no_job().await;
        words(&to, &["replay", "all"]).await;
        let job = to.job().await;
        assert_eq!(job.recipients, [0], "the other was delivered there");
        drop(control);
        to.stop().await;
    }
    let _ = large;
    drop(control);
    from.stop().await;
}

#[actix::test]
async fn files_that_make_no_sense_are_refused_and_cost_nothing() {
    let mut world = World::start(slow).await;
    let _control = chapar::control::start(&world.config.data_dir, world.handle().clone()).unwrap();
    world.accept(&["b@example.net"]).await;
    world.job().await;
    let dir = world.data("../moved");
    let name = dir.display().to_string();
    fails(&world, &["import", "/nowhere/at/all"], 74, "/nowhere").await;
    words(&world, &["export", &name, "all"]).await;
    let json = std::fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().unwrap() == "json")
        .unwrap();
    let good = std::fs::read_to_string(&json).unwrap();
    for (from, to, says) in [
        ("\"format\": 1", "\"format\": 2", "format"),
        ("b@example.net", "no address", "no address"),
        ("\"Waiting\"", "\"Delivered\"", "every recipient has ended"),
        (
            "\"states\": [",
            "\"states\": [], \"was\": [",
            "unknown field",
        ),
        ("{", "{{", "line 1"),
    ] {
        assert!(good.contains(from), "{good}");
        std::fs::write(&json, good.replace(from, to)).unwrap();
        let output = crate::tool::tool(&world, &["import", &name]).await;
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(
            !output.status.success() && error.contains(says),
            "{says}: {error}"
        );
    }
    assert_eq!(world.messages().await.len(), 1);
    world.stop().await;
}

#[actix::test]
async fn a_postfix_queue_is_read_through_its_own_tools() {
    let mut world = World::start(slow).await;
    let _control = chapar::control::start(&world.config.data_dir, world.handle().clone()).unwrap();
    let bin = world.data("../bin");
    std::fs::create_dir_all(&bin).unwrap();
    let script = |name: &str, text: &str| {
        let path = bin.join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{text}")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    // As Postfix 3.7 prints them.
    script(
        "postqueue",
        r#"[ "$1" = -j ] || exit 64
cat <<'END'
{"queue_name": "deferred", "queue_id": "4Fsw2T1bYwz1c", "arrival_time": 1700000000, "message_size": 312, "forced_expire": false, "sender": "a@example.org", "recipients": [{"address": "b@example.net", "delay_reason": "host mx.example.net[192.0.2.1] said: 450 4.2.0 greylisted (in reply to RCPT TO command)"}, {"address": "c@example.com", "delay_reason": "connect to mx.example.com[192.0.2.2]:25: Connection refused"}]}
{"queue_name": "hold", "queue_id": "5AB12", "arrival_time": 1700000100, "message_size": 20, "forced_expire": false, "sender": "MAILER-DAEMON", "recipients": [{"address": "d@example.net"}]}
{"queue_name": "active", "queue_id": "6GONE", "arrival_time": 1700000100, "message_size": 20, "forced_expire": false, "sender": "x@example.org", "recipients": [{"address": "e@example.net"}]}
END
"#,
    );
    script(
        "postcat",
        r#"if [ "$1 $2" = "-e -q" ]; then
    printf 'sender: a@example.org\nnamed_attribute: envelope_id=QQ314159\nnamed_attribute: ret_flags=1\n'
    printf 'named_attribute: notify_flags=2\nrecipient: b@example.net\nrecipient: c@example.com\n'
    exit 0
fi
[ "$1 $2 $3" = "-h -b -q" ] || exit 64
case $4 in
4Fsw2T1bYwz1c) printf 'Received: by old.example.org\nSubject: h\303\251\n\nfirst\n.second\n' ;;
5AB12) printf 'Subject: a notice\n\nbody\n' ;;
*) echo "postcat: fatal: open queue file $4: No such file or directory" >&2; exit 1 ;;
esac
"#,
    );
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let mut import = command(&world, &["import", "postfix"]);
    import.env("PATH", path);
    let output = tokio::task::spawn_blocking(move || import.output())
        .await
        .unwrap()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{error}");
    assert!(
        said.contains("2 messages imported") && said.contains("postsuper -d"),
        "{said}"
    );
    assert!(error.contains("6GONE left Postfix meanwhile"), "{error}");
    let all = world.messages().await;
    let [first, second] = &all[..] else {
        panic!("two messages: {all:?}")
    };
    assert_eq!(first.envelope.envid.as_deref(), Some("QQ314159"));
    assert_eq!(first.envelope.ret, Some(queue_schema::Ret::Full));
    let notify = first.envelope.recipients[0].notify;
    assert!(notify.success && !notify.failure && !notify.delay);
    assert!(first.envelope.recipients[1].notify.failure);
    assert_eq!(first.envelope.reverse_path, "a@example.org");
    assert_eq!(first.arrived, 1_700_000_000_000);
    assert_eq!(first.envelope.body, queue_schema::BodyKind::EightBit);
    let reply = first.states[0].last_reply.clone().unwrap();
    assert_eq!(
        (reply.code, reply.remote.as_str()),
        (450, "mx.example.net[192.0.2.1]")
    );
    assert_eq!(
        bytes_of(&world, first.id).await,
        b"Received: by old.example.org\r\nSubject: h\xc3\xa9\r\n\r\nfirst\r\n.second\r\n"
    );
    assert_eq!(second.envelope.reverse_path, "");
    assert!(second.states[0].is_held(second.arrived));
    assert!(!first.states[0].is_held(first.arrived));
    assert!(
        first
            .states
            .iter()
            .all(|state| state.status == Status::Waiting)
    );
    let job = world.job().await;
    assert_eq!(
        (job.message.id, &job.recipients[..]),
        (first.id, &[0, 1][..])
    );
    world.no_job().await;
    world.stop().await;
}
