//! `chapar check --config`: whether a daemon would take this configuration, and what is wrong with
//! it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::super::exit;
use crate::config::routes::{Via, read};
use crate::config::{Config, TlsMode};
use crate::daemon;
use crate::delivery::{check_routes, is_local, password};
use crate::identity::{Identity, Resolution};
use crate::publish::Publisher;
use crate::signing::keys::PrivateKey;
use crate::tls;

/// Prints what is wrong with the configuration in `file`, or that it is good.
pub fn configuration(file: &Path) -> ExitCode {
    match problems(file) {
        Ok(good) => {
            say!("{}: {good}", file.display());
            ExitCode::SUCCESS
        }
        Err(problems) => {
            for problem in problems {
                eprintln!("{problem}");
            }
            exit::CONFIG.into()
        }
    }
}

fn problems(file: &Path) -> Result<String, Vec<String>> {
    let config = Config::load_all(file)
        .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    let mut found = Vec::new();
    found.extend(
        config
            .check_to_serve(file)
            .err()
            .map(|error| error.to_string()),
    );
    found.extend(relays(&config));
    if config.dns.provider.0.is_some() {
        let publisher = Publisher::new(&config);
        found.extend(publisher.err().map(|problem| problem.to_string()));
    }
    found.extend(sources(&config));
    let rules = config.clone().with_providers();
    found.extend(rules.err().map(|error| error.to_string()));
    found.extend(extra_roots(&config));
    found.extend(certificate(&config));
    let mut good = format!("good: listeners {}", config.listeners.len());
    match Identity::load(&config.dir, &config.postmaster) {
        Ok(identity) => {
            found.extend(domains(&config, &identity));
            let users: usize = identity
                .domains()
                .map(|(_, domain)| domain.users().count())
                .sum();
            let domains = identity.domains().count();
            good.push_str(&format!(", domains {domains}, users {users}"));
        }
        Err(error) => found.push(error.to_string()),
    }
    found.extend(
        check_routes(&config.routes)
            .err()
            .map(|error| error.to_string()),
    );
    if found.is_empty() {
        // The last word is the daemon's own: what it refuses is never called good here.
        found.extend(daemon::load(file).err().map(|error| error.to_string()));
    }
    if found.is_empty() {
        Ok(good)
    } else {
        Err(found)
    }
}

/// Addresses to send from that this machine does not have.
fn sources(config: &Config) -> Vec<String> {
    let usual = config
        .delivery
        .source
        .iter()
        .map(|ip| ("delivery.source", *ip));
    let routes = config.routes.iter();
    let routed = routes.flat_map(|route| route.source.iter().map(|ip| ("route.source", *ip)));
    let absent = usual.chain(routed).filter(|(_, ip)| !is_local(*ip));
    let problem = |(key, ip)| {
        format!(
            "{key}: {ip} is not an address of this machine, so nothing can leave from it; add it \
             to an interface, or take it out"
        )
    };
    absent.map(problem).collect()
}

/// Passwords of relays that are missing or that others can read.
fn relays(config: &Config) -> Vec<String> {
    let ways = config.routes.iter().filter_map(|route| read(route).ok());
    let mut files: Vec<PathBuf> = ways
        .flat_map(|way| way.vias)
        .filter_map(|via| match via {
            Via::Hop(hop) => hop.password_file(),
            _ => None,
        })
        .collect();
    files.sort();
    files.dedup();
    let paths = files.into_iter().map(|file| config.dir.join(file));
    let problem = |path: PathBuf| {
        let problem = password::read(&path).err()?;
        Some(format!("{}: {problem}", path.display()))
    };
    paths.filter_map(problem).collect()
}

fn extra_roots(config: &Config) -> Option<String> {
    if config.tls.ca_file.is_empty() {
        return None;
    }
    let path = config.dir.join(&config.tls.ca_file);
    let problem = match fs::read(&path) {
        Ok(pem) => match CertificateDer::pem_slice_iter(&pem).next() {
            Some(Ok(_)) => return None,
            _ => "no certificate in PEM".to_owned(),
        },
        Err(error) => error.to_string(),
    };
    Some(format!(
        "{}: {problem}; tls.ca_file names this file",
        path.display()
    ))
}

fn certificate(config: &Config) -> Option<String> {
    if config
        .listeners
        .iter()
        .all(|listen| listen.tls == TlsMode::None)
    {
        return None;
    }
    tls::server::load(config)
        .err()
        .map(|error| error.to_string())
}

fn exposed(path: &Path) -> Option<String> {
    let mode = fs::metadata(path).ok()?.permissions().mode() & 0o777;
    let open = mode & 0o077 != 0;
    open.then(|| {
        format!(
            "{}: mode {mode:04o} lets others read it; chmod 600 it",
            path.display()
        )
    })
}

fn domains(config: &Config, identity: &Identity) -> Vec<String> {
    let mut found = identity.refusals();
    for (name, domain) in identity.domains() {
        let dir = config.dir.join("domains").join(name);
        found.extend(exposed(&dir.join("users.toml")));
        if domain.selectors.is_empty() && !name.starts_with('*') {
            let file = dir.join("domain.toml");
            found.push(format!(
                "{}: no selectors, so its mail is not signed; `chapar domain add` makes keys for a \
                 domain without this file",
                file.display()
            ));
        }
        for selector in &domain.selectors {
            found.extend(
                PrivateKey::load(&config.dir, name, selector)
                    .err()
                    .map(|e| e.to_string()),
            );
        }
        if !domain.mode.takes_mail() {
            continue;
        }
        let aliases = dir.join("aliases");
        if identity.resolve(&format!("postmaster@{name}")) == Resolution::Unknown {
            found.push(format!(
                "{}: postmaster@{name} leads nowhere (RFC 5321 section 4.5.1); set postmaster in \
                 chapar.toml or add the alias",
                aliases.display()
            ));
        }
    }
    found
}
