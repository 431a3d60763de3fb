//! What becomes of a record that was let in. Guarantee: all of it goes, in the log's order, into the batch that grows, into the huge transaction
//! that it is a piece of, or before everybody as a schema change.

use super::Run;
use super::ahead::Whose;
use super::feed::Fed;
use super::huge::Huge;
use super::units::{Unit, first_table, units};
use crate::compact::Parts;
use crate::consume::{Record, Verdict};
use crate::schedule::Footprint;
use crate::session::{Work, mode_of};
use bytes::Bytes;
use drover_model::{Position, Result};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tokio::sync::OnceCell;
use tokio::time::Instant;

/// A batch that still grows.
pub(super) struct Open {
    stretch: usize,
    pub work: Work,
    pub bytes: usize,
    pub since: Instant,
}

impl Run {
    /// Takes a record in.
    pub(super) fn record(&mut self, fed: Fed) -> Result<()> {
        let Fed { offset, record: Record { head, admitted, payload }, taken } = fed;
        // What does not count must not decide what is kept: the log has to begin with a record of the newest epoch that was let in.
        if admitted.verdict != Verdict::Drop {
            self.trail.note(offset, &admitted.to, head.commit_micros, payload.len());
        }
        if admitted.discard {
            self.discard();
        }
        if admitted.verdict != Verdict::Drop && head.schema_version != self.schemas.version {
            return Err(self.other_version(head.schema_version));
        }
        let another = |h: &&mut Huge| admitted.verdict == Verdict::Whole || h.whose.to != admitted.to;
        if admitted.verdict != Verdict::Drop
            && let Some(huge) = self.coming().filter(another)
        {
            // What was published in pieces comes whole after all, or otherwise. Their discarding was noted above.
            (huge.complete, huge.void) = (true, true);
            let id = huge.whose.id;
            self.schedule.undo(id);
        }
        match admitted.verdict {
            Verdict::Drop => Ok(()),
            Verdict::Whole if head.schema => self.meet(&payload, admitted.to, head.commit_micros),
            Verdict::Piece { last, .. } => {
                self.changed.note(first_table(&self.common.shapes, &payload)?.as_slice(), &admitted.to);
                if self.coming().is_none() {
                    self.begin_huge(&admitted.to, head.commit_micros)?;
                }
                if let Some(huge) = self.coming() {
                    huge.push(offset, payload, taken, last);
                }
                if last {
                    self.cut_to = admitted.to;
                }
                Ok(())
            }
            Verdict::Whole => {
                let from = Position::from_bytes(&head.from).unwrap_or_else(|_| admitted.have.clone());
                let one_stretch = self.windows.one_stretch(&admitted.have, &admitted.to);
                if from == admitted.have && one_stretch {
                    let unit = Unit {
                        payload,
                        taken,
                        end: admitted.to.clone(),
                        transactions: u64::from(head.transactions),
                        changes: head.changes,
                        commit_micros: head.commit_micros,
                    };
                    return self.grow(unit);
                }
                for unit in units(&self.common.shapes, &payload, &taken, &admitted.have)? {
                    self.grow(unit)?;
                }
                // Behind the last transaction there may be an empty stretch.
                self.grow(Unit {
                    payload: Bytes::new(),
                    taken,
                    end: admitted.to,
                    transactions: 0,
                    changes: 0,
                    commit_micros: head.commit_micros,
                })
            }
        }
    }

    /// Of the next transaction there are pieces.
    fn begin_huge(&mut self, to: &Position, commit_micros: i64) -> Result<()> {
        self.cut()?;
        let whose = Whose {
            id: self.schedule.add(Footprint::Everything),
            to: to.clone(),
            migration: self.common.migration,
            shapes: self.common.shapes.clone(),
            modes: Arc::new(self.windows.modes(to)),
        };
        let (previous, tell) = (self.cut_to.clone(), self.tell_seen.clone());
        self.huges.push_back(Huge::new(whose, previous, commit_micros, self.keys.clone(), tell));
        Ok(())
    }

    /// Adds whole transactions to the batch that still grows.
    fn grow(&mut self, unit: Unit) -> Result<()> {
        let stretch = self.windows.stretch(&unit.end);
        let other = self.open.as_ref().is_some_and(|o| o.stretch != stretch && unit.transactions > 0);
        if other || self.open.as_ref().is_some_and(|o| self.full(o)) {
            self.cut()?;
        }
        let open = match &mut self.open {
            Some(open) => open,
            none => none.insert(Open {
                stretch,
                work: Work {
                    payloads: Vec::new(),
                    taken: Vec::new(),
                    modes: Arc::new(self.windows.modes(&unit.end)),
                    previous: self.cut_to.clone(),
                    next: self.cut_to.clone(),
                    transactions: 0,
                    rows: 0,
                    commit_micros: unit.commit_micros,
                    owed: OnceCell::new(),
                    in_order: AtomicBool::new(false),
                },
                bytes: 0,
                since: Instant::now(),
            }),
        };
        if open.work.transactions == 0 && unit.transactions > 0 {
            (open.stretch, open.work.modes) = (stretch, Arc::new(self.windows.modes(&unit.end)));
        }
        open.bytes += unit.payload.len();
        open.work.rows += unit.changes;
        open.work.transactions += unit.transactions;
        open.work.commit_micros = open.work.commit_micros.max(unit.commit_micros);
        open.work.next = unit.end;
        if !unit.payload.is_empty() {
            open.work.payloads.push(unit.payload);
            open.work.taken.push(unit.taken);
        }
        Ok(())
    }

    /// Ends the batch that grows and schedules it.
    pub(super) fn cut(&mut self) -> Result<()> {
        let Some(Open { work, .. }) = self.open.take() else { return Ok(()) };
        let mode = |t| mode_of(&work.modes, t);
        let folded = Parts::new(self.common.shapes.clone(), &work.payloads, mode, false)?;
        self.cut_to = work.next.clone();
        let keys = folded.keys();
        self.changed.note(&keys.tables, &work.next);
        let id = self.schedule.add(Footprint::Keys(keys));
        // Folded it takes several times as much. Behind a huge transaction it may wait for long, and is folded anew then.
        let soon = !self.is_long() || self.may_start();
        self.works.insert(id, (Arc::new(work), soon.then(|| Box::new(folded))));
        Ok(())
    }
}
