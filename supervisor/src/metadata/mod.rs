//! All records, in one SQLite file, each request one transaction.
//!
//! Owns the file, its schema and the order of writes; the terms that every record shares
//! (namespace, labels, field masks, filters, references). What a record means is its own
//! module's business: `image`, `container`, `lease`, `namespace`, `content`, `snapshot`.
//!
//! Promise: a write that was acknowledged survives a kill of the process and a loss of power
//! (WAL with `synchronous=FULL`); one that was not leaves nothing. A database that is not known to
//! be this root's last is neither served nor changed (`verify`).

mod connection;
mod copy;
mod error;
pub(crate) mod filter;
#[cfg(test)]
mod fuzz;
mod identifier;
pub(crate) mod label_column;
pub(crate) mod labels;
mod list;
mod mark;
pub(crate) mod mask;
mod rebuilt;
pub(crate) mod reference;
mod reserve;
mod schema;
mod time;
mod transaction;
mod upgrade;
mod verify;

pub(crate) use copy::keep as copy;
pub(crate) use error::{MetadataError, RecordError};
pub(crate) use identifier::{InvalidIdentifier, Namespace, validate_identifier};
pub(crate) use labels::Labels;
pub(crate) use list::list;
pub(crate) use rebuilt::{adopt, install, usable};
pub(crate) use reserve::is_full;
pub(crate) use time::{from_nanos, now_nanos, to_nanos};
pub(crate) use transaction::Database;
pub(crate) use verify::{
    RootFiles, RootId, Unusable, forget_log, leave, marked_id, pages, verify_and_open,
};
