//! All interleavings of a small model, to a stated bound: depth first, each state once. The models stand in `tests/models.rs`; what they step
//! is production's code.

use std::collections::HashSet;
use std::hash::Hash;

/// Something small that goes on in steps.
pub trait Model: Clone {
    /// What may happen next.
    type Step: Clone + std::fmt::Debug;
    /// What tells two states apart.
    type Key: Hash + Eq;

    fn steps(&self) -> Vec<Self::Step>;
    /// # Errors
    /// The promise that this step breaks.
    fn step(&mut self, step: &Self::Step) -> Result<(), String>;
    fn key(&self) -> Self::Key;
    /// # Errors
    /// What is missing where nothing more can happen.
    fn end(&self) -> Result<(), String>;
}

/// How far an exploration came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Explored {
    pub states: usize,
    pub ends: usize,
}

/// Explores everything.
///
/// # Errors
/// The first broken promise, with the steps that lead to it.
pub fn explore<M: Model>(model: &M) -> Result<Explored, String> {
    let mut explored = Explored::default();
    let mut seen = HashSet::new();
    visit(model, &mut Vec::new(), &mut seen, &mut explored)?;
    Ok(explored)
}

fn visit<M: Model>(
    model: &M,
    history: &mut Vec<M::Step>,
    seen: &mut HashSet<M::Key>,
    explored: &mut Explored,
) -> Result<(), String> {
    if !seen.insert(model.key()) {
        return Ok(());
    }
    explored.states += 1;
    let steps = model.steps();
    if steps.is_empty() {
        explored.ends += 1;
        return model.end().map_err(|e| format!("{e}, after {history:?}"));
    }
    for step in steps {
        let mut next = model.clone();
        history.push(step.clone());
        next.step(&step).map_err(|e| format!("{e}, after {history:?}"))?;
        visit(&next, history, seen, explored)?;
        history.pop();
    }
    Ok(())
}
