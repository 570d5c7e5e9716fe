//! Where an address's reverse name is set and what becomes of port 25, hoster by hoster: both are in
//! nobody's hands but theirs. Pure: the names and the machine's make come in.

use std::fmt::Write as _;

/// A hoster, as far as mail is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hoster {
    /// Its name.
    pub name: &'static str,
    /// Ends of the reverse names that it gives to all its addresses.
    ends: &'static [&'static str],
    /// What the firmware of its virtual machines says of itself.
    make: &'static [&'static str],
    /// Where the reverse name is set.
    pub ptr: &'static str,
    /// What is to be known of outbound port 25; empty: nothing.
    pub port_25: &'static str,
}

/// Those that are known.
pub const HOSTERS: [Hoster; 14] = [
    Hoster {
        name: "Hetzner",
        ends: &["your-server.de"],
        make: &["Hetzner"],
        ptr: "Hetzner Console: server, Networking, the three dots at the address, Edit Reverse DNS; a dedicated server: Robot, Servers, IPs",
        port_25: "ports 25 and 465 are closed for new cloud customers: ask under Limits in the Console after the first invoice is paid",
    },
    Hoster {
        name: "OVHcloud",
        ends: &[
            "ovh.net",
            "ovh.ca",
            "ovh.us",
            "kimsufi.com",
            "soyoustart.com",
        ],
        make: &["OVHcloud", "OVH"],
        ptr: "OVHcloud Control Panel: Network, Public IP addresses, the three dots at the address, Modify the reverse path; the A or AAAA record must exist before",
        port_25: "",
    },
    Hoster {
        name: "DigitalOcean",
        ends: &["digitalocean.com", "digitaloceanspaces.com"],
        make: &["DigitalOcean"],
        ptr: "name the Droplet as the host (Droplet, click its name to rename): the PTR follows by itself; reserved addresses have none",
        port_25: "ports 25, 465 and 587 are closed on Droplets and are not opened: send through a relay with [[route]] on another port",
    },
    Hoster {
        name: "Vultr",
        ends: &["vultr.com", "vultrusercontent.com", "choopa.net"],
        make: &["Vultr"],
        ptr: "Vultr: Products, the instance, Settings, IPv4 (and IPv6), Reverse DNS",
        port_25: "port 25 is closed at first: ask support to unblock SMTP",
    },
    Hoster {
        name: "Linode (Akamai)",
        ends: &["linode.com", "linodeusercontent.com"],
        make: &["Linode", "Akamai"],
        ptr: "Cloud Manager: Linode, Network, the three dots at the address, Edit RDNS; the A or AAAA record must exist before",
        port_25: "ports 25, 465 and 587 are closed for new accounts: open a support ticket",
    },
    Hoster {
        name: "Amazon Web Services",
        ends: &["amazonaws.com"],
        make: &["Amazon EC2", "Amazon"],
        ptr: "EC2 console: Elastic IPs, Actions, Update reverse DNS; it takes an Elastic IP, and the A record must exist before",
        port_25: "port 25 is closed at first: ask with the form \"Request to remove email sending limitations\"",
    },
    Hoster {
        name: "Google Cloud",
        ends: &["googleusercontent.com"],
        make: &["Google"],
        ptr: "VM instances: Edit, the network interface, Public DNS PTR Record; the domain must be verified (Search Console) and its A record exist before",
        port_25: "port 25 to the Internet is closed for ever: send through a relay with [[route]] and port 587",
    },
    Hoster {
        name: "Microsoft Azure",
        ends: &["cloudapp.azure.com", "cloudapp.net"],
        make: &["7783-7084-3265-9085-8269-3286-77"],
        ptr: "az network public-ip update --resource-group GROUP --name IP --reverse-fqdn HOST. ; the A record must exist before",
        port_25: "port 25 is closed but for Enterprise Agreements: send through a relay with [[route]] and port 587",
    },
    Hoster {
        name: "Scaleway",
        ends: &["scw.cloud", "poneytelecom.eu", "online.net"],
        make: &["Scaleway"],
        ptr: "Scaleway console: Instances, Flexible IPs, the address, Reverse DNS; Dedibox: the server, Network, Edit reverse",
        port_25: "ports 25, 465 and 587 are closed at first: verify your identity, then Enable SMTP in the security group and restart the instance",
    },
    Hoster {
        name: "Contabo",
        ends: &["contaboserver.net", "contabo.host", "contabo.net"],
        make: &["Contabo"],
        ptr: "Customer Control Panel: Reverse DNS Management",
        port_25: "",
    },
    Hoster {
        name: "netcup",
        ends: &["yourvserver.net", "ultrasrv.de", "netcup.net"],
        make: &["netcup"],
        ptr: "Server Control Panel: the server, Network, the address, rDNS",
        port_25: "the firewall of the Server Control Panel may have a policy that closes port 25 (\"Mail block\"): remove it",
    },
    Hoster {
        name: "IONOS",
        ends: &[
            "online-server.cloud",
            "onlinehome-server.info",
            "kundenserver.de",
            "pbiaas.com",
        ],
        make: &["IONOS", "1&1"],
        ptr: "Cloud Panel: Network, Public IP, the address, Reverse DNS",
        port_25: "port 25 is closed at first: ask support to open it",
    },
    Hoster {
        name: "Oracle Cloud",
        ends: &["oraclecloud.com", "oraclevcn.com"],
        make: &["OracleCloud.com"],
        ptr: "a support request (Reverse DNS for the public IP)",
        port_25: "port 25 is closed at first: ask with a support request to exempt the tenancy",
    },
    Hoster {
        name: "UpCloud",
        ends: &["upcloud.host"],
        make: &["UpCloud"],
        ptr: "UpCloud control panel: the server, Network, the address, Reverse DNS name",
        port_25: "port 25 is closed for trial accounts: make a first payment",
    },
];

/// The hoster that gave one of these names, or whose machine says so.
pub fn detect(names: &[&str], make: &str) -> Option<&'static Hoster> {
    let gave = |hoster: &&Hoster| {
        let ends = |name: &&str| {
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            let is_end = |end: &&str| {
                let below = name.strip_suffix(end);
                below.is_some_and(|below| below.is_empty() || below.ends_with('.'))
            };
            hoster.ends.iter().any(is_end)
        };
        names.iter().any(ends)
    };
    let makes = |hoster: &&Hoster| {
        let says = |word: &&str| make.split('\n').any(|line| line.trim() == *word);
        hoster.make.iter().any(says)
    };
    HOSTERS
        .iter()
        .find(gave)
        .or_else(|| HOSTERS.iter().find(makes))
}

/// Where to set a reverse name, at this hoster or at each.
pub fn ptr_advice(hoster: Option<&Hoster>) -> String {
    if let Some(hoster) = hoster {
        return format!("At {}: {}.", hoster.name, hoster.ptr);
    }
    let mut text = "Its hoster sets it:".to_owned();
    for hoster in &HOSTERS {
        let _ = write!(text, "\n  {}: {}", hoster.name, hoster.ptr);
    }
    text += "\n  Others: look for \"reverse DNS\" or \"rDNS\" in the panel, or ask support.";
    text
}

/// What to do about a closed port 25.
pub fn port_25_advice(hoster: Option<&Hoster>) -> String {
    match hoster {
        Some(hoster) if !hoster.port_25.is_empty() => {
            format!("{}: {}", hoster.name, hoster.port_25)
        }
        _ => "many hosters close outbound port 25: ask yours to open it, or send through a relay with [[route]]"
            .to_owned(),
    }
}

/// What the firmware of this machine says of its make, a line each; empty where it says nothing.
pub fn make() -> String {
    let files = [
        "sys_vendor",
        "product_name",
        "chassis_asset_tag",
        "bios_vendor",
    ];
    let read = |file: &&str| std::fs::read_to_string(format!("/sys/class/dmi/id/{file}")).ok();
    files.iter().filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosters_are_known_by_their_names_and_machines() {
        for (name, make, hoster) in [
            (
                "static.1.2.0.192.clients.your-server.de.",
                "",
                Some("Hetzner"),
            ),
            ("vps-0a1b2c3d.vps.OVH.net", "", Some("OVHcloud")),
            (
                "ec2-192-0-2-1.compute-1.amazonaws.com",
                "",
                Some("Amazon Web Services"),
            ),
            (
                "1.2.0.192.bc.googleusercontent.com",
                "",
                Some("Google Cloud"),
            ),
            (
                "192-0-2-1.ip.linodeusercontent.com",
                "QEMU\n",
                Some("Linode (Akamai)"),
            ),
            ("vmi123456.contaboserver.net", "", Some("Contabo")),
            (
                "mx.example.org",
                "DigitalOcean\nDroplet\n",
                Some("DigitalOcean"),
            ),
            (
                "mx.example.org",
                "Microsoft Corporation\nVirtual Machine\n",
                None,
            ),
            (
                "mx.example.org",
                "Microsoft Corporation\nVirtual Machine\n7783-7084-3265-9085-8269-3286-77\n",
                Some("Microsoft Azure"),
            ),
            ("your-server.de.example.org", "", None),
            ("notamazonaws.com", "Google Chromebook\n", None),
        ] {
            let found = detect(&[name], make).map(|hoster| hoster.name);
            assert_eq!(found, hoster, "{name} {make}");
        }
    }

    #[test]
    fn advice_is_of_the_hoster_or_of_all() {
        let hetzner = detect(&["x.your-server.de"], "");
        assert!(ptr_advice(hetzner).starts_with("At Hetzner: Hetzner Console: "));
        assert!(port_25_advice(hetzner).starts_with("Hetzner: ports 25 and 465"));
        let all = ptr_advice(None);
        assert!(HOSTERS.iter().all(|hoster| all.contains(hoster.ptr)));
        assert!(port_25_advice(None).contains("[[route]]"));
    }
}
