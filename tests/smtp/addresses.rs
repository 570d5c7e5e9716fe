//! The 164 addresses of the is_email suite, each with our verdict.
//!
//! The suite judges by RFC 5322 too; an envelope is RFC 5321's alone, so comments, folding white
//! space and obsolete forms are no addresses here. Where our verdict is not the one its category
//! calls for, the reason stands in [`OTHERWISE`].

use chapar::smtp::address::Address;

struct Case {
    id: u32,
    address: String,
    category: String,
}

/// What is judged otherwise than by its category: the test's number, our verdict, the reason.
const OTHERWISE: &[(u32, bool, &str)] = &[
    (
        26,
        true,
        "R5: 65 octets, which a receiver that can handle them should not refuse (RFC 5321 4.5.3.1)",
    ),
    (59, true, "R5: the same, quoted"),
    (
        60,
        true,
        "65 octets as written, 64 once the backslash is gone, which is what travels on",
    ),
    (
        71,
        true,
        ":: for one group is no RFC 5321 literal, but every IPv6 library writes and reads it",
    ),
];

fn cases() -> Vec<Case> {
    let text = include_str!("../corpora/address/isemail-tests.xml");
    text.split("<test id=\"")
        .skip(1)
        .map(|test| {
            let (id, rest) = test.split_once('"').expect("an id");
            Case {
                id: id.parse().expect("a number"),
                address: element(rest, "address").map(unescape).unwrap_or_default(),
                category: element(rest, "category").expect("a category").to_owned(),
            }
        })
        .collect()
}

fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    rest.split_once(&format!("</{name}>"))
        .map(|(inner, _)| inner)
}

fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('&') {
        out.push_str(before);
        let (name, tail) = after.split_once(';').expect("an entity");
        out.push(match name {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            _ => {
                let code = name.strip_prefix("#x").expect("a number");
                let code = u32::from_str_radix(code, 16).expect("hexadecimal");
                char::from_u32(code).expect("a character")
            }
        });
        rest = tail;
    }
    out.push_str(rest);
    out.chars()
        .map(|c| match c {
            '\u{2400}'..='\u{2420}' => char::from_u32(u32::from(c) - 0x2400).expect("a control"),
            other => other,
        })
        .collect()
}

#[test]
fn each_address_has_our_verdict() {
    let cases = cases();
    assert_eq!(cases.len(), 164);
    let mut surprises = Vec::new();
    for case in cases {
        let by_category = matches!(
            case.category.as_str(),
            "ISEMAIL_VALID_CATEGORY" | "ISEMAIL_DNSWARN" | "ISEMAIL_RFC5321"
        );
        let exception = OTHERWISE.iter().find(|(id, _, _)| *id == case.id);
        let expected = exception.map_or(by_category, |(_, verdict, _)| *verdict);
        assert!(
            exception.is_none_or(|(_, verdict, _)| *verdict != by_category),
            "{} needs no exception",
            case.id
        );
        let got = Address::parse(case.address.as_bytes());
        if got.is_ok() != expected {
            surprises.push(format!(
                "{} {:?} ({}): {got:?}",
                case.id, case.address, case.category
            ));
        }
    }
    assert!(surprises.is_empty(), "{}", surprises.join("\n"));
}
