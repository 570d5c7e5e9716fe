//! Route 53: XML, signed.

use super::super::data::Kind;
use super::super::{Edit, Provider, TTL};
use super::fake::{Fake, Reply, ok};
use super::record;

const WITH: &str =
    "access_key_id = \"AKID\"\nsecret_access_key = \"secret\"\nsession_token = \"s3ssion\"";

fn zones(private: &str) -> Reply {
    ok(format!(
        "<?xml version=\"1.0\"?>\n<ListHostedZonesByNameResponse xmlns=\"https://route53.amazonaws.com/doc/2013-04-01/\">\
         <HostedZones><HostedZone><Id>/hostedzone/Z0</Id><Name>example.org.</Name><Config><PrivateZone>{private}</PrivateZone></Config></HostedZone>\
         <HostedZone><Id>/hostedzone/Z1</Id><Name>example.org.</Name><Config><PrivateZone>false</PrivateZone></Config></HostedZone>\
         <HostedZone><Id>/hostedzone/Z2</Id><Name>example.com.</Name></HostedZone></HostedZones>\
         <IsTruncated>false</IsTruncated></ListHostedZonesByNameResponse>"
    ))
}

fn sets(sets: &str) -> Reply {
    ok(format!(
        "<ListResourceRecordSetsResponse><ResourceRecordSets>{sets}</ResourceRecordSets></ListResourceRecordSetsResponse>"
    ))
}

fn set(name: &str, kind: &str, values: &[&str]) -> String {
    let values: String = values
        .iter()
        .map(|value| format!("<ResourceRecord><Value>{value}</Value></ResourceRecord>"))
        .collect();
    format!(
        "<ResourceRecordSet><Name>{name}</Name><Type>{kind}</Type><TTL>300</TTL><ResourceRecords>{values}</ResourceRecords></ResourceRecordSet>"
    )
}

#[tokio::test]
async fn sets_are_read_and_changed_in_one_batch() {
    let here = set(
        "example.org.",
        "TXT",
        &["&quot;v=spf1 -all&quot;", "\"a&amp;b\""],
    ) + &set("example.org.", "MX", &["5 old.example.org."])
        + &set("\\052.example.org.", "A", &["192.0.2.9"])
        + "<ResourceRecordSet><Name>example.org.</Name><Type>A</Type><AliasTarget></AliasTarget></ResourceRecordSet>";
    let fake = Fake::start(vec![
        zones("true"),
        sets(&here),
        sets(&here),
        ok("<ChangeResourceRecordSetsResponse/>"),
    ])
    .await;
    let mut publisher = fake.publisher(Provider::Route53, WITH);
    let found = publisher
        .records(&["example.org".to_owned()])
        .await
        .expect("found");
    assert_eq!(
        found,
        [
            record("example.org", Kind::Txt, "\"v=spf1 -all\""),
            record("example.org", Kind::Txt, "\"a&b\""),
            record("example.org", Kind::Mx, "5 old.example.org."),
        ]
    );
    let edits = [
        Edit::remove(&found[2]),
        Edit {
            remove: Some(found[0].data.clone()),
            ..Edit::add(&record("example.org", Kind::Txt, "\"v=spf1 a -all\""), TTL)
        },
    ];
    publisher.apply(&edits).await.expect("published");
    assert_eq!(
        fake.lines(),
        [
            "GET /v1/2013-04-01/hostedzonesbyname?dnsname=example.org.",
            "GET /v1/2013-04-01/hostedzone/Z1/rrset?maxitems=100&name=example.org.",
            "GET /v1/2013-04-01/hostedzone/Z1/rrset?maxitems=100&name=example.org.",
            "POST /v1/2013-04-01/hostedzone/Z1/rrset",
        ]
    );
    let asked = fake.asked();
    for asked in &asked {
        let signed = asked.header("authorization");
        assert!(
            signed.starts_with("AWS4-HMAC-SHA256 Credential=AKID/20"),
            "{signed}"
        );
        assert!(
            signed.contains("/us-east-1/route53/aws4_request, SignedHeaders=host;x-amz-date;x-amz-security-token, Signature="),
            "{signed}"
        );
        assert_eq!(asked.header("x-amz-security-token"), "s3ssion");
        assert_eq!(asked.header("x-amz-date").len(), "20150830T123600Z".len());
    }
    assert_eq!(
        asked[3].body,
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <ChangeResourceRecordSetsRequest xmlns=\"https://route53.amazonaws.com/doc/2013-04-01/\"><ChangeBatch><Changes>\
         <Change><Action>DELETE</Action><ResourceRecordSet><Name>example.org.</Name><Type>MX</Type><TTL>300</TTL><ResourceRecords>\
         <ResourceRecord><Value>5 old.example.org.</Value></ResourceRecord></ResourceRecords></ResourceRecordSet></Change>\
         <Change><Action>UPSERT</Action><ResourceRecordSet><Name>example.org.</Name><Type>TXT</Type><TTL>300</TTL><ResourceRecords>\
         <ResourceRecord><Value>&quot;a&amp;b&quot;</Value></ResourceRecord>\
         <ResourceRecord><Value>&quot;v=spf1 a -all&quot;</Value></ResourceRecord></ResourceRecords></ResourceRecordSet></Change>\
         </Changes></ChangeBatch></ChangeResourceRecordSetsRequest>"
    );
}

#[tokio::test]
async fn each_failure_says_what_to_do() {
    let error = |code: &str| {
        format!(
            "<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>Mind your keys</Message></Error></ErrorResponse>"
        )
    };
    for (reply, wanted) in [
        (
            Reply::With(403, "", error("SignatureDoesNotMatch")),
            "route53 does not take our credentials (403: Mind your keys); ",
        ),
        (
            Reply::With(400, "", error("InvalidInput")),
            "route53 refuses (400: Mind your keys): GET /2013-04-01/hostedzonesbyname",
        ),
        (
            Reply::With(429, "Retry-After: 600\r\n", error("Throttling")),
            "route53 asks for patience (429: Mind your keys); run this again in 600 s",
        ),
        (
            Reply::With(503, "", error("ServiceUnavailable")),
            "route53 can not be asked: 503: Mind your keys; ",
        ),
        (
            ok("{\"json\": 1}"),
            "route53 answers what is not its API (no List",
        ),
        (ok("<a><b></a>"), "route53 answers what is not its API ("),
        (
            ok("<a>".repeat(50)),
            "route53 answers what is not its API (it is too deep",
        ),
        (
            ok("<a>"),
            "route53 answers what is not its API (it ends too early",
        ),
        (
            Reply::Silence,
            "route53 can not be asked: no answer within 2 s",
        ),
        (sets(""), "route53 answers what is not its API (no List"),
    ] {
        let fake = Fake::start(vec![reply]).await;
        let mut publisher = fake.publisher(Provider::Route53, WITH);
        let problem = publisher.zone_of("example.org").await.expect_err(wanted);
        assert!(
            problem.to_string().starts_with(wanted),
            "{wanted}: {problem}"
        );
    }
}
