//! Reports about mail: what we saw of others' mail goes to them once a day ([`dmarc`]), what they
//! saw of ours is read and summarised ([`received`]).

pub mod dmarc;
pub mod received;
