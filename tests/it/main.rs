//! The real binary against scripted peers, real peers and a real DNS server, all on loopback.

mod acme;
mod cases;
mod crash;
mod disk;
mod doctor;
mod durability;
mod forward;
mod hooks;
mod hostile;
mod import;
mod invariants;
mod journey;
mod mailboxes;
mod operate;
mod oracle;
mod pace;
mod peers;
mod prove;
mod reload;
mod reputation;
mod service;
mod top;
mod world;
