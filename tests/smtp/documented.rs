//! What the documentation names exists.

use std::path::Path;

/// Every dialogue and every test of this suite that `docs/attacks.md` names.
#[test]
fn the_table_of_attacks_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let table = std::fs::read_to_string(root.join("docs/attacks.md")).expect("docs/attacks.md");
    let resources = include_str!("resources.rs");
    let mut named = 0;
    let mut missing = Vec::new();
    for word in table.split('`').skip(1).step_by(2) {
        let exists = if let Some(file) = word.strip_suffix(".smtp") {
            file.contains('*') || root.join("tests/dialogues").join(word).exists()
        } else if let Some(test) = word.strip_prefix("resources::") {
            resources.contains(&format!("fn {test}("))
        } else if let Some(test) = word.strip_prefix("idle::") {
            include_str!("idle.rs").contains(&format!("fn {test}("))
        } else if let Some(found) = in_tests(&root.join("tests"), word) {
            found
        } else if word.starts_with("tests/") {
            root.join(word).exists()
        } else if let Some((module, test)) = word.rsplit_once("::") {
            unit_test_exists(&root.join("src").join(module.replace("::", "/")), test)
        } else {
            continue;
        };
        named += 1;
        if !exists {
            missing.push(word);
        }
    }
    assert!(named > 70, "{named} tests are named");
    assert!(missing.is_empty(), "{missing:?}");
}

/// Whether a test of `tests/it` or `tests/corpora` exists; none: `word` names no module of those.
fn in_tests(tests: &Path, word: &str) -> Option<bool> {
    let (file, test) = match word.strip_prefix("corpora::") {
        Some(rest) => {
            let (module, test) = rest.split_once("::").unwrap_or((rest, ""));
            (tests.join("corpora").join(module), test)
        }
        None => {
            let (module, test) = word.split_once("::")?;
            (tests.join("it").join(module), test)
        }
    };
    let text = std::fs::read_to_string(file.with_extension("rs")).ok()?;
    Some(test.is_empty() || text.contains(&format!("fn {test}(")))
}

/// Whether the module at `path` exists and has the test; a module alone may be named, too.
fn unit_test_exists(path: &Path, test: &str) -> bool {
    let module = path.with_extension("rs");
    let files = [module.clone(), path.join("tests.rs"), path.join("mod.rs")];
    let has = |file: &Path| {
        std::fs::read_to_string(file).is_ok_and(|text| text.contains(&format!("fn {test}(")))
    };
    let inner = path.join(test);
    files.iter().any(|file| has(file)) || inner.with_extension("rs").exists() || inner.is_dir()
}
