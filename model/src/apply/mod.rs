//! The one way in which the home's state changes. Deterministic: the same log gives the
//! same state, bit for bit. What is refused changes nothing.

mod declare;
mod friends;
mod keys;
mod kit;
mod member;
mod once;
mod outlived;
mod placement;
mod removal;
mod restore;
mod volume;

pub use declare::CONTEXT_MAX_BYTES;

use crate::command::{Command, Outcome, Proposal, Refusal};
use crate::name::UnixMs;
use crate::state::{EVENTS_MAX, Event, State, Weight};

/// What a command handler answers.
type Applied = Result<Outcome, Refusal>;

fn stale<T>(text: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Stale(text.into()))
}

fn invalid<T>(text: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Invalid(text.into()))
}

impl State {
    /// Applies one proposal; a refused one leaves the state as it was.
    pub fn apply(&mut self, proposal: &Proposal) -> Outcome {
        self.decide(proposal.at_ms, &proposal.command).unwrap_or_else(Outcome::Refused)
    }

    /// Every handler checks first and changes afterwards, so that an error has changed nothing.
    fn decide(&mut self, at: UnixMs, command: &Command) -> Applied {
        if let Some(outlived) = self.stands_down().filter(|_| self.is_in_vain(command)) {
            let home = self.home.as_ref().map_or_else(|| "this home".into(), ToString::to_string);
            return invalid(format!("{}: {}", outlived.what(&home), outlived.next()));
        }
        match command {
            Command::Found { home, radiator, address, authority_pem, timing } => {
                self.found(at, home, radiator, *address, authority_pem, *timing)
            }
            Command::Invite { token_hash, expires_ms } => self.invite(at, token_hash, *expires_ms),
            Command::Join { token_hash, name, address, role } => {
                self.join(at, token_hash, name, *address, *role)
            }
            Command::Leave { node } => self.leave(at, *node),
            Command::Readdress { node, address } => self.readdress(*node, *address),
            Command::PinKey { node, key } => self.pin_key(*node, key),
            Command::ChangeKeys { number_was, authority_pem, home_key_hash } => {
                self.change_keys(at, *number_was, authority_pem, home_key_hash)
            }
            Command::HoldsKeys { node, number } => self.holds_keys(*node, *number),
            Command::Reseal { number, secrets_was, secrets } => {
                self.reseal(at, *number, secrets_was, secrets)
            }
            Command::RaiseGeneration { generation_was, remain } => {
                self.raise_generation(at, *generation_was, remain)
            }
            Command::Off { node, off } => self.off(at, *node, *off),
            Command::On { node } => self.on(at, *node),
            Command::Declare { revision_was, text, spec, keep_overrides, contexts } => {
                self.declare(at, *revision_was, text, spec, *keep_overrides, contexts)
            }
            Command::Target { radiator, celsius } => self.target(at, radiator, *celsius),
            Command::SetSecret { name, sealed } => self.set_secret(name, sealed.as_ref()),
            Command::SetMailAccount { service, account, value } => {
                self.set_mail_account(service, account, value.as_ref())
            }
            Command::Wish { service, to } => self.wish(service, *to),
            Command::ForgetWish { service, to, why } => self.forget_wish(at, service, *to, why.as_deref()),
            Command::Activate { service, epoch_was, to, sets, why, reason } => {
                self.activate(at, service, *epoch_was, *to, sets, *why, reason)
            }
            Command::Stop { service, epoch_was, next, reason } => {
                self.stop(at, service, *epoch_was, *next, reason)
            }
            Command::Stopped { service, epoch_was, node } => self.stopped(at, service, *epoch_was, *node),
            Command::Avoid { service, epoch_was, node, until_ms } => {
                self.avoid(at, service, *epoch_was, *node, *until_ms)
            }
            Command::HoldAddress { epoch_was, to } => self.hold_address(*epoch_was, *to),
            Command::AddReplica { volume, set_was, node, id } => {
                self.add_replica(volume, *set_was, *node, *id)
            }
            Command::RemoveReplica { volume, set_was, node } => {
                self.remove_replica(at, volume, *set_was, *node)
            }
            Command::JoinSet { volume, epoch, set_was, node, id } => {
                self.join_set(at, volume, *epoch, *set_was, *node, *id)
            }
            Command::DropFromSet { volume, epoch, set_was, node } => {
                self.drop_from_set(at, volume, *epoch, *set_was, *node)
            }
            Command::Promote { volume, epoch, set_was, node } => {
                self.promote(at, volume, *epoch, *set_was, *node)
            }
            Command::RemoveVolume { volume } => self.remove_volume(at, volume),
            Command::ImageRemoved { volume, node, id } => self.image_removed(at, volume, *node, *id),
            Command::Restore { service, order } => self.restore(at, service, order),
            Command::Tell { weight, key, text } => {
                self.tell(at, *weight, key, text.clone());
                Ok(Outcome::Done)
            }
            Command::Notified { up_to } => {
                self.notified = self.notified.max((*up_to).min(self.next_event - 1));
                Ok(Outcome::Done)
            }
            Command::Put { .. } => Ok(Outcome::Done),
            Command::InviteFriend { invitation } => self.invite_friend(at, invitation),
            Command::BurnPairing { id } => self.burn_pairing(at, *id),
            Command::MeetFriend { home, identity, words } => self.meet_friend(at, home, identity, words),
            Command::ConfirmFriend { home, words } => self.confirm_friend(at, home, words),
            Command::RemoveFriend { home, delete_data } => self.remove_friend(at, home, *delete_data),
            Command::ReaddressFriend { home, addresses } => self.readdress_friend(home, addresses),
            Command::HearGeneration { home, generation } => self.hear_generation(at, home, *generation),
            Command::ConfirmGeneration { home, generation } => self.confirm_generation(at, home, *generation),
            Command::SetKit { was, record, sealed } => self.set_kit(at, *was, record, sealed),
            Command::NoteKit { printed_ms, rehearsed_ms, split } => {
                self.note_kit(*printed_ms, *rehearsed_ms, *split)
            }
            Command::ReplaceKit { was, record, sealed, before, waiting } => {
                self.replace_kit(at, *was, record, sealed, before, waiting)
            }
            Command::AnnouncedKit { friend, key } => self.announced_kit(at, friend, *key),
            Command::TookKit { friend, key } => self.took_kit(at, friend, *key),
            Command::HearKit { home, claim } => self.hear_kit(at, home, claim),
            Command::ConfirmKit { home, words } => self.confirm_kit(at, home, words),
            Command::NoteBackup { subject, friend, was, record } => {
                self.note_backup(at, subject, friend, was, record)
            }
            Command::StandDown { generation, since_ms, from } => {
                self.stand_down(at, *generation, *since_ms, from)
            }
            Command::Once { number, command } => self.once(at, *number, command),
            Command::Overrule { generation } => self.overrule(at, *generation),
        }
    }

    /// Keeps an event, and forgets the oldest beyond [`EVENTS_MAX`].
    pub(crate) fn tell(&mut self, at_ms: UnixMs, weight: Weight, key: &str, text: String) {
        let number = self.next_event;
        self.next_event += 1;
        self.events.push_back(Event { number, at_ms, weight, key: key.to_string(), text });
        while self.events.len() > EVENTS_MAX {
            self.events.pop_front();
        }
    }
}

#[cfg(test)]
mod friends_tests;
#[cfg(test)]
mod kit_tests;
#[cfg(test)]
mod tests;
