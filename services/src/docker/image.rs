//! Makes sure that an image is here before it is needed: pulled, or built from a packed
//! context under a name that holds the context's hash.

use super::{Engine, EngineError, ImageSource};
use bollard::body_full;
use bollard::models::{BuildInfo, CreateImageInfo};
use bollard::query_parameters::{BuildImageOptionsBuilder, CreateImageOptionsBuilder};
use futures::{Stream, StreamExt};
use std::collections::{HashMap, VecDeque};
use std::time::Instant;

/// How many of a build's last lines are kept for its error.
const LAST_LINES: usize = 12;

/// One report of progress, of a build or a pull alike.
struct Step {
    said: Option<String>,
    failed: Option<String>,
}

impl From<BuildInfo> for Step {
    fn from(info: BuildInfo) -> Self {
        Self { said: info.stream, failed: info.error_detail.map(|e| e.message.unwrap_or_default()) }
    }
}

impl From<CreateImageInfo> for Step {
    fn from(info: CreateImageInfo) -> Self {
        Self { said: info.status, failed: info.error_detail.map(|e| e.message.unwrap_or_default()) }
    }
}

impl Engine {
    /// Whether an image is on this machine.
    pub async fn has_image(&self, image: &ImageSource) -> Result<bool, EngineError> {
        let client = self.client().await?;
        let name = image.reference();
        let what = format!("look at image {name}");
        match self.call(&what, self.config.limits.ask, client.inspect_image(&name)).await {
            Ok(_) => Ok(true),
            Err(e) if e.is_status(404) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Pulls or builds an image unless it is here. One at a time: a second caller waits.
    pub async fn ensure_image(&self, image: &ImageSource) -> Result<(), EngineError> {
        if self.has_image(image).await? {
            return Ok(());
        }
        let _one_at_a_time = self.building.lock().await;
        if self.has_image(image).await? {
            return Ok(());
        }
        let client = self.client().await?;
        let name = image.reference();
        match image {
            ImageSource::Pull { reference } => {
                tracing::info!(image = %name, "pulling");
                let digest = reference.contains('@');
                let (from, tag) = match name.rsplit_once(':') {
                    Some((from, tag)) if !digest => (from, tag),
                    _ => (name.as_str(), ""),
                };
                let options = CreateImageOptionsBuilder::default().from_image(from).tag(tag).build();
                let progress = client.create_image(Some(options), None, None);
                self.follow(&name, progress).await?;
            }
            ImageSource::Build { dockerfile, args, context, .. } => {
                tracing::info!(image = %name, "building");
                let args: HashMap<&str, &str> = args.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
                let mut options = BuildImageOptionsBuilder::default()
                    .dockerfile(dockerfile)
                    .t(&name)
                    .rm(true)
                    .forcerm(true)
                    .buildargs(&args);
                if let Some(network) = &self.config.build_network {
                    options = options.networkmode(network);
                }
                let progress = client.build_image(options.build(), None, Some(body_full(context.clone())));
                self.follow(&name, progress).await?;
            }
        }
        if self.has_image(image).await? {
            return Ok(());
        }
        Err(EngineError::Image { image: name, why: "said to be done, yet it isn't here".into() })
    }

    /// Follows a pull or build to its end, bounded in silence and in all.
    async fn follow<T: Into<Step>>(
        &self,
        image: &str,
        progress: impl Stream<Item = Result<T, bollard::errors::Error>>,
    ) -> Result<(), EngineError> {
        let what = format!("get image {image}");
        let begun = Instant::now();
        let mut lines = VecDeque::with_capacity(LAST_LINES);
        let mut progress = std::pin::pin!(progress);
        loop {
            let left = self.config.limits.image.saturating_sub(begun.elapsed());
            let limit = left.min(self.config.limits.image_silence);
            let step = match tokio::time::timeout(limit, progress.next()).await {
                Err(_) => return Err(EngineError::Slow { what, limit }),
                Ok(None) => return Ok(()),
                Ok(Some(Err(bollard::errors::Error::DockerStreamError { error }))) => {
                    Step { said: None, failed: Some(error) }
                }
                Ok(Some(Err(e))) => return Err(EngineError::from_bollard(&what, e)),
                Ok(Some(Ok(step))) => step.into(),
            };
            if let Some(said) = step.said.as_deref().map(str::trim).filter(|s| !s.is_empty()) {
                tracing::debug!(image, "{said}");
                if lines.len() == LAST_LINES {
                    lines.pop_front();
                }
                lines.push_back(said.to_owned());
            }
            if let Some(failed) = step.failed {
                let last = Vec::from(lines).join(" | ");
                let failed = failed.trim();
                let why =
                    if last.is_empty() { failed.to_owned() } else { format!("{failed}; last words: {last}") };
                return Err(EngineError::Image { image: image.to_owned(), why });
            }
        }
    }
}
