//! Standard output that may go away: `chapar config --defaults | head` is no failure.

use std::fmt::Arguments;
use std::io::{self, Write as _};

/// Prints a line; ends the process if nobody reads it any more, and with a word about it if it can
/// not be written, as on a full disk.
pub(super) fn line(text: Arguments<'_>) {
    match writeln!(io::stdout(), "{text}") {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => {
            let _ = writeln!(
                io::stderr(),
                "chapar: the output can not be written ({error}); nothing of it is complete"
            );
            std::process::exit(super::exit::IO.into());
        }
    }
}

/// Prints a line that nobody need read.
pub(super) fn told(text: Arguments<'_>) {
    let _ = writeln!(io::stdout(), "{text}");
}

/// `println!` by way of [`line`].
macro_rules! say {
    ($($text:tt)*) => { $crate::cli::print::line(format_args!($($text)*)) };
}
