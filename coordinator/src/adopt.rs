//! Adopting: the state of a migration is lost, its progress at the destination is not. Pure.
//!
//! What can be known without the state decides:
//!
//! | at the destination                                   | at the source                          | what is done                     |
//! |------------------------------------------------------|----------------------------------------|----------------------------------|
//! | a position, and it is consistent there               | slot, or log, has all that came after  | changes go on from the position  |
//! | the same                                             | some of what came after is gone        | all tables are begun again       |
//! | a position within the tolerant stretch, or none yet  | –                                      | all tables are begun again       |
//! | a position                                           | the slot is gone                       | the migration fails, and says so |
//!
//! Tables are begun again, since the plan of their chunks is lost with the state: marks tell which chunks were loaded, not which there
//! were. They are emptied under a generation above all that the destination knows, so that no load of former times gets in. A slot that is
//! gone means that the migration had ended: the destination may be in use, and nothing is emptied.

use crate::event::Event;
use crate::machine::State;
use crate::table::{TableStage, TableState};
use drover_model::error::codes;
use drover_model::{Error, Fault, Position, Retry};
use drover_proto::order::Held;
use serde::{Deserialize, Serialize};

/// How far the adoption is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Adoption {
    /// Changes shall go on from here, if the source or the log still has what came after.
    Resuming(Position),
    /// The destination's position is to be forgotten, then all tables begin again.
    Anew,
    /// Over.
    Settled,
}

impl State {
    /// Called at the start of the work: what the destination holds decides.
    pub(crate) fn adopt(&mut self, held: &Held) {
        match (&held.position, &held.consistent) {
            (Some(position), Some(consistent)) if consistent <= position => {
                self.tables = self.plans.iter().map(|_| TableState::new(TableStage::Done)).collect();
                self.base_done = true;
                self.stream_start = Some(position.clone());
                self.adoption = Some(Adoption::Resuming(position.clone()));
            }
            _ => self.adoption = Some(Adoption::Anew),
        }
    }

    /// Only the order that forgets the position may run.
    pub(crate) fn begins_anew(&self) -> bool {
        self.adoption == Some(Adoption::Anew)
    }

    /// The stream of an adopted migration is open, and has everything from `available` on.
    pub(crate) fn on_adopted_stream(&self, available: &Position) -> Option<Event> {
        match &self.adoption {
            Some(Adoption::Resuming(position)) if available <= position => {
                Some(Event::Adopted { position: position.clone() })
            }
            Some(Adoption::Resuming(position)) => Some(Event::AdoptedAnew {
                why: format!(
                    "the destination stands at {position}, but the source keeps changes from {available} on only: those between were \
                     in the lost state"
                ),
            }),
            _ => None,
        }
    }

    /// Why tables may not be emptied, if so.
    pub(crate) fn may_not_begin_anew(&self) -> Option<Error> {
        (self.begins_anew() && self.settings.ignore_conflicts).then(|| {
            let text = "the state is lost, and the tables would have to be emptied and copied again; they may hold rows that were there \
                        before, since on_conflict is \"ignore\"";
            Error::new(codes::STATE_LOST, Fault::User, Retry::Never, text)
                .remedy("`drover cleanup`, empty the tables at the destination yourself, and run the migration anew")
        })
    }

    pub(crate) fn apply_adoption(&mut self, event: &Event) {
        match event {
            Event::Adopted { .. } => self.adoption = Some(Adoption::Settled),
            Event::AdoptedAnew { .. } => {
                self.adoption = Some(Adoption::Anew);
                self.stream_start = None;
                self.opening = None;
                self.base_done = false;
                self.final_done = false;
                self.consistent = false;
            }
            Event::Forgotten { generation } => {
                self.adoption = Some(Adoption::Settled);
                let stage = if self.settings.full { TableStage::Restarting } else { TableStage::Done };
                self.tables = self.plans.iter().map(|_| TableState::new(stage)).collect();
                for t in &mut self.tables {
                    t.generation = generation + 1;
                }
            }
            _ => {}
        }
    }
}
