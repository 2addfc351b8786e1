//! The records of a namespace that pass a client's filters.

use rusqlite::{Connection, Row};

use super::filter::{Fields, Filters};
use super::{MetadataError, Namespace};

/// Reads the rows of `query`, whose one parameter is the namespace, and keeps those that pass.
pub(crate) fn list<T: Fields>(
    connection: &Connection,
    query: &str,
    namespace: &Namespace,
    read: impl Fn(&Row<'_>) -> Result<T, MetadataError>,
    filters: &Filters,
) -> Result<Vec<T>, MetadataError> {
    let mut statement = connection.prepare_cached(query)?;
    let mut rows = statement.query([namespace.as_str()])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let record = read(row)?;
        if filters.matches(&record) {
            found.push(record);
        }
    }
    Ok(found)
}
