//! What every connector must pass, written against the traits alone. A connector runs it by implementing [`Fixture`] over its own
//! SQL (or whatever it speaks) and naming it in [`connector_suite!`]; each test gets a fixture of its own, with empty
//! databases.
//!
//! Values are texts that are their own canonical form (whole numbers, plain words), so that no type mapping is on trial here.
//! Every test can fail: each asserts something that a connector which does nothing does not do.

pub mod destination;
pub mod fixture;
pub mod source;
pub mod world;

pub use fixture::{Column, Fixture, Kind, TestTable, Text, Write};

/// Makes a test of every case of the suite. Takes an async function (a path) that gives `anyhow::Result<impl Fixture>`.
#[macro_export]
macro_rules! connector_suite {
    ($fixture:path) => {
        $crate::connector_suite!(@cases $fixture,
            source: catalog_tells_tables_and_keys, snapshot_has_what_was_committed_and_nothing_later,
                snapshot_is_joined_and_outlives_its_maker, lost_snapshot_is_reported, chunks_cover_every_row_once,
                key_chunks_outlive_a_snapshot, single_rows_are_fetched_on_the_snapshot,
                stream_carries_every_kind_of_change, rolled_back_transactions_leave_no_trace,
                large_transactions_come_in_pieces, stream_is_not_made_anew_under_an_older_epoch, stream_resumes_without_a_gap, stream_without_a_resume_position_begins_where_the_source_stands,
                idle_stream_passes_marks,
                stream_of_nothing_does_not_resume, cleanup_of_the_source_leaves_nothing;
            destination: prepare_is_repeatable_and_guards_the_name, schema_steps_are_repeatable,
                chunks_load_once, restarted_tables_refuse_older_generations, taking_over_fences_the_former,
                progress_moves_only_from_where_it_stands, affected_rows_are_counted, tolerant_steps_mind_nothing,
                moves_truncations_and_whole_rows, holders_are_told_inside_the_transaction,
                both_sides_read_alike, cleanup_of_the_destination_leaves_nothing;
        );
    };
    (@cases $fixture:path, $($module:ident: $($case:ident),+;)+) => {
        $($(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() -> anyhow::Result<()> {
                let fixture = $fixture().await?;
                $crate::$module::$case(&fixture).await
            }
        )+)+
    };
}
