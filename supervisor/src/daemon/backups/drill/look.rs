//! Watches a service on trial: whether it runs still, whether it does what it is there for, and what its mailboxes show.

use super::NotWell;
use rustls::pki_types::ServerName;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use thermidor_model::ServiceName;
use thermidor_model::spec::{RecipeSpec, ServiceSpec};
use thermidor_services::docker::{Engine, Found};
use thermidor_services::inside::Inside;
use thermidor_services::probe::imap::{Imap, quoted};
use thermidor_services::probe::{client_config, mailboxes, page};
use thermidor_services::recipe::yacy;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(250);
/// How long an engine may take to note that a container has ended.
const SHOWN: Duration = Duration::from_secs(2);
/// How long one knock may take.
const KNOCK_MAX: Duration = Duration::from_secs(30);
/// How long mail may take to greet: it has little of the processor.
const PATIENCE_MAIL: Duration = Duration::from_secs(300);
/// The same of YaCy, which may rebuild a part of its index.
const PATIENCE_YACY: Duration = Duration::from_secs(1800);
/// What is given to a health check beside its own times.
const PATIENCE_HEALTH: Duration = Duration::from_secs(60);
/// How long whoever can't be asked anything must run.
const STEADY: Duration = Duration::from_secs(10);
/// How long one mailbox may take to be counted, and how often that is tried.
const COUNT_MAX: Duration = Duration::from_secs(600);
const COUNTS: u32 = 3;
/// Lines of its output in the words for one that ended.
const WORDS: usize = 3;
/// Of each so many characters.
const WORDS_MAX: usize = 200;
/// IMAP over TLS, in the container.
const IMAPS: u16 = 993;

/// How it is seen that a service does what it is there for.
pub enum Knock {
    /// It greets by IMAP, and has the certificate that it should have.
    Imap { name: ServerName<'static>, tls: Arc<rustls::ClientConfig> },
    /// It gives a page.
    Page { port: u16, path: &'static str },
    /// Docker's health check says so; it has that long.
    Health { patience: Duration },
    /// There is nothing to ask it: it runs on.
    Steady,
}

impl Knock {
    /// For mail of that name, with a certificate under that authority.
    pub fn imap(hostname: &str, authority_pem: &str) -> Result<Self, String> {
        let name = ServerName::try_from(hostname.to_owned()).map_err(|e| format!("{hostname}: {e}"))?;
        Ok(Self::Imap { name, tls: client_config(authority_pem)? })
    }

    /// For whatever else.
    pub fn of(spec: &ServiceSpec) -> Self {
        match (&spec.recipe, &spec.healthcheck) {
            (Some(RecipeSpec::Yacy(_)), _) => Self::Page { port: yacy::HTTP, path: yacy::ALIVE },
            (_, Some(health)) => {
                let once = health.interval_ms.saturating_add(health.timeout_ms);
                let all =
                    once.saturating_mul(u64::from(health.retries) + 1).saturating_add(health.start_period_ms);
                Self::Health { patience: PATIENCE_HEALTH.saturating_add(Duration::from_millis(all)) }
            }
            (_, None) => Self::Steady,
        }
    }

    fn patience(&self) -> Duration {
        match self {
            Self::Imap { .. } => PATIENCE_MAIL,
            Self::Page { .. } => PATIENCE_YACY,
            Self::Health { patience } => *patience,
            Self::Steady => STEADY,
        }
    }
}

/// What a look says.
#[derive(Debug, PartialEq, Eq)]
enum Says {
    /// It does what it is there for.
    Well,
    /// Not yet, for this reason.
    NotYet(String),
    /// It never will.
    Never(String),
}

/// A service on trial under watch.
pub struct Watch<'a> {
    engine: &'a Engine,
    service: &'a ServiceName,
    inside: Inside,
    began: Instant,
    /// How long the engine took.
    started: Duration,
}

impl<'a> Watch<'a> {
    /// Takes one up that has just been started; `began` is when that was asked for.
    pub async fn begin(
        engine: &'a Engine,
        service: &'a ServiceName,
        started: &Found,
        began: Instant,
    ) -> Result<Self, NotWell> {
        let took = began.elapsed();
        let Some(pid) = started.pid else { return Err(ended(engine, service, started).await) };
        let inside = Inside::of(pid);
        if inside.is_err() {
            // One that has ended already shows itself a moment later.
            tokio::time::sleep(SHOWN).await;
        }
        // A process's number may be another's by now: it was the container's if it is so still.
        let now = engine.find_trial(service).await.map_err(|e| NotWell::for_now(e.to_string()))?;
        let now = now.ok_or_else(|| gone(service))?;
        if now.pid != Some(pid) {
            return Err(ended(engine, service, &now).await);
        }
        let inside =
            inside.map_err(|e| NotWell::for_now(format!("the network of the restored {service}: {e}")))?;
        Ok(Self { engine, service, inside, began, started: took })
    }

    /// Waits until it does what it is there for; says how long after its start that was.
    pub async fn wait(&self, knock: &Knock) -> Result<Duration, NotWell> {
        loop {
            let says = match self.engine.find_trial(self.service).await {
                Ok(None) => return Err(gone(self.service)),
                Ok(Some(found)) if !found.running => {
                    return Err(ended(self.engine, self.service, &found).await);
                }
                Ok(Some(found)) => self.ask(knock, &found).await,
                Err(e) => Says::NotYet(e.to_string()),
            };
            let waited = self.began.elapsed();
            match says {
                // It ran all the while: what it took was the start.
                Says::Well if matches!(knock, Knock::Steady) => return Ok(self.started),
                Says::Well => return Ok(waited),
                Says::Never(why) => return Err(NotWell::for_a_person(self.not_up(waited, &why))),
                Says::NotYet(why) if waited > knock.patience() => {
                    return Err(NotWell::for_a_person(self.not_up(waited, &why)));
                }
                Says::NotYet(_) => tokio::time::sleep(LOOK).await,
            }
        }
    }

    fn not_up(&self, waited: Duration, why: &str) -> String {
        format!("the restored {} is not up after {} s: {why}", self.service, waited.as_secs())
    }

    async fn ask(&self, knock: &Knock, found: &Found) -> Says {
        let answered = match knock {
            Knock::Imap { .. } => self.greeted(knock).await.map(drop),
            Knock::Page { port, path } => self.page(*port, path).await,
            Knock::Health { patience } => return healthy(found.healthy, self.began.elapsed() >= *patience),
            Knock::Steady if self.began.elapsed() >= STEADY => Ok(()),
            Knock::Steady => Err("it has just been started".to_owned()),
        };
        answered.map_or_else(Says::NotYet, |()| Says::Well)
    }

    async fn page(&self, port: u16, path: &str) -> Result<(), String> {
        let asked = async {
            let stream = self.inside.connect(port).await.map_err(|e| format!("port {port}: {e}"))?;
            page(stream, self.service, path).await
        };
        tokio::time::timeout(KNOCK_MAX, asked).await.unwrap_or_else(|_| Err("no answer".into()))
    }

    async fn greeted(&self, knock: &Knock) -> Result<Imap, String> {
        let Knock::Imap { name, tls } = knock else { return Err("it speaks no IMAP".into()) };
        let asked = async {
            let stream = self.inside.connect(IMAPS).await.map_err(|e| format!("IMAP: {e}"))?;
            Imap::over(stream, name, tls).await
        };
        tokio::time::timeout(KNOCK_MAX, asked).await.unwrap_or_else(|_| Err("IMAP: no greeting".into()))
    }

    /// How many messages each of these accounts has, logged in with that password.
    pub async fn count(
        &self,
        knock: &Knock,
        accounts: impl Iterator<Item = &String>,
        password: &str,
    ) -> Result<BTreeMap<String, u64>, NotWell> {
        let mut shown = BTreeMap::new();
        for account in accounts {
            let count = self.count_one(knock, account, password).await?;
            shown.insert(account.clone(), count);
        }
        Ok(shown)
    }

    async fn count_one(&self, knock: &Knock, account: &str, password: &str) -> Result<u64, NotWell> {
        let mut why = String::new();
        for _ in 0..COUNTS {
            let counting = async {
                let mut imap = self.greeted(knock).await?;
                imap.ask(&format!("LOGIN {} {}", quoted(account), quoted(password))).await?;
                mailboxes::count(&mut imap).await
            };
            match tokio::time::timeout(COUNT_MAX, counting).await {
                Ok(Ok(count)) => return Ok(count),
                Ok(Err(trouble)) => why = trouble,
                Err(_) => why = format!("IMAP takes longer than {} s", COUNT_MAX.as_secs()),
            }
            tokio::time::sleep(LOOK).await;
        }
        let found =
            self.engine.find_trial(self.service).await.map_err(|e| NotWell::for_now(e.to_string()))?;
        match found {
            None => Err(gone(self.service)),
            Some(found) if !found.running => Err(ended(self.engine, self.service, &found).await),
            Some(_) => {
                Err(NotWell::for_a_person(format!("the mailbox of {account} can't be counted: {why}")))
            }
        }
    }
}

/// What the health check says, where its time is over or not. An engine that never runs it has nothing against it.
fn healthy(said: Option<bool>, is_late: bool) -> Says {
    match said {
        Some(true) => Says::Well,
        Some(false) => Says::Never("its health check fails".into()),
        None if is_late => Says::Well,
        None => Says::NotYet("its health check has not been run yet".into()),
    }
}

fn gone(service: &ServiceName) -> NotWell {
    NotWell::for_now(format!("the container of the restored {service} was removed by somebody"))
}

/// It has ended by itself: how, and what it said.
async fn ended(engine: &Engine, service: &ServiceName, found: &Found) -> NotWell {
    let words = match engine.trial_words(service, WORDS).await {
        Ok(words) => words,
        Err(e) => vec![e.to_string()],
    };
    NotWell::for_a_person(format!("the restored {service} {}", last_words(found, &words)))
}

fn last_words(found: &Found, words: &[String]) -> String {
    let how = match (found.oom, found.exit_code) {
        (true, _) => "had not enough memory: raise mem_limit".to_owned(),
        (false, Some(code)) => format!("ended by itself with code {code}"),
        (false, None) => "never ran".to_owned(),
    };
    let words: Vec<String> =
        words.iter().chain(Some(&found.error)).map(|w| w.chars().take(WORDS_MAX).collect()).collect();
    let words: Vec<String> = words.into_iter().filter(|word: &String| !word.is_empty()).collect();
    if words.is_empty() { how } else { format!("{how}; its last words: {}", words.join(" | ")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thermidor_model::spec::{HealthSpec, YacySpec};
    use thermidor_model::testing::{box_volume, mail, service_on};

    fn found(exit_code: Option<i64>) -> Found {
        Found {
            service: mail(),
            id: "id".into(),
            epoch: 0,
            plan_hash: String::new(),
            running: false,
            pid: None,
            exit_code,
            oom: false,
            started_at: None,
            healthy: None,
            address: None,
            error: String::new(),
        }
    }

    #[test]
    fn one_that_ended_is_told_with_its_code_and_its_last_words() {
        let words = ["cd: /srv/mail/queue: Not a directory".to_owned(), "x".repeat(1000)];
        let said = last_words(&found(Some(1)), &words);
        let begins =
            "ended by itself with code 1; its last words: cd: /srv/mail/queue: Not a directory | xxx";
        assert!(said.starts_with(begins) && said.len() < 400, "{said}");
        assert_eq!(last_words(&found(Some(0)), &[]), "ended by itself with code 0");
        let refused = Found { error: "no such program".into(), ..found(None) };
        assert_eq!(last_words(&refused, &[]), "never ran; its last words: no such program");
        let hungry = Found { oom: true, ..found(Some(137)) };
        assert!(last_words(&hungry, &[]).contains("mem_limit"));
    }

    #[test]
    fn a_health_check_is_waited_for_and_its_word_counts() {
        assert_eq!(healthy(Some(true), false), Says::Well);
        assert!(matches!(healthy(Some(false), false), Says::Never(_)));
        assert!(matches!(healthy(None, false), Says::NotYet(_)));
        assert_eq!(healthy(None, true), Says::Well, "it runs, and nobody has anything against it");
    }

    #[test]
    fn each_kind_of_service_is_asked_what_it_can_answer() {
        let mut spec = service_on(box_volume());
        assert!(matches!(Knock::of(&spec), Knock::Steady));
        let test = vec!["CMD".into(), "true".into()];
        let times = (5_000, 1_000, 20_000);
        spec.healthcheck = Some(HealthSpec {
            test,
            interval_ms: times.0,
            timeout_ms: times.1,
            start_period_ms: times.2,
            retries: 3,
        });
        let Knock::Health { patience } = Knock::of(&spec) else { panic!("it has a health check") };
        assert_eq!(patience, Duration::from_secs(60 + 20 + 4 * 6));
        spec.recipe = Some(RecipeSpec::Yacy(YacySpec { network: "intranet".into(), heap_mib: 600 }));
        assert!(matches!(Knock::of(&spec), Knock::Page { port: 8090, .. }));
        assert!(Knock::imap("mail.maison.example", "no certificate").is_ok());
        assert!(Knock::imap("no name", "").is_err());
    }
}
