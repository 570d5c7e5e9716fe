//! Every reply the server can give, in one place (RFC 5321 section 4.2, RFC 3463).
//!
//! A reply is one line except that to EHLO. Texts say what was wrong and what to do; nothing a
//! client sent is repeated in them, so no reply can be made to carry what it should not.

use std::borrow::Cow;
use std::fmt::Write as _;

use queue_schema::QueueId;

use super::address::AddressError;

/// One reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Three digits.
    pub code: u16,
    /// The enhanced status code; empty where RFC 2034 has none (220, 221 by choice, 354, 334).
    pub enhanced: &'static str,
    /// What a person reads.
    pub text: Cow<'static, str>,
}

impl Reply {
    /// A reply with a text made for the occasion; control characters become spaces.
    pub fn new(code: u16, enhanced: &'static str, text: impl Into<String>) -> Reply {
        let text = text
            .into()
            .replace(|c: char| c.is_control() || !c.is_ascii(), " ");
        Reply {
            code,
            enhanced,
            text: Cow::Owned(text),
        }
    }

    /// Whether it refuses.
    pub fn is_error(&self) -> bool {
        self.code >= 400
    }

    /// Appends it as it goes over the wire.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.code.to_string().as_bytes());
        out.push(b' ');
        if !self.enhanced.is_empty() {
            out.extend_from_slice(self.enhanced.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(self.text.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

macro_rules! replies {
    ($($(#[doc = $doc:literal])* $name:ident = $code:literal $enhanced:literal $text:literal;)*) => {
        $($(#[doc = $doc])* pub const $name: Reply =
            Reply { code: $code, enhanced: $enhanced, text: Cow::Borrowed($text) };)*

        /// Every fixed reply, when it is given, and its name: the table in the docs.
        pub const ALL: &[(&str, Reply, &str)] = &[$((stringify!($name), $name, concat!($($doc),*))),*];
    };
}

replies! {
    /// QUIT.
    BYE = 221 "2.0.0" "Bye";
    /// BDAT that does not end the message.
    CHUNK_OK = 250 "2.0.0" "Chunk taken, send the next";
    /// RSET, NOOP.
    OK = 250 "2.0.0" "OK";
    /// MAIL.
    SENDER_OK = 250 "2.1.0" "Sender OK";
    /// RCPT.
    RECIPIENT_OK = 250 "2.1.5" "Recipient OK";
    /// VRFY: nobody is named (RFC 5321 section 7.3).
    WILL_NOT_VERIFY = 252 "2.5.2" "Will not say; send the message and see";
    /// HELP.
    HELP = 214 "2.0.0" "See RFC 5321";
    /// STARTTLS.
    START_TLS = 220 "2.0.0" "Ready to start TLS";
    /// AUTH went well.
    AUTHENTICATED = 235 "2.7.0" "Authentication succeeded";
    /// AUTH, an empty challenge: the space after the code is part of it (RFC 4954 section 4).
    CHALLENGE_EMPTY = 334 "" "";
    /// AUTH LOGIN: "Username:" in base64.
    CHALLENGE_USER = 334 "" "VXNlcm5hbWU6";
    /// AUTH LOGIN: "Password:" in base64.
    CHALLENGE_PASSWORD = 334 "" "UGFzc3dvcmQ6";
    /// DATA.
    SEND_DATA = 354 "" "Send the message and end it with a dot on a line of its own";
    /// The daemon is stopping.
    SHUTTING_DOWN = 421 "4.3.2" "The server is stopping, try again in a minute";
    /// limits.transactions.
    TOO_MANY_TRANSACTIONS = 421 "4.7.0" "Enough messages for one connection, open another";
    /// limits.commands.
    TOO_MANY_COMMANDS = 421 "4.7.0" "Too many commands, closing the connection";
    /// limits.auth_attempts.
    TOO_MANY_LOGINS = 421 "4.7.0" "Too many failed logins, closing the connection";
    /// Message data came more slowly than limits.data_rate.
    TOO_SLOW = 421 "4.4.2" "The message comes too slowly, closing the connection";
    /// No command came in time.
    IDLE = 421 "4.4.2" "Timeout, closing the connection";
    /// Too many refused commands.
    TOO_MANY_ERRORS = 421 "4.7.0" "Too many errors, closing the connection";
    /// Too many NOOP, RSET, VRFY.
    TOO_MANY_IDLE_COMMANDS = 421 "4.7.0" "Too many commands without mail, closing the connection";
    /// limits.connections or limits.connections_per_client.
    TOO_MANY_CONNECTIONS = 421 "4.7.0" "Too many connections, try again later";
    /// limits.session.
    SESSION_TOO_LONG = 421 "4.4.2" "The session lasts too long, closing the connection";
    /// The message ended much later than limits.message allows.
    DATA_TOO_LONG = 421 "5.3.4" "The message does not end, closing the connection";
    /// The store can not be written.
    QUEUE_FAILED = 451 "4.3.0" "The message could not be stored, try again later";
    /// A milter can not be asked, or does what it may not.
    MILTER_FAILED = 451 "4.7.1" "A filter of this server does not work, try again later";
    /// A milter defers.
    MILTER_DEFERRED = 451 "4.7.1" "Not now, try again later";
    /// The post-data hook can not be run.
    HOOK_FAILED = 451 "4.7.1" "The message could not be looked at, try again later";
    /// limits.free_space.
    DISK_FULL = 452 "4.3.1" "Not enough disk space, try again later";
    /// limits.memory_arrivals.
    CROWDED = 452 "4.3.1" "Too many messages with large headers arrive at once, try again later";
    /// Signing failed.
    SIGNING_FAILED = 451 "4.7.0" "The message could not be signed, try again later";
    /// limits.recipients.
    TOO_MANY_RECIPIENTS = 452 "4.5.3" "Too many recipients, send the rest in another transaction";
    /// Too many failed logins from the client's address.
    BANNED = 454 "4.7.0" "Too many failed logins from your address, try again later";
    /// limits.user_messages or limits.user_recipients.
    USER_LIMIT = 450 "4.7.1" "You have sent too much for now, try again in an hour";
    /// Password verification is overloaded.
    AUTH_UNAVAILABLE = 454 "4.7.0" "Authentication is busy, try again later";
    /// MAIL of a user who was removed since the login.
    USER_GONE = 550 "5.7.1" "This user does not exist any more";
    /// Dovecot can not be asked whether an address exists.
    USERS_UNAVAILABLE = 451 "4.3.0" "Whether this address exists can not be found out for now, try again later";
    /// TLS is not configured.
    TLS_UNAVAILABLE = 454 "4.7.0" "TLS is not available, try again later";
    /// An unknown verb.
    UNKNOWN_COMMAND = 500 "5.5.2" "Unknown command";
    /// limits.command_line.
    LINE_TOO_LONG = 500 "5.5.2" "The line is too long";
    /// A bare CR or LF in a command line.
    BAD_LINE_END = 500 "5.5.2" "Lines end with CR LF";
    /// A control character in a command line.
    CONTROL_CHARACTER = 501 "5.5.2" "Control characters are not allowed in commands";
    /// EHLO or HELO without a sound name.
    BAD_HELLO = 501 "5.5.4" "Say EHLO with your domain name or address literal";
    /// A command that needs an argument.
    NO_ARGUMENT = 501 "5.5.4" "The command needs an argument";
    /// A command that takes none.
    NO_ARGUMENT_ALLOWED = 501 "5.5.4" "The command takes no argument";
    /// MAIL without FROM.
    BAD_MAIL = 501 "5.5.4" "Say MAIL FROM:<address>";
    /// RCPT without TO.
    BAD_RCPT = 501 "5.5.4" "Say RCPT TO:<address>";
    /// A malformed parameter value.
    BAD_PARAMETER = 501 "5.5.4" "A parameter is malformed";
    /// A parameter given twice.
    REPEATED_PARAMETER = 501 "5.5.4" "A parameter is repeated";
    /// AUTH without a mechanism or with too many words.
    BAD_AUTH = 501 "5.5.4" "Say AUTH, a mechanism of the EHLO reply, and at most one response";
    /// BDAT without a sound size.
    BAD_BDAT = 501 "5.5.4" "Say BDAT and the number of octets, and LAST at the end";
    /// Base64 or the SASL message in it is malformed.
    BAD_SASL = 501 "5.5.2" "The response is malformed";
    /// The client sent `*`.
    AUTH_CANCELLED = 501 "5.7.0" "Authentication cancelled";
    /// A verb that is known and not offered.
    NOT_OFFERED = 502 "5.5.1" "The command is not offered";
    /// HTTP or TLS where SMTP is spoken.
    OTHER_PROTOCOL = 502 "5.5.1" "This is an SMTP server";
    /// AUTH on the mx service.
    AUTH_NOT_HERE = 502 "5.5.1" "Authenticate on port 465 or 587";
    /// MAIL, AUTH or STARTTLS before EHLO.
    HELLO_FIRST = 503 "5.5.1" "Say EHLO first";
    /// BDAT, and then DATA, MAIL or RCPT (RFC 3030 section 2).
    CHUNKS_UNDER_WAY = 503 "5.5.1" "A message is under way with BDAT, go on with BDAT or say RSET";
    /// XCLIENT within a transaction.
    XCLIENT_IN_TRANSACTION = 503 "5.5.1" "XCLIENT is not allowed during a transaction";
    /// MAIL within a transaction.
    NESTED_MAIL = 503 "5.5.1" "A transaction is under way, say RSET to end it";
    /// RCPT or DATA without MAIL.
    MAIL_FIRST = 503 "5.5.1" "Say MAIL first";
    /// AUTH within a transaction.
    AUTH_IN_TRANSACTION = 503 "5.5.1" "AUTH is not allowed during a transaction";
    /// AUTH twice.
    ALREADY_AUTHENTICATED = 503 "5.5.1" "Already authenticated";
    /// STARTTLS within TLS.
    ALREADY_TLS = 503 "5.5.1" "TLS is already active";
    /// STARTTLS within a transaction.
    TLS_IN_TRANSACTION = 503 "5.5.1" "STARTTLS is not allowed during a transaction";
    /// An unknown AUTH mechanism.
    UNKNOWN_MECHANISM = 504 "5.5.4" "Use a mechanism of the EHLO reply";
    /// MAIL on submission before TLS.
    TLS_REQUIRED = 530 "5.7.0" "Say STARTTLS first";
    /// MAIL on submission before AUTH.
    AUTH_REQUIRED = 530 "5.7.0" "Authentication required";
    /// Wrong password or unknown user: one reply for both.
    AUTH_FAILED = 535 "5.7.8" "User name or password is wrong";
    /// SCRAM whose channel binding is not ours: somebody may be between us (RFC 5802 section 6).
    BAD_BINDING = 535 "5.7.8" "The channel binding does not match, somebody may be listening";
    /// AUTH without TLS.
    AUTH_NEEDS_TLS = 538 "5.7.11" "Authentication needs TLS, say STARTTLS first";
    /// RCPT for a domain that is not ours, without AUTH.
    RELAY_DENIED = 550 "5.7.1" "Relaying denied: authenticate on port 465 or 587 to send to other domains";
    /// RCPT for a domain in send-only mode.
    SEND_ONLY = 550 "5.7.1" "Mail to this domain goes to its MX, not here";
    /// RCPT for an address of ours that does not exist.
    UNKNOWN_RECIPIENT = 550 "5.1.1" "No such address here";
    /// A bare CR or LF in message data.
    BARE_LINE_END = 550 "5.5.2" "Lines of the message end with CR LF, a bare CR or LF is not allowed";
    /// limits.line, for users: the next hop may break the line, and with it the signature.
    MESSAGE_LINE_TOO_LONG = 550 "5.6.0" "A line of the message is longer than 998 octets where nothing may be changed (a signed or encrypted part, a header field), wrap it there";
    /// Our own trace says that the message was here before.
    OWN_LOOP = 554 "5.4.6" "The message was here before, it seems to loop";
    /// A header line that is none.
    BAD_HEADER = 550 "5.6.0" "The header is malformed: each line needs a name and a colon, and an empty line ends it";
    /// No From, or several.
    BAD_FROM = 550 "5.6.0" "The message needs exactly one From header";
    /// An address of From or Sender is none: others might read another author in it.
    UNREADABLE_AUTHOR = 550 "5.7.1" "An address in the From or Sender header can not be read, write it as name <local@domain>";
    /// incoming.several_authors.
    SEVERAL_AUTHORS = 550 "5.7.1" "The message names several authors in its From header, send it with one";
    /// incoming.own_domains.
    NOT_OURS = 550 "5.7.1" "The author is of a domain of this server, which neither SPF nor DKIM proves; users authenticate on port 465 or 587";
    /// incoming.own_domains, while the DNS does not answer.
    NOT_OURS_YET = 451 "4.7.0" "The author is of a domain of this server, and the DNS does not answer about it, try again later";
    /// forwarding.suspect.
    NOT_FORWARDED = 550 "5.7.1" "This address is forwarded, and what may be forged or spam is not";
    /// forwarding.bounces_only.
    BOUNCES_ONLY = 550 "5.7.1" "This address takes bounces only, which come from <>";
    /// Too many bounces to one rewritten address.
    TOO_MANY_RETURNS = 450 "4.7.1" "Enough bounces for this address, try again tomorrow";
    /// From is missing, repeated or unreadable in mail from outside.
    NO_AUTHOR = 550 "5.7.1" "The message needs exactly one From header, with an address";
    /// Several Sender fields, or one that is no address.
    BAD_SENDER_FIELD = 550 "5.6.0" "The message may have one Sender header with one address";
    /// A milter rejects.
    MILTER_REJECTED = 550 "5.7.1" "The message was refused by a filter of this server";
    /// limits.message.
    MESSAGE_TOO_BIG = 552 "5.3.4" "The message is too big";
    /// limits.chunks.
    TOO_MANY_CHUNKS = 552 "5.3.4" "Too many chunks, send the message in larger ones";
    /// limits.header.
    HEADER_TOO_BIG = 552 "5.3.4" "The header is too big";
    /// Bytes that could not have waited for a reply (RFC 2920 section 3.1).
    UNAUTHORISED_PIPELINING = 554 "5.5.0" "Wait for the reply before sending more, closing the connection";
    /// DATA when every RCPT was refused.
    NO_RECIPIENTS = 554 "5.5.1" "No valid recipients";
    /// limits.hops.
    TOO_MANY_HOPS = 554 "5.4.6" "Too many Received headers, the message seems to loop";
    /// HOLDFOR or HOLDUNTIL too far ahead, or in the past (RFC 4865 section 4).
    BAD_RELEASE = 501 "5.5.4" "The release time is in the past or too far ahead";
    /// An unknown parameter of MAIL or RCPT.
    UNKNOWN_PARAMETER = 555 "5.5.4" "A parameter is not supported";
}

/// The replies that are made for the occasion: code, enhanced code, text, when. Words in italics
/// stand for what the occasion gives.
pub const MADE: &[(u16, &str, &str, &str)] = &[
    (
        220,
        "",
        "*hostname* ESMTP chapar",
        "The connection is open.",
    ),
    (250, "", "*hostname*", "HELO; with the extensions, EHLO."),
    (250, "2.0.0", "Queued as *id*", "The message is on disk."),
    (334, "", "*base64*", "AUTH SCRAM, the server's messages."),
    (
        501,
        "5.5.4",
        "*what is wrong with the path*",
        "MAIL or RCPT whose path has no brackets.",
    ),
    (
        553,
        "5.1.7",
        "*what is wrong with the address*",
        "MAIL with an address that is none.",
    ),
    (
        553,
        "5.1.3",
        "*what is wrong with the address*",
        "RCPT with an address that is none.",
    ),
    (
        553,
        "5.6.7",
        "*what is wrong with the address*",
        "A non-ASCII address without SMTPUTF8.",
    ),
    (
        553,
        "5.7.1",
        "You may send as *addresses* only; send_as in users.toml allows more",
        "MAIL, From or Sender of a user that names somebody else.",
    ),
    (
        554,
        "5.4.6",
        "*which alias*",
        "RCPT whose alias leads in a circle or to nobody.",
    ),
];

/// Every reply as a table in Markdown, by code; `docs/replies.md` holds it.
pub fn table() -> String {
    let fixed = ALL
        .iter()
        .map(|(_, reply, when)| (reply.code, reply.enhanced, reply.text.as_ref(), when.trim()));
    let mut rows: Vec<_> = fixed.chain(MADE.iter().copied()).collect();
    rows.sort();
    let mut table = String::from("| code | enhanced | text | when |\n|---|---|---|---|\n");
    for (code, enhanced, text, when) in rows {
        let _ = writeln!(table, "| {code} | {enhanced} | {text} | {when} |");
    }
    table
}

/// The message is on disk under this id.
pub fn queued(id: QueueId) -> Reply {
    Reply::new(250, "2.0.0", format!("Queued as {id}"))
}

/// Somebody else's address; the user may send as `allowed`.
pub fn not_yours(allowed: &str) -> Reply {
    let text = format!("You may send as {allowed} only; send_as in users.toml allows more");
    Reply::new(553, "5.7.1", text)
}

/// An alias leads nowhere, for this reason.
pub fn bad_alias(reason: String) -> Reply {
    Reply::new(554, "5.4.6", reason)
}

/// MAIL with a path that is none.
pub fn bad_sender(error: AddressError) -> Reply {
    bad_path(error, "5.1.7")
}

/// RCPT with a path that is none.
pub fn bad_recipient(error: AddressError) -> Reply {
    bad_path(error, "5.1.3")
}

fn bad_path(error: AddressError, enhanced: &'static str) -> Reply {
    match error {
        AddressError::Brackets => Reply::new(501, "5.5.4", format!("{error}")),
        AddressError::NotAscii => Reply::new(553, "5.6.7", format!("{error}")),
        _ => Reply::new(553, enhanced, format!("{error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With `CHAPAR_WRITE_DOCS=1` it writes the table instead.
    #[test]
    fn the_documentation_has_this_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/replies.md");
        let text = std::fs::read_to_string(path).expect("docs/replies.md");
        let start = text.find("| code |").expect("a table");
        let (before, rest) = text.split_at(start);
        let end = rest.find("\n\n").map_or(rest.len(), |end| end + 1);
        let (documented, after) = rest.split_at(end);
        if std::env::var_os("CHAPAR_WRITE_DOCS").is_some() {
            std::fs::write(path, format!("{before}{}{after}", table())).expect("written");
            return;
        }
        assert_eq!(
            documented,
            table(),
            "run this test with CHAPAR_WRITE_DOCS=1"
        );
    }
}
