//! A restore is tried: the newest snapshot is restored aside, and its service is started there, beside the one that
//! serves and without any network, to see whether it comes up and shows what was backed up.

mod boxes;
mod look;
mod scratch;

pub use scratch::sweep_once;

use crate::clock::unix_ms;
use crate::daemon::way::Door;
use crate::daemon::{Context, within};
use boxes::Boxes;
use look::{Knock, Watch};
use scratch::Scratch;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use thermidor_backup::restore::spare_in;
use thermidor_backup::round::{Round, RoundError};
use thermidor_model::backup::{Drill, Passes, Record, Subject};
use thermidor_model::name::HomeName;
use thermidor_model::spec::{RecipeSpec, ServiceSpec};
use thermidor_model::state::{State, Weight};
use thermidor_model::{Command, ServiceName, VolumeName};
use thermidor_services::docker::{ContainerPlan, EngineError};
use thermidor_services::recipe::{VolumePlace, mail};

/// How long telling what came of it may take.
const TELL_MAX: Duration = Duration::from_secs(10);

/// Why a restore that was tried counts as failed.
#[derive(Debug, PartialEq, Eq)]
struct NotWell {
    passes: Passes,
    why: String,
}

impl NotWell {
    /// What may be otherwise the next time, without anybody doing anything.
    fn for_now(why: impl Into<String>) -> Self {
        Self { passes: Passes::ByItself, why: why.into() }
    }

    /// What a person has to look at.
    fn for_a_person(why: impl Into<String>) -> Self {
        Self { passes: Passes::ByAPerson, why: why.into() }
    }
}

/// Tries a restore, tells what came of it, and leaves nothing behind.
pub async fn run(context: &Context, state: &State, round: &Round<'_>, door: &Door, was: &Record) -> Record {
    let mut drill = Drill::default();
    let done = match Scratch::make(context, &round.subject, &round.vault).await {
        Ok(scratch) => {
            let trial = Trial { context, state, round, door, scratch: &scratch };
            let done = trial.carry_out(was, &mut drill).await;
            scratch.clear(context).await;
            done
        }
        Err(failed) => Err(failed),
    };
    let record = was.after_drill(drill, done.err().map(|failed| (failed.passes, failed.why)), unix_ms());
    let (weight, text) = told(&round.subject, &round.vault, was, &record);
    let key = format!("drill/{}/{}", round.subject, round.vault);
    if let Err(e) = context.node.propose(Command::Tell { weight, key, text }, within(TELL_MAX)).await {
        tracing::warn!("that a restore was tried is not told: {e}");
    }
    record
}

/// What people are told. They are mailed the first failure that a person has to look at, and that it is over.
fn told(subject: &Subject, friend: &HomeName, was: &Record, record: &Record) -> (Weight, String) {
    let failure = |record: &Record| record.drill.as_ref().and_then(|drill| drill.failure.clone());
    let needs = |record: &Record| failure(record).filter(|f| f.passes == Passes::ByAPerson).is_some();
    let weight = if needs(was) != needs(record) { Weight::Mail } else { Weight::Note };
    let came = record.drill.as_ref().map(ToString::to_string).unwrap_or_default();
    let text = match failure(record) {
        None => format!("a restore of {subject} from {friend} was tried: {came}"),
        Some(failure) => {
            format!("a restore of {subject} from {friend} was tried and failed: {}", failure.why)
        }
    };
    (weight, text)
}

/// A restore that is being tried.
struct Trial<'a> {
    context: &'a Context,
    state: &'a State,
    round: &'a Round<'a>,
    door: &'a Door,
    scratch: &'a Scratch,
}

impl Trial<'_> {
    async fn carry_out(&self, was: &Record, drill: &mut Drill) -> Result<(), NotWell> {
        let Subject::Service(service) = &self.round.subject else {
            return self.restore(was, drill).await;
        };
        let spec = self.state.spec().and_then(|spec| spec.services.get(service));
        let spec = spec.ok_or_else(|| NotWell::for_now(format!("{service} is declared no more")))?;
        // Before anything is brought: without an image all of it would be for nothing.
        let plan = self.plan(service, spec)?;
        self.context.engine.ensure_image(&plan.image).await.map_err(|e| self.no_image(service, &e))?;
        self.restore(was, drill).await?;
        match &spec.recipe {
            Some(RecipeSpec::Mail(settings)) => {
                let boxes = self.boxes(spec).await?;
                drill.message_files = Some(boxes.files());
                let config = self.context.mail_config(self.state, service, settings);
                let config = config.map_err(|e| NotWell::for_a_person(format!("{e:#}")))?;
                let (config, password) = boxes.opened(config).map_err(NotWell::for_a_person)?;
                mail::write_config(&self.scratch.config(), &config)
                    .map_err(|e| NotWell::for_a_person(e.to_string()))?;
                let authority = Context::mail_authority(self.state, settings);
                let knock = Knock::imap(&settings.hostname, &authority).map_err(NotWell::for_a_person)?;
                let watch = self.start(service, &plan, &knock, drill).await?;
                let shown = watch.count(&knock, config.accounts.keys(), &password).await?;
                drill.by_imap = Some(shown.values().sum());
                boxes.judge(&shown).map_err(NotWell::for_a_person)
            }
            Some(RecipeSpec::Vault(settings)) => {
                let written =
                    self.context.write_vault_config(self.state, service, settings, &self.scratch.config());
                written.map_err(|e| NotWell::for_a_person(format!("{e:#}")))?;
                self.start(service, &plan, &Knock::of(spec), drill).await.map(drop)
            }
            Some(RecipeSpec::Yacy(_)) | None => {
                self.start(service, &plan, &Knock::of(spec), drill).await.map(drop)
            }
        }
    }

    /// The service's container as ever, but on the restored volumes and with a folder of files of its own.
    fn plan(&self, service: &ServiceName, spec: &ServiceSpec) -> Result<ContainerPlan, NotWell> {
        let place = |volume: &VolumeName| {
            let folder = self.scratch.volume(volume);
            (volume.clone(), VolumePlace { folder, mountpoint: None })
        };
        let volumes: BTreeMap<_, _> = spec.volumes.iter().map(|mount| place(&mount.volume)).collect();
        let folders = [self.scratch.config(), self.scratch.run()];
        let planned = self.context.plan_on(self.state, service, spec, &volumes, [&folders[0], &folders[1]]);
        planned.map_err(|e| NotWell::for_a_person(format!("what {service}'s container is to be: {e:#}")))
    }

    fn no_image(&self, service: &ServiceName, error: &EngineError) -> NotWell {
        let here = self.state.name_of(self.context.node.id());
        NotWell::for_now(format!("{here} can't have the image of {service}: {error}"))
    }

    async fn restore(&self, was: &Record, drill: &mut Drill) -> Result<(), NotWell> {
        let target = self.scratch.restored();
        let free = spare_in(self.scratch.dir())
            .map_err(|e| NotWell::for_now(format!("{}: {e}", self.scratch.dir().display())))?;
        let restored = self.round.restore_aside(&target, free, was).await.map_err(|e| self.blame(&e))?;
        (drill.files, drill.bytes) = (restored.files, restored.bytes);
        Ok(())
    }

    /// What restic calls unreachable, in the words of whoever was dialed.
    fn blame(&self, error: &RoundError) -> NotWell {
        let why = match error.passes() {
            Passes::ByItself => self.door.trouble(),
            Passes::ByAPerson => None,
        };
        NotWell { passes: error.passes(), why: why.unwrap_or_else(|| error.to_string()) }
    }

    /// The mailboxes that came back.
    async fn boxes(&self, spec: &ServiceSpec) -> Result<Boxes, NotWell> {
        let mount = spec.volumes.iter().find(|mount| mount.path.trim_end_matches('/') == mail::DATA);
        let mount = mount.ok_or_else(|| NotWell::for_a_person(format!("no volume is at {}", mail::DATA)))?;
        let dir = self.scratch.volume(&mount.volume).join(mail::BOXES);
        let found = tokio::task::spawn_blocking(move || Boxes::find(&dir)).await;
        let found = found.map_err(std::io::Error::other).and_then(|found| found);
        found.map_err(|e| NotWell::for_a_person(format!("the mailboxes in {}: {e}", mount.volume)))
    }

    /// Starts the service, and waits until it does what it is there for.
    async fn start<'a>(
        &'a self,
        service: &'a ServiceName,
        plan: &ContainerPlan,
        knock: &Knock,
        drill: &mut Drill,
    ) -> Result<Watch<'a>, NotWell> {
        let restored = self.scratch.restored();
        for mount in plan.mounts.iter().filter(|mount| mount.host.starts_with(&restored)) {
            // One that was declared since is empty.
            std::fs::create_dir_all(&mount.host)
                .map_err(|e| NotWell::for_now(format!("{}: {e}", mount.host.display())))?;
        }
        let began = Instant::now();
        let engine = &self.context.engine;
        let started = engine.start_trial(plan).await;
        let started = started.map_err(|e| {
            let why = format!("the restored {service} can't be started: {e}");
            if e.may_pass() { NotWell::for_now(why) } else { NotWell::for_a_person(why) }
        })?;
        let watch = Watch::begin(engine, service, &started, began).await?;
        let took = watch.wait(knock).await?;
        drill.started_ms = Some(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        Ok(watch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_are_mailed_the_first_failure_that_is_theirs_and_its_end_and_are_told_all_else() {
        let mail = Subject::Service(ServiceName::new("mail").unwrap());
        let alpes = HomeName::new("alpes").unwrap();
        let tell = |was: &Record, record: &Record| told(&mail, &alpes, was, record);
        let untried = Record::default();
        let came = Drill {
            files: 214,
            bytes: 3 << 20,
            message_files: Some(57),
            by_imap: Some(57),
            started_ms: Some(2100),
            ..Drill::default()
        };
        let well = untried.after_drill(came, None, 1);
        let text = "a restore of mail from alpes was tried: 214 files, 3 MiB, 57 messages by IMAP, the service \
                    started in 2.1 s";
        assert_eq!(tell(&untried, &well), (Weight::Note, text.to_owned()));
        let failed = |was: &Record, passes, why: &str| {
            was.after_drill(Drill::default(), Some((passes, why.to_owned())), 2)
        };
        let away = failed(&well, Passes::ByItself, "Docker is gone");
        assert_eq!(tell(&well, &away).0, Weight::Note);
        let short = failed(&away, Passes::ByAPerson, "marie: IMAP shows 3 messages of 57");
        let text = "a restore of mail from alpes was tried and failed: marie: IMAP shows 3 messages of 57";
        assert_eq!(tell(&away, &short), (Weight::Mail, text.to_owned()));
        assert_eq!(tell(&short, &failed(&short, Passes::ByAPerson, "again")).0, Weight::Note);
        assert_eq!(tell(&short, &short.after_drill(Drill::default(), None, 3)).0, Weight::Mail);
    }
}
