//! The canonical forms of header fields and bodies that signatures are computed over (RFC 6376
//! section 3.4).

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
pub struct BodyHash {
    context: ring::digest::Context,
    body: CanonicalBody,
    /// What is to be hashed next.
    buffer: Vec<u8>,
}

impl BodyHash {
    /// Of nothing yet.
    pub fn new(form: Form) -> BodyHash {
        BodyHash {
            context: ring::digest::Context::new(&ring::digest::SHA256),
            body: CanonicalBody::new(form),
            buffer: Vec::new(),
        }
    }

    /// The next block. The whole body counts, whatever a signature's `l=` says.
    pub fn write(&mut self, block: &[u8]) {
        for piece in block.chunks(PIECE) {
            self.body.write(piece, &mut self.buffer);
            self.context.update(&self.buffer);
            self.buffer.clear();
        }
    }

    /// The hash.
    pub fn finish(mut self) -> Vec<u8> {
        self.body.finish(&mut self.buffer);
        self.context.update(&self.buffer);
        self.context.finish().as_ref().to_vec()
    }
}

/// Bytes that are made canonical at a time.
const PIECE: usize = 16 * 1024;

/// A body in its canonical form, as it comes in blocks.
struct CanonicalBody {
    form: Form,
    /// A CR whose LF may come in the next block.
    cr: bool,
    /// White space that something on the same line may follow.
    space: bool,
    /// The line has something that stays.
    text: bool,
    /// Empty lines that something may follow.
    empty: u64,
    /// The last line that was written has no end yet.
    open: bool,
    /// Something was written.
    some: bool,
}

impl CanonicalBody {
    fn new(form: Form) -> CanonicalBody {
        CanonicalBody {
            form,
            cr: false,
            space: false,
            text: false,
            empty: 0,
            open: false,
            some: false,
        }
    }

    fn write(&mut self, block: &[u8], out: &mut Vec<u8>) {
        for byte in block {
            match (byte, std::mem::take(&mut self.cr)) {
                (b'\n', true) => self.line_end(out),
                (b'\r', false) => self.cr = true,
                (b'\r', true) => {
                    self.keep(b'\r', out);
                    self.cr = true;
                }
                (byte, cr) => {
                    if cr {
                        self.keep(b'\r', out);
                    }
                    match byte {
                        b' ' | b'\t' if self.form == Form::Relaxed => self.space = true,
                        _ => self.keep(*byte, out),
                    }
                }
            }
        }
    }

    /// RFC 6376 section 3.4.4: first the white space at line ends goes, then empty lines at the end of
    /// the body; so a last line of blanks is an empty one.
    fn line_end(&mut self, out: &mut Vec<u8>) {
        self.space = false;
        match std::mem::take(&mut self.text) {
            true => {
                out.extend_from_slice(b"\r\n");
                self.open = false;
            }
            false => self.empty += 1,
        }
    }

    fn keep(&mut self, byte: u8, out: &mut Vec<u8>) {
        for _ in 0..std::mem::take(&mut self.empty) {
            out.extend_from_slice(b"\r\n");
        }
        if std::mem::take(&mut self.space) {
            out.push(b' ');
        }
        out.push(byte);
        (self.text, self.open) = (true, true);
        self.some = true;
    }

    fn finish(&mut self, out: &mut Vec<u8>) {
        if std::mem::take(&mut self.cr) {
            self.keep(b'\r', out);
        }
        // Section 3.4.3: an empty body in the simple form is one line end, in the other nothing.
        if self.open || (self.form == Form::Simple && !self.some) {
            out.extend_from_slice(b"\r\n");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    fn field(text: &str, form: Form) -> String {
        let fields = crate::headers::fields(text.as_bytes()).expect("fields");
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
        assert_eq!(field(head, Form::Relaxed), "a:X\r\nb:Y Z\r\n");
        assert_eq!(field(head, Form::Simple), head);
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
        let body = b" C \r\n \t\r\n\rD \t E\r\n\r\n \r\n";
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

    #[test]
    fn r1_blanks_at_line_ends_go_before_empty_lines_at_the_end() {
        let form = |form, body: &str| {
            let (mut canonical, mut out) = (CanonicalBody::new(form), Vec::new());
            canonical.write(body.as_bytes(), &mut out);
            canonical.finish(&mut out);
            String::from_utf8(out).expect("text")
        };
        for (body, relaxed, simple) in [
            // RFC 6376 section 3.4.5.
            (
                " C \r\nD \t E\r\n\r\n\r\n",
                " C\r\nD E\r\n",
                " C \r\nD \t E\r\n",
            ),
            ("text\r\n   \r\n", "text\r\n", "text\r\n   \r\n"),
            ("text\r\n\r\n \t\r\n\r\n", "text\r\n", "text\r\n\r\n \t\r\n"),
            (
                "text\r\n  \r\nmore",
                "text\r\n\r\nmore\r\n",
                "text\r\n  \r\nmore\r\n",
            ),
            ("text\r\n   ", "text\r\n", "text\r\n   \r\n"),
            ("text  ", "text\r\n", "text  \r\n"),
            ("  \r\n", "", "  \r\n"),
            ("", "", "\r\n"),
            ("\r\n\r\n", "", "\r\n"),
            ("\r\ntext", "\r\ntext\r\n", "\r\ntext\r\n"),
        ] {
            assert_eq!(form(Form::Relaxed, body), relaxed, "{body:?}");
            assert_eq!(form(Form::Simple, body), simple, "{body:?}");
        }
    }
}
