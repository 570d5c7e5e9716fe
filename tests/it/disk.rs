//! A disk that is full, read-only, slow or failing, under the real binary (I7). Full is a small
//! tmpfs in a mount namespace of the daemon's own; slow and failing are system calls that strace
//! makes slow or fail.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use chapar::lab::{Client, Mx, MxConfig};
use serde_json::Value;

use crate::journey::mx;
use crate::world::{PATIENCE, USER, World, binary};

const MESSAGE: &[u8] = b"From: a@c.example.net\r\nSubject: x\r\n\r\nbody\r\n";

/// A world whose mail waits: its MX is nowhere.
async fn world(config: &str) -> World {
    let remote = Mx::start(MxConfig::default()).await.expect("MX");
    // A port that was free a moment ago.
    let nowhere = std::net::TcpListener::bind("127.0.0.1:0").expect("port");
    let port = nowhere.local_addr().expect("address").port();
    drop(nowhere);
    let world = World::new(port, config).await;
    mx(&world, "box.example", &remote).await;
    world
}

/// The daemon with these faults injected.
fn with_faults(faults: &[&str], trace: PathBuf) -> Command {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-e", "trace=fdatasync,pwrite64"]);
    for fault in faults {
        strace.args(["-e", fault]);
    }
    strace.arg("-o").arg(trace).arg(binary());
    strace
}

/// SIGKILL for the daemon itself, not for what traces it.
async fn crash(world: &mut World) {
    world.daemon().signal("KILL");
    world.stop_waiting().await;
}

/// Sends one message; the code of the answer to its data.
async fn code(client: &mut Client) -> u16 {
    let sent = client.send("", &["any@example.org"], MESSAGE).await;
    sent.expect("an answer").code
}

#[tokio::test(flavor = "multi_thread")]
async fn c102_i7_q10_after_a_sync_that_failed_nothing_is_taken_and_the_daemon_starts_afresh() {
    for fault in [
        "inject=fdatasync:error=EIO:when=4",
        "inject=pwrite64:error=EROFS:when=6",
        "inject=pwrite64:error=EIO:when=6",
    ] {
        let mut world = world("").await;
        let trace = world.dir.path().join("trace");
        world.start_with(with_faults(&[fault], trace.clone())).await;
        let mut client = world.mx().await;
        let mut codes = Vec::new();
        while codes.last() != Some(&451) {
            codes.push(code(&mut client).await);
            assert!(codes.len() < 50, "{fault} never failed: {codes:?}");
        }
        let accepted = codes.iter().filter(|code| **code == 250).count();
        assert_eq!(accepted + 1, codes.len(), "{fault}: {codes:?}");
        // The disk works again; what it did meanwhile is not known, so nothing is taken back.
        assert_eq!(code(&mut client).await, 451, "{fault}");
        let said = world
            .daemon()
            .event_containing("chapar::queue::store::shared", "read-only until a restart")
            .await;
        assert!(
            said["reason"]
                .as_str()
                .is_some_and(|why| why.contains("journal"))
        );
        // By itself: whoever started it starts it again.
        assert_eq!(world.stop_waiting().await, Some(70), "{fault}");
        world.start().await;
        let found = world.queue().len();
        // What was written and not synced may be there although it was refused.
        let unsynced = usize::from(fault.contains("fdatasync"));
        assert!(
            (accepted..=accepted + unsynced).contains(&found),
            "{fault}: {accepted} got 250, {found} are there"
        );
        let trace = std::fs::read_to_string(&trace).expect("trace");
        let mut calls = trace.lines().skip_while(|line| !line.contains("INJECTED"));
        let failed = calls.next().expect("a failed call");
        // Only the journal: the index has a thread of its own.
        let thread = failed.split(' ').next().expect("a thread");
        assert_eq!(
            calls.find(|line| line.starts_with(thread) && line.contains("write64(")),
            None,
            "{fault}: nothing is written after what failed"
        );
        let mut client = world.mx().await;
        assert_eq!(code(&mut client).await, 250, "a restart cures it");
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn i7_a_slow_disk_loses_nothing_and_one_sync_serves_many() {
    let mut world = world("").await;
    let trace = world.dir.path().join("trace");
    let slow = with_faults(&["inject=fdatasync:delay_enter=200000"], trace);
    world.start_with(slow).await;
    let begun = std::time::Instant::now();
    let server = world.daemon().port("mx/starttls");
    let clients: Vec<_> = (0..20)
        .map(|_| {
            tokio::spawn(async move {
                let mut client = Client::connect(server).await.expect("connect");
                client.reply().await.expect("greeting");
                client
                    .expect("EHLO c.example.net", 250)
                    .await
                    .expect("EHLO");
                for _ in 0..2 {
                    assert_eq!(code(&mut client).await, 250);
                }
            })
        })
        .collect();
    for client in clients {
        client.await.expect("client");
    }
    // One by one the 40 syncs alone would take 8 seconds.
    assert!(
        begun.elapsed() < Duration::from_secs(6),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(world.queue().len(), 40);
    crash(&mut world).await;
    world.start().await;
    assert_eq!(world.queue().len(), 40);
    world.stop().await;
}

/// The daemon with a tmpfs of its own at `place`, and a shell beside it that does what a file
/// `order` says: whoever is outside of the namespace sees neither the disk nor the control socket.
fn on_tmpfs(world: &World, place: &Path, options: &str) -> Option<Command> {
    let can = Command::new("unshare").args(["-rm", "true"]).status();
    if !can.is_ok_and(|status| status.success()) {
        // A kernel that lets nobody mount: the same limits are tested in tests/store/space.rs.
        eprintln!("no mount namespaces here");
        return None;
    }
    std::fs::create_dir_all(place).expect("a directory");
    let root = world.dir.path().display().to_string();
    let place = place.display();
    let script = format!(
        "mount -t tmpfs -o {options},mode=700 tmpfs {place} || exit 1
         ( cd {root}
           while [ -e chapar.toml ]; do
             if [ -e order ]; then sh order >out 2>&1; mv order done; fi
             sleep 0.05
           done ) 2>/dev/null >/dev/null </dev/null &
         exec {} \"$@\"",
        binary().display()
    );
    let mut command = Command::new("unshare");
    command.args(["-rm", "sh", "-c", &script, "sh"]);
    Some(command)
}

/// Runs this beside the daemon; what it printed.
async fn beside(world: &World, order: &str) -> String {
    let root = world.dir.path();
    let (done, new) = (root.join("done"), root.join("order.new"));
    let _ = std::fs::remove_file(&done);
    std::fs::write(&new, order).expect("order");
    std::fs::rename(&new, root.join("order")).expect("order");
    let until = tokio::time::Instant::now() + PATIENCE;
    while !done.exists() {
        assert!(tokio::time::Instant::now() < until, "nobody did {order}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    std::fs::read_to_string(root.join("out")).expect("output")
}

/// The same for `mta-queue`.
async fn queue(world: &World, arguments: &str) -> String {
    let config = world.config().display().to_string();
    let order = format!("{} queue {arguments} --config {config}", binary().display());
    beside(world, &order).await
}

/// What is in the queue once it is what `done` asks for.
async fn listed(world: &World, done: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let text = queue(world, "list --json").await;
        let lines = text.lines();
        let all: Vec<Value> = lines
            .map(|line| serde_json::from_str(line).expect(line))
            .collect();
        if done(&all) {
            return all;
        }
        assert!(tokio::time::Instant::now() < deadline, "{text}");
    }
}

/// Sends messages until one gets this code, for as long as the daemon may take to notice.
async fn until(client: &mut Client, wanted: u16) -> usize {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut accepted = 0;
    loop {
        let code = code(client).await;
        accepted += usize::from(code == 250);
        if code == wanted {
            return accepted;
        }
        assert!([250, 452].contains(&code), "{code}");
        assert!(tokio::time::Instant::now() < deadline, "no {wanted}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn full(options: &str, fill: &str, config: &str) {
    let mut world = world(config).await;
    let data = world.data().display().to_string();
    let fill = fill.replace("DATA", &data);
    let Some(command) = on_tmpfs(&world, &world.data(), options) else {
        return;
    };
    world.start_with(command).await;
    let mut client = world.mx().await;
    assert_eq!(code(&mut client).await, 250);
    let mut accepted = 1;
    for _ in 0..2 {
        beside(&world, &fill).await;
        accepted += until(&mut client, 452).await;
        // It is refused; operators' orders and outcomes are not.
        assert_eq!(code(&mut client).await, 452);
        let held = queue(&world, "hold all").await;
        assert_eq!(
            held,
            match accepted {
                1 => "1 recipient held\n".to_owned(),
                more => format!("{more} recipients held\n"),
            }
        );
        queue(&world, "release all").await;
        beside(&world, &format!("rm -rf {data}/filler")).await;
        // By itself.
        accepted += until(&mut client, 250).await;
    }
    let listed = queue(&world, "list --json").await;
    assert_eq!(listed.lines().count(), accepted, "{listed}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c102_fault_06_i7_a_full_disk_answers_452_and_takes_mail_again_by_itself() {
    full(
        "size=160m",
        "fallocate -l 60m DATA/filler",
        "[limits]\nfree_space = \"50MiB\"\nfree_inodes = 0\n",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c102_i7_a_disk_without_inodes_answers_452_and_takes_mail_again_by_itself() {
    full(
        "size=160m,nr_inodes=3000",
        "mkdir -p DATA/filler && (cd DATA/filler && seq 2400 | xargs touch)",
        "[limits]\nfree_space = \"1MiB\"\nfree_inodes = 1000\n",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c102_i7_a_read_only_disk_stops_the_start_with_words_that_help() {
    let world = world("").await;
    let data = world.data();
    std::fs::create_dir_all(&data).expect("data");
    let script = format!(
        "mount -t tmpfs -o ro tmpfs {} || exit 75; exec {} serve --config {}",
        data.display(),
        binary().display(),
        world.config().display()
    );
    let output = Command::new("unshare")
        .args(["-rm", "sh", "-c", &script])
        .output()
        .expect("unshare");
    if output.status.code() == Some(75)
        || String::from_utf8_lossy(&output.stderr).contains("unshare")
    {
        eprintln!("no mount namespaces here");
        return;
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(69), "{said}");
    assert!(
        said.contains("Read-only file system") && said.contains("data"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mailbox_on_a_full_disk_defers_and_nothing_of_it_is_left_there() {
    let mut world = world("").await;
    let place = world.dir.path().join("boxes");
    let Some(command) = on_tmpfs(&world, &place, "size=2m") else {
        return;
    };
    let config = std::fs::read_to_string(world.config()).expect("configuration");
    let boxes = place.display();
    let route = format!("\n[[route]]\nto = \"box.example\"\nvia = \"maildir:{boxes}/{{local}}\"\n");
    std::fs::write(world.config(), config + &route).expect("written");
    world.start_with(command).await;
    let text = "From: me@example.org\r\nSubject: x\r\n\r\n";
    let large = format!("{text}{}", "0123456789 and so on.\r\n".repeat(150_000));
    for (message, to) in [
        (text, "a@box.example"),
        (&large, "a@box.example"),
        (text, "b@box.example"),
    ] {
        let mut user = world.user().await;
        let reply = user
            .send(USER, &[to], message.as_bytes())
            .await
            .expect("a reply");
        assert_eq!(reply.code, 250, "{reply:?}");
    }
    let left = listed(&world, |left| left.len() == 1 && left[0]["attempts"] == 1).await;
    let reply = left[0]["last_reply"].as_str().expect("a reply");
    assert!(
        reply.starts_with("452 4.3.1 the mailbox can not be written: "),
        "{reply}"
    );
    let count = format!("cd {boxes}; ls a/tmp | wc -l; ls a/new | wc -l; ls b/new | wc -l");
    assert_eq!(beside(&world, &count).await, "0\n1\n1\n");
    beside(&world, &format!("mount -o remount,size=16m {boxes}")).await;
    queue(&world, "replay all").await;
    listed(&world, <[Value]>::is_empty).await;
    assert_eq!(beside(&world, &count).await, "0\n2\n1\n");
    world.stop().await;
}
