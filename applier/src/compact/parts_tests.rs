//! Random histories of tables whose foreign keys act without a trace in the log, executed as the source would, and from the log alone.

use super::links::{Link, Links, Value, obstacles, project};
use super::parts::{Done, Parts, follow};
use super::tests::plan;
use super::*;
use crate::windows::Mode;
use async_trait::async_trait;
use drover_connectors_api::apply::Canceller;
use drover_connectors_api::{ApplySession, Committed, Follow, Step};
use drover_model::change::{OldKind, put_alone, put_delete, put_insert, put_update};
use drover_model::row::{Cell, cells, put_cell};
use drover_model::schema::{Catalog, DataType, Effect, OldImage, Table, Unlogged};
use drover_model::{Position, TablePlan};
use futures::FutureExt;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// A row: its key, what it refers to, something else. Null is -1.
type Row = [i32; 3];
const NULL: i32 = -1;
/// Tables 0 and 1 are parents, 2 and 3 children of 0 and of each other, 4 refers to itself.
const TABLES: u32 = 5;

struct Key {
    child: u32,
    parent: u32,
    on_delete: Option<Effect>,
    on_update: Option<Effect>,
}

const fn key(child: u32, parent: u32, on_delete: Option<Effect>, on_update: Option<Effect>) -> Key {
    Key { child, parent, on_delete, on_update }
}

const KEYS: [Key; 4] = [
    key(1, 0, Some(Effect::Cascade), Some(Effect::Cascade)),
    key(2, 1, Some(Effect::Cascade), Some(Effect::SetNull)),
    key(3, 0, Some(Effect::SetNull), Some(Effect::Cascade)),
    key(4, 4, Some(Effect::Cascade), None),
];

fn plans(exact: bool) -> Vec<TablePlan> {
    (0..TABLES)
        .map(|id| {
            let mut plan = plan(id, 3, &[0]);
            if exact {
                plan.columns.iter_mut().for_each(|c| c.data_type = DataType::Int { bytes: 4, unsigned: false });
            }
            plan
        })
        .collect()
}

fn catalog(plans: &[TablePlan]) -> Catalog {
    let table = |plan: &TablePlan| Table {
        unlogged: KEYS
            .iter()
            .filter(|k| k.child == plan.id)
            .map(|k| Unlogged {
                name: format!("fk{}", k.child),
                parent: plans[k.parent as usize].source.clone(),
                // The parent of 2 is referred to by what it refers to itself: effects of updates go on.
                columns: vec!["c1".into()],
                references: vec![if k.child == 2 { "c1".into() } else { "c0".into() }],
                on_delete: k.on_delete,
                on_update: k.on_update,
            })
            .collect(),
        ..Table::new(plan.source.clone(), vec![], OldImage::Full)
    };
    Catalog {
        origin: "a".into(),
        version: 1,
        version_text: String::new(),
        database: String::new(),
        identity: String::new(),
        scope: None,
        home: None,
        tables: plans.iter().map(table).collect(),
        objects: vec![],
    }
}

fn image(row: &Row) -> Vec<u8> {
    let mut out = Vec::new();
    for &n in row {
        if n == NULL {
            put_cell(&mut out, Cell::Null)
        } else {
            put_cell(&mut out, Cell::Value(n.to_string().as_bytes()))
        }
    }
    out
}

fn numbers(image: &[u8]) -> Vec<i32> {
    let number = |c: Cell<'_>| c.value().map_or(NULL, |v| std::str::from_utf8(v).unwrap().parse().unwrap());
    cells(image).map(number).collect()
}

type Rows = BTreeMap<(u32, i32), Row>;

#[derive(Debug, Clone)]
enum Op {
    Insert(u32, Row),
    Delete(u32, usize),
    /// Table, row, new key, new reference, new rest; checks off.
    Update(u32, usize, Option<i32>, Option<i32>, Option<i32>),
    DeleteUnchecked(u32, usize),
}

fn op() -> impl Strategy<Value = Op> {
    let row = (0..5i32, -1..5i32, 0..3i32).prop_map(|(a, b, c)| [a, b, c]);
    prop_oneof![
        8 => (0..TABLES, row).prop_map(|(t, r)| Op::Insert(t, r)),
        5 => (0..TABLES, 0..5usize).prop_map(|(t, r)| Op::Delete(t, r)),
        4 => (0..TABLES, 0..5usize, prop::option::of(0..5i32), prop::option::of(-1..5i32), prop::option::of(0..3i32))
            .prop_map(|(t, r, a, b, c)| Op::Update(t, r, a, b, c)),
        1 => (0..TABLES, 0..5usize).prop_map(|(t, r)| Op::DeleteUnchecked(t, r)),
    ]
}

/// What the source does below its log: depth first, as the parents change. `false`: it would be refused.
fn effects(rows: &mut Rows, parent: u32, old: &Row, new: Option<&Row>, depth: usize) -> bool {
    for k in KEYS.iter().filter(|k| k.parent == parent) {
        let at = usize::from(k.child == 2);
        let (before, now) = (old[at], new.map(|n| n[at]));
        if before == NULL || now == Some(before) {
            continue;
        }
        let children: Vec<Row> =
            rows.iter().filter(|((t, _), r)| *t == k.child && r[1] == before).map(|(_, r)| *r).collect();
        for child in children {
            if depth > 10 {
                return false;
            }
            let effect = if now.is_some() { k.on_update } else { k.on_delete };
            let mut set = |to: i32| {
                let next = [child[0], to, child[2]];
                rows.insert((k.child, child[0]), next);
                effects(rows, k.child, &child, Some(&next), depth + 1)
            };
            let fine = match (effect, now) {
                (None, _) => false,
                (Some(Effect::SetNull), _) => set(NULL),
                (Some(Effect::Cascade), Some(now)) => set(now),
                (Some(Effect::Cascade), None) => {
                    rows.remove(&(k.child, child[0])).is_none() || effects(rows, k.child, &child, None, depth + 1)
                }
            };
            if !fine {
                return false;
            }
        }
    }
    true
}

struct Source {
    rows: Rows,
    log: Vec<u8>,
}

impl Source {
    fn pick(&self, table: u32, n: usize) -> Option<Row> {
        self.rows.iter().filter(|((t, _), _)| *t == table).map(|(_, r)| *r).nth(n)
    }

    /// Values that are referred to by a column that is no key must be unique for these tests to be about order alone.
    fn unique(&self) -> bool {
        let mut seen = std::collections::HashSet::new();
        self.rows.iter().filter(|((t, _), r)| *t == 1 && r[1] != NULL).all(|(_, r)| seen.insert(r[1]))
    }

    fn run(&mut self, op: &Op) {
        let before = self.rows.clone();
        match *op {
            Op::Insert(table, row) if !self.rows.contains_key(&(table, row[0])) => {
                self.rows.insert((table, row[0]), row);
                if !self.unique() {
                    self.rows = before;
                    return;
                }
                put_insert(&mut self.log, table);
                self.log.extend(image(&row));
            }
            Op::Delete(table, n) | Op::DeleteUnchecked(table, n) => {
                let Some(old) = self.pick(table, n) else { return };
                let alone = matches!(op, Op::DeleteUnchecked(..));
                self.rows.remove(&(table, old[0]));
                if !alone && !effects(&mut self.rows, table, &old, None, 0) {
                    self.rows = before;
                    return;
                }
                if alone {
                    put_alone(&mut self.log);
                }
                put_delete(&mut self.log, table, OldKind::Full);
                self.log.extend(image(&old));
            }
            Op::Update(table, n, a, b, c) => {
                let Some(old) = self.pick(table, n) else { return };
                let new = [a.unwrap_or(old[0]), b.unwrap_or(old[1]), c.unwrap_or(old[2])];
                if new == old || (new[0] != old[0] && self.rows.contains_key(&(table, new[0]))) {
                    return;
                }
                self.rows.remove(&(table, old[0]));
                self.rows.insert((table, new[0]), new);
                if !self.unique() || !effects(&mut self.rows, table, &old, Some(&new), 0) || !self.unique() {
                    self.rows = before;
                    return;
                }
                put_update(&mut self.log, table, OldKind::Full);
                self.log.extend(image(&old));
                self.log.extend(image(&new));
            }
            Op::Insert(..) => {}
        }
    }
}

/// A destination without foreign keys.
#[derive(Default)]
struct Place {
    rows: Rows,
}

struct Nobody;
#[async_trait]
impl Canceller for Nobody {
    async fn cancel(&self) {}
}

#[async_trait]
impl ApplySession for Place {
    async fn holders(&mut self, _: u32, _: usize, _: &[&[u8]]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        Ok(vec![])
    }
    async fn execute(&mut self, steps: &[Step<'_>]) -> Result<()> {
        let row = |image: &[u8]| -> Row { numbers(image).try_into().unwrap() };
        let gone = || Error::internal("no row");
        for step in steps {
            match step {
                Step::Delete { table, keys, .. } => {
                    for key in keys {
                        self.rows.remove(&(*table, numbers(key)[0])).ok_or_else(gone)?;
                    }
                }
                Step::Update { table, rows, .. } => {
                    for new in rows.iter().map(|r| row(r)) {
                        *self.rows.get_mut(&(*table, new[0])).ok_or_else(gone)? = new;
                    }
                }
                Step::Move { table, old, new } => {
                    self.rows.remove(&(*table, numbers(old)[0])).ok_or_else(gone)?;
                    let new = row(new);
                    self.rows.insert((*table, new[0]), new);
                }
                Step::Insert { table, rows, .. } => {
                    for new in rows.iter().map(|r| row(r)) {
                        if self.rows.insert((*table, new[0]), new).is_some() {
                            return Err(Error::internal("there already"));
                        }
                    }
                }
                Step::DeleteWhole { .. } | Step::Truncate { .. } => return Err(Error::internal("not needed")),
            }
        }
        Ok(())
    }
    async fn follow(
        &mut self,
        table: u32,
        columns: &[u16],
        values: &[&[u8]],
        what: Follow<'_>,
        give: &[u16],
    ) -> Result<Vec<Vec<u8>>> {
        assert_eq!(columns, [1]);
        let wanted: Vec<i32> = values.iter().map(|v| numbers(v)[0]).collect();
        let found: Vec<Row> =
            self.rows.iter().filter(|((t, _), r)| *t == table && wanted.contains(&r[1])).map(|(_, r)| *r).collect();
        let mut given = Vec::new();
        for row in found {
            let cells = image(&row);
            let mut shown = Vec::new();
            for &g in give {
                put_cell(&mut shown, drover_model::row::cells(&cells).nth(usize::from(g)).unwrap());
            }
            given.push(shown);
            match what {
                Follow::Delete => drop(self.rows.remove(&(table, row[0]))),
                Follow::SetNull => drop(self.rows.insert((table, row[0]), [row[0], NULL, row[2]])),
                Follow::Set(new) => drop(self.rows.insert((table, row[0]), [row[0], numbers(new)[0], row[2]])),
            }
        }
        Ok(given)
    }
    async fn commit(&mut self, _: &Position, _: &Position) -> Result<Committed> {
        Ok(Committed::Yes)
    }
    async fn rollback(&mut self) -> Result<()> {
        Ok(())
    }
    async fn flush(&mut self) -> Result<()> {
        Ok(())
    }
    fn canceller(&self) -> Box<dyn Canceller> {
        Box::new(Nobody)
    }
}

fn shapes(exact: bool) -> Arc<Shapes> {
    let plans = plans(exact);
    Arc::new(Shapes::new(&plans, &[]).linked(Links::new(&catalog(&plans), &plans)))
}

async fn execute(place: &mut Place, shapes: &Arc<Shapes>, parts: &mut Parts) -> Result<()> {
    for part in &mut parts.parts {
        place.execute(&part.folded.plan(&[])).await?;
        follow(&shapes.links, place, &part.acts, &|_| Mode::Strict).await?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    /// Whatever the source does, and wherever the log is cut into batches, the destination is as the source is.
    #[test]
    fn effects_are_done_in_the_sources_order(
        ops in prop::collection::vec(op(), 1..40),
        cuts in prop::collection::vec(any::<bool>(), 40),
        exact: bool,
        in_order: bool,
    ) {
        let shapes = shapes(exact);
        let mut source = Source { rows: Rows::new(), log: Vec::new() };
        let mut place = Place::default();
        let run = |log: Vec<u8>, place: &mut Place| {
            let before = place.rows.clone();
            let mut run = |in_order| {
                let mut parts = Parts::new(shapes.clone(), &[Bytes::from(log.clone())], |_| Mode::Strict, in_order).unwrap();
                execute(place, &shapes, &mut parts).now_or_never().unwrap()
            };
            match run(in_order) {
                // A key that an effect gave up was taken: then in order.
                Err(_) if !in_order => {
                    place.rows = before;
                    let mut parts = Parts::new(shapes.clone(), &[Bytes::from(log)], |_| Mode::Strict, true).unwrap();
                    execute(place, &shapes, &mut parts).now_or_never().unwrap()
                }
                outcome => outcome,
            }
        };
        for (op, cut) in ops.iter().zip(cuts) {
            source.run(op);
            if cut {
                run(std::mem::take(&mut source.log), &mut place).unwrap();
                prop_assert_eq!(&place.rows, &source.rows);
            }
        }
        run(std::mem::take(&mut source.log), &mut place).unwrap();
        prop_assert_eq!(&place.rows, &source.rows);
    }
}

fn log(changes: impl FnOnce(&mut Source)) -> Bytes {
    let mut source = Source { rows: Rows::new(), log: Vec::new() };
    changes(&mut source);
    Bytes::from(source.log)
}

#[test]
fn what_cannot_touch_shares_a_part() {
    let shapes = shapes(true);
    // Parents deleted one after the other, each behind changes of its own children.
    let many = log(|s| {
        (0..5).for_each(|i| s.run(&Op::Insert(0, [i, NULL, 0])));
        (0..5).for_each(|i| s.run(&Op::Insert(3, [i, i, 0])));
        for _ in 0..5 {
            s.run(&Op::Delete(3, 0));
            s.run(&Op::Delete(0, 0));
        }
    });
    let parts = Parts::new(shapes.clone(), &[many], |_| Mode::Strict, false).unwrap();
    // Table 1 is a child as well, and has children: only what touches those comes after.
    assert_eq!(parts.parts.len(), 1);
    let acts: Vec<(usize, usize)> = parts.parts[0].acts.iter().map(|a| (a.link, a.values.len())).collect();
    assert_eq!(acts.iter().map(|a| a.1).sum::<usize>(), 10);
    // A child that comes back comes after.
    let again = log(|s| {
        s.run(&Op::Insert(0, [1, NULL, 0]));
        s.run(&Op::Insert(3, [7, 1, 0]));
        s.run(&Op::Delete(0, 0));
        s.run(&Op::Insert(0, [1, NULL, 0]));
        s.run(&Op::Insert(3, [8, 1, 0]));
    });
    let parts = Parts::new(shapes.clone(), &[again], |_| Mode::Strict, false).unwrap();
    assert_eq!(parts.parts.len(), 2);
    assert!(parts.parts[0].acts.iter().all(|a| a.what != Done::Nulled || a.values.len() == 1));
}

#[test]
fn batches_beside_each_other_do_not_touch_the_same_children() {
    let shapes = shapes(true);
    let keys = |log: Bytes| Parts::new(shapes.clone(), &[log], |_| Mode::Strict, false).unwrap().keys();
    let with = |ops: &[Op]| {
        log(|s| {
            s.rows.insert((0, 1), [1, NULL, 0]);
            s.rows.insert((0, 2), [2, NULL, 0]);
            ops.iter().for_each(|op| s.run(op));
        })
    };
    let gone = keys(with(&[Op::Delete(0, 0)]));
    let child = keys(with(&[Op::Insert(3, [5, 1, 0])]));
    let other = keys(with(&[Op::Insert(3, [6, 2, 0])]));
    let sibling = keys(with(&[Op::Insert(3, [7, 1, 0])]));
    let deep = keys(with(&[Op::Insert(2, [5, 4, 0])]));
    assert!(gone.conflicts(&child) && child.conflicts(&gone), "a child of the parent that goes");
    assert!(!gone.conflicts(&other), "a child of another parent");
    assert!(!child.conflicts(&sibling), "two children of one parent");
    assert!(gone.conflicts(&deep), "what hangs on children");
    // A parent that was deleted without its foreign keys leaves its children alone.
    let alone = keys(with(&[Op::DeleteUnchecked(0, 0)]));
    assert!(!alone.conflicts(&child));
}

#[test]
fn links_come_from_catalogue_and_plans() {
    let mut plans = plans(true);
    let links = Links::new(&catalog(&plans), &plans);
    let link: Vec<&Link> = links.below(0).iter().map(|&l| links.get(l)).collect();
    assert_eq!(link.iter().map(|l| l.child).collect::<Vec<_>>(), [1, 3]);
    assert!(links.deep(links.below(0)[0]).contains(&2) && links.deep(links.below(4)[0]).contains(&4));
    assert_eq!(links.above(2).len(), 1);
    assert!(obstacles(&catalog(&plans), &plans).is_empty());
    let about = |plans: &[TablePlan], child: usize| {
        let items = obstacles(&catalog(&self::plans(true)), plans);
        items.iter().any(|i| i.object == format!("s.t{child}") && i.result == drover_model::check::Outcome::Failed)
    };
    let without: Vec<TablePlan> = plans.iter().filter(|p| p.id != 1).cloned().collect();
    assert!(about(&without, 2) && !about(&without, 3), "a parent that is not selected");
    let mut filtered = plans.clone();
    filtered[0].filter = Some("c0 > 1".into());
    assert!(about(&filtered, 1) && about(&filtered, 3) && !about(&filtered, 4));
    let mut kept = plans.clone();
    kept[4].operations.delete = false;
    assert!(about(&kept, 4));
    // A column that does not move takes its foreign key along.
    plans[3].columns.pop();
    plans[3].columns.pop();
    assert!(about(&plans, 3));
    assert!(Links::new(&catalog(&plans), &plans).above(3).is_empty());
    assert_eq!(project(&image(&[1, NULL, 2]), &[0, 2]), Value::Cells(image(&[1, 2, NULL])[..4].to_vec()));
    assert_eq!(project(&image(&[1, NULL, 2]), &[0, 1]), Value::Null);
}
