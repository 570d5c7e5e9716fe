//! Independent judges of what we send.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A program that `tests/run` installed; its absence is a failure, not a reason to skip.
fn installed(variable: &str, default: &str) -> PathBuf {
    let path = std::env::var_os(variable)
        .map(PathBuf::from)
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join(default));
    assert!(
        path.exists(),
        "{} is missing: tests/run installs it",
        path.display()
    );
    path
}

/// Python with dkimpy and aiosmtpd.
pub fn python() -> PathBuf {
    installed("CHAPAR_PYTHON", "target/venv/bin/python")
}

/// A program of Postfix, such as `smtp-sink`.
pub fn postfix(program: &str) -> PathBuf {
    installed("CHAPAR_PEERS", "target/peers/bin").join(program)
}

/// OpenDKIM's milter.
pub fn opendkim() -> PathBuf {
    installed("CHAPAR_OPENDKIM", "target/peers/opendkim/usr/sbin/opendkim")
}

/// The files of Dovecot.
pub fn dovecot() -> PathBuf {
    installed("CHAPAR_DOVECOT", "target/peers/dovecot")
}

/// The files of rspamd.
pub fn rspamd() -> PathBuf {
    installed("CHAPAR_RSPAMD", "target/peers/rspamd")
}

/// How many DKIM signatures of `message` dkimpy finds valid, of how many; keys are answered from
/// `records`: pairs of a name without the last dot and a TXT record.
pub fn dkimpy(message: &[u8], records: &[(String, String)]) -> (usize, usize) {
    let script = r#"
import sys, json, dkim
records = {k + ".": v.encode() for k, v in json.loads(sys.argv[1])}
message = sys.stdin.buffer.read()
def txt(name, timeout=5):
    name = name.decode() if isinstance(name, bytes) else name
    return records.get(name if name.endswith(".") else name + ".")
d = dkim.DKIM(message)
count = sum(1 for name, _ in d.headers if name.lower() == b"dkim-signature")
valid = sum(1 for i in range(count) if dkim.DKIM(message).verify(idx=i, dnsfunc=txt))
print(valid, count)
"#;
    let table = serde_json::to_string(records).expect("JSON");
    let mut child = Command::new(python())
        .args(["-c", script, &table])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python runs");
    let mut stdin = child.stdin.take().expect("stdin");
    stdin.write_all(message).expect("message");
    drop(stdin);
    let output = child.wait_with_output().expect("dkimpy answers");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut numbers = text.split_whitespace().map(|n| n.parse().expect("number"));
    (
        numbers.next().expect("valid"),
        numbers.next().expect("count"),
    )
}

/// The XML of a DMARC report, unpacked and read by Python: the path of each element that has a text,
/// and the text.
pub fn report(message: &[u8]) -> Vec<(String, String)> {
    let script = r#"
import sys, json, gzip, email
import xml.etree.ElementTree as tree
message = email.message_from_bytes(sys.stdin.buffer.read())
part = [p for p in message.walk() if p.get_content_type() == "application/gzip"][0]
print(part.get_filename(), file=sys.stderr)
found = []
def walk(element, path):
    path = path + "/" + element.tag.replace("{urn:ietf:params:xml:ns:dmarc-2.0}", "")
    if element.text and element.text.strip():
        found.append((path, element.text))
    for below in element:
        walk(below, path)
walk(tree.fromstring(gzip.decompress(part.get_payload(decode=True))), "")
print(json.dumps(found))
"#;
    let mut child = Command::new(python())
        .args(["-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python runs");
    let mut stdin = child.stdin.take().expect("stdin");
    stdin.write_all(message).expect("message");
    drop(stdin);
    let output = child.wait_with_output().expect("python answers");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// `message` with a DKIM signature of dkimpy on top, made with the RSA key in PEM.
pub fn dkimpy_signs(message: &[u8], pem: &str, forms: (&str, &str)) -> Vec<u8> {
    let script = r#"
import sys, dkim
pem, header, body = sys.argv[1].encode(), sys.argv[2].encode(), sys.argv[3].encode()
message = sys.stdin.buffer.read()
signature = dkim.sign(message, b"s", b"src.example", pem, canonicalize=(header, body))
sys.stdout.buffer.write(signature + message)
"#;
    piped(script, &[pem, forms.0, forms.1], message)
}

/// The messages in the inbox of a user of an IMAP server on loopback.
pub fn imap(port: u16, user: &str, password: &str) -> Vec<Vec<u8>> {
    let script = r#"
import sys, json, imaplib
client = imaplib.IMAP4("127.0.0.1", int(sys.argv[1]))
client.login(sys.argv[2], sys.argv[3])
status, [count] = client.select("INBOX", readonly=True)
found = []
for number in range(1, int(count) + 1):
    status, data = client.fetch(str(number), "(RFC822.SIZE BODY.PEEK[])")
    assert status == "OK", status
    told = int(data[0][0].split(b"RFC822.SIZE ")[1].split()[0])
    assert told == len(data[0][1]), (told, len(data[0][1]))
    found.append(data[0][1].decode("latin-1"))
client.logout()
print(json.dumps(found))
"#;
    let text = piped(script, &[&port.to_string(), user, password], b"");
    let found: Vec<String> = serde_json::from_slice(&text).expect("JSON");
    let bytes = |text: &String| {
        text.chars()
            .map(|c| u8::try_from(c).expect("a byte"))
            .collect()
    };
    found.iter().map(bytes).collect()
}

/// What a script of Python makes of its input.
fn piped(script: &str, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new(python())
        .args(["-c", script])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python runs");
    let mut stdin = child.stdin.take().expect("stdin");
    stdin.write_all(input).expect("message");
    drop(stdin);
    let output = child.wait_with_output().expect("python answers");
    assert!(output.status.success());
    output.stdout
}
