//! Reports of other servers, read by `chapar report`.

use crate::site::Site;

#[test]
fn reports_are_taken_from_standard_input() {
    let site = Site::new();
    assert_eq!(
        site.good(&["report", "pending"], ""),
        "",
        "nothing was judged"
    );
    site.bad(
        &["report", "add"],
        "From: a@b.example\n\nno report\n",
        65,
        "report",
    );
    let tls = r#"{"organization-name":"b.example","date-range":{
        "start-datetime":"2026-01-01T00:00:00Z","end-datetime":"2026-01-01T23:59:59Z"},
        "contact-info":"a@b.example","report-id":"1","policies":[{
        "policy":{"policy-type":"no-policy-found","policy-domain":"DOMAIN"},
        "summary":{"total-successful-session-count":7,"total-failure-session-count":0}}]}"#;
    let other = tls.replace("DOMAIN", "example.net");
    site.bad(&["report", "add"], &other, 65, "none of our domains");
    let ours = tls.replace("DOMAIN", "example.org");
    assert_eq!(site.good(&["report", "add"], &ours), "kept 1\n");
    let told = site.good(&["report", "--days", "36500"], "");
    assert!(
        told.contains("example.org: 7 deliveries over TLS as wanted, 0 not"),
        "{told}"
    );
}
