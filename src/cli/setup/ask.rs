//! What setup can not find out, asked on a terminal and nowhere else. Each question has a flag.

use std::io::{self, BufRead as _, IsTerminal as _, Read as _};
use std::path::Path;

use toml_edit::DocumentMut;

use super::super::password;
use super::{Args, found};
use crate::config::Dns;
use crate::identity::address;
use crate::publish::{Provider, credentials_file};

/// Bytes of an answer.
const ANSWER: u64 = 1024;
/// Times that one question is asked.
const TRIES: usize = 3;

/// Asks for what the flags left open; true if anything was asked.
pub(super) fn fill(file: &Path, args: &mut Args) -> bool {
    let terminal = io::stdin().is_terminal() && io::stderr().is_terminal();
    // Standard input holds the password, or nobody.
    if !terminal || args.yes || args.password_stdin {
        return false;
    }
    let domain = args.domain.to_ascii_lowercase();
    let dir = super::super::directory(file);
    let mut asked = false;
    let known = dir.join("domains").join(&domain).join("domain.toml");
    if args.forward.is_none() && !args.send_only && !known.exists() {
        asked = true;
        args.forward = forward(args, &domain);
        args.send_only = args.forward.is_none();
    }
    if !args.acme && args.cert.is_none() && args.dir.is_none() && !file.exists() {
        asked = true;
        args.acme = yes(
            "Shall the certificate come from Let's Encrypt, which needs ports 80 and 443 and agrees to \
             its terms of service? [Y/n] ",
        );
    }
    asked |= zone(dir, file.exists(), &domain, args);
    if args.test_to.is_none() && !args.no_start && args.dir.is_none() {
        asked = true;
        let proposed = args.forward.as_deref().unwrap_or_default();
        let question = match proposed {
            "" => "Send a test message to which address elsewhere? [to none] ".to_owned(),
            some => format!("Send a test message to which address elsewhere? [{some}] "),
        };
        args.test_to = address_of(&question, proposed);
    }
    asked
}

/// Credentials for who has the zone; true if anything was asked.
fn zone(dir: &Path, exists: bool, domain: &str, args: &mut Args) -> bool {
    if let Some(provider) = args.dns {
        let there = credentials_file(dir, provider).exists() || args.dns_credentials.is_some();
        if !there {
            args.typed = credentials(provider);
        }
        return !there;
    }
    if exists || args.dir.is_some() {
        return false;
    }
    let servers = found::look(&dns(args), domain, &[]).servers;
    let provider = match Provider::of_servers(&servers) {
        Some(provider) => {
            let name = provider.name();
            eprintln!(
                "{domain} is at {name}: with credentials setup publishes the DNS records itself."
            );
            Some(provider)
        }
        None => keeper(domain),
    };
    let Some(provider) = provider else {
        return true;
    };
    eprintln!(
        "{} wants {}.\nAn empty answer: you publish them.",
        provider.name(),
        provider.wants()
    );
    args.typed = credentials(provider);
    args.dns = args.typed.is_some().then_some(provider);
    true
}

/// Who has a zone whose name servers tell nothing; `None`: nobody we know.
fn keeper(domain: &str) -> Option<Provider> {
    let question = format!(
        "Who keeps the DNS zone of {domain}, so that setup publishes the records itself: {} \
         (rfc2136: a name server of your own)? [nobody of these: print them] ",
        Provider::names()
    );
    for _ in 0..TRIES {
        let answer = line(&question)?;
        if answer.is_empty() {
            return None;
        }
        match Provider::of(&answer.to_lowercase()) {
            Some(provider) => return Some(provider),
            None => eprintln!("\"{answer}\" is none of {}", Provider::names()),
        }
    }
    None
}

/// What belongs into the file of a provider; `None` if an answer is empty.
fn credentials(provider: Provider) -> Option<String> {
    let mut text = DocumentMut::new();
    for (field, secret) in provider.fields() {
        let question = format!("{field}: ");
        let answer = match secret {
            true => {
                let typed = password::silently(&question).ok()?.ok()?;
                String::from_utf8(typed).ok()?.trim().to_owned()
            }
            false => line(&question)?,
        };
        if answer.is_empty() {
            return None;
        }
        text.insert(field, toml_edit::value(answer));
    }
    Some(text.to_string())
}

fn forward(args: &Args, domain: &str) -> Option<String> {
    let elsewhere = found::look(&dns(args), domain, &[]).mx;
    if !elsewhere.is_empty() {
        eprintln!(
            "Mail to {domain} goes to {} now: leave the next answer empty and that stays so, or name \
             the address that shall get it instead.",
            elsewhere.join(", ")
        );
    }
    address_of(
        &format!("Where shall mail to any address of {domain} go? [nowhere: only send] "),
        "",
    )
}

/// Whom to ask.
fn dns(args: &Args) -> Dns {
    Dns {
        servers: args.resolver.clone(),
        ..Dns::default()
    }
}

/// An address, the proposed one for an empty answer; `None` for nothing.
fn address_of(question: &str, proposed: &str) -> Option<String> {
    for _ in 0..TRIES {
        let mut answer = line(question)?;
        if answer.is_empty() {
            answer = proposed.to_owned();
        }
        if answer.is_empty() {
            return None;
        }
        match address::check(&answer) {
            Ok(_) => return Some(answer),
            Err(problem) => eprintln!("{problem}"),
        }
    }
    None
}

fn yes(question: &str) -> bool {
    line(question).is_some_and(|answer| !answer.to_lowercase().starts_with('n'))
}

fn line(question: &str) -> Option<String> {
    eprint!("{question}");
    let mut answer = String::new();
    let read = io::stdin().lock().take(ANSWER).read_line(&mut answer);
    match read {
        Ok(0) | Err(_) => None,
        Ok(_) => Some(answer.trim().to_owned()),
    }
}
