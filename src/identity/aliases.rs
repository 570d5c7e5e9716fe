//! The `aliases` file of a domain: `name: target, target`, one name a line.
//!
//! `#` begins a comment at the start of a line or after white space. A name is a local part in any
//! case, or `*` for every address that is neither an alias nor a plus-address of one. A target is
//! an address, a local part of the same domain, `*@other` for the same local part elsewhere,
//! `| PROGRAM ARGUMENT ...` and what else [`Via::of_address`] knows, in which double quotes keep
//! spaces and commas; `!discard`, or `!reject TEXT`, which stands alone: its text goes on to the
//! end of the line.

use std::collections::BTreeMap;

use super::address;
use crate::config::routes::Via;

/// One line that says something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Its line, from 1.
    pub(crate) line: usize,
    /// The local part in lower case, or `*`.
    pub(crate) name: String,
    /// Addresses, each with its domain in lower case.
    pub(crate) targets: Vec<String>,
}

/// What is wrong on which line.
pub(crate) type Fault = (usize, String);

/// The entries of `text`, the file of `domain`, in its order.
pub(crate) fn parse(text: &str, domain: &str) -> Result<Vec<Entry>, Fault> {
    if text.starts_with('\u{feff}') {
        let why = "the file begins with a byte order mark (BOM); save it as UTF-8 without one";
        return Err((1, why.into()));
    }
    let mut lines: BTreeMap<String, usize> = BTreeMap::new();
    let mut entries = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        let Some((name, targets)) = parse_line(line, domain).map_err(|why| (number, why))? else {
            continue;
        };
        if let Some(first) = lines.insert(name.clone(), number) {
            return Err((
                number,
                format!("'{name}' already stands on line {first}; put all its targets on one line"),
            ));
        }
        entries.push(Entry {
            line: number,
            name,
            targets,
        });
    }
    Ok(entries)
}

/// The part of `line` before its comment.
pub(crate) fn without_comment(line: &str) -> &str {
    let mut before = None;
    for (at, c) in line.char_indices() {
        if c == '#' && before.is_none_or(char::is_whitespace) {
            return line.get(..at).unwrap_or(line);
        }
        before = Some(c);
    }
    line
}

/// What a target means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind<'a> {
    /// An address.
    Address(&'a str),
    /// The same local part at this domain.
    SameAt(&'a str),
    /// The message is thrown away.
    Discard,
    /// It is refused, with this text.
    Reject(&'a str),
    /// A program, a directory, a server that speaks LMTP: what [`Via::of_address`] reads.
    Here(&'a str),
}

/// What a client is told where `!reject` has no text.
const REJECTED: &str = "This address takes no mail";

impl<'a> Kind<'a> {
    /// Of a target that [`target`] made.
    pub(crate) fn of(target: &'a str) -> Kind<'a> {
        if let Some(domain) = target.strip_prefix("*@") {
            return Kind::SameAt(domain);
        }
        if Via::of_address(target).is_some() {
            return Kind::Here(target);
        }
        match target.strip_prefix('!') {
            Some("discard") => Kind::Discard,
            Some(reject) => match reject.strip_prefix("reject").map(str::trim) {
                Some("") => Kind::Reject(REJECTED),
                Some(text) => Kind::Reject(text),
                None => Kind::Address(target),
            },
            None => Kind::Address(target),
        }
    }
}

/// A target as it is kept: with a domain in lower case and A-labels; a program as `pipe:`.
pub(crate) fn target(text: &str, domain: &str) -> Result<String, String> {
    match text.chars().next() {
        None => return Err("a target is empty; write name: user@example.org".into()),
        Some('|') => {
            return here(&format!(
                "pipe:{}",
                text.trim_start_matches(['|', ' ', '\t'])
            ));
        }
        Some('/' | ':' | '"') => {
            return Err(format!(
                "'{text}' is neither an address nor a local part; a directory is written \
                 maildir:/path, a program | /path, and lists in files there are none"
            ));
        }
        Some('*') => {
            let domain = text.strip_prefix("*@").map(str::to_ascii_lowercase);
            return match domain.filter(|domain| address::is_domain(domain)) {
                Some(domain) => Ok(format!("*@{domain}")),
                None => Err(format!(
                    "'{text}' has a wildcard; write a whole address, or *@DOMAIN"
                )),
            };
        }
        Some('!') => {
            let reject = text.strip_prefix("!reject");
            let well = text == "!discard"
                || reject.is_some_and(|rest| {
                    rest.is_empty() || rest.starts_with(' ') && !rest.contains(char::is_control)
                });
            return match well {
                true => Ok(text.to_owned()),
                false => Err(format!(
                    "'{text}' is no target; write !discard or !reject TEXT"
                )),
            };
        }
        Some(_) => {}
    }
    if Via::of_address(text).is_some() {
        return here(text);
    }
    let (local, full) = match text.rsplit_once('@') {
        Some((local, domain)) => (local, address::to_a_labels(domain).unwrap_or_default()),
        None => (text, domain.to_owned()),
    };
    if !address::is_local_part(local) || !address::is_own_domain(&full) {
        return Err(format!(
            "'{text}' is no target; write an address or a local part of {domain}"
        ));
    }
    Ok(format!("{local}@{full}"))
}

/// A target on this machine, checked.
fn here(text: &str) -> Result<String, String> {
    Via::parse(text).map_err(|why| {
        let why = why.split(';').next().unwrap_or_default();
        let why = why.replacen("via = ", "target ", 1);
        format!(
            "{why}; write | /usr/local/bin/command argument, maildir:/var/mail/{{domain}}/{{local}}, \
             lmtp:/run/dovecot/lmtp or discard:"
        )
    })?;
    // In the file it would be two, or end there.
    if split_targets(text).count() != 1 || without_comment(text) != text {
        return Err(format!(
            "'{text}' holds a comma outside quotes or a # after a space; write \"a, b\" for one \
             argument with a comma"
        ));
    }
    Ok(text.to_owned())
}

/// The targets between commas; a comma in double quotes, or after a backslash in a target on this
/// machine, parts nothing.
pub(crate) fn split_targets(text: &str) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |c| {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => quoted = !quoted,
            ',' => return !quoted,
            _ => {}
        }
        false
    })
}

/// A name as it is kept.
pub(crate) fn name(text: &str, domain: &str) -> Result<String, String> {
    if text == "*" || (address::is_local_part(text) && !text.contains('*')) {
        return Ok(address::fold(text));
    }
    Err(match text.rsplit_once('@') {
        Some(("", other)) if address::to_a_labels(other).as_deref() == Some(domain) => format!(
            "'{text}' means every address of {domain}; write * for those that are no alias: \
             *: user@example.org"
        ),
        Some((local, other)) if address::to_a_labels(other).as_deref() == Some(domain) => {
            format!("'{text}' has a domain; write only '{local}'")
        }
        Some((_, other)) => format!("'{text}' belongs into the aliases file of {other}"),
        None => format!("'{text}' is no local part; write name: user@example.org"),
    })
}

fn parse_line(line: &str, domain: &str) -> Result<Option<(String, Vec<String>)>, String> {
    let line = without_comment(line).trim();
    if line.is_empty() {
        return Ok(None);
    }
    let (left, right) = line
        .split_once(':')
        .ok_or_else(|| format!("'{line}' has no colon; write name: user@example.org"))?;
    let mut targets: Vec<String> = Vec::new();
    let whole = right.trim().starts_with("!reject").then_some(right);
    for text in whole
        .into_iter()
        .chain(split_targets(right).filter(|_| whole.is_none()))
    {
        let target = target(text.trim(), domain)?;
        if whole.is_none() && matches!(Kind::of(&target), Kind::Reject(_)) {
            return Err("!reject stands alone; remove the other targets".into());
        }
        if !targets.contains(&target) {
            targets.push(target);
        }
    }
    Ok(Some((name(left.trim(), domain)?, targets)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_entries() {
        let text = "# ours\n\nInfo:  a@Example.ORG ,b , b  # both\r\n*: me@gmail.example\na#b: c@d#e.example\n";
        let error = parse(text, "example.org");
        assert!(error.is_err_and(|(line, _)| line == 5));
        let text = text
            .rsplit_once("a#b")
            .map(|(before, _)| before)
            .unwrap_or_default();
        assert_eq!(
            parse(text, "example.org"),
            Ok(vec![
                Entry {
                    line: 3,
                    name: "info".into(),
                    targets: vec!["a@example.org".into(), "b@example.org".into()]
                },
                Entry {
                    line: 4,
                    name: "*".into(),
                    targets: vec!["me@gmail.example".into()]
                },
            ])
        );
    }

    #[test]
    fn mistakes_name_line_and_remedy() {
        for (text, line, remedy) in [
            ("a b@c", 1, "has no colon"),
            ("\na:", 2, "a target is empty"),
            ("a: b,,c", 1, "a target is empty"),
            ("a: | cmd", 1, "full path of a program"),
            ("a: |", 1, "full path of a program"),
            ("a: | /bin/cmd \"x", 1, "quote without its end"),
            ("a: :include:/list", 1, "there are none"),
            ("a: /var/mail/a", 1, "maildir:/path"),
            ("a: maildir:var/mail", 1, "no absolute path"),
            ("a: lmtp:sock", 1, "lmtp://host:port"),
            ("a: discard:x", 1, "of no kind"),
            ("*: *@", 1, "wildcard"),
            ("a: !drop", 1, "!discard or !reject"),
            ("a: b, !reject x", 1, "stands alone"),
            ("a@example.org: b", 1, "write only 'a'"),
            (
                "a@example.net: b",
                1,
                "belongs into the aliases file of example.net",
            ),
            ("a b: c", 1, "no local part"),
            ("a*: c", 1, "no local part"),
            ("a: b@", 1, "no target"),
            ("a: b c@example.org", 1, "no target"),
            ("a: b\n#\nA: c", 3, "already stands on line 1"),
        ] {
            let fault = parse(text, "example.org").expect_err(text);
            assert_eq!(fault.0, line, "{text}");
            assert!(fault.1.contains(remedy), "{text}: {}", fault.1);
        }
    }

    #[test]
    fn targets_on_this_machine() {
        let text = "a: |/bin/cmd  \"x, y\" z, b\nm: maildir:/m/{local}, lmtp:/run/lmtp, discard:\n\
                    \u{dc}: \u{fc}@B\u{fc}cher.example\n";
        let entries = parse(text, "example.org").expect("entries");
        let targets: Vec<_> = entries.iter().map(|entry| &entry.targets[..]).collect();
        assert_eq!(
            targets,
            [
                &["pipe:/bin/cmd  \"x, y\" z", "b@example.org"][..],
                &["maildir:/m/{local}", "lmtp:/run/lmtp", "discard:"],
                &["\u{fc}@xn--bcher-kva.example"],
            ]
        );
        assert_eq!(entries[2].name, "\u{fc}");
        assert!(target("| /bin/x a,b", "example.org").is_err());
        assert!(target("| /bin/x a #b", "example.org").is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused_with_its_line(text in "(?s)([a-c*+]{1,3}: ?[a-c@.#,| ]{0,9}\\s?|.{0,9}\n?){0,8}") {
            match parse(&text, "example.org") {
                Ok(entries) => for entry in entries {
                    assert!(entry.targets.iter().all(|target| {
                        address::check_any(target).is_ok() || Via::of_address(target).is_some()
                    }));
                    assert!(!entry.targets.is_empty());
                },
                Err((line, why)) => {
                    assert!(line >= 1 && line <= text.lines().count());
                    assert!(!why.is_empty());
                }
            }
        }
    }
}
