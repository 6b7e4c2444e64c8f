//! When time alone would end something, so that an idle leader knows to propose a tick.

use super::{
    database::{Direction, KeyRange},
    rows::{self, WindowRow},
    table::Table,
    view::StateView,
};
use crate::apply::WINDOW_MS;
use std::io;

/// See [`StateView::upkeep_due_ms`].
pub(super) fn due_ms(view: &StateView) -> io::Result<Option<u64>> {
    let window_meta = &view.meta().window;
    let from = |start: u64| KeyRange::from(start.to_be_bytes().to_vec());
    let mut lingering = view.cursor(
        Table::Lingering,
        &from(window_meta.lingering_from),
        Direction::Ascending,
    );
    if let Some((key, _)) = lingering.next()?
        && rows::index_at_start(key).is_some_and(|index| index <= window_meta.floor_index)
    {
        return Ok(Some(view.time_ms()));
    }
    let mut window = view.cursor(
        Table::Window,
        &from(window_meta.floor_index + 1),
        Direction::Ascending,
    );
    match window.next()? {
        Some((_, row)) => {
            let oldest: WindowRow = view.decode(Table::Window, row)?;
            Ok(Some(oldest.time_ms.saturating_add(WINDOW_MS)))
        }
        None => Ok(None),
    }
}
