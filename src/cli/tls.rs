//! `chapar tls`: what TLS would be used for a domain, and why.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;

use super::exit::Wrong;
use crate::config::Config;
use crate::delivery::look::{self, View};
use crate::dns::Resolver;

/// Show what TLS mail to a domain would use, and why
///
/// Looks the domain up as a delivery does: MX hosts, DNSSEC, TLSA records (DANE), MTA-STS policy,
/// the rules of tls.domains; connects to each host and says what TLS it did. Sends no mail.
///
/// Exit codes: 0 mail could go to a host, 1 it could not.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  chapar tls example.org\n  chapar tls example.org --json")]
pub(super) struct Args {
    /// Any domain.
    domain: String,
    /// One JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(file: &Path, args: &Args) -> anyhow::Result<ExitCode> {
    let config = Config::load(file)?;
    let domain = idna::domain_to_ascii(args.domain.trim_end_matches('.'));
    let domain = domain.ok().filter(|domain| !domain.is_empty());
    let Some(domain) = domain else {
        return Err(Wrong(format!("{} is no domain", args.domain)).into());
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("no runtime")?;
    let view = runtime.block_on(async {
        let resolver = Resolver::new(&config.dns)?;
        anyhow::Ok(look::look(&config, &resolver, &domain).await?)
    })?;
    match args.json {
        true => say!("{}", serde_json::to_string(&view)?),
        false => print(&view),
    }
    Ok(match view.delivers() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

fn print(view: &View) {
    say!("{}", view.domain);
    let line = |key: &str, text: &str| say!("  {key:<9} {text}");
    if let Some(route) = &view.route {
        return line("route", &format!("a [[route]] leads its mail to {route}"));
    }
    let dnssec = match (view.validated, view.mx_proven) {
        (false, _) => "not validated: the DNS servers hand on no signatures, or dns.dnssec is off",
        (true, true) => "the MX records are proven",
        (true, false) => "the MX records are not signed",
    };
    line("DNSSEC", dnssec);
    if let Some(rule) = view.rule {
        line("rule", &format!("{rule} (tls.domains)"));
    }
    match (&view.mta_sts, &view.mta_sts_problem) {
        (Some(sts), _) => {
            let (mode, id, until) = (sts.mode, &sts.id, &sts.until);
            let mx = sts.mx.join(" ");
            line(
                "MTA-STS",
                &format!("{mode}, mx {mx}, id {id}, until {until}"),
            );
        }
        (None, None) if view.rule.is_none() => line("MTA-STS", "no policy"),
        _ => {}
    }
    if let Some(problem) = &view.mta_sts_problem {
        line("MTA-STS", &format!("it can not be fetched: {problem}"));
    }
    if let Some(problem) = &view.problem {
        line("problem", problem);
    }
    for host in &view.hosts {
        say!("{}", host.host);
        line("policy", &format!("{}: {}", host.policy, host.why));
        match (&host.tls, &host.problem) {
            (_, Some(problem)) => line("no mail", problem),
            (Some(tls), None) => line("TLS", tls),
            (None, None) => line("TLS", "none: mail goes in clear"),
        }
    }
}
