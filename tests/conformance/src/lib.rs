//! What every content store and every snapshotter promises, as suites of tests.
//!
//! A suite knows one trait, in containerd's terms: [`ContentStore`] or [`Snapshotter`]. It runs on
//! whatever implements the trait. The supervisor's unit tests run both suites on its own store and
//! its own snapshotter; the end-to-end tests run the same suites on a client that talks to a daemon
//! through its socket. So both sides of the API keep the same promises.
//!
//! [`content_store_suite!`] and [`snapshotter_suite!`] make one `#[test]` per case. Their argument
//! is a factory: a function that makes an implementation without any content, runs the case on it,
//! and checks what is left.
//!
//! ```text
//! fn on_an_empty_store(case: impl AsyncFnOnce(&Local)) { ... }
//! conformance::content_store_suite!(on_an_empty_store);
//! ```
//!
//! See containerd's `core/content` and `core/snapshots` for the terms.

pub mod content;
pub mod snapshot;

use std::collections::BTreeMap;

pub use content::ContentStore;
pub use shim_sdk::{Kind, Mount};
pub use snapshot::Snapshotter;

/// Labels of a blob or a snapshot.
pub type Labels = BTreeMap<String, String>;

/// A request that was refused: the kind of its error, and the text for a failed test.
#[derive(Debug)]
pub struct Refused {
    /// The kind, which clients act on.
    pub kind: Kind,
    /// The text.
    pub text: String,
}

/// The result of a request.
pub type Result<T> = std::result::Result<T, Refused>;

/// Labels from pairs.
#[must_use]
pub fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Asserts that a request is refused, for this reason.
#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T>, kind: Kind) {
    let refused = result.expect_err("the request must be refused");
    assert_eq!(refused.kind, kind, "{}", refused.text);
}

/// One `#[test]` per case of [`content`], on stores that the factory makes.
#[macro_export]
macro_rules! content_store_suite {
    ($factory:path) => {
        $crate::suite! { $factory, content:
            a_committed_blob_is_read_whole_and_in_parts
            an_empty_blob_is_a_blob
            a_blob_that_is_not_there_is_not_found
            a_read_past_the_end_is_out_of_range
            an_ingest_resumes_where_it_ended
            an_ingest_has_a_status_until_it_is_committed
            an_aborted_ingest_is_gone
            a_wrong_digest_makes_no_blob_and_keeps_the_ingest
            a_wrong_size_makes_no_blob_and_keeps_the_ingest
            a_second_commit_of_a_blob_is_refused_and_changes_nothing
            ingests_of_two_references_do_not_mix
            a_deleted_blob_is_gone_and_can_be_written_again
            labels_change_one_by_one_or_all_at_once
            a_field_that_is_not_labels_cannot_be_updated
            a_label_that_is_too_long_is_refused
            blobs_are_listed_by_filters
            a_malformed_filter_is_refused
        }
    };
}

/// One `#[test]` per case of [`snapshot`], on snapshotters that the factory makes. The cases mount
/// snapshots, so they need root.
#[macro_export]
macro_rules! snapshotter_suite {
    ($factory:path) => {
        $crate::suite! { $factory, snapshot:
            a_child_shows_the_files_of_its_parents
            a_removed_file_stays_removed_in_children
            a_replaced_directory_does_not_show_its_parents_files
            a_committed_snapshot_does_not_change_with_its_children
            a_view_is_read_only
            two_children_of_one_parent_do_not_see_each_other
            a_key_is_used_once
            a_name_is_used_once_and_the_key_stays_active
            a_commit_renames_the_key
            only_an_active_snapshot_can_be_committed
            a_parent_must_be_committed
            a_snapshot_with_children_is_not_removed
            what_is_not_there_is_not_found
            a_committed_snapshot_has_no_mounts
            mounts_answer_the_same_again
            an_empty_key_is_refused
            labels_of_a_commit_replace_those_of_the_key
            snapshot_labels_change_one_by_one_or_all_at_once
            snapshots_are_listed_by_filters
            usage_counts_a_snapshots_own_files
        }
    };
}

/// The tests of one suite.
#[doc(hidden)]
#[macro_export]
macro_rules! suite {
    ($factory:path, $suite:ident: $($case:ident)*) => {
        $(
            #[test]
            fn $case() {
                $factory(async |subject| $crate::$suite::$case(subject).await);
            }
        )*
    };
}
