//! Retention challenges: while a home still has a pack in hand it computes, for random ranges and random nonces, what
//! a vault that keeps the pack will answer. Asked later, a vault that has lost or changed it can't.

use super::blob::{BlobName, Item, Kind};
use super::refusal::Refusal;
use super::space::Space;
use rand::Rng;
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
        let all = content.len() as u64;
        let length = random.random_range(0..=all.min(RANGE_MAX)).max(all.min(64));
        let offset = random.random_range(0..=all - length);
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
