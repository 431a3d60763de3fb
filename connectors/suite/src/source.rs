//! Cases of the reading side.

use crate::fixture::{Fixture, Write};
use crate::world::*;
use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use drover_connectors_api::{Hold, Side, StreamSpec};
use drover_model::chunk::Bounds;
use drover_model::error::codes;
use drover_model::schema::TableName;

fn same<T: PartialEq + std::fmt::Debug>(got: &[T], want: &[T], what: &str) -> anyhow::Result<()> {
    ensure!(got.len() == want.len(), "{what}: {} instead of {}", got.len(), want.len());
    for (g, w) in got.iter().zip(want) {
        let short = |t: &T| format!("{t:?}").chars().take(300).collect::<String>();
        ensure!(g == w, "{what}: {} instead of {}", short(g), short(w));
    }
    Ok(())
}

async fn whole(world: &World<'_>, hold: &dyn Hold, table: usize) -> anyhow::Result<Vec<Vec<crate::Text>>> {
    let mut reader = world.source.reader(&hold.snapshot()).await?;
    chunk(&mut *reader, &world.plans[table], &Bounds::Whole).await
}

fn many(from: u64, to: u64) -> Vec<Write> {
    (from..to).map(|id| insert(id, "many")).collect()
}

pub async fn catalog_tells_tables_and_keys(fixture: &dyn Fixture) -> anyhow::Result<()> {
    let world = World::new(fixture, &[]).await?;
    for test in [items(), loose()] {
        let table = world.catalog.table(&TableName::new(fixture.schema(), test.name)).context("a table is missing")?;
        let names: Vec<&str> = table.columns.iter().map(|c| c.name.as_str()).collect();
        ensure!(names == test.columns.iter().map(|c| c.name).collect::<Vec<_>>(), "columns {names:?}");
        for (column, wanted) in table.columns.iter().zip(&test.columns) {
            ensure!(column.nullable == wanted.nullable, "null in {}", column.name);
        }
        let primary = table.keys.iter().find(|k| k.primary).map(|k| k.columns.clone()).unwrap_or_default();
        ensure!(primary == test.primary, "primary key {primary:?}");
        for unique in &test.unique {
            ensure!(table.keys.iter().any(|k| !k.primary && k.columns == *unique), "unique key {unique:?} is missing");
        }
        ensure!(table.identifying_key().is_some() == !test.primary.is_empty());
    }
    ensure!(world.items().key == [0] && world.loose().key.is_empty());
    ensure!(!world.catalog.identity.is_empty() && world.catalog.origin == fixture.connector().about().kind);
    ensure!(!world.items().physical.is_empty(), "a table without a physical identity");
    Ok(())
}

pub async fn snapshot_has_what_was_committed_and_nothing_later(fixture: &dyn Fixture) -> anyhow::Result<()> {
    let world = World::new(fixture, &[insert(1, "before"), insert(2, "before")]).await?;
    let mut opened = world.open(None).await?;
    let hold = opened.snapshot.take().context("a new stream has a snapshot")?;
    let at = hold.snapshot().position;
    ensure!(at >= opened.start, "the snapshot lies before the stream's start");
    fixture.transaction(&[insert(3, "after"), rename(1, "after")], true).await?;
    let rows = whole(&world, &*hold, 0).await?;
    same(&rows, &[item(1, "before"), item(2, "before")], "the snapshot")?;
    // What the stream has after the snapshot's position is exactly what the snapshot lacks.
    let mark = world.source.mark().await?;
    let mut follower = Follower::new(opened, &world.plans);
    let mut later = follower.until(&mark).await?;
    later.retain(|t| t.position > at);
    ensure!(later.len() == 1, "{} transactions after the snapshot", later.len());
    let mut state = rows;
    replay(&mut state, world.items(), &later)?;
    same(&state, &world.source_rows(ITEMS).await?, "snapshot and changes")?;
    // A second snapshot while the stream runs: the same must hold for it.
    let second = world.source.new_snapshot(&world.plans).await?;
    fixture.transaction(&[rename(2, "last"), Write::Delete { table: ITEMS, key: vec!["3".into()] }], true).await?;
    let at = second.snapshot().position;
    let mut state = whole(&world, &*second, 0).await?;
    ensure!(state.len() == 3, "the second snapshot has {} rows", state.len());
    let mark = world.source.mark().await?;
    let mut later = follower.until(&mark).await?;
    later.retain(|t| t.position > at);
    replay(&mut state, world.items(), &later)?;
    same(&state, &world.source_rows(ITEMS).await?, "second snapshot and changes")
}

pub async fn snapshot_is_joined_and_outlives_its_maker(fixture: &dyn Fixture) -> anyhow::Result<()> {
    let world = World::new(fixture, &[insert(1, "seen")]).await?;
    let opened = world.open(None).await?;
    let first = opened.snapshot.context("a new stream has a snapshot")?;
    let reference = first.snapshot();
    ensure!(reference.shared == fixture.shares_snapshots(), "who can join is told wrongly");
    // As another process would, where it can.
    let other = fixture.connector().source(fixture.target(Side::Source)).await?;
    let second = other.join_snapshot(&reference).await?;
    ensure!(second.snapshot().position == reference.position, "another position after joining");
    ensure!(second.snapshot().proof == reference.proof, "another snapshot after joining");
    fixture.transaction(&[insert(2, "unseen")], true).await?;
    drop(first);
    let mut reader = other.reader(&second.snapshot()).await?;
    same(&chunk(&mut *reader, world.items(), &Bounds::Whole).await?, &[item(1, "seen")], "the joined snapshot")?;
    let third = world.source.join_snapshot(&second.snapshot()).await?;
    same(&whole(&world, &*third, 0).await?, &[item(1, "seen")], "joined through the second holder")?;
    // A session that is on another snapshot than it should be must not read.
    let mut wrong = third.snapshot();
    wrong.proof.push('x');
    ensure!(world.source.reader(&wrong).await.is_err(), "a wrong proof was accepted");
    Ok(())
}

pub async fn lost_snapshot_is_reported(fixture: &dyn Fixture) -> anyhow::Result<()> {
    let world = World::new(fixture, &[insert(1, "x")]).await?;
    let hold = world.source.new_snapshot(&world.plans).await?;
    let reference = hold.snapshot();
    ensure!(tokio::time::timeout(std::time::Duration::from_millis(50), hold.lost()).await.is_err(), "lost too early");
    fixture.lose_snapshots().await?;
    let error = tokio::time::timeout(PATIENCE, hold.lost()).await.context("the loss was not noticed")?;
    ensure!(error.code == codes::SNAPSHOT_LOST || error.code == codes::CONNECTION, "{error}");
    match world.source.join_snapshot(&reference).await {
        Ok(_) => bail!("a lost snapshot was joined"),
        Err(error) => ensure!(error.code == codes::SNAPSHOT_LOST, "{error}"),
    }
    match world.source.reader(&reference).await {
        Ok(_) => bail!("a lost snapshot was read"),
        Err(error) => ensure!(error.code == codes::SNAPSHOT_LOST, "{error}"),
    }
    // And a new one can be had.
    let again = world.source.new_snapshot(&world.plans).await?;
    same(&whole(&world, &*again, 0).await?, &[item(1, "x")], "the new snapshot")
}

pub async fn chunks_cover_every_row_once(fixture: &dyn Fixture) -> anyhow::Result<()> {
    let mut before = many(0, 300);
    before.extend((0..300u64).map(|i| Write::Insert { table: LOOSE, row: vec![text(i / 2), text("twice")] }));
    let world = World::new(fixture, &before).await?;
    let hold = world.source.new_snapshot(&world.plans).await?;
    let mut reader = world.source.reader(&hold.snapshot()).await?;
    for (plan, target, keyed) in [
        (world.items(), 300_000, false),
        (world.items(), 300_000, true),
        (world.loose(), 2_000, false),
        (world.loose(), 2_000, true),
    ] {
        let chunks = reader.plan(plan, target, keyed).await?;
        ensure!(chunks.iter().enumerate().all(|(i, c)| c.number as usize == i), "numbers count from 0");
        if keyed && !plan.key.is_empty() {
            ensure!(chunks.iter().all(|c| c.bounds.outlives_snapshot()), "key ranges were demanded");
            ensure!(chunks.len() > 1, "one chunk for a table of many times the size");
        }
        let mut all = Vec::new();
        for c in &chunks {
            all.extend(chunk(&mut *reader, plan, &c.bounds).await?);
        }
        all.sort();
        same(&all, &world.source_rows(&plan.source.name).await?, "all chunks together")?;
    }
    // An empty table has chunks without rows, or none.
    fixture.transaction(&[Write::Truncate { table: LOOSE }], true).await?;
    let hold = world.source.new_snapshot(&world.plans).await?;
    let mut reader = world.source.reader(&hold.snapshot()).await?;
    for c in reader.plan(world.loose(), 2_000, false).await? {
        let mut blocks = Blocks::default();
        ensure!(reader.read(world.loose(), &c.bounds, &mut blocks).await?.rows == 0, "rows of an empty table");
    }
    Ok(())
}

pub async fn key_chunks_outlive_a_snapshot(fixture: &dyn Fixture) -> anyhow::Result<()> {
    let world = World::new(fixture, &many(0, 200)).await?;
    let hold = world.source.new_snapshot(&world.plans).await?;
    let chunks = world.source.reader(&hold.snapshot()).await?.plan(world.items(), 300_000, true).await?;
    drop(hold);
    // Rows at both ends, between, and moved across.
    let moved = Write::Update { table: ITEMS, key: vec!["5".into()], set: vec![("id", text(195_000))] };
    let mut writes = many(1000, 1020);
    writes.extend([moved, Write::Delete { table: ITEMS, key: vec!["100".into()] }]);
    fixture.transaction(&writes, true).await?;
    let hold = world.source.new_snapshot(&world.plans).await?;
    let mut reader = world.source.reader(&hold.snapshot()).await?;
    let mut all = Vec::new();
    for c in &chunks {
        all.extend(chunk(&mut *reader, world.items(), &c.bounds).await?);
    }
    all.sort();
    same(&all, &world.source_rows(ITEMS).await?, "old chunks on a new snapshot")
}

pub async fn single_rows_are_fetched_on_the_snapshot(fixture: &dyn Fixture) -> anyhow::Result<()> {
    let world = World::new(fixture, &[insert(1, "one"), insert(2, "two"), insert(3, "three")]).await?;
    let hold = world.source.new_snapshot(&world.plans).await?;
    fixture.transaction(&[rename(2, "later"), Write::Delete { table: ITEMS, key: vec!["3".into()] }], true).await?;
    let mut reader = world.source.reader(&hold.snapshot()).await?;
    let keys: Vec<Bytes> = [2, 3, 77].iter().map(|k| Bytes::from(encoded(&[text(k)]))).collect();
    let found = reader.fetch(world.items(), &keys).await?;
    let rows =
        known_rows(&found.iter().flatten().flatten().copied().collect::<Vec<u8>>(), world.items().columns.len())?;
    let there: Vec<bool> = found.iter().map(Option::is_some).collect();
    ensure!(there == [true, true, false], "each key has its place: {there:?}");
    same(&rows, &[item(2, "two"), item(3, "three")], "the fetched rows")
}

pub async fn stream_carries_every_kind_of_change(fixture: &dyn Fixture) -> anyhow::Result<()> {
    let world = World::new(fixture, &[insert(1, "a"), insert(2, "b"), insert(3, "c")]).await?;
    let mut opened = world.open(None).await?;
    let hold = opened.snapshot.take().context("a new stream has a snapshot")?;
    let (at, mut state) = (hold.snapshot().position, whole(&world, &*hold, 0).await?);
    drop(hold);
    let mut follower = Follower::new(opened, &world.plans);
    let loose = |a: u64, b: &str| Write::Insert { table: LOOSE, row: vec![text(a), text(b)] };
    let steps: Vec<Vec<Write>> = vec![
        vec![insert(4, "d"), loose(1, "x"), loose(1, "x")],
        vec![rename(1, "A")],
        vec![Write::Update {
            table: ITEMS,
            key: vec!["1".into()],
            set: vec![("name", None), ("story", text("short"))],
        }],
        vec![Write::Update { table: ITEMS, key: vec!["2".into()], set: vec![("id", text(22))] }],
        vec![Write::Delete { table: ITEMS, key: vec!["3".into()] }],
        // The same key again, and a chain of keys within one transaction.
        vec![
            insert(3, "again"),
            Write::Update { table: ITEMS, key: vec!["22".into()], set: vec![("id", text(23))] },
            Write::Update { table: ITEMS, key: vec!["4".into()], set: vec![("id", text(22)), ("name", text("moved"))] },
        ],
    ];
    for step in &steps {
        fixture.transaction(step, true).await?;
    }
    let mark = world.source.mark().await?;
    let mut seen = follower.until(&mark).await?;
    seen.retain(|t| t.position > at);
    ensure!(seen.len() == steps.len(), "{} transactions instead of {}", seen.len(), steps.len());
    replay(&mut state, world.items(), &seen)?;
    same(&state, &world.source_rows(ITEMS).await?, "after all changes")?;
    let mut loose_state = vec![];
    replay(&mut loose_state, world.loose(), &seen)?;
    same(&loose_state, &[vec![text(1), text("x")], vec![text(1), text("x")]], "rows without a key")?;
    let moved = seen[3].changes.first().context("the move is missing")?;
    ensure!(
        matches!(moved, Change::Update { old: Before::Key(_) | Before::Full(_), .. }),
        "an update of the key must tell the old one"
    );
    let unknown = |c: &Change| matches!(c, Change::Update { new, .. } if new.contains(&Val::Unknown));
    let left_out = seen.iter().flat_map(|t| &t.changes).filter(|c| unknown(c)).count();
    ensure!((left_out > 0) == fixture.leaves_out_unchanged(), "{left_out} updates left the large column out");
    fixture.transaction(&[Write::Truncate { table: ITEMS }, insert(5, "after")], true).await?;
    let mark = world.source.mark().await?;
    let emptied = follower.until(&mark).await?;
    let truncated = |c: &Change| matches!(c, Change::Truncate { tables } if tables.contains(&0));
    ensure!(emptied.iter().flat_map(|t| &t.changes).any(truncated), "the truncation is missing");
    replay(&mut state, world.items(), &emptied)?;
    same(&state, &[item(5, "after")], "after the truncation")
}

pub async fn rolled_back_transactions_leave_no_trace(fixture: &dyn Fixture) -> anyhow::Result<()> {
    let world = World::new(fixture, &[insert(1, "kept")]).await?;
    let opened = world.open(None).await?;
    let mut follower = Follower::new(opened, &world.plans);
    fixture.transaction(&[insert(2, "gone"), rename(1, "gone")], false).await?;
    fixture.transaction(&[insert(3, "kept")], true).await?;
    let hold = world.source.new_snapshot(&world.plans).await?;
    same(&whole(&world, &*hold, 0).await?, &[item(1, "kept"), item(3, "kept")], "the snapshot")?;
    let mark = world.source.mark().await?;
    let seen = follower.until(&mark).await?;
    ensure!(seen.len() == 1 && seen[0].changes.len() == 1, "the stream has {seen:.300?}");
    Ok(())
}

pub async fn large_transactions_come_in_pieces(fixture: &dyn Fixture) -> anyhow::Result<()> {
    let world = World::new(fixture, &[insert(1, "x")]).await?;
    let mut opened = world.source.open_stream(world.spec(None, 64 << 10)).await?;
    let hold = opened.snapshot.take().context("a new stream has a snapshot")?;
    let at = hold.snapshot().position;
    let mut state = whole(&world, &*hold, 0).await?;
    drop(hold);
    let mut follower = Follower::new(opened, &world.plans);
    fixture.transaction(&[rename(1, "small")], true).await?;
    fixture.transaction(&many(100, 200), true).await?;
    fixture.transaction(&[rename(1, "small again")], true).await?;
    let mark = world.source.mark().await?;
    let mut seen = follower.until(&mark).await?;
    seen.retain(|t| t.position > at);
    ensure!(seen.iter().map(|t| t.changes.len()).collect::<Vec<_>>() == [1, 100, 1], "whole transactions in order");
    ensure!(follower.pieces > 1, "a transaction of 20 times the batch's size came in one batch");
    replay(&mut state, world.items(), &seen)?;
    same(&state, &world.source_rows(ITEMS).await?, "after the large transaction")
}

pub async fn stream_resumes_without_a_gap(fixture: &dyn Fixture) -> anyhow::Result<()> {
    let world = World::new(fixture, &[]).await?;
    let opened = world.open(None).await?;
    let mut first = Follower::new(opened, &world.plans);
    fixture.transaction(&[insert(1, "one")], true).await?;
    let mark = world.source.mark().await?;
    ensure!(first.until(&mark).await?.len() == 1);
    let confirmed = first.at.clone();
    first.stream.confirm(&confirmed).await?;
    fixture.transaction(&[insert(2, "two")], true).await?;
    let mark = world.source.mark().await?;
    // Read, but not confirmed: must come again.
    let again = first.until(&mark).await?;
    ensure!(again.len() == 1);
    fixture.transaction(&[insert(3, "three")], true).await?;
    // Another holder takes over while the first is still there.
    let other = fixture.connector().source(fixture.target(Side::Source)).await?;
    let opened = other.open_stream(world.spec(Some(confirmed.clone()), 1 << 20)).await?;
    ensure!(opened.snapshot.is_none(), "a resumed stream has no snapshot");
    ensure!(opened.start == confirmed, "resumed at {} instead of {confirmed}", opened.start);
    let mut second = Follower::new(opened, &world.plans);
    let mark = world.source.mark().await?;
    let seen = second.until(&mark).await?;
    ensure!(seen.len() == 2 && seen[0] == again[0], "the same transaction again, then the next: {}", seen.len());
    // The former holder finds out, at the latest when there is something new to read.
    fixture.transaction(&[insert(4, "four")], true).await?;
    let deadline = tokio::time::timeout(PATIENCE, async { while first.once().await.is_ok() {} });
    deadline.await.context("the former holder reads on")
}

pub async fn stream_is_not_made_anew_under_an_older_epoch(fixture: &dyn Fixture) -> anyhow::Result<()> {
    let world = World::new(fixture, &[]).await?;
    let spec = |epoch| StreamSpec { epoch, ..world.spec(None, 1 << 20) };
    let opened = world.source.open_stream(spec(5)).await?;
    let mut follower = Follower::new(opened, &world.plans);
    // The order of one that was frozen comes to the source after its successor's.
    if fixture.keeps_streams() {
        let late = world.source.open_stream(spec(4)).await.map(drop).map_err(|e| e.code);
        ensure!(late == Err(codes::FENCED.into()), "an older order made the stream anew: {late:?}");
    }
    fixture.transaction(&[insert(1, "one")], true).await?;
    let mark = world.source.mark().await?;
    ensure!(follower.until(&mark).await?.len() == 1, "the stream of the later order goes on");
    // Nothing of it was used: a still later order begins once more.
    drop(follower);
    let opened = world.source.open_stream(spec(6)).await?;
    ensure!(opened.snapshot.is_some(), "a new stream has a snapshot");
    Ok(())
}

pub async fn stream_without_a_resume_position_begins_where_the_source_stands(
    fixture: &dyn Fixture,
) -> anyhow::Result<()> {
    let world = World::new(fixture, &[]).await?;
    // Made, but killed before anything of it was durable: what was committed since must come.
    let opened = world.open(None).await?;
    let start = opened.start.clone();
    drop(opened);
    fixture.transaction(&[insert(1, "one")], true).await?;
    let resume = (!fixture.keeps_streams()).then(|| start.clone());
    let spec = StreamSpec { fresh: false, ..world.spec(resume, 1 << 20) };
    let opened = world.source.open_stream(spec).await?;
    ensure!(opened.snapshot.is_none() && opened.start <= start, "began at {} instead of {start}", opened.start);
    let mut follower = Follower::new(opened, &world.plans);
    let mark = world.source.mark().await?;
    ensure!(follower.until(&mark).await?.len() == 1, "a transaction before the first batch was lost");
    // Made anew, it begins now and brings a snapshot again.
    drop(follower);
    let mut opened = world.open(None).await?;
    let hold = opened.snapshot.take().context("a new stream has a snapshot")?;
    ensure!(opened.start > start, "the new stream begins where the former did");
    same(&whole(&world, &*hold, 0).await?, &[item(1, "one")], "the new snapshot")
}

pub async fn idle_stream_passes_marks(fixture: &dyn Fixture) -> anyhow::Result<()> {
    let world = World::new(fixture, &[]).await?;
    let opened = world.open(None).await?;
    let mut follower = Follower::new(opened, &world.plans);
    let mut last = follower.at.clone();
    // A source that tells a position instead of writing a mark stands where the stream is.
    let mut beyond = false;
    for _ in 0..3 {
        let mark = world.source.mark().await?;
        beyond |= mark > follower.at;
        ensure!(mark >= last, "marks go back: {mark} after {last}");
        ensure!(follower.until(&mark).await?.is_empty(), "changes without any write");
        last = mark;
    }
    // What was committed before a mark lies at or before it.
    fixture.transaction(&[insert(1, "x")], true).await?;
    let mark = world.source.mark().await?;
    let seen = follower.until(&mark).await?;
    ensure!(seen.len() == 1 && seen[0].position <= mark);
    ensure!(follower.empty > 0 || !beyond, "no idle stretch was given out");
    ensure!(world.source.clock_skew().await?.abs() < 5.0, "the clocks of one machine differ");
    Ok(())
}

pub async fn stream_of_nothing_does_not_resume(fixture: &dyn Fixture) -> anyhow::Result<()> {
    let world = World::new(fixture, &[]).await?;
    let position = world.source.mark().await?;
    if !fixture.keeps_streams() {
        fixture.transaction(&[insert(1, "lost")], true).await?;
        fixture.purge_log().await?;
    }
    match world.open(Some(position)).await {
        Ok(_) => bail!("a stream went on where nothing is left of it"),
        Err(error) => {
            let error = error.downcast::<drover_model::Error>()?;
            ensure!(error.code == codes::POSITION_LOST, "{error}");
        }
    }
    Ok(())
}

pub async fn cleanup_of_the_source_leaves_nothing(fixture: &dyn Fixture) -> anyhow::Result<()> {
    let world = World::new(fixture, &[insert(1, "x")]).await?;
    let opened = world.open(None).await?;
    ensure!(!fixture.leftovers(Side::Source).await?.is_empty(), "leftovers are not seen by the fixture");
    drop(opened);
    world.source.cleanup(world.migration()).await?;
    let left = fixture.leftovers(Side::Source).await?;
    ensure!(left.is_empty(), "left behind: {left:?}");
    ensure!(world.source.cleanup(world.migration()).await?.is_empty(), "the second time finds something");
    fixture
        .transaction(&[rename(1, "still writable"), Write::Delete { table: ITEMS, key: vec!["1".into()] }], true)
        .await
}
