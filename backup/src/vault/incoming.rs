//! One upload, from its first byte to its place on disk. Whatever ends it early - a dropped connection, another
//! content, a quota, a full disk - leaves nothing behind and gives back what was reserved.

use super::blob::{BlobName, Item, Kind};
use super::disk::Temporary;
use super::refusal::Refusal;
use super::space::Space;
use ring::digest::{Context, SHA256};
use std::io::Write;
use std::sync::Arc;

/// A config is a few hundred bytes; more than this is something else.
const CONFIG_MAX: u64 = 1 << 20;

/// Where the bytes go.
#[derive(Debug)]
enum To {
    /// They are new.
    Disk(Temporary),
    /// Something of that name is here: they are compared by their hash.
    Comparison,
    /// They are taken and forgotten: locks of whoever reads a view of the past.
    Nowhere,
}

/// An upload on its way.
pub(super) struct Incoming {
    space: Arc<Space>,
    item: Item,
    to: To,
    hash: Context,
    size: u64,
    reserved: u64,
}

impl Incoming {
    /// Begins an upload. `length` is the body's if it is known: what can't fit is refused before it is sent.
    pub fn begin(space: Arc<Space>, item: Item, length: Option<u64>) -> Result<Self, Refusal> {
        if !space.disk.holds(&item.folder) {
            return Err(Refusal::NotFound);
        }
        let to = match space.disk.look(&item)? {
            Some(_) if item.blob.is_none() => return Err(Refusal::Exists),
            Some(_) => To::Comparison,
            None => {
                let length = length.unwrap_or(0);
                let quota = space.terms().quota;
                space.state().books.clone().reserve(length, item.is_lock(), quota)?;
                To::Disk(space.disk.temporary()?)
            }
        };
        Ok(Self { space, item, to, hash: Context::new(&SHA256), size: 0, reserved: 0 })
    }

    /// Begins an upload that is checked and forgotten.
    pub fn to_nowhere(space: Arc<Space>, item: Item) -> Self {
        Self { space, item, to: To::Nowhere, hash: Context::new(&SHA256), size: 0, reserved: 0 }
    }

    /// Takes a piece.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        self.hash.update(bytes);
        self.size += bytes.len() as u64;
        if self.item.blob.is_none() && self.size > CONFIG_MAX {
            return Err(Refusal::TooLong);
        }
        if let To::Disk(temporary) = &mut self.to {
            let quota = self.space.terms().quota;
            self.space.state().books.reserve(bytes.len() as u64, self.item.is_lock(), quota)?;
            self.reserved += bytes.len() as u64;
            temporary.file.write_all(bytes)?;
        }
        Ok(())
    }

    /// The last piece has come: the blob is on disk for good when this returns without an error.
    pub fn finish(mut self, now: u64) -> Result<(), Refusal> {
        let came = BlobName::digest(std::mem::replace(&mut self.hash, Context::new(&SHA256)).finish());
        let is_right = self.item.blob.is_none_or(|(_, name)| name == came);
        match std::mem::replace(&mut self.to, To::Nowhere) {
            To::Comparison if !is_right => Err(Refusal::Exists),
            _ if !is_right => Err(Refusal::WrongHash),
            To::Nowhere => Ok(()),
            To::Comparison => self.is_there(),
            To::Disk(temporary) => {
                let arrived = self.space.state().books.arrival(now);
                if self.space.disk.keep(temporary, &self.item, arrived)? {
                    self.settle(true);
                    if matches!(self.item.blob, Some((Kind::Snapshots, _))) {
                        let mut state = self.space.state();
                        state.newest = state.newest.max(arrived);
                    }
                    Ok(())
                } else if self.item.blob.is_none() {
                    Err(Refusal::Exists)
                } else {
                    // Somebody else was faster with the same bytes.
                    self.is_there()
                }
            }
        }
    }

    /// The same bytes are here. If they wait for deletion, they are kept after all.
    fn is_there(&self) -> Result<(), Refusal> {
        self.space.disk.confirm(&self.item)?;
        self.space.keep_after_all(&self.item)
    }

    fn settle(&mut self, kept: bool) {
        let reserved = std::mem::take(&mut self.reserved);
        self.space.state().books.settle(reserved, self.item.is_lock(), kept);
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.settle(false);
    }
}
