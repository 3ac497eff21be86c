//! A worker's operations, by an index that goes to the device and comes back with the result.

#![forbid(unsafe_code)]

use chimaera_bdev_allocator::Pin;

use super::operation::Operation;

/// Operations with the pins of their blocks. An index is used again when its operation is removed.
pub(super) struct OperationSlab {
    operations: Vec<Option<(Operation, Pin)>>,
    /// Indexes of `operations` that hold none.
    free: Vec<u32>,
}

impl OperationSlab {
    pub(super) fn with_capacity(capacity: usize) -> Self {
        Self {
            operations: Vec::with_capacity(capacity),
            free: Vec::with_capacity(capacity),
        }
    }

    /// An index for an operation, which stays free if nobody fills it.
    pub(super) fn vacancy(&mut self) -> u32 {
        if let Some(&index) = self.free.last() {
            return index;
        }
        // Each operation is a task of some lane, of which there are far fewer than 32 bits count.
        let index = self.operations.len() as u32;
        self.operations.push(None);
        self.free.push(index);
        index
    }

    /// Puts an operation at the index that [`Self::vacancy`] gave last.
    pub(super) fn fill(&mut self, index: u32, operation: (Operation, Pin)) {
        debug_assert_eq!(self.free.last(), Some(&index));
        self.free.pop();
        self.operations[index as usize] = Some(operation);
    }

    pub(super) fn get_mut(&mut self, index: u32) -> Option<&mut Operation> {
        let held = self.operations.get_mut(index as usize)?.as_mut();
        held.map(|(operation, _)| operation)
    }

    pub(super) fn remove(&mut self, index: u32) -> Option<(Operation, Pin)> {
        let held = self.operations.get_mut(index as usize)?.take()?;
        self.free.push(index);
        Some(held)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.free.len() == self.operations.len()
    }
}
