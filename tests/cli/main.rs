//! The commands that make, change and show users, aliases, domains and the configuration: the real
//! binary.

mod check;
mod commands;
mod names;
mod owner;
mod reports;
mod setup;
mod site;
mod users;
