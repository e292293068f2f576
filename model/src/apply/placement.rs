//! Which radiator is a service's active, and who holds the floating address.

use super::{Applied, invalid, stale};
use crate::command::{Outcome, Refusal, Why};
use crate::name::{NodeId, ServiceName, UnixMs, VolumeName};
use crate::state::{Moving, Phase, Role, Service, State, Weight};
use std::collections::BTreeMap;

const DAY_MS: u64 = 24 * 3600 * 1000;

/// How many heat moves of a service are remembered.
const MOVES_KEPT: usize = 32;

impl State {
    fn service_at(&self, service: &ServiceName, epoch_was: u64) -> Result<&Service, Refusal> {
        match self.services.get(service) {
            None => invalid(format!("there is no service {service}: `thermidor service ls` lists them")),
            Some(s) if s.epoch != epoch_was => {
                stale(format!("{service} is in epoch {}, not {epoch_was}", s.epoch))
            }
            Some(s) => Ok(s),
        }
    }

    fn radiator(&self, node: NodeId) -> Result<(), Refusal> {
        match self.members.get(&node) {
            Some(m) if m.role == Role::Radiator => Ok(()),
            Some(m) => invalid(format!("{} is a witness and hosts nothing", m.name)),
            None => invalid(format!("there is no member {node}: `thermidor radiator ls` lists them")),
        }
    }

    pub(super) fn wish(&mut self, service: &ServiceName, to: NodeId) -> Applied {
        self.radiator(to)?;
        if self.members.get(&to).is_some_and(|m| m.off.is_some()) {
            let name = self.name_of(to);
            return invalid(format!("{name} is off: run `thermidor on {name}` first"));
        }
        let epoch = self.services.get(service).map_or(0, |s| s.epoch);
        self.service_at(service, epoch)?;
        if !self.holders(service).contains(&to) {
            let name = self.name_of(to);
            return invalid(format!("{name} is not in sync for {service}: see `thermidor volume ls`"));
        }
        if let Some(s) = self.services.get_mut(service) {
            s.wish = (s.active != Some(to)).then_some(to);
        }
        Ok(Outcome::Done)
    }

    pub(super) fn forget_wish(
        &mut self,
        at: UnixMs,
        service: &ServiceName,
        to: NodeId,
        why: Option<&str>,
    ) -> Applied {
        if let Some(s) = self.services.get_mut(service).filter(|s| s.wish == Some(to)) {
            s.wish = None;
            // A person waits for it.
            if let Some(why) = why {
                self.tell(at, Weight::Note, &format!("wish/{service}"), why.to_string());
            }
        }
        Ok(Outcome::Done)
    }

    #[allow(clippy::too_many_arguments)] // the fields of one command
    pub(super) fn activate(
        &mut self,
        at: UnixMs,
        service: &ServiceName,
        epoch_was: u64,
        to: NodeId,
        sets: &BTreeMap<VolumeName, u64>,
        why: Why,
        reason: &str,
    ) -> Applied {
        let present = self.service_at(service, epoch_was)?;
        self.radiator(to)?;
        match (why, present.active) {
            (Why::Failover | Why::Unfit, _) | (_, None) => {}
            (Why::Again, Some(active)) if active == to => {}
            (_, Some(active)) => {
                return stale(format!("{service} is active on {}: it must stop first", self.name_of(active)));
            }
        }
        if !self.spec().is_some_and(|s| s.services.contains_key(service)) {
            return stale(format!("{service} is declared no more"));
        }
        for (name, volume) in self.volumes_of(service) {
            if sets.get(name) != Some(&volume.set_version) {
                return stale(format!("the in-sync set of {name} is version {} by now", volume.set_version));
            }
            if !volume.in_sync.contains(&to) {
                return stale(format!("{} is not in sync for {name}", self.name_of(to)));
            }
        }
        let lost = present.active.filter(|lost| why == Why::Failover && *lost != to);
        for volume in self.volumes.values_mut().filter(|v| v.service == *service) {
            volume.epoch += 1;
            volume.active = Some(to);
        }
        if let Some(lost) = lost {
            self.leave_sets(at, service, lost)?;
        }
        let epoch = epoch_was + 1;
        if let Some(s) = self.services.get_mut(service) {
            s.epoch = epoch;
            s.active = Some(to);
            s.phase = Phase::Run;
            s.since_ms = at;
            s.wish = s.wish.filter(|w| *w != to);
            s.moving = None;
            s.avoid.retain(|_, until| *until > at);
            s.moved_ms.retain(|moved| moved + DAY_MS > at);
            if why == Why::Heat && s.moved_ms.len() < MOVES_KEPT {
                s.moved_ms.push(at);
            }
        }
        let unplanned = matches!(why, Why::Failover | Why::Unfit);
        let weight = if unplanned { Weight::Mail } else { Weight::Note };
        self.tell(at, weight, &format!("active/{service}"), reason.to_string());
        Ok(Outcome::Epoch(epoch))
    }

    pub(super) fn stop(
        &mut self,
        at: UnixMs,
        service: &ServiceName,
        epoch_was: u64,
        next: Option<NodeId>,
        reason: &str,
    ) -> Applied {
        let present = self.service_at(service, epoch_was)?;
        let Some(from) = present.active else {
            return stale(format!("{service} is active nowhere"));
        };
        let compelled = present.wish.is_some()
            || present.avoid.contains_key(&from)
            || self.members.get(&from).is_some_and(|m| m.off.is_some());
        let why = if compelled { Why::Planned } else { Why::Heat };
        if let Some(s) = self.services.get_mut(service) {
            s.phase = Phase::Stop { next };
            // one that is to go nowhere does not move, and keeps no other service from moving
            s.moving = next.map(|to| Moving { from, to: Some(to), why });
        }
        let weight = if next.is_some() { Weight::Note } else { Weight::Mail };
        self.tell(at, weight, &format!("active/{service}"), reason.to_string());
        Ok(Outcome::Done)
    }

    pub(super) fn stopped(
        &mut self,
        at: UnixMs,
        service: &ServiceName,
        epoch_was: u64,
        node: NodeId,
    ) -> Applied {
        let present = self.service_at(service, epoch_was)?;
        if present.active != Some(node) {
            return stale(format!("{service} is not active on {}", self.name_of(node)));
        }
        if present.phase == Phase::Run {
            return stale(format!("{service} is to run"));
        }
        for volume in self.volumes.values_mut().filter(|v| v.service == *service) {
            volume.active = None;
        }
        if self.spec().is_some_and(|s| s.services.contains_key(service)) {
            if let Some(s) = self.services.get_mut(service) {
                s.active = None;
                s.phase = Phase::Run;
            }
        } else {
            self.services.remove(service);
            self.retired_epochs.insert(service.clone(), epoch_was);
            self.tell(
                at,
                Weight::Note,
                &format!("active/{service}"),
                format!("{service} was removed; its volumes are kept"),
            );
        }
        Ok(Outcome::Done)
    }

    pub(super) fn avoid(
        &mut self,
        at: UnixMs,
        service: &ServiceName,
        epoch_was: u64,
        node: NodeId,
        until_ms: UnixMs,
    ) -> Applied {
        self.service_at(service, epoch_was)?;
        let name = self.name_of(node);
        if let Some(s) = self.services.get_mut(service) {
            s.avoid.retain(|_, until| *until > at);
            s.avoid.insert(node, until_ms);
        }
        let text =
            format!("{service} keeps ending on {name}: it is tried elsewhere (`thermidor logs {service}`)");
        self.tell(at, Weight::Mail, &format!("dies/{service}"), text);
        Ok(Outcome::Done)
    }

    pub(super) fn hold_address(&mut self, epoch_was: u64, to: Option<NodeId>) -> Applied {
        if self.address.epoch != epoch_was {
            return stale(format!("the address is in epoch {}", self.address.epoch));
        }
        if let Some(to) = to {
            self.radiator(to)?;
        }
        self.address.epoch += 1;
        self.address.holder = to;
        Ok(Outcome::Done)
    }
}
