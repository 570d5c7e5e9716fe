//! Who keeps zones, and what it takes to log in there.

/// Who keeps zones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum Provider {
    /// A name server of one's own: dynamic updates, signed with TSIG.
    Rfc2136,
    /// Cloudflare.
    Cloudflare,
    /// Hetzner (DNS in the Hetzner Console; the old DNS Console had another API).
    Hetzner,
    /// DigitalOcean.
    #[value(name = "digitalocean")]
    DigitalOcean,
    /// deSEC.
    #[value(name = "desec")]
    Desec,
    /// Amazon Route 53.
    #[value(name = "route53")]
    Route53,
    /// An acme-dns server: it answers the CA and can do nothing else.
    AcmeDns,
}

impl Provider {
    /// All of them.
    pub const ALL: [Provider; 7] = [
        Provider::Rfc2136,
        Provider::Cloudflare,
        Provider::Hetzner,
        Provider::DigitalOcean,
        Provider::Desec,
        Provider::Route53,
        Provider::AcmeDns,
    ];

    /// As it is written in the configuration, and the name of its file.
    pub fn name(self) -> &'static str {
        match self {
            Provider::Rfc2136 => "rfc2136",
            Provider::Cloudflare => "cloudflare",
            Provider::Hetzner => "hetzner",
            Provider::DigitalOcean => "digitalocean",
            Provider::Desec => "desec",
            Provider::Route53 => "route53",
            Provider::AcmeDns => "acme-dns",
        }
    }

    /// The one that is written so.
    pub fn of(name: &str) -> Option<Provider> {
        Provider::ALL.into_iter().find(|known| known.name() == name)
    }

    /// All names, for people.
    pub fn names() -> String {
        Provider::ALL.map(Provider::name).join(", ")
    }

    /// Whether it keeps whole zones, not the answers to a CA alone.
    pub fn keeps_zones(&self) -> bool {
        *self != Provider::AcmeDns
    }

    /// What its file holds, for people.
    pub fn wants(self) -> &'static str {
        match self {
            Provider::Rfc2136 => {
                "server = \"ADDRESS:53\", key = \"NAME\", secret = \"BASE64\" (tsig-keygen makes them), and algorithm = \"hmac-sha256\" if it is another"
            }
            Provider::Cloudflare => {
                "token = \"...\": an API token with Zone:Read and DNS:Edit for the zone (dash.cloudflare.com, My Profile, API Tokens)"
            }
            Provider::Hetzner => {
                "token = \"...\": an API token with Read & Write of the project that has the zone (console.hetzner.com, Security, API Tokens)"
            }
            Provider::DigitalOcean => {
                "token = \"...\": a token with the scope domain (cloud.digitalocean.com, API, Tokens)"
            }
            Provider::Desec => "token = \"...\": a token (desec.io, Token Management)",
            Provider::Route53 => {
                "access_key_id = \"...\" and secret_access_key = \"...\" of a user that may route53:ListHostedZonesByName, ListResourceRecordSets and ChangeResourceRecordSets"
            }
            Provider::AcmeDns => {
                "url = \"https://...\", username, password, subdomain and fulldomain as its /register answers"
            }
        }
    }

    /// What its file must hold, and whether it is a secret.
    pub fn fields(self) -> &'static [(&'static str, bool)] {
        match self {
            Provider::Rfc2136 => &[("server", false), ("key", false), ("secret", true)],
            Provider::Cloudflare | Provider::Hetzner | Provider::DigitalOcean | Provider::Desec => {
                &[("token", true)]
            }
            Provider::Route53 => &[("access_key_id", false), ("secret_access_key", true)],
            Provider::AcmeDns => &[
                ("url", false),
                ("username", false),
                ("password", true),
                ("subdomain", false),
                ("fulldomain", false),
            ],
        }
    }

    /// The one whose name servers these are.
    pub fn of_servers(servers: &[String]) -> Option<Provider> {
        let known = [
            (".ns.cloudflare.com", Provider::Cloudflare),
            (".ns.hetzner.com", Provider::Hetzner),
            (".ns.hetzner.de", Provider::Hetzner),
            (".digitalocean.com", Provider::DigitalOcean),
            (".desec.io", Provider::Desec),
            (".desec.org", Provider::Desec),
        ];
        let of = |server: &String| {
            let end = known.iter().find(|(end, _)| server.ends_with(end));
            let amazon = server.split('.').nth(1)?.starts_with("awsdns-");
            end.map(|(_, provider)| *provider)
                .or(amazon.then_some(Provider::Route53))
        };
        servers.iter().find_map(of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_is_known_by_its_name_servers() {
        for (server, provider) in [
            ("ada.ns.cloudflare.com", Some(Provider::Cloudflare)),
            ("hydrogen.ns.hetzner.com", Some(Provider::Hetzner)),
            ("ns1.digitalocean.com", Some(Provider::DigitalOcean)),
            ("ns2.desec.org", Some(Provider::Desec)),
            ("ns-2048.awsdns-64.co.uk", Some(Provider::Route53)),
            ("ns1.example.org", None),
            ("localhost", None),
        ] {
            assert_eq!(
                Provider::of_servers(&[server.to_owned()]),
                provider,
                "{server}"
            );
        }
        for provider in Provider::ALL {
            assert_eq!(Provider::of(provider.name()), Some(provider));
        }
    }
}
