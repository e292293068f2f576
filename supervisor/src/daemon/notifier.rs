//! Mails what matters while this member leads.

use super::{Context, within};
use crate::clock::unix_ms;
use crate::notify;
use std::time::Duration;
use thermidor_model::Command;
use tracing::{info, warn};

/// How often the outbox is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// How long to wait after a delivery that failed, at first and at most.
const AGAIN_FIRST: Duration = Duration::from_secs(10);
const AGAIN_MAX: Duration = Duration::from_secs(600);

/// Looks for as long as the daemon lives.
pub async fn run(context: Context) {
    let mut again = AGAIN_FIRST;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if !context.node.leadership().borrow().is_me {
            again = AGAIN_FIRST;
            continue;
        }
        match deliver(&context).await {
            Ok(()) => again = AGAIN_FIRST,
            Err(e) => {
                warn!("a notification is still to be mailed: {e:#}");
                tokio::time::sleep(again).await;
                again = (again * 2).min(AGAIN_MAX);
            }
        }
    }
}

async fn deliver(context: &Context) -> anyhow::Result<()> {
    let state = context.node.state().borrow().clone();
    let Some(digest) = notify::due(&state, unix_ms()) else { return Ok(()) };
    if let Some(spec) = state.spec().and_then(|s| s.notify.as_ref()).filter(|_| !digest.body.is_empty()) {
        let password = match &spec.smtp.password {
            Some(name) => {
                let sealed = state.secrets.get(&name.0);
                let sealed =
                    sealed.ok_or_else(|| anyhow::anyhow!("run `thermidor secret set {}`", name.0))?;
                Some(context.keys.open(&name.0, sealed)?)
            }
            None => None,
        };
        let home = state.home.as_ref().map(|h| h.to_string()).unwrap_or_default();
        let message = notify::message(spec, &digest, &home, context.node.id()).map_err(anyhow::Error::msg)?;
        notify::send(spec, password, message).await.map_err(anyhow::Error::msg)?;
        info!("mailed: {}", digest.subject);
    }
    let told = Command::Notified { up_to: digest.up_to };
    context.node.propose(told, within(Duration::from_secs(5))).await?;
    Ok(())
}
