//! The report of one domain about one day, as XML (RFC 9990 section 3) and as the message that
//! carries it. Pure.

use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mail_auth::report::{
    ActionDisposition, Alignment, DKIMAuthResult, Discovery, Disposition as Asked, DkimResult,
    DmarcResult, PolicyOverride, PolicyOverrideReason, PolicyPublished, Record, Report,
    SPFAuthResult, SPFDomainScope, SpfResult,
};
use queue_schema::{Millis, QueueId};

use super::days::Rows;
use super::{Disposition, Reason, Tally, Wish};
use crate::post;
use crate::time::DAY;
use crate::verify::dmarc::ReportUri;

/// Who reports.
#[derive(Debug, Clone, Copy)]
pub struct Submitter<'a> {
    /// Our host name.
    pub hostname: &'a str,
    /// The author of the message, and whom to ask about it.
    pub from: &'a str,
}

/// Where the reports of these rows go, as the newest of them say.
pub fn rua(rows: &Rows) -> Vec<ReportUri> {
    let mut all = Vec::new();
    for uri in rows.keys().flat_map(|tally| &tally.rua) {
        if !all.contains(uri) {
            all.push(uri.clone());
        }
    }
    all.sort_by(|a, b| a.address.cmp(&b.address));
    all
}

/// The report about `rows`, all of `domain`, of the day that begins at `begin`.
pub fn report(by: Submitter<'_>, domain: &str, begin: Millis, rows: &Rows) -> Report {
    let seconds = begin / 1000;
    let mut report = Report::new()
        .with_version(1.0)
        .with_org_name(by.hostname)
        .with_email(by.from)
        .with_report_id(format!("{seconds}.{domain}@{}", by.hostname))
        .with_generator(concat!("chapar ", env!("CARGO_PKG_VERSION")))
        .with_date_range_begin(seconds)
        .with_date_range_end((begin + DAY) / 1000 - 1);
    if let Some(tally) = rows.keys().next() {
        report = report.with_policy_published(published(domain, tally));
    }
    let mut rows: Vec<_> = rows.iter().collect();
    rows.sort_by(|(a, x), (b, y)| y.cmp(x).then_with(|| a.client.cmp(&b.client)));
    for (tally, count) in rows {
        report.add_record(record(tally, *count));
    }
    report
}

/// The report as it is attached: XML, compressed.
pub fn compressed(report: &Report) -> io::Result<Vec<u8>> {
    post::gzip(report.to_xml().as_bytes())
}

/// The message that carries it to `to` (RFC 9990 section 3.2): header block and body.
pub fn message(
    by: Submitter<'_>,
    report: &Report,
    compressed: &[u8],
    to: &[String],
    id: QueueId,
    at: Millis,
) -> (String, String) {
    let Submitter { hostname, from } = by;
    let (domain, number) = (report.domain(), report.report_id());
    let (begin, end) = (report.date_range_begin(), report.date_range_end());
    let boundary = format!("{id}.{hostname}");
    let to: Vec<String> = to.iter().map(|address| format!("<{address}>")).collect();
    let head = format!(
        "Date: {}\r\nFrom: DMARC reports <{from}>\r\nTo: {}\r\n\
         Subject: Report Domain: {domain}\r\n Submitter: {hostname}\r\n Report-ID: <{number}>\r\n\
         Message-ID: <{id}@{hostname}>\r\nAuto-Submitted: auto-generated\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/mixed;\r\n boundary=\"{boundary}\"\r\n\r\n",
        crate::message::date(at),
        to.join(",\r\n "),
    );
    let mut lines = String::new();
    let text = STANDARD.encode(compressed);
    for line in text.as_bytes().chunks(76) {
        lines.push_str(&String::from_utf8_lossy(line));
        lines.push_str("\r\n");
    }
    let body = format!(
        "--{boundary}\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n\
         This is a DMARC aggregate report about mail in the name of\r\n{domain}, \
         from {hostname}.\r\n\
         --{boundary}\r\nContent-Type: application/gzip\r\nContent-Transfer-Encoding: base64\r\n\
         Content-Disposition: attachment;\r\n filename=\"{hostname}!{domain}!{begin}!{end}.xml.gz\"\r\n\r\n\
         {lines}--{boundary}--\r\n"
    );
    (head, body)
}

fn published(domain: &str, tally: &Tally) -> PolicyPublished {
    let asked = |wish: Wish| match wish {
        Wish::None => Asked::None,
        Wish::Quarantine => Asked::Quarantine,
        Wish::Reject => Asked::Reject,
    };
    let alignment = |strict: bool| match strict {
        true => Alignment::Strict,
        false => Alignment::Relaxed,
    };
    let published = &tally.published;
    PolicyPublished {
        domain: domain.to_owned(),
        adkim: alignment(published.strict_dkim),
        aspf: alignment(published.strict_spf),
        p: asked(published.p),
        sp: published.sp.map_or(Asked::Unspecified, asked),
        np: published.np.map_or(Asked::Unspecified, asked),
        testing: published.testing,
        discovery_method: Discovery::Treewalk,
        ..PolicyPublished::default()
    }
}

fn record(tally: &Tally, count: u32) -> Record {
    let aligned = |aligned: bool| match aligned {
        true => DmarcResult::Pass,
        false => DmarcResult::Fail,
    };
    let mut record = Record::new()
        .with_source_ip(tally.client)
        .with_count(count)
        .with_action_disposition(match tally.disposition {
            Disposition::Pass => ActionDisposition::Pass,
            Disposition::None => ActionDisposition::None,
            Disposition::Reject => ActionDisposition::Reject,
        })
        .with_dmarc_dkim_result(aligned(tally.dkim_aligned))
        .with_dmarc_spf_result(aligned(tally.spf_aligned))
        .with_envelope_from(tally.envelope_from.as_str())
        .with_header_from(tally.header_from.as_str())
        .with_spf_auth_result(SPFAuthResult {
            domain: tally.spf.0.clone(),
            scope: match tally.envelope_from.is_empty() {
                true => SPFDomainScope::Unspecified,
                false => SPFDomainScope::MailFrom,
            },
            result: spf(&tally.spf.1),
            human_result: None,
        });
    if let Some(reason) = tally.reason {
        record = record.with_policy_override_reason(PolicyOverrideReason {
            type_: match reason {
                Reason::LocalPolicy => PolicyOverride::LocalPolicy,
                Reason::PolicyTestMode => PolicyOverride::PolicyTestMode,
            },
            comment: None,
        });
    }
    for (domain, selector, result) in &tally.dkim {
        record = record.with_dkim_auth_result(DKIMAuthResult {
            domain: domain.clone(),
            selector: selector.clone(),
            result: dkim(result),
            human_result: None,
        });
    }
    record
}

fn spf(result: &str) -> SpfResult {
    match result {
        "pass" => SpfResult::Pass,
        "fail" => SpfResult::Fail,
        "softfail" => SpfResult::SoftFail,
        "neutral" => SpfResult::Neutral,
        "temperror" => SpfResult::TempError,
        "permerror" => SpfResult::PermError,
        _ => SpfResult::None,
    }
}

fn dkim(result: &str) -> DkimResult {
    match result {
        "pass" => DkimResult::Pass,
        "fail" => DkimResult::Fail,
        "policy" => DkimResult::Policy,
        "neutral" => DkimResult::Neutral,
        "temperror" => DkimResult::TempError,
        "permerror" => DkimResult::PermError,
        _ => DkimResult::None,
    }
}
