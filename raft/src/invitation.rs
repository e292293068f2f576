//! Tokens: what a person carries from a member to a newcomer.

use crate::clock::wall_ms;
use crate::identity::IdentityError;
use crate::node::Node;
use crate::proposing::ProposeError;
use ring::rand::{SecureRandom, SystemRandom};
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;
use thermidor_model::name::HomeName;
use thermidor_model::state::Role;
use thermidor_model::{Command, Outcome};
use tokio::time::Instant;

/// What every token begins with: its kind and version.
const PREFIX: &str = "thermidor-1";
/// Bytes of the secret.
const SECRET_BYTES: usize = 20;
/// Members named in a token at most.
const ADDRESSES_MAX: usize = 5;
/// A token is made as fast as the home commits; a home without quorum says so.
const INVITE_MAX: Duration = Duration::from_secs(10);

/// Why a text is no token, or none is given out.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Not a token at all.
    #[error(
        "this is no token: it should begin with `{PREFIX}/`. Copy the whole line that `thermidor invite` printed"
    )]
    Form,
    /// A letter is wrong.
    #[error("this token was not copied whole: its check does not match")]
    Damaged,
    /// The home could not write it down.
    #[error(transparent)]
    Propose(#[from] ProposeError),
    /// The model refuses.
    #[error("{0}")]
    Refused(String),
    /// No randomness, no authority.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// An invitation as printed: home, fingerprint of its authority, one-time secret, where its members are.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// The home's name.
    pub home: HomeName,
    /// BLAKE3 of the authority's certificate, hex.
    pub fingerprint: String,
    /// Members that can let a newcomer in.
    pub addresses: Vec<SocketAddr>,
    pub(crate) secret: String,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("home", &self.home)
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

/// What the home keeps of a secret.
pub(crate) fn hash_of(secret: &str) -> String {
    blake3::hash(secret.as_bytes()).to_hex().to_string()
}

fn check_of(body: &str) -> String {
    blake3::hash(body.as_bytes()).to_hex()[..8].to_string()
}

impl Token {
    /// The printable text. A secret: whoever has it may join until it expires.
    pub fn text(&self) -> String {
        let addresses: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
        let body =
            format!("{PREFIX}/{}/{}/{}/{}", self.home, self.fingerprint, self.secret, addresses.join(","));
        format!("{body}/{}", check_of(&body))
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        if !text.starts_with(PREFIX) {
            return Err(TokenError::Form);
        }
        let (body, check) = text.rsplit_once('/').ok_or(TokenError::Form)?;
        if check != check_of(body) {
            return Err(TokenError::Damaged);
        }
        let parts: Vec<&str> = body.split('/').collect();
        let [_, home, fingerprint, secret, addresses] = parts.as_slice() else {
            return Err(TokenError::Form);
        };
        let addresses: Result<Vec<SocketAddr>, _> = addresses.split(',').map(str::parse).collect();
        Ok(Self {
            home: HomeName::new(*home).map_err(|_| TokenError::Form)?,
            fingerprint: (*fingerprint).to_string(),
            secret: (*secret).to_string(),
            addresses: addresses.map_err(|_| TokenError::Form)?,
        })
    }
}

impl Node {
    /// A one-time token with which one machine may join within `ttl`.
    pub async fn invite(&self, ttl: Duration) -> Result<Token, TokenError> {
        let identity = self.identity();
        if identity.own.keys != self.state().borrow().keys.number {
            let why = "the home's keys are being changed, and this member has not got them yet: try again in a moment";
            return Err(TokenError::Refused(why.into()));
        }
        let mut bytes = [0; SECRET_BYTES];
        SystemRandom::new().fill(&mut bytes).map_err(|_| IdentityError::Random)?;
        let secret: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        let command =
            Command::Invite { token_hash: hash_of(&secret), expires_ms: wall_ms().saturating_add(ttl_ms) };
        if let Outcome::Refused(why) = self.propose_once(command, Instant::now() + INVITE_MAX).await? {
            return Err(TokenError::Refused(why.to_string()));
        }
        // This member first, if it can let anybody in: it surely is there.
        let state = self.state().borrow().clone();
        let may_issue = state.members.iter().filter(|(_, member)| member.role == Role::Radiator);
        let mut radiators: Vec<_> =
            may_issue.map(|(id, member)| (*id != self.id(), member.address)).collect();
        radiators.sort_by_key(|(other, _)| *other);
        Ok(Token {
            home: identity.own.home.clone(),
            fingerprint: identity.fingerprint(),
            secret,
            addresses: radiators.into_iter().map(|(_, address)| address).take(ADDRESSES_MAX).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_back_and_every_wrong_letter_is_seen() {
        let token = Token {
            home: HomeName::new("maison").unwrap(),
            fingerprint: "ab".repeat(32),
            secret: "cd".repeat(20),
            addresses: vec!["10.0.0.1:7600".parse().unwrap(), "[fe80::1]:7600".parse().unwrap()],
        };
        let text = token.text();
        assert_eq!(text.parse::<Token>().unwrap(), token);
        assert!(!format!("{token:?}").contains(&token.secret));
        for at in 0..text.len() {
            let mut wrong = text.clone().into_bytes();
            wrong[at] = if wrong[at] == b'0' { b'1' } else { b'0' };
            assert!(String::from_utf8(wrong).unwrap().parse::<Token>().is_err(), "{at}");
            assert!(text[..at].parse::<Token>().is_err(), "{at}");
        }
    }
}
