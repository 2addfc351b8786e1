//! Brings a file of any earlier release to the present schema, a step at a time.
//!
//! Promise: each step and the number that records it are one transaction, so a crash between
//! steps leaves a file that the next start takes up where this one stopped.

use rusqlite::Connection;

use super::MetadataError;
use super::schema::STEPS;

/// Runs every step that `connection`'s file has not seen.
pub(super) fn upgrade(connection: &mut Connection) -> Result<(), MetadataError> {
    let known = i64::try_from(STEPS.len()).unwrap_or(i64::MAX);
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if found > known {
        return Err(MetadataError::TooNew { found, known });
    }
    for (step, version) in STEPS.iter().zip(1i64..).skip(usize::try_from(found).unwrap_or(0)) {
        apply(connection, step, version)
            .map_err(|cause| MetadataError::Upgrade { version, cause })?;
    }
    Ok(())
}

fn apply(connection: &mut Connection, step: &str, version: i64) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    transaction.execute_batch(step)?;
    transaction.pragma_update(None, "user_version", version)?;
    transaction.commit()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_upgrade_changes_nothing() {
        let mut connection = Connection::open_in_memory().unwrap();
        upgrade(&mut connection).unwrap();
        upgrade(&mut connection).unwrap();
    }

    #[test]
    fn a_file_of_a_later_release_is_refused() {
        let mut connection = Connection::open_in_memory().unwrap();
        connection.pragma_update(None, "user_version", 9999).unwrap();
        let error = upgrade(&mut connection).unwrap_err();
        assert!(matches!(error, MetadataError::TooNew { found: 9999, .. }), "{error}");
    }
}
