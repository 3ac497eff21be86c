//! What a pool keeps on its file or device besides its blocks.

#[cfg_attr(
    not(test),
    expect(dead_code, reason = "opening a file does not ask yet")
)]
mod signature;
