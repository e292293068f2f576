//! What a person orders through the CLI, turned into commands of the home.

use super::{Context, backups, within};
use crate::api::view::{AccountLine, Explanation, Home, LeaderView, VERSION};
use crate::api::{Refused, Request};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;
use thermidor_model::spec::{PROBE_ACCOUNT, RecipeSpec};
use thermidor_model::state::{MailAccount, Off, Volume};
use thermidor_model::{Command, NodeId, Outcome, RadiatorName, ServiceName, State, VolumeName};
use thermidor_raft::ProposeError;

/// How long an order may wait for a majority.
pub(super) const ORDER_MAX: Duration = Duration::from_secs(10);

/// How long a look at the leader may take.
const LOOK_MAX: Duration = Duration::from_secs(2);

impl Context {
    /// What the leader knows; `None`: no leader answers.
    pub async fn leader_view(&self) -> Option<LeaderView> {
        if let Ok(view) = self.leader.view() {
            return Some(view);
        }
        let bytes = self.node.call_leader("view", bytes::Bytes::new(), within(LOOK_MAX)).await.ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Answers everything that has one answer.
    pub async fn answer(&self, request: Request) -> Result<Value, Refused> {
        let state = self.node.state().borrow().clone();
        match request {
            Request::Status => {
                let mut home = Home::of(&state, self.leader_view().await.as_ref());
                let (standings, warnings) = backups::standings(&state);
                home.backups = standings;
                home.warnings.extend(warnings);
                self.with_progress(&state, &mut home.restores).await;
                value(&home)
            }
            Request::Explain { service } => self.explain(service).await,
            Request::State => value(&*state),
            Request::Secrets => value(&state.secrets.keys().collect::<Vec<_>>()),
            Request::MailAccounts { service } => mail_accounts(&state, &service),
            Request::Invite { ttl_s } => {
                let token = self.node.invite(Duration::from_secs(ttl_s)).await;
                token.map(|t| Value::from(t.text())).map_err(|e| Refused::because(e.to_string()))
            }
            Request::Leave { radiator } => self.leave(member(&state, &radiator)?).await,
            Request::LeaveStolen { radiator } => self.leave_stolen(&state, &radiator).await,
            Request::PrintKit => self.print_kit().await,
            Request::ReplaceKit => self.replace_kit().await,
            Request::SplitKit { among, needed } => self.split_kit(&among, needed).await,
            Request::InviteFriend { ttl_s } => self.invite_friend(ttl_s).await,
            Request::AcceptFriend { code, addresses } => self.accept_friend(&code, &addresses).await,
            Request::Friends { look } => self.friends(look).await,
            Request::ReaddressFriend { home, addresses } => self.readdress_friend(home, addresses).await,
            Request::RemoveFriend { home, delete_data } => {
                let command = self.part_with(&state, home, delete_data).await?;
                self.order(command).await
            }
            Request::Backups => self.backups(&state).await,
            Request::RunBackup { subject, to, task } => {
                self.order_backup(&state, subject, to, task.into()).await
            }
            Request::CheckVolume { volume } => self.check_volume(&volume).await,
            Request::Put { value } => self.order(Command::Put { value: value.into_bytes() }).await,
            Request::Trim { volume } => self.trim(&state, &volume).await,
            Request::Snapshot { volume, on, order } => {
                self.snapshot(&state, &volume, on.as_ref(), order).await
            }
            Request::Logs { .. } | Request::Events { .. } | Request::RestoreTo { .. } => {
                Err(Refused::because("logs, events and the like are followed, not answered"))
            }
            request => {
                let command = self.command(&state, request)?;
                self.order(command).await
            }
        }
    }

    /// The command that an order means.
    fn command(&self, state: &State, request: Request) -> Result<Command, Refused> {
        Ok(match request {
            Request::Apply { revision_was, text, spec, keep_overrides, contexts } => {
                Command::Declare { revision_was, text, spec, keep_overrides, contexts }
            }
            Request::Off { radiator, until_ms, power_off } => {
                Command::Off { node: member(state, &radiator)?, off: Off { until_ms, power_off } }
            }
            Request::On { radiator } => Command::On { node: member(state, &radiator)? },
            Request::Target { radiator, celsius } => Command::Target { radiator, celsius },
            Request::Move { service, radiator } => Command::Wish { service, to: member(state, &radiator)? },
            Request::SetSecret { name, value } => {
                let seal = |v: String| {
                    self.keys.seal(&name, v.as_bytes()).map_err(|e| Refused::because(e.to_string()))
                };
                let sealed = value.map(seal).transpose()?;
                Command::SetSecret { name, sealed }
            }
            Request::MailAccount { service, account, password, aliases, remove } => {
                mail_account(state, service, account, password, aliases, remove)?
            }
            Request::ConfirmFriend { home, words } => Command::ConfirmFriend { home, words },
            Request::ConfirmGeneration { home, generation } => {
                Command::ConfirmGeneration { home, generation }
            }
            Request::ConfirmKit { home, words } => Command::ConfirmKit { home, words },
            Request::Resume => Command::Overrule { generation: later_generation(state)? },
            Request::Restore { service, ask } => self.restore_order(state, service, ask)?,
            Request::RemoveVolume { volume } => Command::RemoveVolume { volume },
            Request::Promote { volume, radiator } => promote(state, volume, &radiator)?,
            other => return Err(Refused::because(format!("{other:?} is no order"))),
        })
    }

    /// Proposes, and says in words what became of it.
    pub(super) async fn order(&self, command: Command) -> Result<Value, Refused> {
        match self.node.propose_once(command, within(ORDER_MAX)).await {
            Ok(Outcome::Refused(refusal)) => Err(Refused::because(refusal.to_string())),
            Ok(outcome) => Ok(json!({ "done": format!("{outcome:?}") })),
            Err(e @ ProposeError::Unknown(_)) => Err(Refused::because(format!(
                "{e}: it may have been done or not; look with `thermidor status` before you try again"
            ))),
            Err(e) => Err(Refused::no_quorum(e.to_string())),
        }
    }

    /// Only the leader takes a member out: it changes the votes too.
    pub(super) async fn leave(&self, node: NodeId) -> Result<Value, Refused> {
        let done = match self.leader.leave(node).await {
            Err(why) if !self.node.leadership().borrow().is_me => {
                let body = serde_json::to_vec(&node).map_err(|e| Refused::because(format!("{why}: {e}")))?;
                let told = self.node.call_leader("leave", body.into(), within(ORDER_MAX)).await;
                told.map(drop).map_err(|e| e.to_string())
            }
            done => done,
        };
        done.map(|()| json!({ "done": "left" })).map_err(Refused::because)
    }

    async fn explain(&self, service: ServiceName) -> Result<Value, Refused> {
        let Some(view) = self.leader_view().await else {
            return Err(Refused::no_quorum("no leader answers: a majority of the voters must be reachable"));
        };
        match view.reasons.get(&service) {
            Some(reason) => {
                value(&Explanation { version: VERSION, service: service.to_string(), reason: reason.clone() })
            }
            None => Err(Refused::because(format!(
                "there is no service {service}: `thermidor service ls` lists them"
            ))),
        }
    }
}

pub(super) fn value<T: serde::Serialize>(of: &T) -> Result<Value, Refused> {
    serde_json::to_value(of).map_err(|e| Refused::because(e.to_string()))
}

pub(super) fn member(state: &State, name: &RadiatorName) -> Result<NodeId, Refused> {
    state.node(name).ok_or_else(|| {
        Refused::because(format!("there is no radiator {name}: `thermidor radiator ls` lists them"))
    })
}

/// The generation before which this home stands down.
fn later_generation(state: &State) -> Result<u64, Refused> {
    state.outlived.as_ref().map(|known| known.generation).ok_or_else(|| {
        Refused::because("this home has heard of no later generation of itself: nothing is stopped for it")
    })
}

fn mail_accounts(state: &State, service: &ServiceName) -> Result<Value, Refused> {
    let spec = state.spec().and_then(|s| s.services.get(service));
    let Some(RecipeSpec::Mail(mail)) = spec.and_then(|s| s.recipe.as_ref()) else {
        return Err(Refused::because(format!("{service} is no mail service: give --service")));
    };
    let line = |name: &str, aliases: &BTreeSet<String>, from: &str| AccountLine {
        address: format!("{name}@{}", mail.domain),
        aliases: aliases.iter().cloned().collect(),
        from: from.into(),
    };
    let declared = mail.accounts.iter().map(|(n, a)| line(n, &a.aliases, "home.yaml"));
    let made = state.mail_accounts.get(service).into_iter().flatten();
    let lines: Vec<AccountLine> =
        declared.chain(made.map(|(n, a)| line(n, &a.aliases, "command line"))).collect();
    value(&lines)
}

fn mail_account(
    state: &State,
    service: ServiceName,
    account: String,
    password: Option<String>,
    aliases: Option<Vec<String>>,
    remove: bool,
) -> Result<Command, Refused> {
    if remove {
        return Ok(Command::SetMailAccount { service, account, value: None });
    }
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
    let names = std::iter::once(&account).chain(aliases.iter().flatten());
    if names.clone().any(|n| n == PROBE_ACCOUNT) {
        return Err(Refused::because(format!(
            "{PROBE_ACCOUNT} is the mailbox of the home's own probe: take another name"
        )));
    }
    if let Some(bad) = names.into_iter().find(|n| n.is_empty() || n.len() > 64 || !n.chars().all(plain)) {
        return Err(Refused::because(format!("`{bad}` is no local part: use a-z, 0-9, `.`, `_` and `-`")));
    }
    let known = state.mail_accounts.get(&service).and_then(|a| a.get(&account));
    let password_hash = match (password, known) {
        (Some(password), _) => thermidor_services::recipe::mail::hash_password(&password)
            .map_err(|e| Refused::because(e.to_string()))?,
        (None, Some(known)) => known.password_hash.clone(),
        (None, None) => return Err(Refused::because(format!("{account} needs a password"))),
    };
    let aliases = match (aliases, known) {
        (Some(aliases), _) => aliases.into_iter().collect(),
        (None, known) => known.map(|k| k.aliases.clone()).unwrap_or_default(),
    };
    Ok(Command::SetMailAccount { service, account, value: Some(MailAccount { password_hash, aliases }) })
}

fn promote(state: &State, volume: VolumeName, radiator: &RadiatorName) -> Result<Command, Refused> {
    let node = member(state, radiator)?;
    let v = known_volume(state, &volume)?;
    Ok(Command::Promote { epoch: v.epoch, set_was: v.set_version, volume, node })
}

/// The volume of that name, or words for a person.
pub(super) fn known_volume<'a>(state: &'a State, volume: &VolumeName) -> Result<&'a Volume, Refused> {
    let unknown =
        || Refused::because(format!("there is no volume {volume}: `thermidor volume ls` lists them"));
    state.volumes.get(volume).ok_or_else(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use thermidor_model::testing::serving_home;

    #[test]
    fn an_order_about_nobody_names_the_command_that_lists_them() {
        let state = serving_home(3, 1);
        let nobody = RadiatorName::new("nobody").unwrap();
        assert!(member(&state, &nobody).unwrap_err().text.contains("thermidor radiator ls"));
        let mail = ServiceName::new("mail").unwrap();
        assert!(mail_accounts(&state, &mail).unwrap_err().text.contains("no mail service"));
        let bad = mail_account(&state, mail, "Marie Dupont".into(), Some("x".into()), None, false);
        assert!(bad.unwrap_err().text.contains("no local part"));
    }
}
