//! Finding blocks again: lists of what is allocated, and the map of a pool.
//!
//! Both come in pages, so that neither side ever holds more than a page of a large pool. A page shows one moment;
//! blocks may be allocated and freed between two pages.

use chimaera_bdev_proto::{
    MAP_END, MEGABYTE, MIN_LISTING_BUFFER_BYTES, MegabyteState, Method, OWNED_BLOCK_WIRE_BYTES,
    OwnedBlock, listing_arguments, map_arguments,
};
use chimaera_client::{Call, Error, Finished, PoolQuery, Status, Task, TaskError};

use crate::client::Client;

/// Bytes of the buffer for a page of a list. It holds the blocks of several megabytes at least, so that a large pool
/// does not take a task for each megabyte.
const LISTING_BUFFER_BYTES: usize = 16 * MIN_LISTING_BUFFER_BYTES;

/// Bytes of the buffer for a page of the map: a megabyte of the pool each.
const MAP_BUFFER_BYTES: usize = 64 << 10;

/// Where in a pool a page of a list or map begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageCursor(u64);

impl PageCursor {
    /// The beginning of the pool.
    pub const START: Self = Self(0);

    /// The megabyte that this offset lies in, in bytes.
    #[must_use]
    pub const fn at_offset(offset: u64) -> Self {
        Self(offset / MEGABYTE)
    }

    /// The megabyte at which the page begins, counted from the beginning of the pool.
    #[must_use]
    pub const fn megabyte(self) -> u64 {
        self.0
    }
}

/// A page of the list of allocated blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockPage {
    /// Blocks and whose they are, in order of offset. There may be none although more pages follow.
    pub blocks: Vec<OwnedBlock>,
    /// Where the next page begins; `None` after the last.
    pub next: Option<PageCursor>,
}

/// A page of the map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapPage {
    /// The states of megabytes that follow one another, from the page's beginning.
    pub states: Vec<MegabyteState>,
    /// Where the next page begins; `None` after the last.
    pub next: Option<PageCursor>,
}

impl Client {
    /// The allocated blocks from a place in the pool on, with their owner tags, a page of them. Blocks
    /// until they are there. [`Self::all_blocks`] goes through all pages. A tag of which the device has only damage is
    /// [`ListedTag::Unknown`](crate::ListedTag), and its block is listed as any other.
    ///
    /// This is how a program finds its blocks after a restart: allocate with a tag
    /// ([`Self::allocate_blocks_for`]), flush, and look for the tag.
    ///
    /// # Errors
    /// See [`Client`]; [`Status::OutOfMemory`] if there is no room for the buffer.
    pub fn list_blocks(&self, query: PoolQuery, from: PageCursor) -> Result<BlockPage, Error> {
        Ok(self.async_list_blocks(query, from).wait()?)
    }

    /// As [`Self::list_blocks`].
    pub fn async_list_blocks(&self, query: PoolQuery, from: PageCursor) -> Task<BlockPage> {
        let call = self.call(query, Method::ListBlocks, listing_arguments(from.0));
        self.submit_page(call, LISTING_BUFFER_BYTES, |finished| {
            finish_listing(finished).map(|listed| listed.page)
        })
    }

    /// As [`Self::async_list_blocks`], with what the page is of.
    fn async_list_instance(&self, query: PoolQuery, from: PageCursor) -> Task<ListedPage> {
        let call = self.call(query, Method::ListBlocks, listing_arguments(from.0));
        self.submit_page(call, LISTING_BUFFER_BYTES, finish_listing)
    }

    /// Every allocated block with its owner tag, in order of offset, from all pages. Each step may
    /// block for a page. It ends after the first error. With the last page the client goes on with a pool that
    /// [has changed](Self::has_changed).
    #[must_use]
    pub fn all_blocks(&self, query: PoolQuery) -> AllBlocks<'_> {
        AllBlocks {
            client: self,
            query,
            page: Vec::new().into_iter(),
            next: Some(PageCursor::START),
            instance: None,
        }
    }

    /// All of [`Self::all_blocks`], as one list. [`Self::async_list_blocks`] gives a page at a time.
    pub fn async_all_blocks(&self, query: PoolQuery) -> Task<Vec<OwnedBlock>> {
        let client = self.clone();
        Task::of_steps(async move {
            let mut blocks = Vec::new();
            let (mut next, mut first) = (Some(PageCursor::START), None);
            while let Some(from) = next {
                let listed = client.async_list_instance(query, from).await?;
                let page = client.take_page(listed, &mut first)?;
                blocks.extend(page.blocks);
                next = page.next;
            }
            Ok(blocks)
        })
    }

    /// The state of every megabyte of the pool, from all pages. Blocks until they are there.
    ///
    /// # Errors
    /// As [`Self::list_blocks`].
    pub fn map(&self, query: PoolQuery) -> Result<Vec<MegabyteState>, Error> {
        Ok(self.async_map(query).wait()?)
    }

    /// As [`Self::map`].
    pub fn async_map(&self, query: PoolQuery) -> Task<Vec<MegabyteState>> {
        let client = self.clone();
        Task::of_steps(async move {
            let mut states = Vec::new();
            let mut next = Some(PageCursor::START);
            while let Some(from) = next {
                let page = client.async_map_page(query, from).await?;
                states.extend(page.states);
                next = page.next;
            }
            Ok(states)
        })
    }

    /// A page of [`Self::map`], from a place in the pool on. Blocks until it is there.
    ///
    /// # Errors
    /// As [`Self::list_blocks`].
    pub fn map_page(&self, query: PoolQuery, from: PageCursor) -> Result<MapPage, Error> {
        Ok(self.async_map_page(query, from).wait()?)
    }

    /// As [`Self::map_page`].
    pub fn async_map_page(&self, query: PoolQuery, from: PageCursor) -> Task<MapPage> {
        let call = self.call(query, Method::GetMap, map_arguments(from.0));
        self.submit_page(call, MAP_BUFFER_BYTES, finish_map)
    }

    /// Checks that a page is of the pool that the first page was of. With the last one, the client goes on with that
    /// pool, if it has changed.
    fn take_page(&self, listed: ListedPage, first: &mut Option<u32>) -> Result<BlockPage, Error> {
        let ListedPage { page, instance } = listed;
        let is_same = *first.get_or_insert(instance) == instance;
        let accepted = match (is_same, page.next) {
            (false, _) => Err(Error::new(Status::PoolChanged, "listing blocks")),
            (true, Some(_)) => Ok(()),
            // The pool may have become another one since this page was made.
            (true, None) => self.pool().accept_contents(instance),
        };
        match accepted {
            Ok(()) => Ok(page),
            Err(error) if error.status() == Status::PoolChanged => {
                Err(error.during("listing blocks").with_account(
                    "the pool is another one than when the list began: list its blocks again",
                ))
            }
            Err(error) => Err(error.during("listing blocks")),
        }
    }

    fn submit_page<T: Send + 'static>(
        &self,
        call: Call,
        buffer_bytes: usize,
        finish: fn(Finished<'_>) -> Result<T, TaskError>,
    ) -> Task<T> {
        match self.runtime().allocate_buffer(buffer_bytes) {
            Ok(buffer) => self.pool().submit_look(call, Some(buffer), finish),
            Err(error) => Task::failed(error.during(describe(&call))),
        }
    }
}

/// Goes through every allocated block of a pool: [`Client::all_blocks`].
#[derive(Debug)]
pub struct AllBlocks<'a> {
    client: &'a Client,
    query: PoolQuery,
    page: std::vec::IntoIter<OwnedBlock>,
    next: Option<PageCursor>,
    /// That of the pool whose blocks the first page had.
    instance: Option<u32>,
}

impl Iterator for AllBlocks<'_> {
    type Item = Result<OwnedBlock, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(block) = self.page.next() {
                return Some(Ok(block));
            }
            let listed = self
                .client
                .async_list_instance(self.query, self.next.take()?);
            let listed = listed.wait().map_err(Error::from);
            match listed.and_then(|listed| self.client.take_page(listed, &mut self.instance)) {
                Ok(page) => {
                    self.page = page.blocks.into_iter();
                    self.next = page.next;
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

impl std::iter::FusedIterator for AllBlocks<'_> {}

/// A page of the list of allocated blocks, and which instance of the pool it is of.
struct ListedPage {
    page: BlockPage,
    instance: u32,
}

fn finish_listing(finished: Finished<'_>) -> Result<ListedPage, TaskError> {
    let page = PageReply::of(&finished, OWNED_BLOCK_WIRE_BYTES)?;
    let (entries, _) = page.bytes.as_chunks::<OWNED_BLOCK_WIRE_BYTES>();
    let mut blocks: Vec<OwnedBlock> = Vec::with_capacity(entries.len());
    // The first byte behind all blocks before.
    let mut free_from = page.first.saturating_mul(MEGABYTE);
    for &entry in entries {
        let Ok(owned) = OwnedBlock::from_bytes(entry) else {
            return page.violation("the host listed a block that cannot be");
        };
        let block = owned.block;
        let Some(end) = block.offset.checked_add(block.size) else {
            return page.violation("the host listed a block that cannot be");
        };
        if block.offset < free_from {
            return page.violation("the host listed blocks that overlap or are out of order");
        }
        if block.offset / MEGABYTE >= page.next {
            return page.violation("the host listed a block of the next page");
        }
        free_from = end;
        blocks.push(owned);
    }
    Ok(ListedPage {
        page: BlockPage {
            blocks,
            next: page.cursor()?,
        },
        instance: finished.call().instance,
    })
}

fn finish_map(finished: Finished<'_>) -> Result<MapPage, TaskError> {
    let page = PageReply::of(&finished, 1)?;
    let states = page
        .bytes
        .iter()
        .map(|&number| MegabyteState::from_number(number))
        .collect::<Option<Vec<_>>>();
    let Some(states) = states else {
        return page.violation("the host gave a megabyte a state that there is not");
    };
    // A gap between two pages would shift all that follows.
    let end = page.first.checked_add(states.len() as u64);
    if page.next != MAP_END && end != Some(page.next) {
        return page.violation("the next page does not begin where this one ends");
    }
    Ok(MapPage {
        states,
        next: page.cursor()?,
    })
}

/// The host's reply to a request for a page. Its entries lie within the buffer.
struct PageReply<'a> {
    call: &'a Call,
    first: u64,
    next: u64,
    bytes: &'a [u8],
}

impl<'a> PageReply<'a> {
    fn of(finished: &'a Finished<'_>, entry_bytes: usize) -> Result<Self, TaskError> {
        let call = finished.call();
        let values = finished
            .values()
            .map_err(|error| error.during(describe(call)))?;
        let mut page = Self {
            call,
            first: call.arguments[0],
            next: values[1],
            bytes: &[],
        };
        let bytes = usize::try_from(values[0])
            .ok()
            .and_then(|count| count.checked_mul(entry_bytes))
            .and_then(|len| finished.buffer()?.get(..len));
        match bytes {
            Some(bytes) => page.bytes = bytes,
            None => return page.violation("the host claims more entries than the buffer holds"),
        }
        Ok(page)
    }

    /// Where the next page begins. A page that does not begin behind this one is refused, or reading would never end.
    fn cursor(&self) -> Result<Option<PageCursor>, TaskError> {
        match self.next {
            MAP_END => Ok(None),
            next if next > self.first => Ok(Some(PageCursor(next))),
            _ => self.violation("the next page does not lie behind this one"),
        }
    }

    fn violation<T>(&self, detail: &str) -> Result<T, TaskError> {
        let error = Error::new(Status::ProtocolViolation, describe(self.call));
        Err(error.with_detail(detail).into())
    }
}

fn describe(call: &Call) -> String {
    let what = match Method::from_number(call.method) {
        Some(Method::GetMap) => "reading the map",
        Some(Method::ListBlocks) => "listing the blocks",
        _ => "reading a page",
    };
    let [first, ..] = call.arguments;
    format!("{what} of pool {} from megabyte {first} on", call.pool)
}
