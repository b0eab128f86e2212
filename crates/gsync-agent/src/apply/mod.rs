//! What a worker states, carried out: one file for each statement.
//!
//! Layout:
//! - [`plan`]: what becomes of that which is at a name already (pure)
//! - [`bind`], [`unbind`], [`content`], [`attributes`]: the statements
//! - [`gone`]: objects without a name on the primary
//! - [`flags`]: what chattr(1) has to do with a failure
//! - [`prepare`]: starting points for rsync

pub mod attributes;
pub mod bind;
pub mod content;
pub mod flags;
pub mod gone;
pub mod plan;
pub mod prepare;
pub mod unbind;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use protocol::agent::{Balance, Batch, Item, MAX_BATCH_ITEMS, Outcome, Response};
use protocol::{Gfid, Version};

use crate::adopt;
use crate::error::{IndexError, Step, Trouble};
use crate::stage::Stage;
use crate::tree::{Spot, Tree};

/// Passes over the gone objects: directories may be listed before what is in them.
const MAX_GONE_PASSES: usize = 4;

/// What one control connection has in its stage.
#[derive(Debug)]
pub struct Staging {
    /// The directory.
    pub stage: Arc<Stage>,
    /// Contents that wait for a name.
    pub ready: HashMap<Gfid, Ready>,
}

/// A content in the stage with attributes and stamp.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ready {
    /// Its name in the stage.
    pub number: u64,
    /// The primary's version of it.
    pub version: Version,
}

impl Staging {
    /// Nothing ready yet.
    pub fn new(stage: Arc<Stage>) -> Staging {
        Staging { stage, ready: HashMap::new() }
    }

    /// Where the content is that waits for a name.
    pub fn ready_spot(&self, gfid: Gfid) -> Option<Spot> {
        self.ready.get(&gfid).map(|ready| self.stage.numbered(ready.number))
    }

    /// Has a content wait for a name, in the place of an older one.
    pub fn keep(&mut self, gfid: Gfid, ready: Ready) {
        if let Some(older) = self.ready.insert(gfid, ready) {
            self.stage.remove_numbered(older.number);
        }
    }

    /// Removes a content that waits for a name.
    pub fn drop_ready(&mut self, gfid: Gfid) {
        if let Some(older) = self.ready.remove(&gfid) {
            self.stage.remove_numbered(older.number);
        }
    }
}

/// Carries out a batch. The balance in the answer is left to the caller.
///
/// # Errors
/// [`IndexError`] when nothing further may be done at all; everything else is an outcome of its item.
pub fn batch(tree: &mut Tree, staging: &mut Staging, batch: &Batch) -> Result<Response, IndexError> {
    if batch.items.len() > MAX_BATCH_ITEMS || batch.gone.len() > MAX_BATCH_ITEMS {
        let refused = outcome(Err(Trouble::refused("too many items in one batch")))?;
        let all = |n: usize| vec![refused.clone(); n.min(MAX_BATCH_ITEMS)];
        let (items, gone) = (all(batch.items.len()), all(batch.gone.len()));
        return Ok(Response::Applied {
            items,
            gone,
            quarantined: Vec::new(),
            parked: Vec::new(),
            balance: Balance::default(),
        });
    }
    let gone: HashSet<Gfid> = batch.gone.iter().copied().collect();
    let mut items = Vec::with_capacity(batch.items.len());
    for statement in &batch.items {
        let outcome = outcome(item(tree, staging, &gone, statement))?;
        let (gfid, places) = flags::subject(statement);
        items.push(flags::explain(tree, gfid, &places, outcome));
    }
    let gone = remove_gone(tree, staging, &batch.gone)?;
    outcome(tree.restore_mtimes())?;
    let (quarantined, parked) = (std::mem::take(&mut tree.quarantined), tree.take_parked());
    Ok(Response::Applied { items, gone, quarantined, parked, balance: Balance::default() })
}

fn item(tree: &mut Tree, staging: &mut Staging, gone: &HashSet<Gfid>, item: &Item) -> Step<()> {
    match item {
        Item::Bind { place, gfid, from, object } => {
            let bind = bind::Bind { place, gfid: *gfid, from: from.as_ref(), object };
            bind::bind(tree, staging, gone, &bind)
        }
        Item::Unbind { place, gfid } => unbind::unbind(tree, gone, place, *gfid),
        Item::Attributes { gfid, object } => attributes::attributes(tree, staging, *gfid, object),
        Item::Content { gfid, object, whole } => content::content(tree, staging, *gfid, object, *whole),
        Item::Have { gfid, version } => attributes::have(tree, staging, *gfid, version),
        Item::Adopt { gfid, object, seen, same } => adopt::take(tree, *gfid, object, seen, *same),
        Item::LeftOver { place, gfid } => adopt::left_over::quarantine(tree, place, *gfid),
    }
}

/// Removes gone objects, in both directions in turn until nothing changes: a directory after what was in it.
fn remove_gone(tree: &mut Tree, staging: &mut Staging, gone: &[Gfid]) -> Result<Vec<Outcome>, IndexError> {
    let mut outcomes = vec![Outcome::NotEmpty; gone.len()];
    let mut order: Vec<usize> = (0..gone.len()).collect();
    for _ in 0..MAX_GONE_PASSES {
        for &i in &order {
            let outcome = outcome(gone::gone(tree, staging, gone[i]))?;
            outcomes[i] = flags::explain(tree, gone[i], &[], outcome);
        }
        let before = order.len();
        order.retain(|&i| outcomes[i] == Outcome::NotEmpty);
        if order.is_empty() || order.len() == before {
            break;
        }
        order.reverse();
    }
    Ok(outcomes)
}

fn outcome(step: Step<()>) -> Result<Outcome, IndexError> {
    match step {
        Ok(()) => Ok(Outcome::Done),
        Err(Trouble::Answer(outcome)) => Ok(outcome),
        Err(Trouble::Index(error)) => Err(error),
    }
}
