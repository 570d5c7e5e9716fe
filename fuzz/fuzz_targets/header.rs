//! Headers: the fields are the block, and encoding a message anew keeps its rule.
#![no_main]

use chapar::message::reencode::{Rule, reencode};
use chapar::message::{author, headers, trace};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let (head, body) = match headers::empty_line(data, 0) {
        Some(line) => data.split_at(line.end),
        None => (data, &data[..0]),
    };
    if let Ok(fields) = headers::fields(head) {
        let length: usize = fields.iter().map(|field| field.whole.len()).sum();
        assert!(length == head.len() || length + 2 == head.len());
        for field in &fields {
            let _ = author::addresses(field.value);
            let _ = trace::own(field.value, "mx.example.org");
        }
    }
    let rule = Rule {
        line: 100,
        seven_bit: true,
    };
    if let Ok((_, body)) = reencode(head, body, rule) {
        assert!(body.is_ascii());
        assert!(body.split(|byte| *byte == b'\n').all(|line| line.len() <= 101));
    }
});
