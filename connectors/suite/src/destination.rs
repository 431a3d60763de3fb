//! Cases of the writing side.

use crate::fixture::{Fixture, Text};
use crate::world::*;
use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use drover_connectors_api::{ApplySession, Committed, LoadOutcome, SchemaStep, Side, Step};
use drover_model::error::codes;
use drover_model::{Error, Position, TablePlan};

/// A row of [`items`] as cells.
fn cells_of(id: u64, name: &str) -> Vec<u8> {
    encoded(&item(id, name))
}
fn key(id: u64) -> Vec<u8> {
    encoded(&[text(id)])
}
/// Only id and name are known.
fn partial(id: u64, name: &str) -> Vec<u8> {
    let mut out = encoded(&[text(id), text(name)]);
    drover_model::row::put_cell(&mut out, drover_model::row::Cell::Unknown);
    drover_model::row::put_cell(&mut out, drover_model::row::Cell::Unknown);
    out
}
fn names(rows: &[Vec<Text>]) -> Vec<(String, String)> {
    rows.iter().map(|r| (r[0].clone().unwrap_or_default(), r[1].clone().unwrap_or_default())).collect()
}
fn code<T>(result: Result<T, Error>) -> Option<String> {
    result.err().map(|e| e.code)
}

/// Everything ready to apply: a session, where the progress stands, and a position after it.
async fn applying(world: &World<'_>) -> anyhow::Result<(Box<dyn ApplySession>, Position, Position, u64)> {
    let epoch = world.ready().await?;
    let (from, to) = world.two_positions().await?;
    world.destination.begin_at(world.migration(), epoch, &from).await?;
    let session = world.destination.apply_session(world.migration(), epoch, &world.shared()).await?;
    Ok((session, from, to, epoch))
}

async fn load(
    world: &World<'_>,
    plan: &TablePlan,
    generation: u32,
    chunk: u32,
    rows: &[Vec<u8>],
) -> anyhow::Result<LoadOutcome> {
    let mut loader = world.destination.loader(world.migration()).await?;
    if let Some(outcome) = loader.begin(plan, generation, chunk).await? {
        return Ok(outcome);
    }
    for row in rows {
        loader.block(Bytes::from(row.clone())).await?;
    }
    Ok(loader.finish(rows.len() as u64).await?)
}

pub async fn prepare_is_repeatable_and_guards_the_name(fixture: &dyn Fixture) -> anyhow::Result<()> {
    let world = World::new(fixture, &[]).await?;
    let name = world.name();
    ensure!(world.destination.progress(&name).await.is_ok_and(|p| p.is_none()), "progress before the beginning");
    let first = world.destination.prepare(world.migration(), &name).await?;
    ensure!(first.position.is_none() && first.migration == world.migration() && first.name == name);
    let epoch = world.destination.take_over(world.migration()).await?.epoch;
    ensure!(epoch > first.epoch, "taking over raises the epoch");
    let second = world.destination.prepare(world.migration(), &name).await?;
    ensure!(second.epoch == epoch, "preparing again forgets the epoch");
    let stranger = world.destination.prepare(uuid::Uuid::new_v4(), &name).await;
    ensure!(code(stranger) == Some(codes::STATE_LOST.into()), "another migration took the name");
    let start = world.source.mark().await?;
    world.destination.begin_at(world.migration(), epoch, &start).await?;
    let told = world.destination.progress(&name).await?.context("no progress")?;
    let position = told.position.context("no position")?;
    ensure!(position.to_bytes() == start.to_bytes(), "the position came back changed");
    Ok(())
}

pub async fn schema_steps_are_repeatable(fixture: &dyn Fixture) -> anyhow::Result<()> {
    let world = World::new(fixture, &[]).await?;
    let tables: Vec<_> = world.plans.iter().map(|p| p.destination.clone()).collect();
    ensure!(world.destination.existing(&tables).await?.is_empty(), "tables before the beginning");
    world.destination.prepare(world.migration(), &world.name()).await?;
    for step in [SchemaStep::Base, SchemaStep::Base] {
        world.schema(&step).await?;
    }
    ensure!(world.destination.existing(&tables).await?.iter().filter(|e| e.empty).count() == 2);
    load(&world, world.items(), 0, 0, &[cells_of(1, "x")]).await?;
    for step in [0, 0, 1, 1].map(|id| SchemaStep::Table { id }) {
        world.schema(&step).await?;
    }
    world.schema(&SchemaStep::Final).await?;
    let full: Vec<_> = world.destination.existing(&tables).await?.into_iter().filter(|e| !e.empty).collect();
    ensure!(full.len() == 1 && full[0].table == world.items().destination);
    let keys = world.destination.keys(&world.plans).await?;
    let items = keys.iter().find(|k| k.table == 0).context("keys of the first table")?;
    let identity = items.identity.as_ref().context("it has an identity")?;
    ensure!(identity.columns.iter().map(|c| c.0).collect::<Vec<_>>() == [0]);
    ensure!(items.others.len() == 1 && items.others[0].columns[0].0 == 2 && items.serial.is_none(), "{items:?}");
    let loose = keys.iter().find(|k| k.table == 1).context("keys of the second table")?;
    ensure!(loose.identity.is_none() && loose.others.is_empty());
    Ok(())
}

pub async fn chunks_load_once(fixture: &dyn Fixture) -> anyhow::Result<()> {
    let world = World::new(fixture, &[]).await?;
    world.destination.prepare(world.migration(), &world.name()).await?;
    world.schema(&SchemaStep::Base).await?;
    let plan = world.items();
    let rows = [cells_of(1, "a"), cells_of(2, "b")];
    ensure!(load(&world, plan, 0, 0, &rows).await? == LoadOutcome::Loaded { rows: 2 });
    ensure!(load(&world, plan, 0, 0, &rows).await? == LoadOutcome::AlreadyLoaded);
    ensure!(load(&world, plan, 0, 1, &[]).await? == LoadOutcome::Loaded { rows: 0 }, "an empty chunk has its mark too");
    ensure!(load(&world, plan, 0, 1, &[]).await? == LoadOutcome::AlreadyLoaded);
    // Two at once: one of them comes second, whichever began first.
    let mut first = world.destination.loader(world.migration()).await?;
    let mut second = world.destination.loader(world.migration()).await?;
    ensure!(first.begin(plan, 0, 2).await?.is_none());
    first.block(Bytes::from(cells_of(3, "c"))).await?;
    first.abort().await?;
    ensure!(second.begin(plan, 0, 2).await?.is_none(), "an aborted chunk left a mark");
    second.block(Bytes::from(cells_of(3, "c"))).await?;
    ensure!(second.finish(1).await? == LoadOutcome::Loaded { rows: 1 });
    ensure!(first.begin(plan, 0, 2).await? == Some(LoadOutcome::AlreadyLoaded), "a loader is used again");
    // Rows went missing on the way: nothing of the chunk may stay.
    let mut short = world.destination.loader(world.migration()).await?;
    ensure!(short.begin(plan, 0, 3).await?.is_none());
    short.block(Bytes::from(cells_of(4, "d"))).await?;
    ensure!(short.finish(2).await.is_err(), "one row of two was accepted");
    ensure!(names(&world.destination_rows(ITEMS).await?).len() == 3);
    ensure!(load(&world, plan, 0, 3, &[cells_of(4, "d")]).await? == LoadOutcome::Loaded { rows: 1 });
    let mut want: Vec<_> = [(1, "a"), (2, "b"), (3, "c"), (4, "d")].map(|(i, n)| item(i, n)).to_vec();
    want.sort();
    ensure!(world.destination_rows(ITEMS).await? == want, "the loaded rows");
    Ok(())
}

pub async fn restarted_tables_refuse_older_generations(fixture: &dyn Fixture) -> anyhow::Result<()> {
    let world = World::new(fixture, &[]).await?;
    world.destination.prepare(world.migration(), &world.name()).await?;
    world.schema(&SchemaStep::Base).await?;
    let plan = world.items();
    load(&world, plan, 0, 0, &[cells_of(1, "old")]).await?;
    // A zombie that began before the restart and ends after it.
    let mut zombie = world.destination.loader(world.migration()).await?;
    ensure!(zombie.begin(plan, 0, 1).await?.is_none());
    zombie.abort().await?;
    world.destination.restart_table(world.migration(), plan, 1).await?;
    ensure!(world.destination_rows(ITEMS).await?.is_empty(), "a restarted table is empty");
    ensure!(load(&world, plan, 0, 1, &[cells_of(2, "old")]).await? == LoadOutcome::OldGeneration);
    ensure!(load(&world, plan, 1, 0, &[cells_of(1, "new")]).await? == LoadOutcome::Loaded { rows: 1 });
    // The order was given out twice: what was loaded since stays.
    world.destination.restart_table(world.migration(), plan, 1).await?;
    ensure!(names(&world.destination_rows(ITEMS).await?) == [("1".into(), "new".into())], "emptied by a repetition");
    ensure!(load(&world, plan, 1, 0, &[cells_of(1, "new")]).await? == LoadOutcome::AlreadyLoaded);
    Ok(())
}

pub async fn taking_over_fences_the_former(fixture: &dyn Fixture) -> anyhow::Result<()> {
    let world = World::new(fixture, &[]).await?;
    let (mut former, from, to, epoch) = applying(&world).await?;
    former.execute(&[Step::Insert { table: 0, rows: vec![&cells_of(1, "former")], tolerant: false }]).await?;
    let taken = world.destination.take_over(world.migration()).await?;
    ensure!(taken.epoch > epoch && taken.position.as_ref() == Some(&from));
    // The frozen holder wakes up: its session is gone, or its commit is refused.
    match former.commit(&from, &to).await {
        Ok(Committed::Yes) => bail!("the former holder committed"),
        Ok(Committed::Fenced) | Err(_) => {}
    }
    ensure!(world.destination_rows(ITEMS).await?.is_empty(), "rows of the former holder");
    let late = world.destination.apply_session(world.migration(), epoch, &world.shared()).await;
    let late = match late {
        Err(error) => Some(error.code),
        Ok(mut late) => match late.commit(&from, &to).await {
            Ok(Committed::Yes) => None,
            Ok(Committed::Fenced) => Some(codes::FENCED.into()),
            Err(error) => Some(error.code),
        },
    };
    ensure!(late == Some(codes::FENCED.into()), "the old epoch was accepted: {late:?}");
    let begun = world.destination.begin_at(world.migration(), epoch, &to).await;
    ensure!(code(begun) == Some(codes::FENCED.into()), "the old epoch may set the beginning");
    let mut session = world.destination.apply_session(world.migration(), taken.epoch, &world.shared()).await?;
    session.execute(&[Step::Insert { table: 0, rows: vec![&cells_of(1, "new")], tolerant: false }]).await?;
    ensure!(session.commit(&from, &to).await? == Committed::Yes);
    ensure!(names(&world.destination_rows(ITEMS).await?) == [("1".into(), "new".into())]);
    Ok(())
}

pub async fn progress_moves_only_from_where_it_stands(fixture: &dyn Fixture) -> anyhow::Result<()> {
    let world = World::new(fixture, &[]).await?;
    let (mut session, from, to, epoch) = applying(&world).await?;
    session.execute(&[Step::Insert { table: 0, rows: vec![&cells_of(1, "ahead")], tolerant: false }]).await?;
    ensure!(session.commit(&to, &to).await.is_err(), "committed from where it did not stand");
    session.rollback().await?;
    ensure!(world.destination_rows(ITEMS).await?.is_empty(), "rows without progress");
    session.execute(&[Step::Insert { table: 0, rows: vec![&cells_of(1, "first")], tolerant: false }]).await?;
    session.execute(&[Step::Insert { table: 0, rows: vec![&cells_of(2, "second")], tolerant: false }]).await?;
    ensure!(world.destination_rows(ITEMS).await?.is_empty(), "rows before the commit");
    ensure!(session.commit(&from, &to).await? == Committed::Yes);
    session.flush().await?;
    ensure!(world.destination_rows(ITEMS).await?.len() == 2);
    let progress = world.destination.progress(&world.name()).await?.context("no progress")?;
    ensure!(progress.position.as_ref() == Some(&to) && progress.epoch == epoch);
    // The same batch again, as after an answer that was lost.
    session.execute(&[Step::Insert { table: 0, rows: vec![&cells_of(3, "again")], tolerant: false }]).await?;
    ensure!(session.commit(&from, &to).await.is_err(), "the same step of progress twice");
    session.rollback().await?;
    ensure!(world.destination_rows(ITEMS).await?.len() == 2);
    // An empty batch moves the progress alone; the beginning is set once only.
    let next = world.source.mark().await?;
    ensure!(session.commit(&to, &next).await? == Committed::Yes);
    world.destination.begin_at(world.migration(), epoch, &from).await.ok();
    let progress = world.destination.progress(&world.name()).await?.context("no progress")?;
    ensure!(progress.position == Some(next), "the beginning was set again");
    Ok(())
}

pub async fn affected_rows_are_counted(fixture: &dyn Fixture) -> anyhow::Result<()> {
    let world = World::new(fixture, &[]).await?;
    let (mut session, from, to, _) = applying(&world).await?;
    let (one, two, three) = (cells_of(1, "a"), cells_of(2, "b"), cells_of(3, "c"));
    session.execute(&[Step::Insert { table: 0, rows: vec![&one, &two], tolerant: false }]).await?;
    ensure!(session.commit(&from, &to).await? == Committed::Yes);
    let (k1, k9) = (key(1), key(9));
    let full9 = cells_of(9, "no");
    let (p1, p9) = (partial(1, "p"), partial(9, "p"));
    let loose = encoded(&[text(1), text("x")]);
    let strict: Vec<(&str, Step<'_>)> = vec![
        ("delete", Step::Delete { table: 0, keys: vec![&k1, &k9], tolerant: false }),
        ("update", Step::Update { table: 0, rows: vec![&one, &full9], unknown: vec![], tolerant: false }),
        ("partial", Step::Update { table: 0, rows: vec![&p1, &p9], unknown: vec![2, 3], tolerant: false }),
        ("move", Step::Move { table: 0, old: &k9, new: &three }),
        ("whole", Step::DeleteWhole { table: 1, rows: vec![(&loose, 1)] }),
    ];
    for (what, step) in strict {
        let error = session.execute(std::slice::from_ref(&step)).await.err();
        let error = error.with_context(|| format!("{what}: a row that is not there went unnoticed"))?;
        ensure!(error.code == codes::ROW_COUNT && error.table.is_some(), "{what}: {error}");
        ensure!(
            what == "whole" || error.key.as_deref().is_some_and(|k| k.contains('9')),
            "{what} names the key: {error}"
        );
        session.rollback().await?;
    }
    for (what, row) in [
        ("the identity", &one),
        ("another unique key", &{
            let mut row = item(7, "c1 again");
            row[2] = text("c1");
            encoded(&row)
        }),
    ] {
        let twice = session.execute(&[Step::Insert { table: 0, rows: vec![row], tolerant: false }]).await;
        ensure!(twice.is_err(), "{what} twice");
        session.rollback().await?;
    }
    ensure!(world.destination_rows(ITEMS).await? == [item(1, "a"), item(2, "b")], "failed batches left something");
    session.execute(&[Step::Update { table: 0, rows: vec![&p1], unknown: vec![2, 3], tolerant: false }]).await?;
    session.execute(&[Step::Delete { table: 0, keys: vec![&key(2)], tolerant: false }]).await?;
    ensure!(session.commit(&to, &world.source.mark().await?).await? == Committed::Yes);
    ensure!(world.destination_rows(ITEMS).await? == [item(1, "p")], "unknown cells stay as they are");
    Ok(())
}

pub async fn tolerant_steps_mind_nothing(fixture: &dyn Fixture) -> anyhow::Result<()> {
    let world = World::new(fixture, &[]).await?;
    let (mut session, from, to, _) = applying(&world).await?;
    let (one, uno, two) = (cells_of(1, "a"), cells_of(1, "b"), cells_of(2, "two"));
    let (p1, p9) = (partial(1, "patched"), partial(9, "nowhere"));
    session
        .execute(&[
            Step::Insert { table: 0, rows: vec![&one], tolerant: true },
            Step::Insert { table: 0, rows: vec![&uno], tolerant: true },
            Step::Update { table: 0, rows: vec![&two], unknown: vec![], tolerant: true },
            Step::Update { table: 0, rows: vec![&p1, &p9], unknown: vec![2, 3], tolerant: true },
            Step::Delete { table: 0, keys: vec![&key(8)], tolerant: true },
        ])
        .await?;
    ensure!(session.commit(&from, &to).await? == Committed::Yes);
    ensure!(world.destination_rows(ITEMS).await? == [item(1, "patched"), item(2, "two")]);
    Ok(())
}

pub async fn moves_truncations_and_whole_rows(fixture: &dyn Fixture) -> anyhow::Result<()> {
    let world = World::new(fixture, &[]).await?;
    let (mut session, from, to, _) = applying(&world).await?;
    let loose = encoded(&[text(1), text("x")]);
    let null = encoded(&[None, None]);
    session
        .execute(&[
            Step::Insert { table: 0, rows: vec![&cells_of(1, "a"), &cells_of(5, "e")], tolerant: false },
            Step::Insert { table: 1, rows: vec![&loose, &loose, &loose, &null, &null], tolerant: false },
            // Unknown cells stay with the row.
            Step::Move { table: 0, old: &key(1), new: &partial(2, "moved") },
            Step::Insert {
                table: 0,
                rows: vec![&{
                    let mut row = item(1, "taken again");
                    row[2] = None;
                    encoded(&row)
                }],
                tolerant: false,
            },
            Step::DeleteWhole { table: 1, rows: vec![(&loose, 2), (&null, 1)] },
        ])
        .await?;
    ensure!(session.commit(&from, &to).await? == Committed::Yes);
    let mut moved = item(1, "moved");
    moved[0] = text(2);
    let mut again = item(1, "taken again");
    again[2] = None;
    ensure!(world.destination_rows(ITEMS).await? == [again, moved, item(5, "e")], "after the move");
    let mut left = world.destination_rows(LOOSE).await?;
    left.sort();
    ensure!(left == [vec![None, None], vec![text(1), text("x")]], "one of each: {left:?}");
    let next = world.source.mark().await?;
    session.execute(&[Step::Truncate { tables: vec![0, 1] }]).await?;
    ensure!(session.commit(&to, &next).await? == Committed::Yes);
    ensure!(world.destination_rows(ITEMS).await?.is_empty() && world.destination_rows(LOOSE).await?.is_empty());
    Ok(())
}

pub async fn holders_are_told_inside_the_transaction(fixture: &dyn Fixture) -> anyhow::Result<()> {
    let world = World::new(fixture, &[]).await?;
    let (mut session, from, to, _) = applying(&world).await?;
    session
        .execute(&[Step::Insert { table: 0, rows: vec![&cells_of(1, "a"), &cells_of(2, "b")], tolerant: false }])
        .await?;
    let code = |c: &str| encoded(&[text(c)]);
    let (c1, c2, c9) = (code("c1"), code("c2"), code("c9"));
    let mut held = session.holders(0, 0, &[&c1, &c2, &c9]).await?;
    held.sort();
    ensure!(held == [(key(1), c1.clone()), (key(2), c2)], "{held:?}");
    session.execute(&[Step::Delete { table: 0, keys: vec![&key(1)], tolerant: false }]).await?;
    ensure!(session.holders(0, 0, &[&c1]).await?.is_empty(), "a row deleted in the transaction still holds");
    ensure!(session.commit(&from, &to).await? == Committed::Yes);
    Ok(())
}

pub async fn both_sides_read_alike(fixture: &dyn Fixture) -> anyhow::Result<()> {
    let mut odd = item(3, "");
    odd[2] = None;
    let before = [insert(1, "a"), insert(2, "b"), crate::Write::Insert { table: ITEMS, row: odd }];
    let world = World::new(fixture, &before).await?;
    world.ready().await?;
    let hold = world.source.new_snapshot(&world.plans).await?;
    let mut reader = world.source.reader(&hold.snapshot()).await?;
    let mut blocks = Blocks::default();
    reader.read(world.items(), &drover_model::chunk::Bounds::Whole, &mut blocks).await?;
    let mut loader = world.destination.loader(world.migration()).await?;
    ensure!(loader.begin(world.items(), 0, 0).await?.is_none());
    for block in blocks.data {
        loader.block(block).await?;
    }
    ensure!(loader.finish(blocks.rows).await? == LoadOutcome::Loaded { rows: 3 });
    let (mut there, mut here) = (world.source.rows().await?, world.destination.rows().await?);
    let plan = world.items();
    let source = compared(&mut *there, plan, Side::Source, None).await?;
    ensure!(source.len() == 3 && source == compared(&mut *here, plan, Side::Destination, None).await?);
    ensure!(source == world.source_rows(ITEMS).await? && source == world.destination_rows(ITEMS).await?);
    let keys = [Bytes::from(key(2)), Bytes::from(key(99))];
    let one = compared(&mut *there, plan, Side::Source, Some(&keys)).await?;
    ensure!(one == [item(2, "b")] && one == compared(&mut *here, plan, Side::Destination, Some(&keys)).await?);
    Ok(())
}

pub async fn cleanup_of_the_destination_leaves_nothing(fixture: &dyn Fixture) -> anyhow::Result<()> {
    let world = World::new(fixture, &[]).await?;
    let (session, ..) = applying(&world).await?;
    drop(session);
    load(&world, world.items(), 0, 0, &[cells_of(1, "stays")]).await?;
    ensure!(!fixture.leftovers(Side::Destination).await?.is_empty(), "leftovers are not seen by the fixture");
    world.destination.cleanup(Some(world.migration()), &world.name()).await?;
    let left = fixture.leftovers(Side::Destination).await?;
    ensure!(left.is_empty(), "left behind: {left:?}");
    ensure!(world.destination.progress(&world.name()).await?.is_none());
    world.destination.cleanup(None, &world.name()).await?;
    ensure!(
        names(&world.destination_rows(ITEMS).await?) == [("1".into(), "stays".into())],
        "cleanup takes user's rows"
    );
    Ok(())
}
