//! Standard output that may go away: `chapar config --defaults | head` is no failure.

use std::fmt::Arguments;
use std::io::{self, Write as _};

/// Prints a line; ends the process if nobody reads it any more.
pub(super) fn line(text: Arguments<'_>) {
    if writeln!(io::stdout(), "{text}").is_err() {
        std::process::exit(0);
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
