//! The tree keeps its shape: which crate may see which, what a crate is not called, what every
//! file opens with, and what must stand in none of them.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Which crates of ours a crate may use. `model <- raft, services, backup <- supervisor <-
/// tests, examples`; raft, services and backup never see one another.
const ARROWS: [(&str, &[&str]); 8] = [
    ("model", &[]),
    ("raft", &["model"]),
    ("raft/histogram", &[]),
    ("services", &["model"]),
    ("backup", &["model"]),
    ("supervisor", &["model", "raft", "services", "backup"]),
    ("tests", &["model", "raft", "services", "backup", "supervisor"]),
    ("examples", &["model", "raft", "services", "backup", "supervisor"]),
];

/// Names of crates and modules that say nothing of what is inside.
const EMPTY_WORDS: [&str; 6] = ["util", "utils", "common", "helper", "helpers", "misc"];

/// A file longer than this is to be cut; one longer than the second number fails.
const LINES_WISHED: usize = 350;
const LINES_MAX: usize = 600;

fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap().to_owned()
}

/// Names of our crates in the dependency tables of a manifest, whatever kind of dependency.
fn dependencies(manifest: &str) -> Vec<String> {
    let mut inside = false;
    let mut found = Vec::new();
    for line in manifest.lines().map(str::trim) {
        if let Some(table) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            inside = table.ends_with("dependencies");
            // `[dependencies.thermidor-raft]`
            found.extend(
                table.split('.').filter_map(|part| part.strip_prefix("thermidor-")).map(str::to_owned),
            );
        } else if inside && let Some(rest) = line.strip_prefix("thermidor-") {
            found.push(rest.split(['.', ' ', '=']).next().unwrap_or_default().to_owned());
        }
    }
    found
}

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        // `.git` is a folder, or in a linked tree a file that names its folder.
        if name == "target" || name == ".git" {
            continue;
        }
        if path.is_dir() {
            files(&path, found);
        } else {
            found.push(path);
        }
    }
}

fn tree() -> Vec<PathBuf> {
    let mut found = Vec::new();
    files(&root(), &mut found);
    found.sort();
    found
}

fn rust() -> impl Iterator<Item = (PathBuf, String)> {
    let is_rust = |path: &PathBuf| path.extension().is_some_and(|e| e == "rs");
    tree().into_iter().filter(is_rust).map(|path| {
        let text = fs::read_to_string(&path).unwrap();
        (path.strip_prefix(root()).unwrap().to_owned(), text)
    })
}

#[test]
fn every_arrow_points_the_way_the_design_says() {
    let mut wrong = Vec::new();
    for (name, may) in ARROWS {
        let manifest = fs::read_to_string(root().join(name).join("Cargo.toml")).unwrap();
        for used in dependencies(&manifest) {
            if !may.contains(&used.as_str()) {
                wrong.push(format!("{name} uses {used}"));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
    let workspace = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let members = workspace.lines().find(|l| l.starts_with("members")).unwrap();
    assert_eq!(members.matches('"').count() / 2, ARROWS.len(), "a crate that no arrow names: {members}");
}

#[test]
fn a_forbidden_arrow_would_be_seen_however_it_is_written() {
    let manifest = "[dependencies]\nserde = \"1\"\nthermidor-raft.workspace = true\n\
        [dev-dependencies]\nthermidor-backup = { path = \"../backup\" }\n\
        [dependencies.thermidor-supervisor]\npath = \"../supervisor\"\n";
    assert_eq!(dependencies(manifest), ["raft", "backup", "supervisor"]);
}

#[test]
fn no_folder_or_file_hides_behind_an_empty_word() {
    let hidden: Vec<_> = rust()
        .filter(|(path, _)| {
            let parts = path.components().map(|part| part.as_os_str().to_string_lossy().into_owned());
            parts.into_iter().any(|part| EMPTY_WORDS.contains(&part.trim_end_matches(".rs")))
        })
        .map(|(path, _)| path)
        .collect();
    assert_eq!(hidden, Vec::<PathBuf>::new());
}

#[test]
fn every_file_opens_with_what_lives_there() {
    let silent: Vec<_> = rust().filter(|(_, text)| !text.starts_with("//! ")).map(|(path, _)| path).collect();
    assert_eq!(silent, Vec::<PathBuf>::new());
}

#[test]
fn unsafe_code_is_forbidden_or_the_crate_says_why_not() {
    let mut open = Vec::new();
    for (name, _) in ARROWS {
        for file in ["lib.rs", "main.rs"] {
            let path = root().join(name).join("src").join(file);
            let Ok(text) = fs::read_to_string(&path) else { continue };
            let said =
                text.contains("#![forbid(unsafe_code)]") || text.contains("Unsafe code is allowed here");
            if !said {
                open.push(format!("{name}/src/{file}"));
            }
        }
    }
    assert_eq!(open, Vec::<String>::new());
    let used: Vec<_> = rust()
        .filter(|(path, _)| path != Path::new("tests/tests/arrows.rs"))
        .filter(|(_, text)| text.lines().any(|l| !l.trim_start().starts_with("//") && l.contains("unsafe {")))
        .map(|(path, _)| path)
        .collect();
    for path in used {
        let text = fs::read_to_string(root().join(&path)).unwrap();
        assert!(text.contains("SAFETY"), "{} has unsafe code without saying why it is sound", path.display());
    }
}

#[test]
fn nothing_names_the_machine_it_was_made_on() {
    // Written in halves, so that this file does not hold what it looks for.
    let words = [
        ["/wo", "rk/"].concat(),
        ["/ro", "ot/"].concat(),
        ["/fa", "rm/"].concat(),
        ["/tmp/ba", "sh_jobs"].concat(),
        ["crates", ".io/api"].concat(),
        ["index.cra", "tes.io"].concat(),
        ["deb.deb", "ian.org"].concat(),
        ["pypi", ".org"].concat(),
        ["registry.np", "mjs"].concat(),
    ];
    let mut named: BTreeMap<PathBuf, Vec<String>> = BTreeMap::new();
    for path in tree() {
        if path.file_name().is_some_and(|n| n == "Cargo.lock") {
            continue;
        }
        // Images and the like are no text.
        let Ok(text) = fs::read_to_string(&path) else { continue };
        for line in text.lines() {
            // One inside of an address, or below a home folder, is nobody's machine.
            let at = |word: &String| line.find(word.as_str()).is_some_and(|i| is_path_start(line, i, word));
            if let Some(word) = words.iter().find(|word| at(word)) {
                named.entry(path.clone()).or_default().push(format!("{word} in `{}`", line.trim()));
            }
        }
    }
    assert_eq!(named, BTreeMap::new());
}

/// Whether an absolute path begins there, rather than the middle of a longer one.
fn is_path_start(line: &str, at: usize, word: &str) -> bool {
    let before = line[..at].chars().next_back();
    !word.starts_with('/') || !before.is_some_and(|c| c.is_alphanumeric() || "._-~}$*".contains(c))
}

#[test]
fn files_can_be_read_in_a_sitting() {
    let long: Vec<_> = rust().map(|(path, text)| (path, text.lines().count())).collect();
    for (path, lines) in long.iter().filter(|(_, lines)| *lines > LINES_WISHED) {
        println!("warning: {} has {lines} lines; {LINES_WISHED} are enough", path.display());
    }
    let over: Vec<_> = long.into_iter().filter(|(_, lines)| *lines > LINES_MAX).collect();
    assert_eq!(over, []);
}
