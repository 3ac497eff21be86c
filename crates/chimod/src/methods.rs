//! What a module declares of its methods: the right to a pool that each needs.

use chimaera_proto::{Right, Rights};

/// A method of a module, as the module declares it. The host refuses tasks for methods that are not declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct DeclaredMethod {
    /// The method's number, below [`MAX_METHODS`].
    pub number: u16,
    /// The number of the [`Right`] that it needs.
    pub right: u16,
    /// Zeroes: room for what will be declared of methods.
    pub reserved: [u32; 3],
}

/// The numbers of a module's methods are below this.
pub const MAX_METHODS: u16 = 64;

impl DeclaredMethod {
    /// A method that needs this right.
    #[must_use]
    pub const fn new(number: u16, right: Right) -> Self {
        Self {
            number,
            right: right as u16,
            reserved: [0; 3],
        }
    }

    /// The methods with the numbers from 0 to `COUNT - 1`, all of which need this right.
    #[must_use]
    pub const fn first<const COUNT: usize>(right: Right) -> [Self; COUNT] {
        assert!(
            COUNT <= MAX_METHODS as usize,
            "a method's number is below 64"
        );
        let mut methods = [Self::new(0, right); COUNT];
        let mut number = 0;
        while number < COUNT {
            methods[number].number = number as u16;
            number += 1;
        }
        methods
    }
}

/// Methods that the receiver only reads, as long as the lender's library is loaded.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct LentMethods {
    /// The first one.
    pub data: *const DeclaredMethod,
    /// How many.
    pub len: usize,
}

impl LentMethods {
    /// Lends methods that stay where they are.
    #[must_use]
    pub const fn new(methods: &'static [DeclaredMethod]) -> Self {
        Self {
            data: methods.as_ptr(),
            len: methods.len(),
        }
    }

    /// The lent methods.
    ///
    /// # Safety
    /// The lender's library must stay loaded for `'a`.
    #[must_use]
    pub const unsafe fn as_slice<'a>(self) -> &'a [DeclaredMethod] {
        // SAFETY: `new` took data and length from one slice, which outlives 'a by contract.
        unsafe { std::slice::from_raw_parts(self.data, self.len) }
    }
}

/// Checks that each method is declared once, with a number that a method can have.
pub(crate) const fn check_methods(methods: &[DeclaredMethod]) {
    let mut declared = 0_u64;
    let mut index = 0;
    while index < methods.len() {
        let number = methods[index].number;
        assert!(number < MAX_METHODS, "a method's number is below 64");
        assert!(declared >> number & 1 == 0, "a method is declared twice");
        declared |= 1 << number;
        index += 1;
    }
}

/// Which methods of a module need which right: a bit for each method's number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MethodMasks {
    read: u64,
    write: u64,
    manage: u64,
}

impl MethodMasks {
    /// What these methods need. One whose number or right there cannot be is not declared.
    pub(crate) fn of(declared: &[DeclaredMethod]) -> Self {
        let mut masks = Self::default();
        for method in declared.iter().filter(|method| method.number < MAX_METHODS) {
            let bit = 1 << method.number;
            match Right::from_number(method.right) {
                Some(Right::Read) => masks.read |= bit,
                Some(Right::Write) => masks.write |= bit,
                Some(Right::Manage) => masks.manage |= bit,
                None => {}
            }
        }
        masks
    }

    /// The methods that somebody with these rights may use.
    #[must_use]
    pub const fn allowed(&self, rights: Rights) -> u64 {
        let mut allowed = 0;
        if rights.has(Right::Read) {
            allowed |= self.read;
        }
        if rights.has(Right::Write) {
            allowed |= self.write;
        }
        if rights.has(Right::Manage) {
            allowed |= self.manage;
        }
        allowed
    }

    /// Whether the module has this method.
    #[must_use]
    pub const fn declares(&self, method: u16) -> bool {
        method < MAX_METHODS && self.allowed(Rights::ALL) >> method & 1 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_declared_is_allowed_to_nobody() {
        let masks = MethodMasks::of(&[
            DeclaredMethod::new(0, Right::Read),
            DeclaredMethod::new(5, Right::Write),
            DeclaredMethod::new(63, Right::Manage),
            DeclaredMethod {
                right: 4,
                ..DeclaredMethod::new(7, Right::Read)
            },
            DeclaredMethod::new(64, Right::Read),
            DeclaredMethod::new(u16::MAX, Right::Read),
        ]);
        assert_eq!(masks.allowed(Rights::NONE), 0);
        assert_eq!(masks.allowed(Rights::READ), 1);
        assert_eq!(masks.allowed(Rights::READ.with(Right::Write)), 1 | 1 << 5);
        assert_eq!(masks.allowed(Rights::ALL), 1 | 1 << 5 | 1 << 63);
        let declared = (0..=u16::MAX).filter(|&method| masks.declares(method));
        assert_eq!(declared.collect::<Vec<_>>(), [0, 5, 63]);
    }
}
