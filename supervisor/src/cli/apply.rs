//! `thermidor apply`: reads the file, shows what would change, asks, then declares.

use super::certificates;
use crate::api::{Refused, Request, client};
use crate::paths::Paths;
use clap::Args;
use std::collections::BTreeMap;
use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use thermidor_model::packed::Packed;
use thermidor_model::spec::{self, HomeSpec};
use thermidor_model::state::State;

/// Largest packed build context, bytes: it travels through the home's log.
const CONTEXT_MAX_BYTES: usize = thermidor_model::apply::CONTEXT_MAX_BYTES;

#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// The file that declares the home.
    file: PathBuf,
    /// Show what would change, and stop.
    #[arg(long)]
    dry_run: bool,
    /// Don't ask.
    #[arg(long, short)]
    yes: bool,
    /// Keep what the command line set otherwise than the YAML.
    #[arg(long)]
    keep_overrides: bool,
}

pub fn main(paths: &Paths, args: &ApplyArgs) -> Result<(), Refused> {
    let (text, mut spec) = read(&args.file)?;
    let contexts = pack_contexts(&args.file, &mut spec)?;
    let state: State = client::ask_for(paths, &Request::State)?;
    let keys = certificates::read_keys(&args.file, &text, &spec)?;
    let old = state.declared.as_ref().map(|d| &d.spec);
    let difference = spec::difference(old, &spec, &state);
    println!("{difference}");
    if difference.is_empty() || args.dry_run {
        return Ok(());
    }
    if !difference.refusals.is_empty() {
        return Err(Refused::because("nothing was changed"));
    }
    let consent = !difference.needs_consent() || args.keep_overrides;
    if !args.yes && !agreed(consent)? {
        return Err(Refused::because("nothing was changed"));
    }
    certificates::seal(paths, &keys)?;
    let known: Vec<String> = state.contexts.keys().cloned().collect();
    let apply = Request::Apply {
        revision_was: state.declared.as_ref().map_or(0, |d| d.revision),
        text,
        spec: Box::new(spec),
        keep_overrides: args.keep_overrides,
        contexts: contexts.into_iter().filter(|(hash, _)| !known.contains(hash)).collect(),
    };
    client::ask(paths, &apply)?;
    certificates::forget(paths, &state, &keys)?;
    println!("Applied. Watch `thermidor status`.");
    Ok(())
}

/// Reads and checks the file; every error at once, each with its place.
fn read(file: &Path) -> Result<(String, HomeSpec), Refused> {
    let name = file.display().to_string();
    let text = std::fs::read_to_string(file).map_err(|e| Refused::because(format!("{name}: {e}")))?;
    let folder = file.parent().map(Path::to_path_buf).unwrap_or_default();
    let beside = |path: &str| {
        std::fs::read_to_string(folder.join(path))
            .map_err(|e| format!("{}: {e}", folder.join(path).display()))
    };
    let mut env: BTreeMap<String, String> = std::env::vars().collect();
    if let Ok(dotenv) = beside(".env") {
        let own = spec::parse_env_file(&dotenv, &env).map_err(|e| Refused::because(format!(".env: {e}")))?;
        for (key, value) in own {
            env.entry(key).or_insert(value);
        }
    }
    match spec::parse(&text, &name, &env, &beside) {
        Ok((spec, notices)) => {
            notices.iter().for_each(|notice| eprintln!("note: {name}:{notice}"));
            Ok((text, spec))
        }
        Err(errors) => {
            eprintln!("{}", errors.render(std::io::stderr().is_terminal()));
            let n = errors.problems.len();
            Err(Refused::because(format!(
                "{name}: {n} error{}; nothing was changed",
                if n == 1 { "" } else { "s" }
            )))
        }
    }
}

/// Packs every `build:` folder, so that each candidate can build the image.
fn pack_contexts(file: &Path, spec: &mut HomeSpec) -> Result<BTreeMap<String, Packed>, Refused> {
    let folder = file.parent().map(Path::to_path_buf).unwrap_or_default();
    let mut packed = BTreeMap::new();
    for (name, service) in &mut spec.services {
        let Some(build) = &mut service.build else { continue };
        let context = folder.join(&build.context);
        let refused =
            |e: std::io::Error| Refused::because(format!("{name}: build context {}: {e}", context.display()));
        let bytes = thermidor_services::docker::pack_context(&context).map_err(refused)?;
        if bytes.len() > CONTEXT_MAX_BYTES {
            return Err(Refused::because(format!(
                "{name}: build context {} has {} packed, at most {} fit: add a .dockerignore",
                context.display(),
                super::show::bytes(bytes.len() as u64),
                super::show::bytes(CONTEXT_MAX_BYTES as u64)
            )));
        }
        let hash = blake3::hash(&bytes).to_hex().to_string();
        build.hash = Some(hash.clone());
        packed.insert(hash, Packed::from(bytes));
    }
    Ok(packed)
}

fn agreed(plain: bool) -> Result<bool, Refused> {
    if !std::io::stdin().is_terminal() {
        return match plain {
            true => Ok(true),
            false => Err(Refused::because(
                "this would clear what the command line set: say --yes, or --keep-overrides to keep it",
            )),
        };
    }
    confirmed("Apply?")
}

/// Asks a person; whoever is no terminal has not agreed.
pub fn confirmed(question: &str) -> Result<bool, Refused> {
    if !std::io::stdin().is_terminal() {
        return Ok(false);
    }
    print!("{question} [y/N] ");
    let _unflushed_prompt = std::io::stdout().flush();
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).map_err(|e| Refused::because(e.to_string()))?;
    Ok(matches!(line.trim(), "y" | "Y" | "yes"))
}
