//! The bdev ChiMod: block devices on memory, files and raw devices.

mod allocator;
