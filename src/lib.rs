//! chapar, a mail transfer agent for people who send their own mail.
//!
//! A message travels through the rooms below in this order: [`listener`] accepts a connection and
//! runs a session; [`smtp`] decides what each byte means; [`auth`] checks who is sending;
//! [`intake`] decides what the message is and where it goes, with [`identity`] knowing our domains
//! and [`message`] editing headers; [`signing`] adds DKIM signatures; [`queue`] makes it durable,
//! which alone becomes `250`; [`delivery`] takes it to the next hop that [`dns`] names. [`daemon`]
//! starts the actors and stops them, [`control`] lets [`cli`] look and steer.
//!
//! Arrows point one way: `cli`, `control`, actors, pure modules. `smtp`, `message`,
//! `queue::schedule`, `delivery::verdict` and `delivery::mx` import no actor, socket or clock.
#![forbid(unsafe_code)]

pub mod auth;
pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod delivery;
pub mod dns;
pub mod doctor;
pub mod identity;
pub mod intake;
pub mod lab;
pub mod listener;
pub mod message;
pub mod publish;
pub mod queue;
pub mod report;
pub mod signing;
pub mod smtp;
pub mod telemetry;
pub mod time;
pub mod tls;
pub mod uri;
pub mod web;
