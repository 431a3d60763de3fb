//! A run of changes, cut where foreign keys acted at the source without a trace in its log.
//!
//! Guarantee: executing each part's changes, then what foreign keys did, part by part, gives the source's state, although the log says nothing of
//! the latter: an effect finds the children that were there when the parent changed. What came before it in the log is done before, what
//! came behind it after; unless the two cannot touch: then they share a part, and few parts are left.
//!
//! What cannot touch: an effect on a table's direct children with a key of exact type, and a change of a row there whose old and new
//! values of that key are others. Effects that go on from there may touch anything below. One thing is not known: whether a row that an
//! effect deletes holds a key (or another unique value) that a later row takes. The destination refuses that, and the run is executed again
//! in order, where nothing comes before an effect that came behind it.

use super::links::{Link, Links, Value, project, replaced, told};
use super::{Folded, KeySet, Owed, Shapes, damaged};
use crate::windows::Mode;
use bytes::Bytes;
use drover_connectors_api::{ApplySession, Follow};
use drover_model::change::{Item, Old, Reader};
use drover_model::schema::Effect;
use drover_model::{Error, Result};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// What a foreign key did, by number of its link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Act {
    pub link: usize,
    /// Values of the parents that are gone or changed.
    pub values: Vec<Vec<u8>>,
    pub what: Done,
}

/// What was done to the children.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Done {
    Deleted,
    Nulled,
    Set(Vec<u8>),
}

/// Changes, and what foreign keys did after them.
#[derive(Debug)]
pub struct Part {
    pub folded: Folded,
    pub acts: Vec<Act>,
}

/// A run of changes. See the module.
#[derive(Debug)]
pub struct Parts {
    shapes: Arc<Shapes>,
    pub parts: Vec<Part>,
    /// Values that children refer to: of changes of theirs, and of acts on them.
    reads: Vec<u64>,
    writes: Vec<u64>,
    whole: BTreeSet<u32>,
    in_order: bool,
}

/// What the part under way must not be followed by.
#[derive(Default)]
struct Acted {
    values: HashMap<usize, HashSet<Vec<u8>>>,
    /// Tables of which any change comes after the acts.
    tables: HashSet<u32>,
}

impl Parts {
    /// Folds the items of these payloads, in order; see [`Folded::new`]. `in_order`: change by change, see [`Folded::in_order`].
    pub fn new(shapes: Arc<Shapes>, payloads: &[Bytes], mode: impl Fn(u32) -> Mode, in_order: bool) -> Result<Self> {
        let mut parts = Parts {
            parts: vec![Part { folded: Folded::empty(shapes.clone(), payloads), acts: Vec::new() }],
            shapes,
            reads: Vec::new(),
            writes: Vec::new(),
            whole: BTreeSet::new(),
            in_order,
        };
        let mut acted = Acted::default();
        for (n, payload) in payloads.iter().enumerate() {
            parts.payload(n as u32 + 1, payload, payloads, &mode, &mut acted)?;
        }
        if in_order {
            let parts = &mut parts.parts;
            *parts = parts.drain(..).map(|p| Part { folded: p.folded.in_order(), ..p }).collect();
        }
        Ok(parts)
    }

    fn payload(
        &mut self,
        buffer: u32,
        payload: &Bytes,
        all: &[Bytes],
        mode: &impl Fn(u32) -> Mode,
        acted: &mut Acted,
    ) -> Result<()> {
        let shapes = self.shapes.clone();
        let mut reader = Reader::new(payload, &*shapes);
        let mut alone = false;
        while let Some(item) = reader.next_item().map_err(damaged)? {
            if !shapes.links.is_empty() {
                if self.must_follow(&item, acted) {
                    self.parts.push(Part { folded: Folded::empty(shapes.clone(), all), acts: Vec::new() });
                    *acted = Acted::default();
                }
                if !std::mem::replace(&mut alone, item == Item::Alone) {
                    self.act(&item, mode, acted)?;
                }
            }
            if let Some(part) = self.parts.last_mut() {
                part.folded.take(item, buffer, reader.offset() as u32, mode)?;
            }
        }
        Ok(())
    }

    /// Whether a change has to come after what foreign keys did in the part under way. Notes the values that it refers to.
    fn must_follow(&mut self, item: &Item<'_>, acted: &Acted) -> bool {
        let (table, images) = match item {
            Item::Insert { table, new } => (*table, [Some(*new), None]),
            Item::Update { table, old: Old::Full(old), new } => (*table, [Some(*old), Some(*new)]),
            Item::Delete { table, old: Old::Full(old) } => (*table, [Some(*old), None]),
            Item::Update { table, .. } | Item::Delete { table, .. } => (*table, [None, None]),
            Item::Truncate { tables } => {
                let links = tables.iter().flat_map(|&t| self.shapes.links.above(t));
                return tables.iter().any(|t| acted.tables.contains(t))
                    || links.into_iter().any(|l| acted.values.contains_key(l));
            }
            Item::Begin(_) | Item::End | Item::Alone | Item::Schema(_) => return false,
        };
        let mut must = acted.tables.contains(&table);
        let touched = self.shapes.links.above(table).iter().any(|l| acted.values.contains_key(l));
        if touched && !must {
            // A row that comes where the run had one before: an effect must have deleted that.
            let comes = match item {
                Item::Insert { new, .. } | Item::Update { new, .. } => Some(*new),
                _ => None,
            };
            let moved = |row: &[u8]| match item {
                Item::Update { old: Old::Full(old), .. } => {
                    let key = &self.shapes.get(table).map(|s| s.key.clone()).unwrap_or_default();
                    project(old, key) != project(row, key)
                }
                _ => true,
            };
            let part = self.parts.last();
            must = self.in_order
                || comes.is_some_and(|row| moved(row) && part.is_some_and(|p| p.folded.knows(table, row)));
        }
        for &link in self.shapes.links.above(table) {
            let key = self.shapes.links.get(link);
            let values = acted.values.get(&link);
            if images == [None, None] {
                must |= values.is_some();
                self.whole.insert(table);
            }
            for image in images.into_iter().flatten() {
                match project(image, &key.columns) {
                    Value::Null => {}
                    Value::Unknown => {
                        must |= values.is_some();
                        self.whole.insert(table);
                    }
                    Value::Cells(value) => {
                        must |= values.is_some_and(|v| !key.exact || v.contains(&value));
                        if key.exact {
                            self.reads.push(hash(link, &value));
                        }
                    }
                }
            }
        }
        must
    }

    /// Notes what foreign keys did because of a change.
    fn act(&mut self, item: &Item<'_>, mode: &impl Fn(u32) -> Mode, acted: &mut Acted) -> Result<()> {
        let (table, old, new) = match item {
            Item::Update { table, old, new } => (*table, *old, Some(*new)),
            Item::Delete { table, old } => (*table, *old, None),
            _ => return Ok(()),
        };
        let shapes = self.shapes.clone();
        for &link in shapes.links.below(table) {
            let key = shapes.links.get(link);
            let effect = if new.is_some() { key.on_update } else { key.on_delete };
            let (Some(effect), true) = (effect, mode(key.child) != Mode::Drop) else { continue };
            let shape = shapes.get(table).ok_or_else(|| Error::internal("a change of an unknown table"))?;
            let Some(value) = before(old, new, key, &shape.key)? else { continue };
            let what = match (new, effect) {
                (None, Effect::Cascade) => Done::Deleted,
                (_, Effect::SetNull) => Done::Nulled,
                (Some(new), Effect::Cascade) => match project(new, &key.references) {
                    Value::Cells(new) => Done::Set(new),
                    // A parent's key cannot become null while rows refer to it; one that is unknown did not change.
                    Value::Null | Value::Unknown => continue,
                },
            };
            self.writes.push(hash(link, &value));
            if !key.exact {
                self.whole.insert(key.child);
            }
            self.whole.extend(shapes.links.deep(link));
            acted.tables.extend(shapes.links.deep(link));
            acted.values.entry(link).or_default().insert(value.clone());
            if let Done::Set(new) = &what {
                self.writes.push(hash(link, new));
                acted.values.entry(link).or_default().insert(new.clone());
            }
            let Some(part) = self.parts.last_mut() else { continue };
            match part.acts.last_mut().filter(|a| a.link == link && a.what == what && !matches!(what, Done::Set(_))) {
                Some(act) => act.values.push(value),
                None => part.acts.push(Act { link, values: vec![value], what }),
            }
        }
        Ok(())
    }

    /// What this run writes, for scheduling.
    pub fn keys(&self) -> KeySet {
        let mut set = KeySet::default();
        for part in &self.parts {
            let more = part.folded.keys();
            set.keys.extend(more.keys);
            set.tables.extend(more.tables);
            set.whole.extend(more.whole);
            set.tables.extend(part.acts.iter().map(|a| self.shapes.links.get(a.link).child));
        }
        set.keys.extend(&self.writes);
        set.reads.extend(&self.reads);
        set.whole.extend(&self.whole);
        set.tables.extend(&self.whole);
        set.sort();
        set
    }

    /// Tables that changed, effects of foreign keys included.
    pub fn changes(&self) -> u64 {
        self.parts.iter().map(|p| p.folded.changes).sum()
    }

    /// What this run owes, see [`Folded::owed`].
    pub fn owed(&self) -> Vec<Owed> {
        self.parts.iter().flat_map(|p| p.folded.owed()).collect()
    }
}

/// The value that children referred to before a change, if the change takes it away.
fn before(old: Old<'_>, new: Option<&[u8]>, link: &Link, key: &[u16]) -> Result<Option<Vec<u8>>> {
    let unchanged = |value: &[u8]| {
        new.is_some_and(|new| {
            matches!(project(new, &link.references), Value::Cells(now) if now == value)
                || project(new, &link.references) == Value::Unknown
        })
    };
    let value = match old {
        Old::Full(row) => told(row, link)?,
        Old::Key(cells) => {
            // Cells of the key only, in its order.
            let places: Option<Vec<u16>> =
                link.references.iter().map(|r| key.iter().position(|k| k == r).map(|i| i as u16)).collect();
            match places {
                Some(places) => match project(cells, &places) {
                    Value::Cells(value) => Some(value),
                    _ => None,
                },
                None => return Err(super::links::untold(link)),
            }
        }
        // The key did not change; another unique key may have.
        Old::None if link.references.iter().all(|r| key.contains(r)) => None,
        Old::None => return Err(super::links::untold(link)),
    };
    Ok(value.filter(|v| !unchanged(v)))
}

fn hash(link: usize, value: &[u8]) -> u64 {
    xxh3_64_with_seed(value, u64::MAX - link as u64)
}

/// An effect goes from table to table so often at most; InnoDB itself gives up at 15.
const DEPTH: usize = 64;

/// Does what foreign keys did, and what follows from that on and on. `mode` as for the run.
pub async fn follow(
    links: &Links,
    session: &mut dyn ApplySession,
    acts: &[Act],
    mode: &(dyn Fn(u32) -> Mode + Sync),
) -> Result<()> {
    for act in acts {
        let mut open = vec![(act.clone(), 0)];
        while let Some((act, depth)) = open.pop() {
            let link = links.get(act.link);
            if mode(link.child) == Mode::Drop {
                continue;
            }
            if depth >= DEPTH {
                return Err(Error::internal(format!("the effects of foreign key {} do not end", link.name)));
            }
            let next = step(links, session, &act).await?;
            open.extend(next.into_iter().map(|act| (act, depth + 1)));
        }
    }
    Ok(())
}

/// One effect; gives those that follow from it.
async fn step(links: &Links, session: &mut dyn ApplySession, act: &Act) -> Result<Vec<Act>> {
    let link = links.get(act.link);
    let deleted = act.what == Done::Deleted;
    let touched = |l: &Link| l.references.iter().any(|r| link.columns.contains(r));
    let further: Vec<usize> = links
        .below(link.child)
        .iter()
        .copied()
        .filter(|&l| {
            let l = links.get(l);
            if deleted { l.on_delete.is_some() } else { l.on_update.is_some() && touched(l) }
        })
        .collect();
    let mut give: Vec<u16> = further.iter().flat_map(|&l| links.get(l).references.iter().copied()).collect();
    give.sort_unstable();
    give.dedup();
    let values: Vec<&[u8]> = act.values.iter().map(Vec::as_slice).collect();
    let what = match &act.what {
        Done::Deleted => Follow::Delete,
        Done::Nulled => Follow::SetNull,
        Done::Set(new) => Follow::Set(new),
    };
    let rows = session.follow(link.child, &link.columns, &values, what, &give).await?;
    let mut next: Vec<Act> = Vec::new();
    for l in further {
        let key = links.get(l);
        let places: Vec<u16> =
            key.references.iter().filter_map(|r| give.iter().position(|g| g == r)).map(|i| i as u16).collect();
        let mut seen = HashSet::new();
        for row in &rows {
            let Value::Cells(old) = project(row, &places) else { continue };
            if !seen.insert(old.clone()) {
                continue;
            }
            let what = match (&act.what, if deleted { key.on_delete } else { key.on_update }) {
                (Done::Deleted, Some(Effect::Cascade)) => Done::Deleted,
                (_, Some(Effect::SetNull)) => Done::Nulled,
                (set, Some(Effect::Cascade)) => {
                    let cell = |r: &u16| link.columns.iter().position(|c| c == r);
                    let new = match set {
                        Done::Set(new) => Some(&new[..]),
                        _ => None,
                    };
                    let places: Vec<Option<usize>> = key.references.iter().map(cell).collect();
                    Done::Set(replaced(&old, &places, new))
                }
                (_, None) => continue,
            };
            match next.last_mut().filter(|a| a.link == l && a.what == what && !matches!(what, Done::Set(_))) {
                Some(act) => act.values.push(old),
                None => next.push(Act { link: l, values: vec![old], what }),
            }
        }
    }
    Ok(next)
}
