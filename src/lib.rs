//! chapar, a mail transfer agent for people who send their own mail.
//!
//! A message travels through the rooms below in this order: [`listener`] accepts a connection and
//! runs a session; [`smtp`] decides what each byte means; [`auth`] checks who is sending;
//! [`intake`] decides what the message is and where it goes, with [`identity`] knowing our domains,
//! [`verify`] judging what others sign and [`message`] editing headers; [`signing`] adds DKIM
//! signatures; [`queue`] makes it durable, which alone becomes `250`; [`delivery`] takes it to the
//! next hop that [`dns`] names. [`daemon`] starts the actors and stops them, [`control`] lets
//! [`cli`] look and steer.
//!
//! Each room is a crate, and enters rooms of lower floors alone (`src/floors.md`). This one, the
//! highest, is the program: [`daemon`], [`cli`], and the names of the rooms for the tests.
#![forbid(unsafe_code)]

pub mod cli;
pub mod daemon;

use chapar_base::pem;
pub use chapar_base::{time, uri};
pub use {
    chapar_acme as acme, chapar_auth as auth, chapar_config as config, chapar_control as control,
    chapar_delivery as delivery, chapar_dns as dns, chapar_doctor as doctor,
    chapar_identity as identity, chapar_intake as intake, chapar_lab as lab,
    chapar_listener as listener, chapar_message as message, chapar_publish as publish,
    chapar_queue as queue, chapar_report as report, chapar_signing as signing, chapar_smtp as smtp,
    chapar_telemetry as telemetry, chapar_tls as tls, chapar_verify as verify, chapar_web as web,
};
