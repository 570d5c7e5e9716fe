//! What happens in a step: somebody sends, delivery reports, an operator gives an order, a thread
//! of the store goes on, time passes, or something breaks.

use std::net::IpAddr;

use bytes::Bytes;
use queue_schema::{Envelope, Millis, Notify, Origin, QueueId, Recipient};
use serde_json::json;

use super::delivery::{DOMAINS, Temper, answer, domain, number, status};
use super::importers;
use super::ledger::sum;
use super::life::{End, Life};
use super::model::Sent;
use super::movers;
use super::operators;
use super::world::World;
use crate::message::{Body, Content};
use crate::queue::sim::disk::Faults;
use crate::queue::store::SpoolWriter;
use crate::queue::{Accept, Attempt, Fetch, Held, Record};

/// Jobs that a hanging destination keeps for so long.
const HANGS: u64 = 90_000;

impl Life<'_> {
    /// One step.
    pub async fn act(&mut self) -> Option<End> {
        if self.world.draining {
            return self.drain().await;
        }
        let profile = self.world.profile;
        match self.world.rng.u16(..1000) {
            0..180 => self.send(),
            180..400 => self.report(),
            400..560 => {
                self.commit();
            }
            560..700 => {
                self.stepped.read();
            }
            700..770 => self.flush(),
            770..900 => return self.pass().await,
            900..935 if profile.operators => self.order(),
            935..942 if profile.operators => {
                // Two at the same moment.
                self.order();
                self.order();
            }
            942..955 if profile.faults || profile.room => self.trouble(),
            955..960 if profile.clock => self.world.jump(),
            960..966 if profile.crashes => {
                self.power = self.power_cut();
                let within = self.world.rng.u64(1..60);
                self.world.disk.die_after(within);
            }
            966..969 if profile.crashes => {
                self.power = self.power_cut();
                self.world.model.story.tell("== killed");
                return Some(End::Killed { power: self.power });
            }
            969..971 => return Some(self.stop().await),
            971..975 if profile.flips => self.world.flip(),
            975..980 if profile.signer => {
                let fails = !self.signer.get();
                self.unsigned |= fails;
                self.world.model.signer_fails |= fails;
                self.signer.set(fails);
            }
            980..983 if profile.reports => self.lose(),
            _ => {}
        }
        None
    }

    fn power_cut(&mut self) -> Option<f64> {
        let chance = [0.1, 0.5, 1.0][self.world.rng.usize(..3)];
        self.world.rng.bool().then_some(chance)
    }

    /// Time passes, and with it the threads of the store go on now and then.
    async fn pass(&mut self) -> Option<End> {
        let rng = &mut self.world.rng;
        let mut left = match rng.u8(..20) {
            0..14 => rng.u64(1..50),
            14..18 => rng.u64(50..5_000),
            18 => rng.u64(5_000..30_000),
            _ => rng.u64(30_000..200_000),
        };
        while left > 0 {
            let step = left.min(2_000);
            left -= step;
            if let Some(end) = self.tick(step).await {
                return Some(end);
            }
            if step == 2_000 {
                self.commit();
                self.stepped.read();
                self.flush();
                if self.world.disk.is_dead() {
                    return Some(End::Killed { power: self.power });
                }
            }
        }
        None
    }

    /// Somebody sends a message, or stops half way.
    fn send(&mut self) {
        if self.world.model.known.len() >= self.world.waiting {
            return self.report();
        }
        let id = self.queue.ids.issue();
        self.world.letters += 1;
        let envelope = self.envelope();
        let rng = &mut self.world.rng;
        let client = IpAddr::from([192, 0, 2, 1]);
        let origin = match rng.u8(..4) {
            0 => Origin::User {
                user: "user@d0.example".into(),
                client,
            },
            1 => Origin::Outside {
                client,
                verified: rng.bool(),
            },
            _ => Origin::Network { client },
        };
        let head = format!("Subject: {}\r\nX-Id: {id}\r\n\r\n", self.world.letters);
        let length = [60, 600, 3000][rng.usize(..3)];
        let body: Vec<u8> = (0..length).map(|_| rng.alphanumeric() as u8).collect();
        let spooled = rng.u8(..10) == 0;
        let gives_up = rng.u8(..20) == 0;
        let held = rng.u8(..30) == 0;
        let body = if spooled {
            let Ok(mut writer) = self.queue.spool.begin(id) else {
                return;
            };
            let written = body.chunks(1000).try_for_each(|piece| writer.write(piece));
            // Dropped half way: what it left goes with it.
            if gives_up || written.is_err() {
                return;
            }
            match SpoolWriter::finish(writer) {
                Ok(file) => Body::Spool(file),
                Err(_) => return,
            }
        } else {
            Body::Memory(Bytes::from(body))
        };
        let mut journal = head.clone().into_bytes();
        if let Body::Memory(body) = &body {
            journal.extend_from_slice(body);
        }
        let sent = Sent {
            sum: sum(&journal),
            acknowledged: false,
        };
        self.world.model.sent.insert(id, sent);
        self.world
            .model
            .story
            .tell(format!("{id} sent, {} bytes", journal.len()));
        let accept = Accept {
            id,
            arrived: crate::time::now(),
            origin,
            envelope,
            content: Content {
                head: head.into(),
                body,
            },
            held: held.then(Held::default).into_iter().collect(),
        };
        let (addr, heard) = (self.queue.addr.clone(), self.heard.clone());
        let sender = actix_rt::spawn(async move {
            if let Ok(result) = addr.send(accept).await {
                heard.borrow_mut().push((id, result));
            }
        });
        if gives_up {
            // It is gone before it hears the answer, perhaps before it was asked.
            sender.abort();
        }
    }

    fn envelope(&mut self) -> Envelope {
        let rng = &mut self.world.rng;
        let from = match rng.u8(..12) {
            0 => String::new(),
            1 => format!("nobody@{}", domain(rng.usize(..DOMAINS))),
            2 => format!("two@{}", domain(rng.usize(..DOMAINS))),
            _ => format!("s{}@{}", rng.u8(..5), domain(rng.usize(..DOMAINS))),
        };
        let count = [1, 1, 2, 4][rng.usize(..4)];
        let mut recipients = Vec::new();
        for number in 0..count {
            let mut to = Recipient::new(format!("r{number}@{}", domain(rng.usize(..DOMAINS))));
            if rng.u8(..4) == 0 {
                to.notify = Notify {
                    success: rng.bool(),
                    failure: rng.bool(),
                    delay: rng.bool(),
                };
            }
            recipients.push(to);
        }
        let mut envelope = Envelope::new(from, recipients);
        if rng.u8(..25) == 0 {
            envelope.release_at = Some(crate::time::now() + rng.u64(..120_000));
        }
        envelope
    }

    /// Delivery reports on some recipients of a job.
    fn report(&mut self) {
        let now = self.world.now();
        let World {
            rng,
            tempers,
            profile,
            ..
        } = &mut *self.world;
        if self.flights.is_empty() {
            return;
        }
        let place = rng.usize(..self.flights.len());
        let flight = &mut self.flights[place];
        let at = crate::time::now();
        let mut attempts: Vec<Attempt> = Vec::new();
        let mut left = Vec::new();
        let all = rng.bool();
        for position in std::mem::take(&mut flight.left) {
            let to = usize::try_from(position).ok();
            let to = to.and_then(|at| flight.message.envelope.recipients.get(at));
            let temper = tempers[to.map_or(0, |to| number(&to.address))];
            let hangs = now - flight.since < HANGS && rng.f64() < temper.hangs;
            if hangs || (!all && rng.bool()) {
                left.push(position);
            } else {
                attempts.push(answer(temper, position, at, rng));
            }
        }
        flight.left = left;
        let message = flight.message.clone();
        let over = flight.left.is_empty();
        let reads_back = flight.content.is_none() && rng.u8(..4) == 0;
        let twice = profile.reports && rng.u8(..20) == 0;
        if over {
            self.flights.swap_remove(place);
        }
        let id = message.id;
        if reads_back {
            let fetch = Fetch {
                id,
                location: message.location.clone(),
            };
            let (addr, fetched) = (self.queue.addr.clone(), self.fetched.clone());
            actix_rt::spawn(async move {
                if let Ok(read) = addr.send(fetch).await {
                    let read = read.map_err(|error| error.to_string());
                    fetched.borrow_mut().push((id, read));
                }
            });
        }
        if attempts.is_empty() {
            return;
        }
        for attempt in &attempts {
            let status = status(&attempt.outcome);
            self.world.model.reported(id, attempt.recipient, status);
        }
        let told: Vec<String> = attempts
            .iter()
            .map(|attempt| format!("{} {:?}", attempt.recipient, status(&attempt.outcome)))
            .collect();
        self.world
            .model
            .story
            .tell(format!("{id} reported: {}", told.join(", ")));
        for _ in 0..if twice { 2 } else { 1 } {
            self.queue.addr.do_send(Record {
                message: message.clone(),
                attempts: attempts.clone(),
                synced: false,
            });
        }
    }

    /// Delivery loses a job: whoever had it panicked.
    fn lose(&mut self) {
        if self.flights.is_empty() {
            return;
        }
        let place = self.world.rng.usize(..self.flights.len());
        let flight = self.flights.swap_remove(place);
        let id = flight.message.id;
        self.world
            .model
            .story
            .tell(format!("{id} lost by delivery: {:?}", flight.left));
        for position in flight.left {
            self.world.model.lost(id, position);
        }
    }

    fn order(&mut self) {
        self.world.operators += 1;
        let by = format!("op{}", self.world.operators);
        if self.world.rng.u8(..25) == 0 {
            return self.move_away(by);
        }
        if self.world.rng.u8(..20) == 0 {
            return self.bring(by);
        }
        let ids: Vec<QueueId> = self.world.model.known.keys().copied().collect();
        let request = operators::order(&mut self.world.rng, &ids, &by);
        let patience = (self.world.rng.u8(..20) == 0).then(|| self.world.rng.u64(..3));
        let step = self.world.step;
        let word = operators::word(&request);
        self.world
            .model
            .story
            .tell(format!("== {by} orders {word}"));
        operators::begins(&mut self.world.model, &request);
        operators::give(request, (by, step), &self.queue, &self.answers, patience);
    }

    /// Somebody moves messages to another queue.
    fn move_away(&mut self, by: String) {
        let rng = &mut self.world.rng;
        let selector = match rng.u8(..3) {
            0 => json!({}),
            1 => json!({ "state": "deferred" }),
            _ => json!({ "domain": domain(rng.usize(..DOMAINS)) }),
        };
        let (wait, most) = (rng.bool(), rng.usize(1..5));
        let patience = [3, 8, 50][rng.usize(..3)];
        let story = &mut self.world.model.story;
        story.tell(format!("== {by} moves {selector} away, {most} at a time"));
        movers::begin(
            selector,
            by,
            wait,
            (most, patience),
            &self.queue,
            &self.moves,
        );
    }

    /// Somebody brings messages of another queue.
    fn bring(&mut self, by: String) {
        let rng = &mut self.world.rng;
        let chosen = importers::choose(rng, &mut self.world.foreign);
        let how = (rng.u8(..6) == 0, [1, 50][rng.usize(..2)]);
        let model = &mut self.world.model;
        for foreign in &chosen {
            model.foreign.entry(foreign.sum()).or_default();
        }
        let count = chosen.len();
        model.story.tell(format!("== {by} brings {count} messages"));
        importers::begin(chosen, by, how, &self.queue, &self.imports);
    }

    /// The disk fails for a while, or is full, or is well again.
    fn trouble(&mut self) {
        let profile = self.world.profile;
        let used = self.world.disk.used();
        let rng = &mut self.world.rng;
        let mut faults = self.world.disk.faults();
        let chance = [0.02, 0.2, 1.0][rng.usize(..3)];
        match rng.u8(..10) {
            0 if profile.faults => faults.write = chance,
            1 if profile.faults => faults.sync = chance,
            2 if profile.faults => faults.read = chance,
            3 if profile.faults => faults.open = chance,
            4 if profile.faults => faults.flush = chance,
            5 | 6 if profile.room => faults.room = Some(used + rng.u64(..60_000)),
            _ => faults = Faults::default(),
        }
        if faults != self.world.disk.faults() {
            self.world
                .model
                .story
                .tell(format!("== the disk: {faults:?}"));
            self.world.disk.set_faults(faults);
        }
    }

    /// The clock is set right while the process runs, as a time server does it.
    pub async fn set_right(&mut self) -> Option<End> {
        if let Some(end) = self.tick(10).await {
            return Some(end);
        }
        self.world.offset = 0;
        self.world.model.jumped(Millis::MAX);
        self.world.set_clock();
        self.tick(10).await
    }

    /// A step towards the end of everything.
    async fn drain(&mut self) -> Option<End> {
        let step = self.world.step;
        if step.is_multiple_of(400) {
            let by = format!("drain{step}");
            for asked in [
                json!({ "ask": "resume", "destination": "", "spread": null, "dry_run": false,
                    "by": "drain" }),
                json!({ "ask": "endorder", "id": "all", "dry_run": false, "by": by }),
                json!({ "ask": "steer", "verb": "release", "selector": {}, "dry_run": false,
                    "by": by }),
            ] {
                let asked = operators::request(asked);
                operators::begins(&mut self.world.model, &asked);
                operators::give(asked, (by.clone(), step), &self.queue, &self.answers, None);
            }
        }
        for temper in &mut self.world.tempers {
            *temper = Temper {
                takes: 0.7,
                refuses: 0.1,
                hangs: 0.0,
            };
        }
        match step % 8 {
            0 => self.flush(),
            1 => return self.tick(2_000).await,
            _ if self.flights.is_empty() => {
                return self.tick(1_000).await;
            }
            _ => self.report(),
        }
        None
    }
}

impl World {
    /// A bit flips somewhere.
    pub fn flip(&mut self) {
        let Some((path, at)) = self.disk.any_place() else {
            return;
        };
        // A list of clock jumps that is lost leaves due times wrong for good, and what was taken
        // of another queue is nowhere else.
        if path.ends_with("clock.json") || path.ends_with("imported") {
            return;
        }
        if path.ends_with("suspensions.json") {
            self.model.suspended.clear();
        }
        let mut ids = self.ledger.at(&self.disk, &path, at);
        let name = path.file_name().and_then(|name| name.to_str());
        ids.extend(name.and_then(|name| name.parse::<QueueId>().ok()));
        self.flipped = true;
        self.disk.flip(&path, at);
        let path = path.display();
        let text = format!("== a bit flips in {path} at {at}, of {ids:?}");
        self.model.story.tell(text);
        ids.into_iter().for_each(|id| self.model.spoil(id));
    }
}
