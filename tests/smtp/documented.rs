//! What the documentation names exists.

use std::path::Path;

/// Every dialogue and every test that `docs/attacks.md` names.
#[test]
fn the_table_of_attacks_names_tests_that_exist() {
    assert!(named_in("attacks.md") > 70);
}

/// The same for what is known of other servers' faults.
#[test]
fn the_table_of_faults_names_tests_that_exist() {
    assert!(named_in("peer-faults.md") > 40);
}

/// How many tests a page names; all of them must exist.
fn named_in(page: &str) -> usize {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let table = std::fs::read_to_string(root.join("docs").join(page)).expect("a page");
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
    assert!(missing.is_empty(), "{page}: {missing:?}");
    named
}

/// Whether a test of these suites exists; none: `word` names no module of them.
fn in_tests(tests: &Path, word: &str) -> Option<bool> {
    let (suites, rest): (&[&str], &str) = match word.strip_prefix("corpora::") {
        Some(rest) => (&["corpora"], rest),
        None if word.contains("::") => (&["it", "delivery", "queue", "store"], word),
        None => return None,
    };
    let (module, test) = rest.split_once("::").unwrap_or((rest, ""));
    let files = suites
        .iter()
        .map(|suite| tests.join(suite).join(module).with_extension("rs"));
    let texts: Vec<String> = files
        .filter_map(|file| std::fs::read_to_string(file).ok())
        .collect();
    let has = |text: &String| test.is_empty() || text.contains(&format!("fn {test}("));
    (!texts.is_empty()).then(|| texts.iter().any(has))
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
