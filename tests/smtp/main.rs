//! The SMTP server from outside.

mod addresses;
