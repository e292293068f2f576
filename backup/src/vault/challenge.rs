//! Retention challenges: while a home still has a pack in hand it computes, for random ranges and random nonces, what
//! a vault that keeps the pack will answer. Asked later, a vault that has lost or changed it can't.

use super::blob::{BlobName, Item, Kind};
use super::refusal::Refusal;
use super::space::Space;
use rand::Rng;
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};
use std::os::unix::fs::FileExt;

/// The longest range that a vault hashes for one question, in bytes.
pub const RANGE_MAX: u64 = 1 << 20;

/// What a vault is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// The kind of blob.
    pub kind: Kind,
    /// Its name.
    pub name: BlobName,
    /// Where the range begins, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub length: u64,
    /// The key of the hash: no answer can be computed before it is known.
    pub nonce: [u8; 32],
}

/// A vault's answer: BLAKE3 of the range, keyed with the nonce.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// The hash.
    pub hash: [u8; 32],
}

/// A question with the answer that the home computed itself. Used once, then thrown away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Challenge {
    /// What will be asked.
    pub question: Question,
    answer: Answer,
}

/// What came of a challenge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The vault keeps the range.
    Kept,
    /// It answered something else: the bytes are not those that were sent.
    Wrong(BlobName),
    /// It gave no answer; why.
    Unanswered(BlobName, String),
}

impl Challenge {
    /// Draws one over a random range of a blob that is in hand.
    pub fn draw(kind: Kind, content: &[u8], random: &mut impl Rng) -> Self {
        let (offset, length) = range(content.len() as u64, random);
        let question = Question { kind, name: BlobName::of(content), offset, length, nonce: random.random() };
        let range = &content[offset as usize..(offset + length) as usize];
        let answer = Answer { hash: *blake3::keyed_hash(&question.nonce, range).as_bytes() };
        Self { question, answer }
    }

    /// Judges what the vault said; an error is its refusal, or that it could not be reached.
    pub fn judge(&self, said: Result<Answer, String>) -> Outcome {
        match said {
            Ok(answer) if answer == self.answer => Outcome::Kept,
            Ok(_) => Outcome::Wrong(self.question.name),
            Err(why) => Outcome::Unanswered(self.question.name, why),
        }
    }
}

/// Where a range of a blob of `all` bytes begins, and how long it is.
fn range(all: u64, random: &mut impl Rng) -> (u64, u64) {
    let length = random.random_range(0..=all.min(RANGE_MAX)).max(all.min(64));
    (random.random_range(0..=all - length), length)
}

/// A challenge that is drawn while a blob goes by in pieces: its range is chosen before, and nothing of it is kept.
pub(crate) struct Drawing {
    question: Question,
    answer: blake3::Hasher,
    whole: Context,
    size: u64,
    seen: u64,
}

impl Drawing {
    /// Begins with a blob of `size` bytes that is to have that name.
    pub(crate) fn begin(kind: Kind, name: BlobName, size: u64, random: &mut impl Rng) -> Self {
        let (offset, length) = range(size, random);
        let question = Question { kind, name, offset, length, nonce: random.random() };
        let answer = blake3::Hasher::new_keyed(&question.nonce);
        Self { question, answer, whole: Context::new(&SHA256), size, seen: 0 }
    }

    /// Takes note of the next piece; says whether the blob has gone by whole.
    pub(crate) fn see(&mut self, piece: &[u8]) -> bool {
        let Question { offset, length, .. } = self.question;
        let within = |at: u64| at.saturating_sub(self.seen).min(piece.len() as u64) as usize;
        self.answer.update(&piece[within(offset)..within(offset + length)]);
        self.whole.update(piece);
        self.seen += piece.len() as u64;
        self.seen >= self.size
    }

    /// The challenge, if what went by was whole and is what its name says.
    pub(crate) fn end(self) -> Option<Challenge> {
        let is_right = self.seen == self.size && BlobName::digest(self.whole.finish()) == self.question.name;
        let answer = Answer { hash: *self.answer.finalize().as_bytes() };
        is_right.then_some(Challenge { question: self.question, answer })
    }
}

impl Space {
    /// Answers a question about a blob of a folder, from the disk.
    pub fn answer(&self, folder: &super::path::Folder, question: &Question) -> Result<Answer, Refusal> {
        if question.length > RANGE_MAX {
            return Err(Refusal::TooLong);
        }
        let item = Item { folder: folder.clone(), blob: Some((question.kind, question.name)) };
        let (file, found) = self.disk.open_item(&item)?;
        let end = question.offset.checked_add(question.length);
        if end.is_none_or(|end| end > found.size) {
            return Err(Refusal::Range(found.size));
        }
        let mut range = vec![0; question.length as usize];
        file.read_exact_at(&mut range, question.offset)?;
        Ok(Answer { hash: *blake3::keyed_hash(&question.nonce, &range).as_bytes() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_that_goes_by_in_pieces_gives_the_same_answer_as_one_in_hand() {
        let mut random = rand::rng();
        for size in [0, 1, 64, 5000, 3_000_000] {
            let content: Vec<u8> = (0..size).map(|n: u64| (n * n / 7) as u8).collect();
            let name = BlobName::of(&content);
            for piece in [1000, 65_536] {
                let mut drawing = Drawing::begin(Kind::Data, name, size, &mut random);
                let mut is_whole = size == 0;
                content.chunks(piece).for_each(|piece| is_whole = drawing.see(piece));
                assert!(is_whole);
                let challenge = drawing.end().unwrap();
                let Question { offset, length, nonce, .. } = challenge.question;
                let range = &content[offset as usize..][..length as usize];
                let right = Answer { hash: *blake3::keyed_hash(&nonce, range).as_bytes() };
                assert_eq!(challenge.judge(Ok(right)), Outcome::Kept);
            }
            // Cut short, too long, or something else under that name.
            let half = &content[..content.len() / 2];
            let more = [&content[..], b"x"].concat();
            for other in [half, &more, &vec![1; content.len()]] {
                let mut drawing = Drawing::begin(Kind::Data, name, size, &mut random);
                drawing.see(other);
                assert_eq!(drawing.end().is_some(), other == content, "{size}");
            }
        }
    }

    #[test]
    fn only_the_bytes_that_were_sent_answer() {
        let mut random = rand::rng();
        for size in [0, 1, 63, 64, 65, 5000] {
            let content: Vec<u8> = (0..size).map(|n| n as u8).collect();
            let challenge = Challenge::draw(Kind::Data, &content, &mut random);
            let question = &challenge.question;
            assert!(question.offset + question.length <= size);
            assert!(question.length >= size.min(64));
            let range = &content[question.offset as usize..][..question.length as usize];
            let right = Answer { hash: *blake3::keyed_hash(&question.nonce, range).as_bytes() };
            assert_eq!(challenge.judge(Ok(right.clone())), Outcome::Kept);
            let mut wrong = right;
            wrong.hash[0] ^= 1;
            assert_eq!(challenge.judge(Ok(wrong)), Outcome::Wrong(question.name));
            let why = "404".to_owned();
            let unanswered = Outcome::Unanswered(question.name, why.clone());
            assert_eq!(challenge.judge(Err(why)), unanswered);
        }
    }
}
