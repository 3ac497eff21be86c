//! What goes wrong here is told to a person; nobody acts upon its kind.

/// Why something could not be measured.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// A result with such an error.
pub type Result<T> = std::result::Result<T, Error>;
