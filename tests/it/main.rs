//! The real binary against scripted peers, real peers and a real DNS server, all on loopback.

mod acme;
mod attacks;
mod cases;
mod cases_mail;
mod crash;
mod disk;
mod doctor;
mod dovecot;
mod durability;
mod forward;
mod hooks;
mod hostile;
mod invariants;
mod journey;
mod mailboxes;
mod opendkim;
mod oracle;
mod pace;
mod peers;
mod reload;
mod reports;
mod reputation;
mod rspamd;
mod service;
mod top;
mod world;
