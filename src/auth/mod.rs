//! Who is sending.

pub mod password;
