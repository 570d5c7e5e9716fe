//! Who a message says it is from: the mailboxes of its From field.

use crate::smtp::address::{Address, Charset};

/// The addresses of a From field's value, in lower case domains; empty if none can be read.
pub fn addresses(value: &[u8]) -> Vec<String> {
    let mut field = b"From:".to_vec();
    field.extend_from_slice(value);
    field.extend_from_slice(b"\r\n\r\n");
    let Some(message) = mail_parser::MessageParser::new().parse(&field) else {
        return Vec::new();
    };
    let Some(from) = message.from() else {
        return Vec::new();
    };
    from.iter()
        .filter_map(|mailbox| mailbox.address.as_deref())
        .filter_map(|address| Address::parse_in(address.trim().as_bytes(), Charset::Utf8).ok())
        .map(|address| address.to_string())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::addresses;

    #[test]
    fn from_fields_name_their_mailboxes() {
        for (value, expected) in [
            (" a@B.example\r\n", vec!["a@b.example"]),
            (" \"A, B\" <a@b.example>\r\n", vec!["a@b.example"]),
            (
                " =?utf-8?q?J=C3=BCrgen?=\r\n <j@b.example>\r\n",
                vec!["j@b.example"],
            ),
            (
                " a@b.example, C <c@d.example>\r\n",
                vec!["a@b.example", "c@d.example"],
            ),
            (
                " \u{fc}@b\u{fc}cher.example\r\n",
                vec!["\u{fc}@xn--bcher-kva.example"],
            ),
            (" nobody\r\n", vec![]),
            ("\r\n", vec![]),
        ] {
            assert_eq!(addresses(value.as_bytes()), expected, "{value:?}");
        }
    }
}
