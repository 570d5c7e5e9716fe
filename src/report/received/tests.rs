//! Reports as they are sent, and as they are meant to do harm.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::*;

const XML: &str = r#"<?xml version="1.0"?><feedback><report_metadata><org_name>google.example</org_name>
<email>noreply@google.example</email><report_id>42</report_id><date_range><begin>1700000000</begin><end>1700086399</end></date_range></report_metadata>
<policy_published><domain>Example.org</domain><adkim>r</adkim><aspf>r</aspf><p>reject</p><sp>reject</sp><pct>100</pct></policy_published>
<record><row><source_ip>192.0.2.1</source_ip><count>7</count><policy_evaluated><disposition>none</disposition><dkim>pass</dkim><spf>fail</spf></policy_evaluated></row>
<identifiers><header_from>example.org</header_from></identifiers><auth_results><dkim><domain>example.org</domain><result>pass</result></dkim><spf><domain>x.example</domain><result>fail</result></spf></auth_results></record>
<record><row><source_ip>203.0.113.9</source_ip><count>3</count><policy_evaluated><disposition>reject</disposition><dkim>fail</dkim><spf>fail</spf></policy_evaluated></row>
<identifiers><envelope_from>evil.example</envelope_from><header_from>example.org</header_from></identifiers><auth_results><spf><domain>evil.example</domain><result>pass</result></spf></auth_results></record></feedback>"#;

const JSON: &str = r#"{"organization-name":"Big Mail","date-range":{"start-datetime":"2026-11-01T00:00:00Z","end-datetime":"2026-11-01T23:59:59Z"},
"contact-info":"x@big.example","report-id":"r1","policies":[{"policy":{"policy-type":"sts","policy-string":["version: STSv1"],"policy-domain":"example.org","mx-host":["*.example.org"]},
"summary":{"total-successful-session-count":100,"total-failure-session-count":2},
"failure-details":[{"result-type":"certificate-expired","sending-mta-ip":"192.0.2.7","receiving-mx-hostname":"mx.example.org","failed-session-count":2}]}]}"#;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::best());
    packed.write_all(bytes).expect("written");
    packed.finish().expect("packed")
}

fn zipped(files: &[&[u8]]) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (index, bytes) in files.iter().enumerate() {
        let options = zip::write::SimpleFileOptions::default();
        archive
            .start_file(format!("{index}.xml"), options)
            .expect("begun");
        archive.write_all(bytes).expect("written");
    }
    archive.finish().expect("packed").into_inner()
}

fn message(kind: &str, name: &str, bytes: &[u8]) -> Vec<u8> {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(bytes);
    format!(
        "From: <a@b.example>\r\nSubject: Report domain: example.org\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/mixed; boundary=\"b\"\r\n\r\n--b\r\n\r\n{{not this}}\r\n\
         --b\r\nContent-Type: {kind}\r\nContent-Disposition: attachment; filename=\"{name}\"\r\n\
         Content-Transfer-Encoding: base64\r\n\r\n{text}\r\n--b--\r\n"
    )
    .into_bytes()
}

#[test]
fn every_form_is_read_whatever_it_calls_itself() {
    let xml = XML.as_bytes();
    let json = JSON.as_bytes();
    for (input, dmarc) in [
        (xml.to_vec(), true),
        (json.to_vec(), false),
        (gzip(xml), true),
        (gzip(json), false),
        (zipped(&[xml]), true),
        (
            message("application/gzip", "a!b!1!2.xml.gz", &gzip(xml)),
            true,
        ),
        (message("application/zip", "a.zip", &zipped(&[xml])), true),
        (message("application/octet-stream", "a", &gzip(xml)), true),
        (message("text/xml", "a.xml", xml), true),
        (
            message("application/tlsrpt+gzip", "a.json.gz", &gzip(json)),
            false,
        ),
        (message("application/tlsrpt+json", "a.json", json), false),
    ] {
        let found = read(&input[..]).expect("a report");
        assert_eq!(found.len(), 1);
        assert_eq!(matches!(found[0], Received::Dmarc(_)), dmarc);
        let (organization, number, end) = match dmarc {
            true => ("google.example", "42", 1_700_086_399),
            false => ("Big Mail", "r1", 1_793_577_599),
        };
        assert_eq!(found[0].organization(), organization);
        assert_eq!((found[0].number(), found[0].end()), (number, end));
    }
    assert_eq!(read(&zipped(&[xml, xml])[..]).expect("reports").len(), 2);
}

#[test]
fn o5_bytes_behind_a_gzip_stream_are_nothing() {
    let whole = read(XML.as_bytes()).expect("a report");
    let (front, back) = XML.as_bytes().split_at(300);
    for packed in [
        [&gzip(XML.as_bytes())[..], b"\0\0\0"].concat(),
        [&gzip(XML.as_bytes())[..], b"\r\n--"].concat(),
        [&gzip(XML.as_bytes())[..], &[0x1f, 0x8b, 9]].concat(),
        [gzip(front), gzip(back)].concat(),
    ] {
        assert_eq!(read(&packed[..]).expect("a report"), whole);
    }
}

#[test]
fn o6_a_string_stands_for_the_list_of_it() {
    let text = JSON.replace("[\"*.example.org\"]", "\"*.example.org\"");
    assert_ne!(text, JSON);
    let text = text.replace("[\"version: STSv1\"]", "\"version: STSv1\"");
    assert_eq!(
        read(text.as_bytes()).expect("a report"),
        read(JSON.as_bytes()).expect("a report")
    );
}

#[test]
fn o7_words_are_read_without_case() {
    let text = XML
        .replace(">pass<", ">Pass<")
        .replace(">reject<", ">REJECT<");
    assert_eq!(
        read(text.as_bytes()).expect("a report"),
        read(XML.as_bytes()).expect("a report")
    );
}

#[test]
fn s2_a_message_that_would_take_the_parser_long_is_refused() {
    let field = format!("From:{}\r\n", " =?aaa?q?".repeat(27_000));
    let mut long = field.into_bytes();
    long.extend(message(
        "application/gzip",
        "a.xml.gz",
        &gzip(XML.as_bytes()),
    ));
    assert!(matches!(read(&long[..]), Err(ReadError::Malformed(_))));
}

#[test]
fn what_unpacks_to_too_much_or_is_none_is_refused_in_little_time() {
    let start = std::time::Instant::now();
    let bomb = vec![b' '; 200 << 20];
    let packed = gzip(&bomb);
    assert!(matches!(read(&packed[..]), Err(ReadError::TooBig)));
    assert!(matches!(
        read(&message("application/gzip", "a.xml.gz", &packed)[..]),
        Err(ReadError::TooBig)
    ));
    let part = vec![b'<'; 4 << 20];
    let parts: Vec<&[u8]> = (0..10).map(|_| &part[..]).collect();
    assert!(matches!(read(&zipped(&parts)[..]), Err(ReadError::TooBig)));
    let records = "<record/>".repeat(MOST_RECORDS + 1);
    let many = XML.replace("<record>", &format!("{records}<record>"));
    assert!(matches!(read(many.as_bytes()), Err(ReadError::TooBig)));
    assert!(matches!(
        read(std::io::repeat(b'x')),
        Err(ReadError::TooBig)
    ));
    for input in [
        &b"From: a@b.example\r\n\r\nHello, is anybody there?\r\n"[..],
        b"",
        b"\x1f\x8b",
        b"PK\x03\x04",
        b"<html>",
        b"{}",
        b"<feedback>",
        &gzip(XML.as_bytes())[..200],
    ] {
        let error = read(input).expect_err("no report");
        assert!(
            matches!(error, ReadError::None | ReadError::Malformed(_)),
            "{error}"
        );
    }
    // A nest of XML and one of parts.
    let nest = format!("<feedback>{}", "<a>".repeat(1 << 20));
    assert!(read(nest.as_bytes()).is_err());
    let lol = "<!DOCTYPE x [<!ENTITY a \"aaaa\"><!ENTITY b \"&a;&a;&a;\">]>";
    let _ = read(format!("{lol}{XML}").as_bytes());
    let mut parts = String::from("Content-Type: multipart/mixed; boundary=b\r\n\r\n");
    parts.push_str(&"--b\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n".repeat(20_000));
    assert!(read(parts.as_bytes()).is_err());
    assert!(start.elapsed().as_secs() < 30, "{:?}", start.elapsed());
}

#[test]
fn reports_are_kept_once_and_added_up() {
    let dir = tempfile::tempdir().expect("directory");
    for input in [XML, JSON, XML] {
        for report in read(input.as_bytes()).expect("a report") {
            store::add(dir.path(), &report, 1 << 20).expect("kept");
        }
    }
    std::fs::write(dir.path().join("reports/received/2026-11-02-x.json"), "{").expect("write");
    let (reports, damaged) = store::load(dir.path(), 0).expect("loaded");
    assert_eq!((reports.len(), damaged.len()), (2, 1));
    let all = summary::add_up(&reports, None);
    let dmarc = &all.dmarc["example.org"];
    assert_eq!((dmarc.messages, dmarc.passed, dmarc.punished), (10, 7, 3));
    assert_eq!(dmarc.failing.len(), 1);
    assert_eq!(dmarc.failing[0].address, "203.0.113.9");
    assert_eq!(dmarc.failing[0].envelope_from, "evil.example");
    let tls = &all.tls["example.org"];
    assert_eq!((tls.succeeded, tls.failed), (100, 2));
    assert_eq!(
        tls.failures["MTA-STS: certificate-expired at mx.example.org"],
        2
    );
    assert_eq!(summary::add_up(&reports, Some("other.example")).reports, 0);
    let (recent, _) = store::load(dir.path(), 1_750_000_000).expect("loaded");
    assert_eq!(recent.len(), 1);
    // The oldest go where there is no room.
    let report = read(XML.as_bytes()).expect("a report").remove(0);
    store::add(dir.path(), &report, 1).expect("kept");
    let (left, _) = store::load(dir.path(), 0).expect("loaded");
    assert!(left.is_empty());
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(2000))]
    #[test]
    fn damaged_reports_are_read_or_refused(
        which in 0usize..5,
        changes in proptest::collection::vec((proptest::num::usize::ANY, proptest::num::u8::ANY, 0usize..3), 1..12),
    ) {
        let mut bytes = match which {
            0 => XML.as_bytes().to_vec(),
            1 => JSON.as_bytes().to_vec(),
            2 => gzip(XML.as_bytes()),
            3 => zipped(&[XML.as_bytes()]),
            _ => message("application/gzip", "a.xml.gz", &gzip(XML.as_bytes())),
        };
        for (at, byte, how) in changes {
            let at = at % bytes.len().max(1);
            match how {
                0 => bytes[at] = byte,
                1 => bytes.truncate(at.max(1)),
                _ => bytes.insert(at, byte),
            }
        }
        if let Ok(reports) = read(&bytes[..]) {
            proptest::prop_assert!(!reports.is_empty());
            let _ = summary::add_up(&reports, None);
        }
    }
}
