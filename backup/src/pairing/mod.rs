//! Two homes become friends: one gives out a code, the other types it, both prove to know it (SPAKE2), and only then tell
//! each other who they are. A code is good for one guess. No I/O here: frames come in and go out, and whoever drives it
//! burns the code durably when told; `drive` does that over any stream.

mod code;
mod drive;
mod introduction;
mod keys;
#[cfg(test)]
mod tests;

pub use code::{Code, Invitation, NoCode};
pub use drive::{FRAME_MAX, guest, host};
pub use introduction::{Introduction, NotTaken};

use keys::{Keys, Side};
use ring::error::Unspecified;
use spake2::{Ed25519Group, Identity, Password, Spake2};
use std::io;

/// The form of the exchange.
const VERSION: u8 = 1;
/// The last word of the host: what the guest told has been taken.
const TAKEN: &[u8] = b"taken";

/// What a frame is: its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The guest begins: version, its half of the exchange.
    Hello = 1,
    /// The host's half.
    Half = 2,
    /// The guest's proof.
    Proof = 3,
    /// The host's proof, and who it is, sealed.
    Host = 4,
    /// Who the guest is, sealed.
    Guest = 5,
    /// The host has taken it.
    Taken = 6,
    /// The other side gives up; why.
    No = 7,
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        use Kind::*;
        [Hello, Half, Proof, Host, Guest, Taken, No].into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// Why two homes did not become friends. The code is spent unless it says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum PairingError {
    /// Somebody used it, or tried to.
    #[error("this code has been used: make a new one")]
    Burnt,
    /// It was not used in time.
    #[error("this code is too old: make a new one")]
    Expired,
    /// The other side does not know the code, or somebody stands between the two.
    #[error("the codes are not the same, or somebody is in between: make a new one")]
    WrongCode,
    /// What comes is not what comes next.
    #[error("the other side says what has no place here: is it a home?")]
    OutOfTurn,
    /// Another form of the exchange.
    #[error("the other home pairs in form {0}, this one in form {VERSION}: one of the two needs an upgrade")]
    Version(u8),
    /// A letter was changed on its way.
    #[error("what the other side says was changed on its way")]
    Changed,
    /// The other side gives up.
    #[error("the other home does not take this home's introduction")]
    NotWanted,
    /// Who the other is can't be accepted.
    #[error(transparent)]
    NotTaken(#[from] NotTaken),
    /// The connection broke, with the code still good or spent.
    #[error("the connection broke off{}", if *.spent { ": make a new code" } else { "; the code is still good" })]
    Cut {
        /// Whether the code is spent.
        spent: bool,
    },
    /// The other side keeps silent.
    #[error("the other side has said nothing for too long")]
    Silent,
    /// That the code is spent could not be written down: it was not tried.
    #[error("the use of the code can't be written down")]
    Unwritten(#[source] io::Error),
    /// The system's cryptography fails.
    #[error("the system's cryptography fails")]
    Crypto,
}

impl From<Unspecified> for PairingError {
    fn from(_: Unspecified) -> Self {
        Self::Crypto
    }
}

/// What the other side is told of an error: enough for its person, nothing about the code.
fn reason(error: &PairingError) -> u8 {
    match error {
        PairingError::Burnt => 1,
        PairingError::Expired => 2,
        PairingError::WrongCode => 3,
        PairingError::Version(_) => 4,
        PairingError::NotTaken(_) => 5,
        _ => 0,
    }
}

/// A friend, as it proved to be and said to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paired {
    /// Who it is.
    pub friend: Introduction,
    /// Both people see these. If theirs differ, somebody is in between: neither may say yes.
    pub words: [&'static str; 4],
}

/// What is to be done, in this order.
#[derive(Debug)]
pub enum Act {
    /// A frame is to be sent.
    Say(Vec<u8>),
    /// The code is to be spent durably, then `burnt` to be called.
    Burn,
    /// It is done.
    Paired(Box<Paired>),
}

enum State {
    /// The host waits for a guest.
    Waiting { invitation: Invitation },
    /// The host has answered with its half.
    Halves { keys: Keys, invitation: Invitation },
    /// The host holds a proof, and the code is being burnt.
    Burning { keys: Keys, proof: Vec<u8> },
    /// The host has told who it is.
    Told { keys: Keys },
    /// The guest has sent its half.
    Asked { exchange: Box<Spake2<Ed25519Group>> },
    /// The guest has sent its proof.
    Proved { keys: Keys },
    /// The guest has told who it is, and knows the host.
    Known { keys: Keys, host: Box<Introduction> },
    /// There is nothing more to say.
    Over,
}

/// One side of a pairing.
pub struct Pairing {
    side: Side,
    own: Introduction,
    state: State,
    spent: bool,
}

fn ids() -> (Identity, Identity) {
    (Identity::new(Side::Guest.name()), Identity::new(Side::Host.name()))
}

fn frame(kind: Kind, parts: &[&[u8]]) -> Vec<u8> {
    [&[kind as u8][..], &parts.concat()].concat()
}

impl Pairing {
    /// The side that gave out the code.
    pub fn host(invitation: Invitation, own: Introduction) -> Self {
        Self { side: Side::Host, own, state: State::Waiting { invitation }, spent: false }
    }

    /// The side that types it, and what it says first.
    pub fn guest(code: &Code, own: Introduction) -> (Self, Act) {
        let (guest, host) = ids();
        let (exchange, half) =
            Spake2::<Ed25519Group>::start_a(&Password::new(&*code.password()), &guest, &host);
        let it = Self {
            side: Side::Guest,
            own,
            state: State::Asked { exchange: Box::new(exchange) },
            spent: false,
        };
        (it, Act::Say(frame(Kind::Hello, &[&[VERSION], &half])))
    }

    /// Whether the code is spent by what has happened: whoever was at the other end may have had its guess.
    pub fn is_spent(&self) -> bool {
        self.spent
    }

    /// Hears a frame at a time in ms since the Unix epoch. After an error there is nothing more to hear; what is to be
    /// said of it comes from `farewell`.
    pub fn hear(&mut self, frame: &[u8], now: u64) -> Result<Vec<Act>, PairingError> {
        let (kind, rest) = match frame.split_first().and_then(|(kind, rest)| Some((Kind::of(*kind)?, rest))) {
            Some(heard) => heard,
            None => return Err(self.over(PairingError::OutOfTurn)),
        };
        let state = std::mem::replace(&mut self.state, State::Over);
        match (state, kind) {
            (_, Kind::No) => Err(self.told_no(rest)),
            (State::Waiting { invitation }, Kind::Hello) => self.greet(invitation, rest, now),
            (State::Halves { keys, invitation }, Kind::Proof) => {
                if invitation.is_over(now) {
                    return Err(PairingError::Expired);
                }
                // From here on a guess is being made: it is written down before it is looked at.
                self.state = State::Burning { keys, proof: rest.to_vec() };
                Ok(vec![Act::Burn])
            }
            (State::Told { keys }, Kind::Guest) => {
                let friend = self.letter(&keys, b"introduction ", rest)?;
                let friend = Introduction::read(&friend, &self.own)?;
                let taken = keys.seal(self.side, b"taken ", TAKEN)?;
                let paired = Paired { friend, words: keys.words()? };
                Ok(vec![Act::Say(self::frame(Kind::Taken, &[&taken])), Act::Paired(Box::new(paired))])
            }
            (State::Asked { exchange }, Kind::Half) => {
                let shared = exchange.finish(rest).map_err(|_| PairingError::WrongCode)?;
                let keys = Keys::new(&shared);
                // Whoever is there can now try one code on this proof.
                self.spent = true;
                let said = self::frame(Kind::Proof, &[&keys.proof(self.side)?]);
                self.state = State::Proved { keys };
                Ok(vec![Act::Say(said)])
            }
            (State::Proved { keys }, Kind::Host) => {
                let Some((proof, sealed)) = rest.split_at_checked(32) else {
                    return Err(PairingError::OutOfTurn);
                };
                if !same(proof, &keys.proof(Side::Host)?) {
                    return Err(PairingError::WrongCode);
                }
                let host = self.letter(&keys, b"introduction ", sealed)?;
                let host = Box::new(Introduction::read(&host, &self.own)?);
                let said = self::frame(Kind::Guest, &[&self.sealed(&keys)?]);
                self.state = State::Known { keys, host };
                Ok(vec![Act::Say(said)])
            }
            (State::Known { keys, host }, Kind::Taken) => {
                if self.letter(&keys, b"taken ", rest)? != TAKEN {
                    return Err(PairingError::Changed);
                }
                Ok(vec![Act::Paired(Box::new(Paired { friend: *host, words: keys.words()? }))])
            }
            _ => Err(PairingError::OutOfTurn),
        }
    }

    /// The code has been spent durably; `first` says whether it was still good until then.
    pub fn burnt(&mut self, first: bool) -> Result<Vec<Act>, PairingError> {
        let State::Burning { keys, proof } = std::mem::replace(&mut self.state, State::Over) else {
            return Err(PairingError::OutOfTurn);
        };
        self.spent = true;
        if !first {
            return Err(PairingError::Burnt);
        }
        if !same(&proof, &keys.proof(Side::Guest)?) {
            return Err(PairingError::WrongCode);
        }
        let said = frame(Kind::Host, &[&keys.proof(Side::Host)?, &self.sealed(&keys)?]);
        self.state = State::Told { keys };
        Ok(vec![Act::Say(said)])
    }

    /// What the other side is told after an error.
    pub fn farewell(error: &PairingError) -> Vec<u8> {
        frame(Kind::No, &[&[reason(error)]])
    }

    fn greet(&mut self, invitation: Invitation, rest: &[u8], now: u64) -> Result<Vec<Act>, PairingError> {
        if invitation.is_over(now) {
            return Err(PairingError::Expired);
        }
        let (version, half) = rest.split_first().ok_or(PairingError::OutOfTurn)?;
        if *version != VERSION {
            return Err(PairingError::Version(*version));
        }
        let (guest, host) = ids();
        let password = Password::new(&*invitation.code.password());
        let (exchange, own) = Spake2::<Ed25519Group>::start_b(&password, &guest, &host);
        // What is no half of an exchange says nothing about the code.
        let shared = exchange.finish(half).map_err(|_| PairingError::OutOfTurn)?;
        self.state = State::Halves { keys: Keys::new(&shared), invitation };
        Ok(vec![Act::Say(frame(Kind::Half, &[&own]))])
    }

    fn letter(&self, keys: &Keys, which: &[u8], sealed: &[u8]) -> Result<Vec<u8>, PairingError> {
        keys.open(self.side.other(), which, sealed).map_err(|_| PairingError::Changed)
    }

    fn sealed(&self, keys: &Keys) -> Result<Vec<u8>, PairingError> {
        let text = serde_json::to_vec(&self.own).map_err(|e| NotTaken::Unreadable(e.to_string()))?;
        Ok(keys.seal(self.side, b"introduction ", &text)?)
    }

    fn over(&mut self, error: PairingError) -> PairingError {
        self.state = State::Over;
        error
    }

    fn told_no(&self, rest: &[u8]) -> PairingError {
        match rest.first() {
            Some(1) => PairingError::Burnt,
            Some(2) => PairingError::Expired,
            Some(3) => PairingError::WrongCode,
            Some(5) => PairingError::NotWanted,
            _ => PairingError::Cut { spent: self.spent },
        }
    }
}

/// Compares in constant time, through hashes.
fn same(one: &[u8], other: &[u8]) -> bool {
    blake3::hash(one) == blake3::hash(other)
}
