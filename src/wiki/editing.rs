//! Who may edit, delete and add, by `EDITING`: each operation that it governs takes one of these as its first
//! parameter, so that what is switched off is refused whatever was sent.

use std::sync::Arc;

use poem::{Request, http::StatusCode};

use crate::{
    config::Editing,
    http::{authorization::Party, problem::Problem},
    identity::Caller,
};

/// Somebody who may write.
pub struct Writer {
    /// Not `off`.
    pub editing: Editing,
    /// `None` if anyone may write: then the request names the user.
    pub caller: Option<Arc<Caller>>,
}

/// A caller who may delete what is their own, or with the scope `wiki:admin` anything.
pub struct Owner(pub Arc<Caller>);

impl Party for Writer {
    fn of(request: &Request) -> Result<Self, Problem> {
        let Some(editing) = request.extensions().get() else {
            return Err(switched_off("nothing can be changed or added: EDITING is off"));
        };
        Ok(Self { editing: *editing, caller: Party::of(request)? })
    }
}

impl Party for Owner {
    fn of(request: &Request) -> Result<Self, Problem> {
        let nobody = "where anyone may write, nobody may delete: EDITING is anyone";
        Writer::of(request)?.caller.map(Self).ok_or_else(|| switched_off(nobody))
    }
}

fn switched_off(detail: &str) -> Problem {
    Problem::new(StatusCode::FORBIDDEN, detail)
}
