//! Test model: a source of a few keys, every history that it can have, and a destination that executes the rules' steps.

use super::tolerant::{Act, Change};

pub const KEYS: usize = 3;
pub type Row = [u8; 2];
pub type State = [Option<Row>; KEYS];

/// What a transaction does. `Part` and `Move` leave the second cell unknown, `Full` changes both, `MoveTold` leaves the second
/// unknown in the new image and has it in the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    Insert(u8),
    Full(u8),
    Part(u8),
    Delete(u8),
    Move(u8, u8),
    MoveTold(u8, u8),
    Truncate,
    Reshape,
}

/// Everything that can happen next on the first `keys` keys.
fn possible(state: &State, keys: usize) -> Vec<Op> {
    let mut ops = vec![Op::Truncate, Op::Reshape];
    for k in 0..keys {
        let key = k as u8;
        if state[k].is_none() {
            ops.push(Op::Insert(key));
            continue;
        }
        ops.extend([Op::Full(key), Op::Part(key), Op::Delete(key)]);
        for to in (0..keys).filter(|&to| state[to].is_none()) {
            ops.extend([Op::Move(key, to as u8), Op::MoveTold(key, to as u8)]);
        }
    }
    ops
}

/// Executes an operation with values that no other writes, and says what the log carries (`None`: a schema change).
fn execute(state: &mut State, op: Op, value: u8) -> Option<Change<u8, u8>> {
    let whole = |row: Row| row.map(Some).to_vec();
    let moved = |state: &mut State, from: u8, to: u8, told: bool| {
        let before = state[from as usize].take().unwrap();
        state[to as usize] = Some([value, before[1]]);
        let row = vec![Some(value), None];
        Some(Change::Update { old: Some(from), key: to, row, before: told.then(|| whole(before)) })
    };
    match op {
        Op::Insert(key) => {
            state[key as usize] = Some([value, value]);
            Some(Change::Insert { key, row: whole([value, value]) })
        }
        Op::Full(key) => {
            state[key as usize] = Some([value, value]);
            Some(Change::Update { old: None, key, row: whole([value, value]), before: None })
        }
        Op::Part(key) => {
            state[key as usize].as_mut().unwrap()[0] = value;
            Some(Change::Update { old: None, key, row: vec![Some(value), None], before: None })
        }
        Op::Delete(key) => {
            state[key as usize] = None;
            Some(Change::Delete { key })
        }
        Op::Move(from, to) => moved(state, from, to, false),
        Op::MoveTold(from, to) => moved(state, from, to, true),
        Op::Truncate => {
            *state = [None; KEYS];
            Some(Change::Truncate)
        }
        Op::Reshape => None,
    }
}

/// A history: `states[p]` is the source after `changes[..p]`.
#[derive(Debug, Clone)]
pub struct History {
    pub ops: Vec<Op>,
    pub states: Vec<State>,
    pub changes: Vec<Option<Change<u8, u8>>>,
}

impl History {
    pub fn len(&self) -> usize {
        self.ops.len()
    }
}

/// Calls `each` with every history of `length` operations on the first `keys` keys, from every initial set of rows.
pub fn histories(keys: usize, length: usize, each: &mut dyn FnMut(&History)) -> usize {
    fn go(h: &mut History, keys: usize, left: usize, each: &mut dyn FnMut(&History)) -> usize {
        if left == 0 {
            each(h);
            return 1;
        }
        let state = h.states[h.len()];
        let mut n = 0;
        for op in possible(&state, keys) {
            let mut next = state;
            let change = execute(&mut next, op, 10 + h.len() as u8);
            h.ops.push(op);
            h.states.push(next);
            h.changes.push(change);
            n += go(h, keys, left - 1, each);
            h.ops.pop();
            h.states.pop();
            h.changes.pop();
        }
        n
    }
    (0..1u8 << keys)
        .map(|set| {
            let first = std::array::from_fn(|k| (set >> k & 1 == 1).then_some([k as u8 + 1; 2]));
            go(&mut History { ops: vec![], states: vec![first], changes: vec![] }, keys, length, each)
        })
        .sum()
}

/// Executes tolerant steps.
pub fn tolerant(state: &mut State, acts: Vec<Act<u8, u8>>) {
    for act in acts {
        match act {
            Act::Delete { key } => state[key as usize] = None,
            Act::Replace { key, row } => state[key as usize] = Some([row[0], row[1]]),
            Act::Patch { key, cells } => {
                if let Some(row) = &mut state[key as usize] {
                    super::tolerant::patch(row, &cells);
                }
            }
            Act::Clear => *state = [None; KEYS],
        }
    }
}

/// Applies a change as a destination does that insists on affected rows; false: it found a row where none may be, or none.
pub fn strict(state: &mut State, change: &Change<u8, u8>) -> bool {
    let at = |key: &u8| usize::from(*key);
    match change {
        Change::Insert { key, row } => {
            let free = state[at(key)].is_none();
            state[at(key)] = Some([row[0].unwrap(), row[1].unwrap()]);
            free
        }
        Change::Update { old, key, row, .. } => {
            let Some(mut base) = state[at(old.as_ref().unwrap_or(key))] else { return false };
            super::tolerant::patch(&mut base, row);
            if let Some(old) = old {
                if state[at(key)].is_some() {
                    return false;
                }
                state[at(old)] = None;
            }
            state[at(key)] = Some(base);
            true
        }
        Change::Delete { key } => state[at(key)].take().is_some(),
        Change::Truncate => {
            *state = [None; KEYS];
            true
        }
    }
}
