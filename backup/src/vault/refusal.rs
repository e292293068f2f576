//! Why a request is not granted, and the HTTP status that says so. The reason travels as text: whoever looks at the
//! client's log reads what to do.

use super::books::Full;
use super::not_taken::NotTaken;
use hyper::StatusCode;
use std::io;

/// Why a request is not granted.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Nobody proved to be this friend.
    #[error("show the credentials of the friend whose repository this is")]
    Unknown,
    /// There is no such thing.
    #[error("there is no such thing here")]
    NotFound,
    /// The method does not apply; those that do.
    #[error("the method does not apply here")]
    Method(&'static str),
    /// The request is not one.
    #[error("{0}")]
    Bad(&'static str),
    /// Something else lies there.
    #[error("this exists already, with other content")]
    Exists,
    /// The terms say no.
    #[error("{0}")]
    Forbidden(&'static str),
    /// The content is not what its name says.
    #[error("the content's SHA-256 is not the name: nothing was kept")]
    WrongHash,
    /// The client went silent.
    #[error("nothing came for too long: nothing was kept")]
    Silent,
    /// The body did not come whole.
    #[error("the body broke off: nothing was kept")]
    Short,
    /// Neither a length nor chunks.
    #[error("say how long the body is, or send it in chunks")]
    Length,
    /// A body that should be small is not.
    #[error("the body is too long")]
    TooLong,
    /// The friend has used what was agreed.
    #[error(transparent)]
    Full(#[from] Full),
    /// The disk is full.
    #[error("the vault's disk is full")]
    DiskFull,
    /// Not at this hour; seconds until then.
    #[error("backups are taken at agreed hours: again in {0} s")]
    Hours(u64),
    /// The range lies outside; the size in bytes.
    #[error("the range lies outside of the {0} bytes there are")]
    Range(u64),
    /// A signed statement is not taken.
    #[error(transparent)]
    NotTaken(#[from] NotTaken),
    /// The disk fails.
    #[error("the vault's disk fails")]
    Io(#[source] io::Error),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::NotFound,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull,
            _ => Self::Io(error),
        }
    }
}

impl Refusal {
    /// How HTTP says it.
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Unknown => StatusCode::UNAUTHORIZED,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::Bad(_) | Self::WrongHash | Self::Short => StatusCode::BAD_REQUEST,
            Self::Exists | Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::Silent => StatusCode::REQUEST_TIMEOUT,
            Self::Length => StatusCode::LENGTH_REQUIRED,
            Self::TooLong => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Full(_) | Self::DiskFull => StatusCode::INSUFFICIENT_STORAGE,
            Self::Hours(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Range(_) => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::NotTaken(why) => why.status(),
            Self::Io(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}
