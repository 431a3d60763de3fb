//! Which rows a run owes: rows that enter another key in the tolerant stretch without all of their values. See
//! `drover_model::handover::tolerant`; the rows are paid in the run's own transaction ([`crate::owed`]).

use super::fold::{Kind, TableFold, scan};
use super::plan::{Fate, key_of};
use super::{Buffers, Folded, Shape};

/// Keys of one table whose rows are owed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owed {
    pub table: u32,
    pub keys: u64,
    /// Their cells, cut into blocks of about 1 MiB.
    pub blocks: Vec<Vec<u8>>,
}

/// A block of keys is closed when it has grown beyond this.
const BLOCK: usize = 1 << 20;

impl Owed {
    fn push(&mut self, key: &[u8]) {
        self.keys += 1;
        match self.blocks.last_mut().filter(|b| b.len() < BLOCK) {
            Some(block) => block.extend_from_slice(key),
            None => self.blocks.push(key.to_vec()),
        }
    }
}

impl Folded {
    /// What this run owes, by table; nothing outside the tolerant stretch.
    pub fn owed(&self) -> Vec<Owed> {
        let mut out = Vec::new();
        for (table, fold) in self.tables.iter().enumerate() {
            let (Some(fold), Some(shape)) = (fold, self.shapes.get(table as u32)) else { continue };
            if !fold.tolerant || shape.key.is_empty() {
                continue;
            }
            let mut owed = Owed { table: table as u32, keys: 0, blocks: Vec::new() };
            fold.owed(shape, &self.buffers, &mut owed);
            if owed.keys > 0 {
                out.push(owed);
            }
        }
        out
    }
}

impl TableFold {
    fn owed(&self, shape: &Shape, b: &Buffers, out: &mut Owed) {
        let (mut bounds, mut key) = (Vec::new(), Vec::new());
        if self.serial || self.opaque {
            // Change by change. What a later change settles is paid as well: that does no harm.
            for event in self.events.iter().filter(|e| e.kind == Kind::Update && e.moved) {
                let new = b.get(event.new);
                if scan(new, &mut bounds) {
                    key_of(shape, new, &mut key);
                    out.push(&key);
                }
            }
            return;
        }
        for (row, r) in self.rows.iter().enumerate() {
            if self.fate(b, row as u32, &mut key, shape) == Fate::Moved && scan(b.get(r.current), &mut bounds) {
                out.push(&key);
            }
        }
    }
}
