//! The table of attachments: a post's slots for them, and who may fill one.

use poem::http::StatusCode;
use sea_orm::{
    ColumnTrait, EntityTrait, Order, QuerySelect,
    sea_query::{Expr, ExprTrait, Func, Query},
};

use crate::{
    config::Editing,
    database::{insert::Made, pool::Database},
    http::{authorization::not_own, problem::Problem},
    id::Id,
    wiki::{
        editing::Writer,
        posts::{entity as posts, unknown},
        subjects::{no_user_yet, own_user, user_of},
    },
};

/// An attachment without its bytes, which are read separately.
pub mod entity {
    use sea_orm::entity::prelude::*;

    use crate::{clock::Time, id::Id};

    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "attachments")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub attachment_id: Id,
        pub post_id: Id,
        pub filename: String,
        pub media_type: String,
        pub owner_id: Option<Id>,
        pub created_time: Time,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// How many slots each post has.
pub const COUNT: i32 = 10;

/// The terms of adding a file to `post`: in a free slot, and as the caller's own.
pub fn terms(by: &Writer, post: Id) -> Made {
    let taken = Query::select()
        .column("slot")
        .from(entity::Entity)
        .and_where(entity::Column::PostId.eq(post))
        .to_owned();
    let free = Query::select()
        .column("column1")
        .from_values(1..=COUNT, "slots")
        .and_where(Expr::col("column1").not_in_subquery(taken))
        .to_owned();
    // A random one, so that concurrent inserts rarely pick the same slot.
    let one = free.clone().order_by_expr(Func::random().into(), Order::Asc).limit(1).to_owned();
    let mut terms = Made {
        beside: vec![("slot", one.into())],
        condition: Some(Expr::exists(free)),
        unique: None,
    };
    if let Some(caller) = &by.caller {
        let own = user_of(caller);
        let may = match by.editing {
            Editing::Author if !caller.is_admin => Expr::exists(
                Query::select()
                    .column(posts::Column::PostId)
                    .from(posts::Entity)
                    .and_where(posts::Column::PostId.eq(post))
                    .and_where(posts::Column::UserId.in_subquery(own.clone()))
                    .to_owned(),
            ),
            _ => Expr::exists(own.clone()),
        };
        terms.beside.push(("owner_id", own.into()));
        terms.condition = terms.condition.map(|free| free.and(may));
    }
    terms
}

/// Why no slot of `post` was filled.
pub async fn refusal(database: &Database, by: &Writer, post: Id) -> Result<Problem, Problem> {
    let author = author(database, post).await?;
    if let Some(caller) = &by.caller {
        let own = own_user(database, caller).await?.ok_or_else(no_user_yet)?;
        if by.editing == Editing::Author && !caller.is_admin && own != author {
            return Ok(not_own(format!("post {post} is not yours to add to")));
        }
    }
    let detail = format!("post {post} has {COUNT} attachments, which is the most");
    Ok(Problem::new(StatusCode::CONFLICT, detail))
}

/// The id of the user who wrote the post.
pub async fn author(database: &Database, post: Id) -> Result<Id, Problem> {
    let author = posts::Entity::find_by_id(post).select_only().column(posts::Column::UserId);
    let author = author.into_tuple().one(database).await?;
    author.ok_or_else(|| unknown(post))
}
