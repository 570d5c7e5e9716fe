//! The `mta-queue` command.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    chapar::cli::queue::main()
}
