//! What accounts count.

use std::fmt;

macro_rules! resources {
    ($($(#[doc = $doc:literal])+ $variant:ident, $name:literal, $what:literal;)+) => {
        /// What users and sessions share in a host, and so may have only so much of.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Resource { $($(#[doc = $doc])+ $variant,)+ }

        impl Resource {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// Its name in options and reports.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// What so many of it are, in words that follow a number.
            const fn what(self) -> &'static str {
                match self { $(Self::$variant => $what,)+ }
            }
        }
    };
}

resources! {
    /// Connections to sockets, also those on which nothing was said yet.
    Connections, "connections", "connections";
    /// Lanes that workers serve.
    Lanes, "lanes", "lanes";
    /// Segments of shared memory.
    Segments, "segments", "segments";
    /// Bytes of address space that segments take, and tables of pools.
    AddressBytes, "address-bytes", "bytes of address space for segments and tables";
    /// File descriptors of the host's process.
    Descriptors, "descriptors", "file descriptors of the daemon";
    /// Pools, also those that are being made or ended.
    Pools, "pools", "pools";
    /// Bytes of pools in memory, whether they were written or not.
    MemoryBytes, "memory-bytes", "bytes of pools in memory";
    /// Operations of pools on files that may be in flight.
    IoDepth, "io-depth", "operations in flight of file pools";
    /// Rings of io_uring, of which a host may have made a stock.
    Rings, "rings", "rings of io_uring";
    /// Requests to the admin module that wait or are carried out. Those of operators are not counted.
    Jobs, "jobs", "requests that wait or are carried out";
}

/// How many resources there are.
pub(super) const COUNT: usize = Resource::ALL.len();

impl Resource {
    /// The resource with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|resource| resource.name() == name)
    }

    /// Whether it is counted for sessions too.
    #[must_use]
    pub const fn is_of_sessions(self) -> bool {
        matches!(
            self,
            Self::Lanes | Self::Segments | Self::AddressBytes | Self::Descriptors | Self::Jobs
        )
    }

    /// So much of it, in words.
    pub(super) fn amount(self, amount: u64) -> String {
        format!("{amount} {}", self.what())
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An amount of each resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amounts([u64; COUNT]);

impl Amounts {
    /// As much of every resource.
    #[must_use]
    pub const fn all(amount: u64) -> Self {
        Self([amount; COUNT])
    }

    /// The amount of a resource.
    #[must_use]
    pub const fn of(&self, resource: Resource) -> u64 {
        self.0[resource as usize]
    }

    /// The same, with another amount of one resource.
    #[must_use]
    pub const fn with(mut self, resource: Resource, amount: u64) -> Self {
        self.0[resource as usize] = amount;
        self
    }

    pub(super) fn map(self, change: impl Fn(u64) -> u64) -> Self {
        Self(self.0.map(change))
    }

    pub(super) fn add(&mut self, resource: Resource, amount: u64) {
        self.0[resource as usize] += amount;
    }

    pub(super) fn subtract(&mut self, resource: Resource, amount: u64) {
        self.0[resource as usize] -= amount;
    }

    pub(super) fn is_none(&self) -> bool {
        self.0 == [0; COUNT]
    }
}
