//! The patches in `tests/undo` take back one fix each, to show that the simulation finds what was
//! mended (`tests/long sim-proof`). Here is only seen that they still fit the code.

use std::path::Path;

/// Hunks of a patch whose old lines are nowhere in their file.
fn misfits(patch: &str, read: impl Fn(&str) -> String) -> Vec<String> {
    let mut misfits = Vec::new();
    let mut file = String::new();
    let mut hunk: Option<(String, String)> = None;
    let mut close = |hunk: Option<(String, String)>, file: &str| {
        if let Some((title, old)) = hunk
            && !read(file).contains(&old)
        {
            misfits.push(format!("{file} {title}"));
        }
    };
    for line in patch.lines() {
        if let Some(name) = line.strip_prefix("--- a/") {
            close(hunk.take(), &file);
            file = name.split('\t').next().unwrap_or(name).to_owned();
        } else if line.starts_with("@@ ") {
            close(hunk.take(), &file);
            hunk = Some((line.to_owned(), String::new()));
        } else if let Some((_, old)) = &mut hunk
            && let Some(kept) = line.strip_prefix([' ', '-'])
        {
            old.push_str(kept);
            old.push('\n');
        }
    }
    close(hunk.take(), &file);
    misfits
}

#[test]
fn sim_patches_that_undo_a_fix_still_apply() {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    let read = |file: &str| std::fs::read_to_string(root.join(file)).unwrap_or_default();
    let Ok(patches) = std::fs::read_dir(root.join("tests/undo")) else {
        return;
    };
    for patch in patches {
        let path = patch.unwrap().path();
        let misfits = misfits(&std::fs::read_to_string(&path).unwrap(), read);
        assert!(
            misfits.is_empty(),
            "{} does not apply any more; write it again from the code as it is: {misfits:?}",
            path.display()
        );
    }
}

#[test]
fn sim_a_patch_that_does_not_fit_is_named() {
    let patch = "--- a/x\n+++ b/x\n@@ -1,2 +1,2 @@\n one\n-two\n+2\n@@ -9 +9 @@\n-nine\n";
    let misfits = misfits(patch, |_| "zero\none\ntwo\n".into());
    assert_eq!(misfits, ["x @@ -9 +9 @@"]);
}
