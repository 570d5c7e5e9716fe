//! Records as people paste or type them: a zone file, a table, JSON, or the fields of a provider's
//! panel.

use super::records::{Record, Value};
use crate::publish::TTL;
use crate::publish::data::{Data, quoted};

/// How records are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// Lines of a zone file.
    Zone,
    /// A table with the reason of each.
    Table,
    /// One JSON object a line.
    Json,
    /// The panel of Cloudflare.
    Cloudflare,
    /// The panel of Hetzner.
    Hetzner,
    /// The panel of DigitalOcean.
    #[value(name = "digitalocean")]
    DigitalOcean,
    /// The panel of deSEC.
    #[value(name = "desec")]
    Desec,
    /// The panel of Amazon Route 53.
    #[value(name = "route53")]
    Route53,
    /// The panel of Namecheap.
    Namecheap,
    /// The panel of OVH.
    Ovh,
    /// The panel of Gandi.
    Gandi,
    /// The panel of GoDaddy.
    #[value(name = "godaddy")]
    GoDaddy,
}

/// What a panel wants.
struct Panel {
    /// What it calls the owner.
    name: &'static str,
    /// What it calls the value.
    value: &'static str,
    /// What it wants for the domain itself; `None`: whole names.
    apex: Option<&'static str>,
    /// Names that are meant end in a dot.
    dot: bool,
    /// Texts stand in quotes, in pieces of 255 characters.
    quotes: bool,
    /// Preference, priority, weight and port are fields of their own.
    fields: bool,
    /// What else must be known there.
    note: &'static str,
}

impl Format {
    fn panel(self) -> Option<Panel> {
        let panel = |name, value, apex, dot, quotes, fields, note| {
            Some(Panel {
                name,
                value,
                apex,
                dot,
                quotes,
                fields,
                note,
            })
        };
        let at = Some("@");
        match self {
            Format::Zone | Format::Table | Format::Json => None,
            Format::Cloudflare => panel(
                "Name",
                "Content",
                at,
                false,
                false,
                true,
                "Proxy status must be \"DNS only\": what is proxied has no port 25, 465 or 587.",
            ),
            Format::Hetzner => panel("Name", "Value", at, true, true, false, ""),
            Format::DigitalOcean => panel("Hostname", "Value", at, true, false, true, ""),
            Format::Desec => panel("Subname", "Content", Some(""), true, true, false, ""),
            Format::Route53 => panel("Record name", "Value", None, true, true, false, ""),
            Format::Namecheap => panel(
                "Host",
                "Value",
                at,
                true,
                false,
                true,
                "MX records take Mail Settings: Custom MX.",
            ),
            Format::Ovh => panel("Sub-domain", "Target", Some(""), true, false, true, ""),
            Format::Gandi => panel("Name", "Value", at, true, true, false, ""),
            Format::GoDaddy => panel("Name", "Value", at, false, false, true, ""),
        }
    }

    /// Prints the records of `domain`.
    pub(super) fn print(self, domain: &str, records: &[Record]) {
        match (self, self.panel()) {
            (Format::Json, _) => {
                for object in records.iter().filter_map(Record::json) {
                    say!("{object}");
                }
            }
            (_, Some(panel)) => {
                say!("{}", panel.table(domain, records));
                if !panel.note.is_empty() {
                    say!("{}", panel.note);
                }
            }
            (Format::Table, None) => say!("{}", table(records)),
            (_, None) => {
                for record in records {
                    say!("{}", record.line());
                }
            }
        }
    }
}

/// Rows below their headings, the last column as it is so that it can be copied, and why each is
/// needed below it.
fn layout(header: &[&str], rows: &[(Vec<String>, &str)]) -> String {
    let columns = header.len().saturating_sub(1);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|(cells, _)| cells.get(column));
        let longest = cells.map(|cell| cell.chars().count()).max();
        let head = header.get(column).map_or(0, |head| head.chars().count());
        longest.unwrap_or(0).max(head)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for (column, cell) in cells.enumerate() {
            match widths.get(column) {
                Some(width) => text += &format!("{cell:width$}  "),
                None => text += cell,
            }
        }
        text.trim_end().to_owned() + "\n"
    };
    let mut text = line(&mut header.iter().copied());
    for (cells, why) in rows {
        text += &line(&mut cells.iter().map(String::as_str));
        let indent: usize = widths.iter().map(|width| width + 2).sum();
        text += &format!("{:indent$}({why})\n", "");
    }
    text.trim_end().to_owned()
}

/// Every record and why it is needed.
fn table(records: &[Record]) -> String {
    let rows: Vec<_> = records
        .iter()
        .map(|record| {
            let (kind, value) = match &record.data {
                Value::Known(data) => (data.kind().name(), data.to_string()),
                Value::Unknown(what) => ("A", format!("({what}; give it with --ip)")),
            };
            let cells = vec![kind.to_owned(), format!("{}.", record.name), value];
            (cells, record.why)
        })
        .collect();
    layout(&["type", "name", "value"], &rows)
}

impl Panel {
    fn table(&self, domain: &str, records: &[Record]) -> String {
        let rows: Vec<_> = records
            .iter()
            .filter_map(|record| {
                let Value::Known(data) = &record.data else {
                    return None;
                };
                let (value, fields) = self.value(data);
                let mut cells = vec![
                    data.kind().name().to_owned(),
                    self.owner(domain, &record.name),
                    TTL.to_string(),
                ];
                if self.fields {
                    cells.push(fields);
                }
                cells.push(value);
                Some((cells, record.why))
            })
            .collect();
        let mut header = vec!["Type", self.name, "TTL"];
        if self.fields {
            header.push("Fields");
        }
        header.push(self.value);
        layout(&header, &rows)
    }

    fn owner(&self, domain: &str, name: &str) -> String {
        let below = name.strip_suffix(domain);
        match (self.apex, below) {
            (Some(apex), Some("")) => apex.to_owned(),
            (Some(_), Some(below)) if below.ends_with('.') => {
                below.trim_end_matches('.').to_owned()
            }
            // Of another zone, or of a panel that wants whole names.
            _ => name.to_owned(),
        }
    }

    /// The value and what has a field of its own.
    fn value(&self, data: &Data) -> (String, String) {
        let host = |host: &str| match self.dot {
            true => format!("{host}."),
            false => host.to_owned(),
        };
        let none = String::new();
        match data {
            Data::Text(text) if self.quotes => (quoted(text), none),
            Data::Text(text) => (text.clone(), none),
            Data::Cname(name) => (host(name), none),
            Data::Mx(preference, name) if self.fields => {
                (host(name), format!("priority {preference}"))
            }
            Data::Srv {
                priority,
                weight,
                port,
                host: name,
            } if self.fields => (
                host(name),
                format!("priority {priority}, weight {weight}, port {port}"),
            ),
            Data::Caa { flags, tag, value } if self.fields => {
                (value.clone(), format!("flags {flags}, tag {tag}"))
            }
            other => (other.to_string(), none),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::publish::data::Kind;

    fn records() -> Vec<Record> {
        let record = |name: &str, kind, written: &str| Record {
            name: name.to_owned(),
            data: Value::Known(Data::parse(kind, written).expect(written)),
            why: "because",
        };
        vec![
            record("mx.example.org", Kind::A, "192.0.2.1"),
            record("example.org", Kind::Mx, "10 mx.example.org."),
            record("example.org", Kind::Txt, "\"v=spf1 -all\""),
            record(
                "_submissions._tcp.example.org",
                Kind::Srv,
                "0 1 465 mx.example.org.",
            ),
            record("mx.example.net", Kind::Txt, "\"v=spf1 a -all\""),
        ]
    }

    #[test]
    fn a_panel_gets_names_and_values_as_it_wants_them() {
        let shown = |format: Format| {
            let panel = format.panel().expect("a panel");
            panel.table("example.org", &records())
        };
        let cloudflare = shown(Format::Cloudflare);
        let lines: Vec<&str> = cloudflare
            .lines()
            .filter(|line| !line.contains("(because)"))
            .collect();
        assert_eq!(
            lines,
            [
                "Type  Name               TTL   Fields                          Content",
                "A     mx                 3600                                  192.0.2.1",
                "MX    @                  3600  priority 10                     mx.example.org",
                "TXT   @                  3600                                  v=spf1 -all",
                "SRV   _submissions._tcp  3600  priority 0, weight 1, port 465  mx.example.org",
                "TXT   mx.example.net     3600                                  v=spf1 a -all",
            ]
        );
        let hetzner = shown(Format::Hetzner);
        assert!(
            hetzner.contains("\nMX    @                  3600  10 mx.example.org.\n"),
            "{hetzner}"
        );
        assert!(hetzner.contains("  \"v=spf1 -all\"\n"), "{hetzner}");
        let route53 = shown(Format::Route53);
        assert!(
            route53.contains("\nMX    example.org                    3600  10 mx.example.org.\n"),
            "{route53}"
        );
        let desec = shown(Format::Desec);
        assert!(
            desec.contains("\nMX                       3600  10 mx.example.org.\n"),
            "{desec}"
        );
    }

    #[test]
    fn a_table_says_why() {
        let shown = table(&records()[..2]);
        assert_eq!(
            shown,
            "type  name             value\n\
             A     mx.example.org.  192.0.2.1\n                       (because)\n\
             MX    example.org.     10 mx.example.org.\n                       (because)"
        );
    }
}
