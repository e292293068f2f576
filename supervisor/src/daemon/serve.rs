//! The Unix socket on which the CLI asks: one request a connection, bounded in size and number.

use super::log_lines::{Asked, LINES_MAX};
use super::{Context, restores};
use crate::api::view::{EventLine, VERSION};
use crate::api::{LINE_MAX, Refused, Reply, Request};
use anyhow::Context as _;
use futures::{SinkExt, StreamExt};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use thermidor_model::ServiceName;
use thermidor_model::restore::RestoreWish;
use thermidor_model::state::Weight;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::codec::{Framed, LinesCodec};
use tracing::{debug, warn};

/// How many commands may ask at once.
const CLIENTS_MAX: usize = 64;

/// How long a command may take to say what it wants: whoever says nothing holds no place.
const ASK_MAX: Duration = Duration::from_secs(5);

/// How long a line of an answer may wait for whoever asked to take it.
const TAKE_MAX: Duration = Duration::from_secs(30);

/// How often a reader who follows gets what is new.
const LINES_EVERY: std::time::Duration = std::time::Duration::from_millis(500);

pub(super) type Line = Framed<UnixStream, LinesCodec>;

/// Opens the socket, for root only.
pub fn listen(context: &Context) -> std::io::Result<UnixListener> {
    let path = context.paths.api_socket();
    if path.exists() {
        std::fs::remove_file(&path)?;
    }
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Answers until the daemon ends.
pub async fn run(context: Context, listener: UnixListener) {
    let places = Arc::new(Semaphore::new(CLIENTS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let context = context.clone();
                tokio::spawn(async move {
                    if let Err(e) = converse(context, stream).await {
                        debug!("a command hung up: {e}");
                    }
                    drop(place);
                });
            }
            Err(e) => {
                warn!("the command socket: {e}");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

async fn converse(context: Context, stream: UnixStream) -> anyhow::Result<()> {
    let mut line = Framed::new(stream, LinesCodec::new_with_max_length(LINE_MAX));
    let Some(text) = timeout(ASK_MAX, line.next()).await.context("it asked nothing")? else { return Ok(()) };
    let request = match text.map_err(anyhow::Error::from).and_then(|t| Ok(serde_json::from_str(&t)?)) {
        Ok(request) => request,
        Err(e) => {
            return say(&mut line, Reply::Refused(Refused::because(format!("not understood: {e}")))).await;
        }
    };
    match request {
        Request::Logs { service, follow, tail } => logs(&context, &mut line, service, follow, tail).await,
        Request::RestoreTo { service, wish, dir } => {
            restore_to(&context, &mut line, service, wish, dir).await
        }
        Request::Events { follow } => events(&context, &mut line, follow).await,
        request => {
            let reply = context.answer(request).await.map_or_else(Reply::Refused, Reply::Ok);
            say(&mut line, reply).await
        }
    }
}

pub(super) async fn say(line: &mut Line, reply: Reply) -> anyhow::Result<()> {
    let sent = line.send(serde_json::to_string(&reply)?);
    Ok(timeout(TAKE_MAX, sent).await.context("its answer is not taken")??)
}

/// The last lines, then what comes, also when the service moves meanwhile.
async fn logs(
    context: &Context,
    line: &mut Line,
    service: ServiceName,
    follow: bool,
    tail: u32,
) -> anyhow::Result<()> {
    let mut asked = Asked { service, tail, after: None };
    loop {
        match context.lines(&asked).await {
            Ok(lines) => {
                for said in lines {
                    asked.after = Some(said.at);
                    asked.tail = LINES_MAX;
                    say(line, Reply::Line(said.text)).await?;
                }
            }
            // While it moves nobody has it; a reader who follows waits for the next.
            Err(e) if follow && asked.after.is_some() => debug!("{e}"),
            Err(e) => return say(line, Reply::Refused(Refused::because(e))).await,
        }
        if !follow {
            return Ok(());
        }
        tokio::select! {
            _ = tokio::time::sleep(LINES_EVERY) => {}
            // A reader never writes again: this is its end.
            _ = line.next() => return Ok(()),
        }
    }
}

/// Into a folder; a wish that can't be understood is refused before.
async fn restore_to(
    context: &Context,
    line: &mut Line,
    service: ServiceName,
    wish: RestoreWish,
    dir: PathBuf,
) -> anyhow::Result<()> {
    let checked = restores::checked(&context.node.state().borrow(), &service, wish);
    match checked {
        Ok(wish) => restores::to_folder(context, line, service, wish, dir).await,
        Err(refused) => say(line, Reply::Refused(refused)).await,
    }
}

async fn events(context: &Context, line: &mut Line, follow: bool) -> anyhow::Result<()> {
    let mut state = context.node.state();
    let mut seen = 0;
    loop {
        let fresh: Vec<_> = {
            let state = state.borrow_and_update();
            state.events.iter().filter(|e| e.number > seen).cloned().collect()
        };
        for event in fresh {
            seen = event.number;
            let mailed = event.weight == Weight::Mail;
            let event = EventLine {
                version: VERSION,
                number: event.number,
                at_ms: event.at_ms,
                mailed,
                text: event.text,
            };
            say(line, Reply::Line(serde_json::to_string(&event)?)).await?;
        }
        if !follow {
            return Ok(());
        }
        tokio::select! {
            changed = state.changed() => if changed.is_err() { return Ok(()) },
            _ = line.next() => return Ok(()),
        }
    }
}
