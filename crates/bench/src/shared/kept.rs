//! The last of several things that are costly to make.

use std::cell::RefCell;
use std::rc::Rc;

use crate::error::Result;

/// Something that is costly to make and that neighbouring cases share: the last one is kept.
pub(crate) struct Kept<K, T>(RefCell<Option<(K, Rc<T>)>>);

impl<K, T> Default for Kept<K, T> {
    fn default() -> Self {
        Self(RefCell::new(None))
    }
}

impl<K: PartialEq, T> Kept<K, T> {
    /// The one that is kept, or another in its place.
    pub(crate) fn get(&self, key: K, make: impl FnOnce() -> Result<T>) -> Result<Rc<T>> {
        let mut slot = self.0.borrow_mut();
        if let Some((kept, value)) = slot.as_ref()
            && *kept == key
        {
            return Ok(Rc::clone(value));
        }
        *slot = None;
        let value = Rc::new(make()?);
        *slot = Some((key, Rc::clone(&value)));
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_one_is_kept() -> Result<()> {
        let kept = Kept::default();
        let first = kept.get(1, || Ok("one"))?;
        assert!(Rc::ptr_eq(&first, &kept.get(1, || Ok("again"))?));
        assert_eq!(*kept.get(2, || Ok("two"))?, "two");
        assert!(kept.get(3, || Err("it cannot be made".into())).is_err());
        assert_eq!(*kept.get(2, || Ok("made again"))?, "made again");
        Ok(())
    }
}
