//! Parts a message into header block and body while it arrives.

use super::headers;

/// Gathers decoded message data; the header block stays here, the body is handed on.
#[derive(Debug)]
pub struct Collector {
    head: Vec<u8>,
    in_body: bool,
    max_head: usize,
    max_message: u64,
    total: u64,
    problem: Option<Problem>,
}

/// Why a message is refused, although its end is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// The header block is longer than `limits.header`.
    HeaderTooBig,
    /// The message is longer than `limits.message`.
    MessageTooBig,
}

impl Collector {
    /// With the limits in bytes.
    pub fn new(max_head: usize, max_message: u64) -> Collector {
        Collector {
            head: Vec::new(),
            in_body: false,
            max_head,
            max_message,
            total: 0,
            problem: None,
        }
    }

    /// Takes the next part. What belongs to the body is left in `part`, the rest is taken out of
    /// it. After a [`Problem`] nothing is kept and nothing is left.
    pub fn take(&mut self, part: &mut Vec<u8>) {
        self.total = self.total.saturating_add(part.len() as u64);
        if self.total > self.max_message {
            self.problem = self.problem.or(Some(Problem::MessageTooBig));
        }
        if self.problem.is_some() {
            self.head = Vec::new();
            part.clear();
            return;
        }
        if self.in_body {
            return;
        }
        let searched = self.head.len();
        if self.head.capacity() - searched < part.len() {
            // Doubling would hold up to twice of what came.
            self.head.reserve_exact(part.len().max(searched / 4));
        }
        self.head.append(part);
        if let Some(line) = headers::empty_line(&self.head, searched) {
            part.extend_from_slice(self.head.get(line.end..).unwrap_or_default());
            self.head.truncate(line.end);
            self.in_body = true;
        }
        if self.head.len() > self.max_head {
            self.problem = Some(Problem::HeaderTooBig);
            self.head = Vec::new();
            part.clear();
        }
    }

    /// Bytes taken so far, kept or not.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Bytes of memory that the header block takes.
    pub fn held(&self) -> usize {
        self.head.capacity()
    }

    /// Drops the header block: its message will not be taken.
    pub fn give_up(&mut self) {
        self.head = Vec::new();
        self.in_body = true;
    }

    /// The header block, with its empty line if there was one, or why there is none.
    pub fn finish(self) -> Result<Vec<u8>, Problem> {
        match self.problem {
            Some(problem) => Err(problem),
            None => Ok(self.head),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collect(message: &[u8], step: usize) -> (Result<Vec<u8>, Problem>, Vec<u8>) {
        let mut collector = Collector::new(20, 40);
        let mut body = Vec::new();
        for chunk in message.chunks(step) {
            let mut part = chunk.to_vec();
            collector.take(&mut part);
            body.append(&mut part);
        }
        (collector.finish(), body)
    }

    #[test]
    fn header_and_body_part_at_the_first_empty_line_at_every_split() {
        for step in 1..30 {
            let (head, body) = collect(b"A: b\r\nC: d\r\n\r\nbody\r\n\r\nmore", step);
            assert_eq!(head.as_deref(), Ok(&b"A: b\r\nC: d\r\n\r\n"[..]));
            assert_eq!(body, b"body\r\n\r\nmore");
            let (head, body) = collect(b"\r\nbody", step);
            assert_eq!(
                (head.as_deref(), body.as_slice()),
                (Ok(&b"\r\n"[..]), &b"body"[..])
            );
            let (head, body) = collect(b"A: b\r\n", step);
            assert_eq!(
                (head.as_deref(), body.as_slice()),
                (Ok(&b"A: b\r\n"[..]), &b""[..])
            );
        }
    }

    #[test]
    fn limits_hold_for_header_and_message() {
        for step in 1..30 {
            let (head, _) = collect(b"A: 0123456789\r\nB: 0123456789\r\n\r\n", step);
            assert_eq!(head, Err(Problem::HeaderTooBig));
            let (head, _) = collect(
                b"A: b\r\n\r\n01234567890123456789012345678901234567890",
                step,
            );
            assert_eq!(head, Err(Problem::MessageTooBig));
        }
    }
}
