//! Addresses rewritten and read back, by us and by those who mean no good.

use super::*;

fn address(text: &str) -> Address {
    Address::parse(text.as_bytes()).expect("address")
}

fn back(keys: &Keys, text: &str, day: u64) -> Option<Address> {
    keys.reverse(&Address::parse(text.as_bytes()).ok()?, day, 21, &|_| None)
}

#[test]
fn a_bounce_comes_home() {
    let keys = Keys::new(["a key of sixteen bytes or more"]);
    let sender = address("Bounce-AbC=x@src.example");
    let rewritten = keys.rewrite(&sender, "ours.example", 20_000).address;
    assert!(
        rewritten.starts_with("SRS0=")
            && rewritten.ends_with("=src.example=Bounce-AbC=x@ours.example"),
        "{rewritten}"
    );
    for day in [19_999, 20_000, 20_021] {
        assert_eq!(back(&keys, &rewritten, day), Some(sender.clone()));
    }
    // Case is lost on the way.
    for changed in [rewritten.to_lowercase(), rewritten.to_uppercase()] {
        let home = back(&keys, &changed, 20_000).expect("address");
        assert!(
            home.as_str().eq_ignore_ascii_case(sender.as_str()),
            "{home}"
        );
    }
    for day in [20_022, 20_060, 19_990] {
        assert_eq!(back(&keys, &rewritten, day), None, "{day}");
    }
}

#[test]
fn c166_nothing_else_is_taken() {
    let keys = Keys::new(["a key of sixteen bytes or more"]);
    let good = keys
        .rewrite(&address("a@src.example"), "ours.example", 20_000)
        .address;
    let other = if good.get(5..6) == Some("a") {
        "b"
    } else {
        "a"
    };
    for bad in [
        format!("SRS0={other}{}", good.get(6..).expect("text")),
        format!("SRS0={}", good.get(12..).expect("text")),
        good.replace("src.example", "evil.example"),
        good.replace("SRS0=", "SRS1="),
        good.replace("=a@", "=b@"),
        good.replace("ours.example", "also-ours.example"),
        "SRS0=@ours.example".to_owned(),
        "SRS0=====@ours.example".to_owned(),
        "SRS0=a=b=c=d@ours.example".to_owned(),
        "SRS1=aaaaaaaa=b==c@ours.example".to_owned(),
        "SRS@ours.example".to_owned(),
        format!("SRS0={}@ours.example", "x".repeat(2000)),
    ] {
        assert_eq!(back(&keys, &bad, 20_000), None, "{bad}");
    }
    // Another separator is read as ours: systems change it, the hash holds all the same.
    let plus = good.replacen('=', "+", 1);
    assert_eq!(back(&keys, &plus, 20_000), Some(address("a@src.example")));
}

#[test]
fn keys_rotate() {
    let old = Keys::new(["the old key, long enough"]);
    let new = Keys::new(["the new key, long enough", "the old key, long enough"]);
    let gone = Keys::new(["the new key, long enough"]);
    let sender = address("a@src.example");
    let rewritten = old.rewrite(&sender, "ours.example", 5).address;
    assert_eq!(back(&new, &rewritten, 5), Some(sender.clone()));
    assert_eq!(back(&gone, &rewritten, 5), None);
    let rewritten = new.rewrite(&sender, "ours.example", 5).address;
    assert_eq!(back(&gone, &rewritten, 5), Some(sender));
}

#[test]
fn two_forwarders_and_more() {
    let (first, second, third) = (
        Keys::new(["the key of the first one"]),
        Keys::new(["the key of the second one"]),
        Keys::new(["the key of the third one"]),
    );
    let sender = address("a@src.example");
    let one = first.rewrite(&sender, "one.example", 5).address;
    let two = second.rewrite(&address(&one), "two.example", 5).address;
    assert!(
        two.starts_with("SRS1=") && two.contains("=one.example=="),
        "{two}"
    );
    let three = third.rewrite(&address(&two), "three.example", 5).address;
    assert!(
        three.contains("=one.example==") && !three.contains("two.example"),
        "{three}"
    );
    // The third leads to the first at once, whose hash and date are whole.
    let home = back(&third, &three, 5).expect("address");
    assert_eq!(home.as_str(), one);
    let home = back(&second, &two, 5).expect("address");
    assert_eq!(back(&first, home.as_str(), 5), Some(sender));
}

#[test]
fn r16_no_local_part_is_longer_than_64_octets_and_each_leads_back() {
    let keys = Keys::new(["a key of sixteen bytes or more"]);
    let long = format!("{}@{}.example", "a".repeat(60), "b.".repeat(80) + "c");
    for sender in [
        format!("{}@src.example", "a".repeat(58)),
        long,
        format!("SRS0=abcd=ef={}.example=x@fwd.example", "c".repeat(50)),
        "\"john doe\"@src.example".to_owned(),
        "j\u{fc}rgen@src.example".to_owned(),
    ] {
        let sender = Address::parse_in(sender.as_bytes(), Charset::Utf8).expect("address");
        let rewritten = keys.rewrite(&sender, "ours.example", 5);
        let key = rewritten.short.clone().expect("a short form");
        let address = address(&rewritten.address.to_lowercase());
        assert!(
            address.local().len() <= 64 && is_srs(address.local()),
            "{address}"
        );
        let known = |asked: &str| (asked == key).then(|| sender.to_string());
        assert_eq!(keys.reverse(&address, 26, 21, &known), Some(sender.clone()));
        assert_eq!(keys.reverse(&address, 27, 21, &known), None, "too old");
        assert_eq!(keys.reverse(&address, 5, 21, &|_| None), None, "forgotten");
        assert_eq!(keys.rewrite(&sender, "ours.example", 5), rewritten);
    }
    let fits = keys.rewrite(&address("a@src.example"), "ours.example", 5);
    assert_eq!(fits.short, None);
}

#[test]
fn r17_only_what_has_the_form_of_srs_is_srs() {
    for local in [
        "SRS0=aaaaaaaa=bc=src.example=a",
        "srs0+hash=bc=d=e=f",
        "SRS1=aaaa=one.example==h=t=d=l",
    ] {
        assert!(is_srs(local), "{local}");
    }
    for local in [
        "srs0-info",
        "SRS0=x",
        "srs1-a=b",
        "srs0",
        "srs0=a=b",
        "srs1=a=b=c",
        "SRS0=a=long=c",
    ] {
        assert!(!is_srs(local), "{local}");
    }
}

#[test]
fn the_key_file_is_made_and_guarded() {
    let dir = tempfile::tempdir().expect("directory");
    let one = Keys::load(dir.path()).expect("keys");
    let path = dir.path().join("secrets/srs.key");
    let mode = fs::metadata(&path).expect("file").permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let two = Keys::load(dir.path()).expect("keys");
    let sender = address("a@src.example");
    let rewritten = one.rewrite(&sender, "ours.example", 5).address;
    assert_eq!(back(&two, &rewritten, 5), Some(sender));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("mode");
    assert!(matches!(
        Keys::load(dir.path()),
        Err(KeysError::Exposed { mode: 0o644, .. })
    ));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("mode");
    fs::write(&path, "# only this\nshort\n").expect("write");
    let error = Keys::load(dir.path()).map(|_| ()).expect_err("too short");
    assert!(error.to_string().contains("srs.key:2:"), "{error}");
}
