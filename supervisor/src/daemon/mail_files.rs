//! The files by which a mail container knows its household: accounts, certificate, names.

use super::Context;
use anyhow::Context as _;
use std::collections::BTreeMap;
use std::sync::PoisonError;
use thermidor_model::ServiceName;
use thermidor_model::spec::{MailSpec, PROBE_ACCOUNT};
use thermidor_model::state::State;
use thermidor_services::recipe::{certificate, mail};
use tracing::info;

impl Context {
    /// Accounts of YAML and CLI, and a certificate of the home's authority.
    pub(super) fn write_mail_config(
        &self,
        state: &State,
        name: &ServiceName,
        settings: &MailSpec,
        folder: &std::path::Path,
    ) -> anyhow::Result<()> {
        if mail::write_config(folder, &self.mail_config(state, name, settings)?)? {
            info!(service = %name, "its accounts or certificate were written anew");
        }
        Ok(())
    }

    /// What the container is told.
    pub(super) fn mail_config(
        &self,
        state: &State,
        name: &ServiceName,
        settings: &MailSpec,
    ) -> anyhow::Result<mail::MailConfig> {
        let mut accounts = BTreeMap::new();
        for (account, declared) in &settings.accounts {
            let secret = &declared.password;
            let password = self
                .secret(state, secret)
                .with_context(|| format!("run `thermidor secret set {}`", secret.0))?;
            let password_hash = self.hash(&format!("{name}/{account}"), &password)?;
            accounts
                .insert(account.clone(), mail::Account { password_hash, aliases: declared.aliases.clone() });
        }
        for (account, made) in state.mail_accounts.get(name).into_iter().flatten() {
            let password_hash = made.password_hash.clone();
            accounts.insert(account.clone(), mail::Account { password_hash, aliases: made.aliases.clone() });
        }
        let probe_password = self.probe_password(name)?;
        let probe_hash = Some(self.hash(&format!("{name}/{PROBE_ACCOUNT}"), &probe_password)?);
        let (certificate_pem, key_pem) = match &settings.certificate {
            None => self.certificate(name, &settings.hostname)?,
            Some(given) => {
                let key = self.secret(state, &given.key);
                let key = key.with_context(|| format!("run `thermidor secret set {}`", given.key.0))?;
                certificate::fits(&given.chain_pem, &key)?;
                (given.chain_pem.clone(), key)
            }
        };
        Ok(mail::MailConfig {
            domain: settings.domain.clone(),
            hostname: settings.hostname.clone(),
            message_max_bytes: settings.message_max_bytes,
            accounts,
            probe_hash,
            certificate_pem,
            key_pem,
        })
    }

    /// Whose signature a mail server's certificate must carry, PEM.
    pub(super) fn mail_authority(state: &State, settings: &MailSpec) -> String {
        match &settings.certificate {
            Some(given) => given.chain_pem.clone(),
            None => state.authority_pem.clone(),
        }
    }

    /// The probe's password: drawn from the home key, so every radiator knows it and none stores it.
    pub(super) fn probe_password(&self, name: &ServiceName) -> anyhow::Result<String> {
        let bytes = self.keys.derive(&format!("probe password of {name}"))?;
        Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
    }

    /// The hash of a password; the same one for as long as the password stays, here and elsewhere.
    fn hash(&self, whose: &str, password: &str) -> anyhow::Result<String> {
        let mut hashes = self.workshop.hashes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, hash)) = hashes.get(whose).filter(|(of, _)| of == password) {
            return Ok(hash.clone());
        }
        let drawn = self.keys.derive(&format!("salt of {whose}"))?;
        let mut seed = [0; mail::SALT];
        seed.copy_from_slice(&drawn[..mail::SALT]);
        let hash = mail::hash_password_with(password, &seed)?;
        hashes.insert(whose.to_string(), (password.to_string(), hash.clone()));
        Ok(hash)
    }

    /// A service's certificate on this radiator, made once for a host name and an authority.
    fn certificate(&self, name: &ServiceName, host: &str) -> anyhow::Result<(String, String)> {
        let identity = self.node.identity();
        if identity.own.keys != self.node.state().borrow().keys.number {
            anyhow::bail!("the home's authority was changed, and this radiator has not got the new one yet");
        }
        let place = format!("{host}-{}", &identity.fingerprint()[..16]);
        let dir = self.paths.service(name.as_str()).join("tls").join(place);
        let (pem, key) = (dir.join("pem"), dir.join("key"));
        if pem.exists() && key.exists() {
            return Ok((std::fs::read_to_string(pem)?, std::fs::read_to_string(key)?));
        }
        let (pem_text, key_text) = identity.authority()?.issue_for_service(host)?;
        std::fs::create_dir_all(&dir)?;
        write_private(&key, &key_text)?;
        write_private(&pem, &pem_text)?;
        Ok((pem_text, key_text))
    }
}

fn write_private(path: &std::path::Path, text: &str) -> anyhow::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    Ok(file.sync_all()?)
}
