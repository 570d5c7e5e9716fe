//! What is wrong with a file that should hold a private key, in words that say what to do. Pure;
//! nothing of a key is ever part of what it says.

/// The object identifier of secp521r1 in DER (SEC 2, 1.3.132.0.35).
const P521: [u8; 7] = [0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23];
/// What begins a line that begins a block.
const BEGIN: &str = "-----BEGIN ";

/// Why `file` holds no private key that can be used, where that can be told.
pub fn no_key(file: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(file);
    let lines = || text.lines().zip(1usize..);
    let begins = |what: &str| {
        let mut lines = lines();
        lines.find_map(|(line, number)| {
            line.strip_prefix(BEGIN)?
                .starts_with(what)
                .then_some(number)
        })
    };
    if let Some(line) = begins("ENCRYPTED PRIVATE KEY") {
        return Some(encrypted(line));
    }
    if let Some((_, line)) = lines().find(|(line, _)| line.starts_with("Proc-Type: 4,ENCRYPTED")) {
        return Some(encrypted(line));
    }
    if let Some(line) = begins("OPENSSH PRIVATE KEY") {
        return Some(format!(
            "line {line}: it is a key of OpenSSH; write it as PEM: ssh-keygen -p -m PKCS8 -f FILE"
        ));
    }
    if lines().all(|(line, _)| !line.starts_with(BEGIN)) {
        // A SEQUENCE with a length of its own bytes.
        return Some(match file {
            [] => "it is empty".into(),
            [0x30, 0x30..=0x83, ..] => "it is DER and not PEM; write it as PEM: openssl pkey \
                 -inform DER -in FILE -out FILE.pem"
                .into(),
            _ => "it has no line -----BEGIN PRIVATE KEY-----; it is no PEM".into(),
        });
    }
    let der = rustls::pki_types::PrivateKeyDer::from_pem_slice(file).ok();
    let Some(der) = der else {
        return match begins("") {
            Some(line) if text.contains("CERTIFICATE") && !text.contains("PRIVATE KEY") => Some(
                format!("line {line}: it holds a certificate and no key; name the file of the key"),
            ),
            _ => None,
        };
    };
    let p521 = memchr::memmem::find(der.secret_der(), &P521).is_some();
    p521.then(|| {
        let line = begins("").unwrap_or(1);
        format!(
            "line {line}: it is a key on the curve P-521, which can not be used; make one of \
             P-256, or RSA"
        )
    })
}

fn encrypted(line: usize) -> String {
    format!(
        "line {line}: the key is encrypted with a passphrase, which nobody can type at a start; \
         write it without one: openssl pkey -in FILE -out FILE.plain"
    )
}

use rustls::pki_types::pem::PemObject as _;

#[cfg(test)]
mod tests {
    use super::*;

    fn pem(what: &str, der: &[u8]) -> Vec<u8> {
        use base64::Engine as _;
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        format!("# ours\n-----BEGIN {what}-----\n{text}\n-----END {what}-----\n").into_bytes()
    }

    #[test]
    fn r13_a_key_that_can_not_be_used_is_named_with_its_line() {
        let says = |file: &[u8]| no_key(file).unwrap_or_default();
        let encrypted = pem("ENCRYPTED PRIVATE KEY", b"0000");
        assert!(says(&encrypted).starts_with("line 2: the key is encrypted with a passphrase"));
        let old = b"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nAAAA\n";
        assert!(says(old).starts_with("line 2: the key is encrypted with a passphrase"));
        let p521 = pem("PRIVATE KEY", &[&[0x30, 0x10][..], &P521[..]].concat());
        assert!(
            says(&p521).starts_with("line 2: it is a key on the curve P-521"),
            "{}",
            says(&p521)
        );
        assert!(says(&[0x30, 0x82, 1, 2, 3]).starts_with("it is DER and not PEM"));
        assert!(says(b"hello").starts_with("it has no line -----BEGIN PRIVATE KEY-----"));
        assert_eq!(says(b""), "it is empty");
        let chain = pem("CERTIFICATE", b"0000");
        assert!(says(&chain).starts_with("line 2: it holds a certificate and no key"));
    }

    #[test]
    fn r13_a_key_that_can_be_used_has_nothing_wrong() {
        let key = rcgen::KeyPair::generate().unwrap();
        assert_eq!(no_key(key.serialize_pem().as_bytes()), None);
    }
}
