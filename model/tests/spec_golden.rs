//! Compose files as people have them: what is taken, what is said and ignored, what is refused.
//! `UPDATE_GOLDEN=1` writes the expected files anew; read the difference before keeping it.

use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use thermidor_model::spec::parse;

/// What a Compose file lacks; it comes last, so that its own lines keep their numbers.
const HOME: &str = "\nhome: maison\nradiators:\n  salon: { heats: room, power: 250 }\n  bureau: { heats: room, power: 120 }\n  ballon: { heats: water, tank: 200, power: 400 }\n";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn outcome(text: &str, file_name: &str) -> String {
    let env: BTreeMap<String, String> = BTreeMap::new();
    let files = |_: &str| Ok("TZ=Europe/Paris\n".to_string());
    let mut out = String::new();
    match parse(&format!("{text}{HOME}"), file_name, &env, &files) {
        Ok((spec, notices)) => {
            let taken = json!({ "services": spec.services, "volumes": spec.volumes });
            out.push_str("taken:\n");
            out.push_str(&serde_json::to_string_pretty(&taken).expect("a spec is JSON"));
            out.push('\n');
            if !notices.is_empty() {
                out.push_str("\nsaid:\n");
            }
            for notice in notices {
                writeln!(out, "{notice}").expect("a string takes all");
            }
        }
        Err(errors) => {
            out.push_str("refused:\n");
            writeln!(out, "{errors}").expect("a string takes all");
        }
    }
    out
}

#[test]
fn compose_files_are_taken_ignored_or_refused_as_written_down() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut names: Vec<PathBuf> = fs::read_dir(folder())
        .expect("the golden folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .collect();
    names.sort();
    assert!(names.len() >= 20, "only {} golden files", names.len());
    let mut wrong = Vec::new();
    for path in names {
        let text = fs::read_to_string(&path).expect("a golden file");
        let file_name = path.file_name().expect("its name").to_string_lossy().into_owned();
        let is = outcome(&text, &file_name);
        let expected_path = path.with_extension("out");
        if update {
            fs::write(&expected_path, &is).expect("the expected file");
        }
        let expected = fs::read_to_string(&expected_path).unwrap_or_default();
        if is != expected {
            wrong.push(format!("--- {file_name}, expected\n{expected}\n--- is\n{is}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
