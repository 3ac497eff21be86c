//! Changes of superblocks, as a newer program might have written them.

/// Bytes of a superblock.
pub const SUPERBLOCK_BYTES: usize = 8192;

/// CRC-32C, as superblocks have it.
fn crc32c(bytes: &[u8]) -> u32 {
    let shift = |crc: u32| (crc >> 1) ^ ((crc & 1) * 0x82f6_3b78);
    let add = |crc: u32, &byte: &u8| (0..8).fold(crc ^ u32::from(byte), |crc, _| shift(crc));
    !bytes.iter().fold(u32::MAX, add)
}

/// Puts these bytes in the place of others in the superblocks that begin at these places of an image, with right
/// checksums.
///
/// # Panics
/// If the image ends before.
pub fn change_superblocks(image: &mut [u8], places: &[usize], offset: usize, bytes: &[u8]) {
    for &start in places {
        let superblock = &mut image[start..start + SUPERBLOCK_BYTES];
        superblock[offset..offset + bytes.len()].copy_from_slice(bytes);
        superblock[4..8].fill(0);
        let checksum = crc32c(superblock);
        superblock[4..8].copy_from_slice(&checksum.to_le_bytes());
    }
}
