//! What `chapar setup` asks at a terminal. Each question has a flag, and is asked where nothing
//! else tells the answer.

use std::path::Path;

use chapar::lab::Named;

use crate::publish::dig;
use crate::terminal::Terminal;
use crate::world::{World, binary};

/// `chapar setup example.org` at a terminal, in the directory of a world: a lab.
fn lab(world: &World, more: &str) -> Terminal {
    Terminal::run(&format!(
        "{} setup example.org --dir {} --resolver {} {more}",
        binary().display(),
        world.dir.path().display(),
        world.dns.address()
    ))
}

/// The same for a configuration that is no lab, with all but the questions about the DNS answered.
fn host(dir: &Path, resolver: std::net::SocketAddr, more: &str) -> Terminal {
    let dir = dir.display();
    Terminal::run(&format!(
        "{} setup example.org --config {dir}/chapar.toml --data-dir {dir}/data --resolver {resolver} \
         --ip 192.0.2.1 --send-only --acme --no-start {more}",
        binary().display(),
    ))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[tokio::test(flavor = "multi_thread")]
async fn where_mail_goes_is_asked_unless_a_flag_says_so() {
    let one = World::empty().await;
    one.dns.mx("example.org", 10, "mail.other.example");
    let mut setup = lab(&one, "");
    setup.shows("Mail to example.org goes to mail.other.example now");
    let question = "Where shall mail to any address of example.org go?";
    setup.answer(question, "no address");
    setup.answer(question, "me@box.example");
    assert_eq!(setup.end().1, Some(0));
    let aliases = read(&one.dir.path().join("domains/example.org/aliases"));
    assert!(aliases.contains("*: me@box.example"), "{aliases}");

    let two = World::empty().await;
    let mut setup = lab(&two, "");
    setup.answer(question, "");
    assert_eq!(setup.end().1, Some(0));
    let domain = read(&two.dir.path().join("domains/example.org/domain.toml"));
    assert!(domain.contains("mode = \"send-only\""), "{domain}");

    for flag in ["--send-only", "--forward me@box.example", "--yes"] {
        let world = World::empty().await;
        let (out, code) = lab(&world, flag).end();
        assert_eq!(code, Some(0), "{flag}: {out}");
        assert!(!out.contains("Where shall mail"), "{flag}: {out}");
        assert!(out.contains("DNS records of example.org"), "{flag}: {out}");
    }
}

const KEEPER: &str = "Who keeps the DNS zone of example.org";

#[tokio::test(flavor = "multi_thread")]
async fn who_keeps_the_zone_is_asked_and_gets_the_records() {
    let named = Named::start(&[("example.org", "www A 192.0.2.80")])
        .await
        .expect("named; tests/run installs it");
    let dir = tempfile::tempdir().expect("directory");
    let mut setup = host(dir.path(), named.address(), "");
    setup.answer(KEEPER, "godaddy");
    setup.shows(
        "\"godaddy\" is none of rfc2136, cloudflare, hetzner, digitalocean, desec, route53, acme-dns",
    );
    setup.answer(KEEPER, "RFC2136");
    setup.answer("server: ", &named.address().to_string());
    setup.answer("key: ", Named::KEY);
    setup.answer("secret: ", Named::SECRET);
    let (out, code) = setup.end();
    assert_eq!(code, Some(0), "{out}");
    assert!(!out.contains(Named::SECRET), "a secret is not shown: {out}");
    assert!(out.contains("+ mx.example.org. A 192.0.2.1\n"), "{out}");
    assert_eq!(dig(&named, "mx.example.org", "A"), ["192.0.2.1"]);
    let config = read(&dir.path().join("chapar.toml"));
    assert!(config.contains("provider = \"rfc2136\"\n"), "{config}");
    assert!(config.contains("challenge = \"dns-01\"\n"), "{config}");

    // It is known now.
    let (out, code) = host(dir.path(), named.address(), "").end();
    assert_eq!(code, Some(0), "{out}");
    assert!(!out.contains(KEEPER), "{out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_answer_the_records_are_to_be_pasted() {
    let printed = "mx.example.org. 3600 IN A 192.0.2.1\n";
    let world = World::empty().await;
    let dir = || tempfile::tempdir().expect("directory");
    let nobody = dir();
    let mut setup = host(nobody.path(), world.dns.address(), "");
    setup.answer(KEEPER, "");
    let (out, code) = setup.end();
    assert_eq!(code, Some(0), "{out}");
    assert!(out.contains(printed), "{out}");
    assert!(!read(&nobody.path().join("chapar.toml")).contains("provider"));

    // Name servers tell it: what is asked is the token alone.
    let known = World::empty().await;
    known.dns.ns("example.org", "hydrogen.ns.hetzner.com");
    let at_hetzner = dir();
    let mut setup = host(at_hetzner.path(), known.dns.address(), "");
    setup.shows(
        "example.org is at hetzner: with credentials setup publishes the DNS records itself.",
    );
    setup.shows("hetzner wants token = \"...\": an API token with Read & Write");
    setup.answer("token: ", "");
    let (out, code) = setup.end();
    assert_eq!(code, Some(0), "{out}");
    assert!(!out.contains(KEEPER), "{out}");
    assert!(out.contains(printed), "{out}");

    // A provider that was named is not left out for an empty answer; and nothing was written.
    let named = dir();
    let mut setup = host(named.path(), world.dns.address(), "--dns desec");
    setup.answer("token: ", "");
    let (out, code) = setup.end();
    assert_eq!(code, Some(1), "{out}");
    let missing =
        "/secrets/dns/desec.toml: No such file or directory (os error 2); write into it: token = ";
    assert!(out.contains(missing), "{out}");
    assert_eq!(std::fs::read_dir(named.path()).expect("list").count(), 0);

    // --yes asks nothing, and a lab is not asked either.
    let silent = dir();
    let (out, code) = host(silent.path(), world.dns.address(), "--yes").end();
    assert_eq!(code, Some(0), "{out}");
    assert!(!out.contains(KEEPER) && out.contains(printed), "{out}");
    let (out, code) = lab(&world, "--send-only").end();
    assert_eq!(code, Some(0), "{out}");
    assert!(!out.contains(KEEPER), "{out}");
}
