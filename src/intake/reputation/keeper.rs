//! The actor that keeps the greylist, in memory and in `greylist.log` of `data_dir`.
//!
//! Receives [`Ask`] and [`Reload`], sends to nobody, never blocks: the file is written on a thread.
//! Records of 40 bytes are appended and synced once a second; the last one of a key counts. A
//! record that is damaged costs that one entry; a file that can not be read, the memory of who was
//! here, and never mail.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use actix::{
    Actor, ActorFutureExt as _, AsyncContext as _, Context, Handler, Message, ResponseActFuture,
    WrapFuture as _,
};
use queue_schema::Millis;

use super::greylist::{Book, Entry, Key, Rules, Verdict};
use crate::config::{Greylist, files};

/// Bytes of a record: key, first, last, passed, CRC32C.
const RECORD: usize = 40;
/// How often what changed is written.
const PERIOD: Duration = Duration::from_secs(1);
/// Records beyond twice the entries for which the file is not written anew.
const SLACK: usize = 10_000;

/// May mail of `who` with this triplet pass?
#[derive(Debug, Message)]
#[rtype(result = "Verdict")]
pub struct Ask {
    /// [`super::greylist::sender`].
    pub who: Key,
    /// Who, reverse-path, recipient.
    pub triplet: Key,
    /// When.
    pub now: Millis,
}

/// Another configuration.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Reload(pub Greylist);

/// Write what is not on disk yet; answered when it is.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Flush;

/// The actor.
pub struct Keeper {
    rules: Rules,
    book: Book,
    path: PathBuf,
    /// Records in the file.
    written: usize,
    writing: bool,
}

impl From<&Greylist> for Rules {
    fn from(config: &Greylist) -> Rules {
        let millis =
            |span: crate::config::Span| u64::try_from(span.0.as_millis()).unwrap_or(u64::MAX / 4);
        Rules {
            wait: millis(config.wait),
            window: millis(config.window),
            keep: millis(config.keep),
            known: u32::try_from(config.known).unwrap_or(u32::MAX),
            most: config.entries,
        }
    }
}

impl Keeper {
    /// Reads what is in `data_dir`; blocking, at start.
    pub fn open(config: &Greylist, data_dir: &Path) -> Keeper {
        let path = data_dir.join("greylist.log");
        let rules = Rules::from(config);
        let mut keeper = Keeper {
            rules,
            book: Book::default(),
            path,
            written: 0,
            writing: false,
        };
        if config.enabled
            && let Err(error) = keeper.read()
        {
            let path = keeper.path.display();
            tracing::error!(target: "session", %path, %error, "the greylist can not be read; it begins empty");
        }
        keeper
    }

    fn read(&mut self) -> io::Result<()> {
        let mut file = match File::open(&self.path) {
            Ok(file) => io::BufReader::new(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut record = [0; RECORD];
        let mut damaged = 0usize;
        while file.read_exact(&mut record).is_ok() {
            self.written += 1;
            match decoded(&record) {
                // What does not fit was put there under other rules.
                Some((key, entry)) if self.book.len() < self.rules.most => {
                    self.book.restore(key, entry);
                }
                Some(_) => {}
                None => damaged += 1,
            }
        }
        if damaged > 0 {
            tracing::warn!(target: "session", damaged, "damaged records of the greylist were left out");
        }
        Ok(())
    }

    /// What is to be done to bring the file up to date; none if it is.
    fn work(&mut self) -> Option<impl FnOnce() -> io::Result<()> + Send + use<>> {
        let changed = self.book.changed();
        if changed.is_empty() {
            return None;
        }
        let path = self.path.clone();
        let anew = self.written + changed.len() > 2 * self.book.len() + SLACK;
        let mut bytes = Vec::new();
        if anew {
            self.written = self.book.len();
            for (key, entry) in self.book.entries() {
                bytes.extend_from_slice(&encoded(key, entry));
            }
        } else {
            self.written += changed.len();
            for (key, entry) in &changed {
                bytes.extend_from_slice(&encoded(key, entry));
            }
        }
        Some(move || {
            if anew {
                return files::replace(&path, &bytes, 0o600);
            }
            let mut options = OpenOptions::new();
            let mut file = options.append(true).create(true).mode(0o600).open(&path)?;
            // Half a record, from a crash, would shift all that follow.
            let torn = file.metadata()?.len() % RECORD as u64;
            if torn > 0 {
                let pad = usize::try_from(RECORD as u64 - torn).unwrap_or(0);
                file.write_all(&vec![0; pad])?;
            }
            file.write_all(&bytes)?;
            file.sync_data()
        })
    }

    fn flush(&mut self) -> ResponseActFuture<Self, ()> {
        let work = match self.writing {
            true => None,
            false => self.work(),
        };
        self.writing |= work.is_some();
        let path = self.path.clone();
        let write = async move {
            let Some(work) = work else {
                return false;
            };
            let done = tokio::task::spawn_blocking(work).await;
            if let Err(error) = done.unwrap_or_else(|error| Err(io::Error::other(error))) {
                let path = path.display();
                tracing::error!(target: "session", %path, %error, "the greylist can not be written; who was here is forgotten with a restart");
            }
            true
        };
        let done = write.into_actor(self).map(|wrote, keeper, _| {
            if wrote {
                keeper.writing = false;
            }
        });
        Box::pin(done)
    }
}

fn encoded(key: &Key, entry: &Entry) -> [u8; RECORD] {
    let mut record = [0; RECORD];
    let parts = key
        .iter()
        .copied()
        .chain(entry.first.to_le_bytes())
        .chain(entry.last.to_le_bytes())
        .chain(entry.passed.to_le_bytes());
    for (to, from) in record.iter_mut().zip(parts) {
        *to = from;
    }
    let crc = crc32c::crc32c(record.get(..RECORD - 4).unwrap_or_default());
    for (to, from) in record.iter_mut().skip(RECORD - 4).zip(crc.to_le_bytes()) {
        *to = from;
    }
    record
}

fn decoded(record: &[u8; RECORD]) -> Option<(Key, Entry)> {
    let (body, crc) = record.split_last_chunk::<4>()?;
    if crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
        return None;
    }
    let (key, rest) = body.split_first_chunk::<16>()?;
    let (first, rest) = rest.split_first_chunk::<8>()?;
    let (last, rest) = rest.split_first_chunk::<8>()?;
    let entry = Entry {
        first: u64::from_le_bytes(*first),
        last: u64::from_le_bytes(*last),
        passed: u32::from_le_bytes(rest.try_into().ok()?),
    };
    Some((*key, entry))
}

impl Actor for Keeper {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_interval(PERIOD, |keeper, ctx| {
            let flush = keeper.flush();
            ctx.spawn(flush);
        });
    }
}

impl Handler<Ask> for Keeper {
    type Result = actix::MessageResult<Ask>;

    fn handle(&mut self, ask: Ask, _: &mut Self::Context) -> Self::Result {
        let verdict = self.book.ask(ask.who, ask.triplet, ask.now, &self.rules);
        actix::MessageResult(verdict)
    }
}

impl Handler<Reload> for Keeper {
    type Result = ();

    fn handle(&mut self, Reload(config): Reload, _: &mut Self::Context) {
        self.rules = Rules::from(&config);
    }
}

impl Handler<Flush> for Keeper {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, _: Flush, _: &mut Self::Context) -> Self::Result {
        self.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Greylist {
        Greylist {
            enabled: true,
            ..Greylist::default()
        }
    }

    fn ask(who: u8, now: Millis) -> Ask {
        Ask {
            who: [who; 16],
            triplet: [who + 100; 16],
            now,
        }
    }

    #[actix::test]
    async fn who_was_here_is_known_after_a_restart_and_damage_costs_one_entry() {
        let dir = tempfile::tempdir().expect("directory");
        let start = 1_000_000_000_000;
        let keeper = Keeper::open(&config(), dir.path()).start();
        for who in 0..10 {
            let verdict = keeper.send(ask(who, start)).await.expect("an answer");
            assert_eq!(verdict, Verdict::Wait(300_000));
        }
        keeper.send(Flush).await.expect("written");
        let path = dir.path().join("greylist.log");
        let mut bytes = std::fs::read(&path).expect("file");
        assert_eq!(bytes.len(), 10 * RECORD);
        bytes[3 * RECORD] ^= 1;
        bytes.extend_from_slice(&[7; 13]);
        std::fs::write(&path, bytes).expect("write");
        let keeper = Keeper::open(&config(), dir.path()).start();
        for who in 0..10 {
            let verdict = keeper
                .send(ask(who, start + 300_000))
                .await
                .expect("an answer");
            let known = matches!(verdict, Verdict::Pass);
            assert_eq!(known, who != 3, "{who}");
        }
        keeper.send(Flush).await.expect("written");
        let keeper = Keeper::open(&config(), dir.path()).start();
        let verdict = keeper
            .send(ask(9, start + 300_001))
            .await
            .expect("an answer");
        assert_eq!(verdict, Verdict::Pass, "the torn record shifted nothing");
    }
}
