//! The way to an owner of a protocol's machine: whoever brings it something takes its turn and sees it through on
//! the spot, for each change of thread costs more than most of what is brought.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The owner of a role for as long as that lasts.
#[derive(Debug)]
pub struct Entrance<O>(Arc<Mutex<Option<O>>>);

impl<O> Clone for Entrance<O> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<O> Entrance<O> {
    /// To the owner that `make` makes, who may keep a way to itself for answers that come later.
    pub fn new(make: impl FnOnce(Self) -> O) -> Self {
        let this = Self(Arc::default());
        let owner = make(this.clone());
        *this.lock() = Some(owner);
        this
    }

    fn lock(&self) -> MutexGuard<'_, Option<O>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings something, once it is one's turn; it comes back where the role has ended.
    pub fn bring<T, R>(&self, what: T, take: impl FnOnce(&mut O, T) -> R) -> Result<R, T> {
        match &mut *self.lock() {
            Some(owner) => Ok(take(owner, what)),
            None => Err(what),
        }
    }

    /// Ends the role, once its owner agrees that it may.
    pub fn end_if(&self, may: impl FnOnce(&mut O) -> bool) -> Option<O> {
        let mut owner = self.lock();
        if owner.as_mut().is_some_and(may) { owner.take() } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_brought_is_seen_through_until_the_role_ends_and_comes_back_then() {
        let entrance = Entrance::new(|_| vec![1]);
        let push = |owner: &mut Vec<i32>, what| {
            owner.push(what);
            owner.len()
        };
        assert_eq!(entrance.bring(2, push), Ok(2));
        assert_eq!(entrance.end_if(|owner| owner.len() > 2), None);
        assert_eq!(entrance.clone().end_if(|owner| owner.len() == 2), Some(vec![1, 2]));
        assert_eq!(entrance.bring(3, push), Err(3));
    }
}
