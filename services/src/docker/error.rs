//! What can go wrong between a radiator and its container engine, in words a person can act on.

use std::time::Duration;

/// Why a call to the container engine failed.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Nothing listens on the socket, or the connection broke.
    #[error("Docker is gone (while trying to {what}): {why}")]
    Gone {
        /// What was attempted.
        what: String,
        /// The system's words.
        why: String,
    },
    /// No answer within the limit of the call; whether it happened is not known.
    #[error("Docker is slow: no answer in {} s while trying to {what}", .limit.as_secs_f32())]
    Slow {
        /// What was attempted.
        what: String,
        /// The call's limit.
        limit: Duration,
    },
    /// It answered no.
    #[error("Docker refused to {what}: {why} (status {status})")]
    Refused {
        /// What was attempted.
        what: String,
        /// HTTP status.
        status: u16,
        /// The engine's words.
        why: String,
    },
    /// It answered something that makes no sense.
    #[error("Docker's answer makes no sense (while trying to {what}): {why}")]
    Garbled {
        /// What was attempted.
        what: String,
        /// How it fails to make sense.
        why: String,
    },
    /// The service has no container here.
    #[error("{service} has no container here: it was not prepared")]
    NotPrepared {
        /// Which service.
        service: String,
    },
    /// The container runs already, started in another epoch.
    #[error("{service} runs already, started in epoch {running}; epoch {wanted} was asked for")]
    OtherEpoch {
        /// Which service.
        service: String,
        /// The epoch on file; 0: none.
        running: u64,
        /// The epoch asked for.
        wanted: u64,
    },
    /// A volume that the container needs is not mounted.
    #[error("{service} is not started: nothing is mounted at {path}")]
    NotMounted {
        /// Which service.
        service: String,
        /// The empty mountpoint.
        path: String,
    },
    /// An image could not be made or fetched.
    #[error("image {image}: {why}")]
    Image {
        /// Which image.
        image: String,
        /// Last words of the build or pull.
        why: String,
    },
    /// The radiator's own files failed.
    #[error("{what}")]
    Files {
        /// What was attempted, with the path.
        what: String,
        /// How it failed.
        #[source]
        source: std::io::Error,
    },
}

impl EngineError {
    /// Whether trying again later may help without anyone changing anything.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Gone { .. } | Self::Slow { .. })
    }

    pub(super) fn is_status(&self, wanted: u16) -> bool {
        matches!(self, Self::Refused { status, .. } if *status == wanted)
    }

    /// Docker says by a status of its own (409) that a container does not run.
    pub(super) fn is_podmans_not_running(&self) -> bool {
        matches!(self, Self::Refused { status: 500, why, .. } if why.contains("can only kill running containers"))
    }

    pub(super) fn from_bollard(what: &str, error: bollard::errors::Error) -> Self {
        use bollard::errors::Error as B;
        let what = what.to_owned();
        match error {
            B::DockerResponseServerError { status_code, message } => {
                Self::Refused { what, status: status_code, why: message }
            }
            B::SocketNotFoundError(path) => Self::Gone { what, why: format!("no socket at {path}") },
            B::RequestTimeoutError => Self::Gone { what, why: "the connection timed out".into() },
            e @ (B::IOError { .. } | B::HyperResponseError { .. } | B::HyperLegacyError { .. }) => {
                Self::Gone { what, why: chain(&e) }
            }
            B::DockerStreamError { error } => Self::Refused { what, status: 200, why: error },
            e => Self::Garbled { what, why: chain(&e) },
        }
    }
}

/// An error of the client library with its causes, once each.
fn chain(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let more = cause.to_string();
        if !words.contains(&more) {
            words = format!("{words}: {more}");
        }
        next = cause.source();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_is_told_apart_and_only_gone_and_slow_may_pass() {
        use bollard::errors::Error as B;
        let refused = EngineError::from_bollard(
            "start mail",
            B::DockerResponseServerError { status_code: 404, message: "no such container".into() },
        );
        assert_eq!(refused.to_string(), "Docker refused to start mail: no such container (status 404)");
        assert!(refused.is_status(404) && !refused.may_pass());
        let gone = EngineError::from_bollard("start mail", B::SocketNotFoundError("/x".into()));
        assert!(gone.may_pass() && gone.to_string().contains("Docker is gone"), "{gone}");
        let slow = EngineError::Slow { what: "start mail".into(), limit: Duration::from_millis(1500) };
        assert_eq!(slow.to_string(), "Docker is slow: no answer in 1.5 s while trying to start mail");
    }
}
