//! Certificates that a person gives: looked at by `apply`, their keys sealed before the home is declared.

use crate::api::{Refused, Request, client};
use crate::paths::Paths;
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::Path;
use thermidor_model::spec::{CERTIFICATE_KEYS, CertificateSpec, HomeSpec, MailSpec, RecipeSpec, SpecErrors};
use thermidor_model::state::State;
use thermidor_services::recipe::certificate;
use zeroize::Zeroizing;

/// Keys by the name of the secret that is to hold them.
pub type Keys = BTreeMap<String, Zeroizing<String>>;

fn given(spec: &HomeSpec) -> impl Iterator<Item = (&str, &MailSpec, &CertificateSpec)> {
    spec.services.iter().filter_map(|(name, service)| match &service.recipe {
        Some(RecipeSpec::Mail(mail)) => Some((name.as_str(), mail, mail.certificate.as_ref()?)),
        _ => None,
    })
}

/// Reads the keys that stand in files beside the YAML, and looks whether each fits its certificate, its
/// server's name and the day; what is wrong is shown at its line.
pub fn read_keys(file: &Path, text: &str, spec: &HomeSpec) -> Result<Keys, Refused> {
    let now_ms = crate::clock::unix_ms();
    let folder = file.parent().map(Path::to_path_buf).unwrap_or_default();
    let mut keys = Keys::new();
    for (service, mail, given) in given(spec) {
        let refuse = |field: &str, message: String, help: Option<&str>| {
            let path = ["services", service, "settings", "certificate", field];
            let name = file.display().to_string();
            let error = SpecErrors::later(&name, text, &path, message, help.map(Into::into));
            eprintln!("{}", error.render(std::io::stderr().is_terminal()));
            Refused::because(format!("{name}: 1 error; nothing was changed"))
        };
        let Some(key_file) = &given.key_file else {
            // The key is sealed, and opened on radiators only: that it fits is looked at there.
            if let Err(e) = certificate::check_chain(&given.chain_pem, &mail.hostname, now_ms) {
                return Err(refuse("chain", format!("`certificate.chain`: {e}"), None));
            }
            continue;
        };
        let path = folder.join(key_file);
        let key = std::fs::read_to_string(&path).map(Zeroizing::new);
        let key = key.map_err(|e| refuse("key", format!("{}: {e}", path.display()), None))?;
        if let Err(e) = certificate::check(&given.chain_pem, &key, &mail.hostname, now_ms) {
            let field = if e.is_of_key() { "key" } else { "chain" };
            let help = matches!(e, certificate::CertificateError::OtherName { .. }).then_some(
                "`settings.hostname` is the name that clients use and that it must be made out to",
            );
            return Err(refuse(field, format!("`certificate.{field}`: {e}"), help));
        }
        keys.insert(given.key.0.clone(), key);
    }
    Ok(keys)
}

/// Seals them. Nothing refers to a fresh one before the home is declared.
pub fn seal(paths: &Paths, keys: &Keys) -> Result<(), Refused> {
    for (name, key) in keys {
        let value = Some(key.as_str().to_owned());
        client::ask(paths, &Request::SetSecret { name: name.clone(), value })?;
    }
    Ok(())
}

/// Forgets the keys of certificates that were declared before and are no more.
pub fn forget(paths: &Paths, before: &State, keys: &Keys) -> Result<(), Refused> {
    let old = before.secrets.keys().filter(|name| name.starts_with(CERTIFICATE_KEYS));
    for name in old.filter(|name| !keys.contains_key(*name)) {
        client::ask(paths, &Request::SetSecret { name: name.clone(), value: None })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home(dir: &Path, names: &[&str]) -> (String, String) {
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        std::fs::write(dir.join("chain.pem"), made.cert.pem()).unwrap();
        std::fs::write(dir.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
        let yaml = "home: maison\nradiators: { salon: { heats: room, power: 250 } }\nservices:\n  mail:\n    recipe: mail\n    settings:\n      domain: example.org\n      \
                    certificate: { chain: chain.pem, key: key.pem }\n    volumes: [ mail ]\nvolumes: { mail: {} }\n";
        (yaml.into(), made.cert.pem())
    }

    fn spec(dir: &Path, yaml: &str) -> HomeSpec {
        let files = |path: &str| std::fs::read_to_string(dir.join(path)).map_err(|e| e.to_string());
        thermidor_model::spec::parse(yaml, "home.yaml", &BTreeMap::new(), &files).unwrap().0
    }

    #[test]
    fn a_key_beside_the_file_becomes_a_secret_of_the_chain_and_is_in_no_declaration() {
        let dir = tempfile::tempdir().unwrap();
        let (yaml, chain) = home(dir.path(), &["mail.example.org"]);
        let spec = spec(dir.path(), &yaml);
        let keys = read_keys(&dir.path().join("home.yaml"), &yaml, &spec).unwrap();
        let (name, key) = keys.first_key_value().unwrap();
        assert!(name.starts_with(CERTIFICATE_KEYS) && key.contains("PRIVATE KEY"), "{name}");
        let declared = serde_json::to_string(&spec).unwrap();
        assert!(!declared.contains("PRIVATE KEY") && declared.contains(chain.lines().nth(1).unwrap()));
    }

    #[test]
    fn what_is_wrong_with_it_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (yaml, _) = home(dir.path(), &["www.example.org"]);
        let read = || read_keys(&dir.path().join("home.yaml"), &yaml, &spec(dir.path(), &yaml));
        assert!(read().unwrap_err().text.contains("nothing was changed"), "another name");
        let (_, _) = home(dir.path(), &["mail.example.org"]);
        assert!(read().is_ok());
        let stranger = rcgen::KeyPair::generate().unwrap().serialize_pem();
        std::fs::write(dir.path().join("key.pem"), stranger).unwrap();
        assert!(read().is_err(), "another key");
        std::fs::remove_file(dir.path().join("key.pem")).unwrap();
        assert!(read().is_err(), "no key");
    }
}
