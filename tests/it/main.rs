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
mod invariants;
mod journey;
mod operate;
mod oracle;
mod peers;
mod prove;
mod service;
mod world;
