//! Lists a part of what one side has: carries out one [`Effect::List`](crate::event::Effect::List).

use protocol::agent::{Cursor, Request, Response};
use protocol::{Gfid, Place};
use syncer::Control;

use crate::brick::Brick;
use crate::error::WorkerError;
use crate::event::Event;
use crate::rescan::{Page, PageRequest};

/// Asks for a page.
///
/// # Errors
/// The way to the brick or to the secondary is broken.
pub async fn list(brick: &Brick, control: &Control, request: PageRequest) -> Result<Event, WorkerError> {
    let page = match request.cursor {
        Cursor::Directories(after) => primary(brick, after, true).await?,
        Cursor::Others(after) => primary(brick, after, false).await?,
        Cursor::Secondary(after) => secondary(brick, control, after).await?,
    };
    Ok(Event::Listed { generation: request.generation, page })
}

async fn primary(brick: &Brick, after: Option<(Gfid, Place)>, directories: bool) -> Result<Page, WorkerError> {
    let (names, next) = brick.list(after, directories).await?;
    Ok(Page::Primary(names, next))
}

async fn secondary(brick: &Brick, control: &Control, after: Option<(Gfid, Place)>) -> Result<Page, WorkerError> {
    // What an index that is being made does not have yet is not gone.
    brick.barrier().await?;
    let Response::Listed(names) = control.call(Request::List(after)).await? else {
        return Err(WorkerError::Nonsense);
    };
    let mut gfids: Vec<Gfid> = names.iter().map(|(gfid, _)| *gfid).collect();
    gfids.dedup();
    let lives = brick.names(gfids.clone()).await?;
    let lives: std::collections::HashMap<_, _> = gfids.into_iter().zip(lives).collect();
    let known = |gfid: &Gfid| lives.get(gfid).cloned().unwrap_or(protocol::brick::Names::Unrecorded);
    Ok(Page::Secondary(names.into_iter().map(|(gfid, place)| (gfid, place, known(&gfid))).collect()))
}
