//! Conversations, each run with the server's bytes in one piece, in twos and one by one.

mod connections;
mod transactions;

use super::*;

/// A line of a conversation.
enum L {
    /// The server says.
    S(&'static str),
    /// The client has said exactly this since last time.
    C(&'static str),
    /// What the driver is to do.
    Do(Step),
    /// A transaction begins.
    Begin(&'static [&'static str]),
    BeginWith(Mail<'static>, &'static [&'static str]),
    BeginTo(Mail<'static>, Vec<To<'static>>),
    Secured,
    DataSent,
    Lost(Loss),
}
use L::*;

const MAIL: Mail<'static> = Mail {
    reverse_path: "a@example.org",
    size: 1234,
    eight_bit: false,
    smtputf8: false,
    require_tls: false,
    ret: None,
    envid: None,
    priority: 0,
    deliver_by: None,
};

fn run(wants_tls: bool, script: &[L]) -> Client {
    let mut last = None;
    for chunk in [1, 2, usize::MAX] {
        last = Some(run_in(wants_tls, script, chunk));
    }
    last.expect("a client")
}

fn run_in(wants_tls: bool, script: &[L], chunk: usize) -> Client {
    let mut client = Client::new("mx.example.org", wants_tls);
    let mut seen = None;
    let refresh = |client: &mut Client, seen: &mut Option<Step>| {
        if seen.is_none() {
            *seen = Some(client.step()).filter(|step| !matches!(step, Step::Read(_)));
        }
    };
    for (at, line) in script.iter().enumerate() {
        match line {
            S(text) => {
                for piece in text.as_bytes().chunks(chunk) {
                    client.receive(piece);
                    refresh(&mut client, &mut seen);
                }
            }
            C(text) => {
                refresh(&mut client, &mut seen);
                let output = std::mem::take(client.output());
                assert_eq!(
                    String::from_utf8_lossy(&output),
                    *text,
                    "line {at}, chunk {chunk}"
                );
            }
            Do(step) => {
                let next = seen.take().unwrap_or_else(|| client.step());
                assert_eq!(&next, step, "line {at}, chunk {chunk}");
            }
            Begin(to) => client
                .begin(&MAIL, to.iter().copied().map(To::from))
                .expect("begin"),
            BeginWith(mail, to) => client
                .begin(mail, to.iter().copied().map(To::from))
                .expect("begin"),
            BeginTo(mail, to) => client.begin(mail, to.iter().copied()).expect("begin"),
            Secured => client.secured(),
            DataSent => client.data_sent(),
            Lost(loss) => {
                client.lost(loss.clone());
                refresh(&mut client, &mut seen);
            }
        }
    }
    client
}

/// A conversation that begins after the reply to EHLO with these keywords.
fn after_hello(keywords: &'static str, script: Vec<L>) -> Client {
    let mut whole = vec![
        Do(Step::Read(Wait::Greeting)),
        S("220 mx.example.com ESMTP\r\n"),
        C("EHLO mx.example.org\r\n"),
        S(keywords),
        Do(Step::Ready),
    ];
    whole.extend(script);
    run(false, &whole)
}

const PLAIN: &str = "250 mx.example.com\r\n";
const PIPE: &str = "250-mx.example.com\r\n250-PIPELINING\r\n250 SIZE 100000\r\n";

fn reply(stage: Stage, code: u16, enhanced: &str, text: &str) -> Answer {
    said(stage, Reply::new(code, enhanced, text))
}

/// Who was refused at RCPT was not accepted, nor anybody whom MAIL or a break was the answer of;
/// tests in which that is not so say it.
fn finished(answers: Vec<Answer>) -> Step {
    let late =
        |answer: &&Answer| matches!(answer.stage, Stage::Content | Stage::FinalDot | Stage::Data);
    let accepted = answers.iter().filter(late).count();
    Step::Finished(Finished {
        answers,
        untouched: false,
        no_chunks: false,
        accepted,
    })
}

fn delivered(n: usize) -> Step {
    finished(vec![reply(Stage::FinalDot, 250, "2.0.0", "queued"); n])
}

const ONE: &str = "MAIL FROM:<a@example.org>\r\n";
const RCPT_B: &str = "RCPT TO:<b@example.com>\r\n";
const GROUP_BC: &str = "MAIL FROM:<a@example.org> SIZE=1234\r\nRCPT TO:<b@example.com>\r\n\
                        RCPT TO:<c@example.com>\r\nDATA\r\n";
const TO_B: &[&str] = &["b@example.com"];
const TO_BC: &[&str] = &["b@example.com", "c@example.com"];
