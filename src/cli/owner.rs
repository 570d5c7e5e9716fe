//! Works on what lies in `data_dir` as the user it belongs to, not as root.
//!
//! Whoever has taken the daemon over owns that directory and may have put links where its files
//! were: root would write through them, or give files of the system away. So the program starts
//! anew, with the same words, as the owner of `data_dir`; nothing was printed or read by then.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use crate::config::Config;

/// Goes on as the owner of `data_dir`, if we are root and it is somebody else's. Returns where
/// nothing is to be done, or with what failed.
pub(super) fn step_down(config: &Config) -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let owner = match fs::metadata(&config.data_dir) {
        Ok(found) if found.uid() != 0 => found,
        _ => return Ok(()),
    };
    let mut words = std::env::args_os();
    let mut command = Command::new("/proc/self/exe");
    if let Some(name) = words.next() {
        command.arg0(name);
    }
    let failed = command.args(words).uid(owner.uid()).gid(owner.gid()).exec();
    let problem = format!(
        "{} belongs to user {}, and going on as that user failed: {failed}",
        config.data_dir.display(),
        owner.uid()
    );
    Err(io::Error::new(failed.kind(), problem))
}
