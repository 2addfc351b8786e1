//! The rows, by what they are about.

mod bootstrap;
mod checkpoint;
mod concurrency;
mod console;
mod crash;
mod create;
mod events;
mod exec;
mod exec_end;
mod host;
mod logger;
mod resources;
mod reuse;
mod runtime;
mod runtime_hangs;
mod server;
mod shim_process;
mod stdio;
mod task;
mod timeouts;

use crate::row::Row;

/// All of them, in the order in which they run.
pub(crate) fn all() -> Vec<Row> {
    [
        bootstrap::rows(),
        shim_process::rows(),
        server::rows(),
        create::rows(),
        task::rows(),
        resources::rows(),
        host::rows(),
        checkpoint::rows(),
        exec::rows(),
        exec_end::rows(),
        reuse::rows(),
        events::rows(),
        stdio::rows(),
        logger::rows(),
        console::rows(),
        timeouts::rows(),
        crash::rows(),
        runtime::rows(),
        runtime_hangs::rows(),
        concurrency::rows(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::all;

    #[test]
    fn rows_have_names_of_their_own_and_sources() {
        let rows = all();
        let ids: BTreeSet<&str> = rows.iter().map(|row| row.id).collect();
        assert_eq!(ids.len(), rows.len(), "two rows share a name");
        for row in &rows {
            assert!(
                row.id
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || b"-.0123456789".contains(&byte)),
                "{}",
                row.id
            );
            assert!(!row.promise.is_empty() && !row.source.is_empty(), "{}", row.id);
        }
    }

    #[test]
    fn every_pain_has_a_row_but_those_that_are_for_others() {
        let sources: Vec<&str> = all().iter().map(|row| row.source).collect();
        // 20 is about the engine's own processes, and shown by its tests.
        for pain in 1..=19 {
            let word = format!("pain {pain}");
            let found = sources.iter().any(|source| source.split(", ").any(|part| part == word));
            assert!(found, "no row is about {word}");
        }
    }
}
