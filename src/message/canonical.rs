//! The canonical forms of header fields and bodies that signatures are computed over (RFC 6376
//! section 3.4).

use mail_auth::common::crypto::{HashContext as _, HashImpl as _, Sha256};
use mail_auth::dkim::Canonicalization;
use mail_auth::dkim::canonicalize::BodyHasher;

use super::headers::Field;

/// One of the two forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As it is.
    Simple,
    /// White space may have changed, and the case of field names.
    Relaxed,
}

impl Form {
    /// As `c=` names it.
    pub fn parse(text: &str) -> Option<Form> {
        match text {
            _ if text.eq_ignore_ascii_case("simple") => Some(Form::Simple),
            _ if text.eq_ignore_ascii_case("relaxed") => Some(Form::Relaxed),
            _ => None,
        }
    }

    /// Appends a field and its line end.
    pub fn write_field(self, field: &Field<'_>, out: &mut Vec<u8>) {
        match self {
            Form::Simple => out.extend_from_slice(field.whole),
            Form::Relaxed => relaxed(field.name, field.value, out),
        }
        if !out.ends_with(b"\r\n") {
            out.extend_from_slice(b"\r\n");
        }
    }

    /// Appends the signature's own field: its value without the signature, without a line end
    /// (RFC 6376 section 3.7).
    pub fn write_last(self, name: &[u8], value: &[u8], out: &mut Vec<u8>) {
        match self {
            Form::Simple => {
                out.extend_from_slice(name);
                out.push(b':');
                out.extend_from_slice(value);
            }
            Form::Relaxed => relaxed(name, value, out),
        }
        if out.ends_with(b"\r\n") {
            out.truncate(out.len().saturating_sub(2));
        }
    }
}

fn relaxed(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.extend(name.trim_ascii_end().iter().map(u8::to_ascii_lowercase));
    out.push(b':');
    let mut space = false;
    let mut started = false;
    for byte in value {
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => space = true,
            _ => {
                if space && started {
                    out.push(b' ');
                }
                (space, started) = (false, true);
                out.push(*byte);
            }
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Hashes a body with SHA-256 as it comes in blocks.
pub struct BodyHash(BodyHasher<<Sha256 as mail_auth::common::crypto::HashImpl>::Context>);

impl BodyHash {
    /// Of nothing yet.
    pub fn new(form: Form) -> BodyHash {
        let form = match form {
            Form::Simple => Canonicalization::Simple,
            Form::Relaxed => Canonicalization::Relaxed,
        };
        // 0: the whole body counts, whatever a signature's l= says.
        BodyHash(BodyHasher::new(Sha256::hasher(), form, 0))
    }

    /// The next block.
    pub fn write(&mut self, block: &[u8]) {
        self.0.write(block);
    }

    /// The hash.
    pub fn finish(self) -> Vec<u8> {
        let (context, _) = self.0.finish();
        context.complete().as_ref().to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    fn field(text: &str, form: Form) -> String {
        let fields = crate::message::headers::fields(text.as_bytes()).expect("fields");
        let mut out = Vec::new();
        fields
            .iter()
            .for_each(|field| form.write_field(field, &mut out));
        String::from_utf8(out).expect("text")
    }

    /// The example of RFC 6376 section 3.4.5.
    #[test]
    fn fields_in_both_forms() {
        let head = "A: X\r\nB : Y\t\r\n\tZ  \r\n";
        let odd = Field {
            name: b"B ",
            value: b" Y\t\r\n\tZ  \r\n",
            whole: b"",
        };
        let mut out = Vec::new();
        Form::Relaxed.write_field(&odd, &mut out);
        assert_eq!(out, b"b:Y Z\r\n");
        assert!(crate::message::headers::fields(head.as_bytes()).is_err());
        let plain = "A: X\r\nBc: Y\t\r\n\tZ  \r\nC:\r\n";
        assert_eq!(field(plain, Form::Relaxed), "a:X\r\nbc:Y Z\r\nc:\r\n");
        assert_eq!(field(plain, Form::Simple), plain);
    }

    #[test]
    fn bodies_hash_the_same_in_any_blocks() {
        // RFC 6376 sections 3.4.3 and 3.4.4: the hashes of an empty body.
        let empty = |form| STANDARD.encode(BodyHash::new(form).finish());
        assert_eq!(
            empty(Form::Simple),
            "frcCV1k9oG9oKj3dpUqdJg1PxRT2RSN/XKdLCPjaYaY="
        );
        assert_eq!(
            empty(Form::Relaxed),
            "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
        );
        let body = b" C \r\nD \t E\r\n\r\n\r\n";
        for form in [Form::Simple, Form::Relaxed] {
            let hash = |step: usize| {
                let mut hash = BodyHash::new(form);
                body.chunks(step).for_each(|block| hash.write(block));
                hash.finish()
            };
            let whole = hash(body.len());
            assert!((1..body.len()).all(|step| hash(step) == whole), "{form:?}");
        }
    }
}
