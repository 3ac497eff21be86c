//! The numbers that both sides of a boundary rely on, and the inequalities between them.

/// Version of the control messages and of the meaning of tasks. Checked at connection.
pub const PROTOCOL_VERSION: u32 = 10;

/// Version of the shared-memory layout (see `docs/SHARED_MEMORY.md`). Checked at connection.
pub const LAYOUT_VERSION: u32 = 3;

/// Bytes of a cache line, the unit in which descriptors and completions travel.
pub const CACHE_LINE_BYTES: usize = 64;

/// Entries in a lane, completion records in a lane, and so tasks in flight per lane.
///
/// One bit per record fits a machine word: the bitmaps of free, awaited and completed records
/// are single `u64`s.
pub const LANE_DEPTH: usize = 64;

/// Lanes in a session. A client with more threads shares lanes between threads.
pub const MAX_LANES: usize = 64;

/// Bytes from one lane to the next in a client's first segment.
pub const LANE_STRIDE_BYTES: usize = 12 * 1024;

/// Offset of the first lane in a client's first segment. The page before it holds the bell.
pub const LANES_OFFSET_BYTES: usize = 4096;

/// Offset at which buffers begin in a client's first segment. Other segments hold only buffers.
pub const DATA_OFFSET_BYTES: usize = 1024 * 1024;

/// Segments that one session may register.
pub const MAX_SEGMENTS: usize = 64;

/// Smallest size of a segment.
pub const MIN_SEGMENT_BYTES: u64 = 2 * 1024 * 1024;

/// Largest size of a segment. Segments are sparse: size is address space, not memory.
pub const MAX_SEGMENT_BYTES: u64 = 1 << 40;

/// Unit of a segment's size.
pub const SEGMENT_GRANULE_BYTES: u64 = 4096;

/// Largest control message, in either direction.
pub const MAX_CONTROL_MESSAGE_BYTES: usize = 16 * 1024;

/// Size of the buffer in which an admin request travels and its reply comes back.
pub const ADMIN_BUFFER_BYTES: u32 = 64 * 1024;

/// Longest pool name, in bytes. A file pool's name is a path, so it is as long as paths get.
pub const MAX_POOL_NAME_BYTES: usize = 4096;

/// Longest module name, in bytes.
pub const MAX_MODULE_NAME_BYTES: usize = 64;

/// Longest creation parameters of a module, in encoded bytes.
pub const MAX_CREATE_PARAMS_BYTES: usize = 16 * 1024;

/// Longest text of an error that crosses a boundary, in bytes. A longer one is cut.
pub const MAX_ERROR_TEXT_BYTES: usize = 8 * 1024;

const _: () = {
    assert!(
        LANE_DEPTH == u64::BITS as usize,
        "bitmaps of records are single words"
    );
    assert!(LANES_OFFSET_BYTES + MAX_LANES * LANE_STRIDE_BYTES <= DATA_OFFSET_BYTES);
    assert!(
        (DATA_OFFSET_BYTES as u64) < MIN_SEGMENT_BYTES,
        "a first segment holds buffers too"
    );
    assert!(
        DATA_OFFSET_BYTES.is_multiple_of(4096),
        "buffers can be page-aligned"
    );
    assert!(MIN_SEGMENT_BYTES.is_multiple_of(SEGMENT_GRANULE_BYTES));
    assert!(
        MAX_POOL_NAME_BYTES + MAX_MODULE_NAME_BYTES + MAX_CREATE_PARAMS_BYTES + 256
            < ADMIN_BUFFER_BYTES as usize,
        "a creation request fits the admin buffer"
    );
    assert!(MAX_ERROR_TEXT_BYTES + 256 < ADMIN_BUFFER_BYTES as usize);
};
