//! Which blocks of a pool are allocated.
