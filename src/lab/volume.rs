//! A file system of its own, as small as wanted, to be filled to the last byte. Needs root.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Sizes of the pieces it is filled with, the largest first.
const PIECES: [usize; 4] = [1 << 20, 4096, 512, 1];

/// Mounted until it is dropped.
#[derive(Debug)]
pub struct Volume {
    at: PathBuf,
    image: PathBuf,
}

impl Volume {
    /// An ext4 of so many MiB, mounted at the directory `at`, which is made.
    pub fn new(at: &Path, mib: u64) -> io::Result<Volume> {
        let image = at.with_extension("image");
        File::create(&image)?.set_len(mib << 20)?;
        fs::create_dir_all(at)?;
        run(Command::new("mkfs.ext4")
            .args(["-q", "-m", "0"])
            .arg(&image))?;
        run(Command::new("mount")
            .args(["-o", "loop"])
            .arg(&image)
            .arg(at))?;
        Ok(Volume {
            at: at.to_path_buf(),
            image,
        })
    }

    /// Mounts it anew in another way: `ro` or `rw`.
    pub fn remount(&self, how: &str) -> io::Result<()> {
        let options = format!("remount,{how}");
        run(Command::new("mount").args(["-o", &options]).arg(&self.at))
    }

    /// Takes all the room there is.
    pub fn fill(&self) -> io::Result<()> {
        let number = fs::read_dir(&self.at)?.count();
        let mut file = File::create(self.at.join(format!("filler-{number}")))?;
        for size in PIECES {
            let piece = vec![b'x'; size];
            while file.write_all(&piece).is_ok() {}
        }
        // What was taken is taken whether this succeeds or not.
        let _ = file.sync_all();
        Ok(())
    }

    /// Gives it back.
    pub fn drain(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.at)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with("filler-") {
                fs::remove_file(&path)?;
            }
        }
        Ok(())
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.at).status();
        let _ = fs::remove_file(&self.image);
    }
}

fn run(command: &mut Command) -> io::Result<()> {
    let output = command.output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(io::Error::other(format!(
            "{command:?}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        ))),
    }
}
