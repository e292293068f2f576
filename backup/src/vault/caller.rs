//! Who asks: what the transport has proved, or the password that a stock restic shows.

use super::Vault;
use super::path;
use super::refusal::Refusal;
use super::space::Space;
use super::terms::Password;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hyper::{HeaderMap, header};
use std::sync::Arc;
use thermidor_model::name::HomeName;

/// Who speaks on a connection, as far as the transport knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// The transport has proved that it is this friend.
    Proved(HomeName),
    /// The same, but nothing may be changed: the friend's home says a generation that no person has confirmed here.
    /// Locks are taken, checked and forgotten, so that restic restores without any flag.
    ProvedToRead(HomeName),
    /// Anybody: each request shows a password (HTTP basic), as a stock restic does.
    ByPassword,
}

impl Caller {
    /// Whether it may change nothing.
    pub(super) fn reads_only(&self) -> bool {
        matches!(self, Self::ProvedToRead(_))
    }
}

/// The friend who asks, if the repository is the friend's.
pub(super) fn authenticate(
    vault: &Vault,
    caller: &Caller,
    path: &str,
    headers: &HeaderMap,
) -> Result<Arc<Space>, Refusal> {
    let named = path::friend_of(path).and_then(|name| vault.space(name));
    let proved = match caller {
        Caller::Proved(friend) | Caller::ProvedToRead(friend) => {
            named.as_ref().is_some_and(|space| space.friend == *friend)
        }
        Caller::ByPassword => {
            let (user, password) = basic(headers).unwrap_or_default();
            let expected = named.as_ref().and_then(|space| space.terms().password);
            // Who is nobody takes as long to be refused.
            let is_right = expected.unwrap_or(Password::new("")).is(&password);
            is_right && expected.is_some() && named.as_ref().is_some_and(|s| s.friend.as_str() == user)
        }
    };
    named.filter(|_| proved).ok_or(Refusal::Unknown)
}

fn basic(headers: &HeaderMap) -> Option<(String, String)> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, encoded) = value.split_once(' ')?;
    let is_basic = scheme.eq_ignore_ascii_case("basic");
    let decoded = is_basic.then(|| BASE64_STANDARD.decode(encoded.trim()).ok())??;
    let text = String::from_utf8(decoded).ok()?;
    text.split_once(':').map(|(user, password)| (user.to_owned(), password.to_owned()))
}
