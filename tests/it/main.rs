//! The real binary against scripted peers, real peers and a real DNS server, all on loopback.

mod cases;
mod crash;
mod disk;
mod durability;
mod forward;
mod hostile;
mod journey;
mod oracle;
mod peers;
mod service;
mod world;
