//! Reactions to posts: a user has each kind at most once for a post.

use std::{marker::PhantomData, str::FromStr, sync::Arc};

use poem_openapi::{
    Enum, Object, OpenApi,
    registry::MetaSchemaRef,
    types::{Example, Type},
};
use prometheus::IntCounter;
use sea_orm::{
    ActiveEnum, ColumnTrait, ConnectionTrait, DeriveActiveEnum, EntityTrait, EnumIter,
    FromQueryResult, Iterable, QueryFilter, Set,
    sea_query::{Expr, ExprTrait, Func, OnConflict, Query as Select},
};
use serde::Serialize;

use crate::{
    app::App,
    database::insert::{Inserted, Made},
    http::{
        authorization::By,
        conditional::Found,
        operation::{Done, Failure},
        parameter::{InPath, InQuery, Path},
        problem::Problem,
    },
    id::Id,
    identity::Caller,
    request::to_the_end,
    wiki::{
        Tag,
        actor::{Actor, Naming},
        editing::Writer,
        failure::{ChangeFailure, ReadFailure},
        posts,
        subjects::user_of,
    },
};

/// The kinds of reactions.
#[derive(Clone, Copy, Debug, DeriveActiveEnum, Enum, EnumIter, PartialEq, Serialize)]
#[oai(rename = "ReactionKind", rename_all = "lowercase")]
#[sea_orm(rs_type = "String", db_type = "Text", rename_all = "lowercase")]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Like,
    Dislike,
    Laugh,
    Confused,
    Heart,
    Hooray,
    Rocket,
    Eyes,
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Kind::iter().find(|kind| kind.to_value() == text).ok_or_else(|| {
            let kinds: Vec<_> = Kind::iter().map(|kind| kind.to_value()).collect();
            format!("one of {}", kinds.join(", "))
        })
    }
}

impl InQuery for Kind {
    fn schema() -> MetaSchemaRef {
        Self::schema_ref()
    }
}

impl InPath for Kind {
    const NAME: &str = "kind";
}

mod entity {
    use sea_orm::entity::prelude::*;

    use crate::{id::Id, wiki::reactions::Kind};

    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "reactions")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub post_id: Id,
        #[sea_orm(primary_key, auto_increment = false)]
        pub user_id: Id,
        #[sea_orm(primary_key, auto_increment = false)]
        pub kind: Kind,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

use entity::{ActiveModel, Column, Entity};

/// How many users have reacted to a post, and how.
#[derive(FromQueryResult, Object, Serialize)]
#[oai(rename = "Reactions", example, read_only_all)]
struct Counts {
    /// How many users like it.
    like: i32,
    /// How many dislike it.
    dislike: i32,
    /// How many laugh about it.
    laugh: i32,
    /// How many are confused by it.
    confused: i32,
    /// How many send it a heart.
    heart: i32,
    /// How many say hooray.
    hooray: i32,
    /// How many send it a rocket.
    rocket: i32,
    /// How many have an eye on it.
    eyes: i32,
    /// With a token: the reactions of its user.
    #[oai(skip_serializing_if_is_none)]
    #[sea_orm(skip)]
    #[serde(skip_serializing_if = "Option::is_none")]
    mine: Option<Vec<Kind>>,
}

impl Example for Counts {
    fn example() -> Self {
        let none = Counts {
            like: 0,
            dislike: 0,
            laugh: 0,
            confused: 0,
            heart: 0,
            hooray: 0,
            rocket: 0,
            eyes: 0,
            mine: None,
        };
        Counts { heart: 1, ..none }
    }
}

#[derive(Clone)]
pub struct Reactions<N> {
    app: Arc<App>,
    set: IntCounter,
    unset: IntCounter,
    naming: PhantomData<N>,
}

impl<N> Reactions<N> {
    pub fn new(app: &Arc<App>) -> Self {
        let counter = |name, help| app.metrics.counter(name, help);
        Self {
            app: app.clone(),
            set: counter("reactions_set_total", "Reactions set since the start"),
            unset: counter(
                "reactions_unset_total",
                "Reactions removed since the start, other than with their post or user",
            ),
            naming: PhantomData,
        }
    }
}

#[OpenApi(tag = "Tag::Reactions")]
impl<N: Naming> Reactions<N> {
    /// Count a post's reactions
    #[oai(path = "/posts/:id/reactions", method = "get", operation_id = "count_reactions")]
    async fn count(
        &self,
        caller: By<Option<Arc<Caller>>>,
        /// The post's id.
        id: Path<Id>,
    ) -> Result<Found<Counts>, Failure<ReadFailure>> {
        let mut select = Select::select();
        select.from(Entity).and_where(Column::PostId.eq(id.0));
        select.expr_as(Expr::exists(posts::select(id.0)), "has_post");
        for kind in Kind::iter().map(|kind| kind.to_value()) {
            let count = format!("CAST(count(*) FILTER (WHERE kind = '{kind}') AS integer)");
            select.expr_as(Expr::cust(count), kind);
        }
        if let Some(caller) = &caller.0 {
            let own = Expr::from(user_of(caller));
            let mine = Expr::case(Expr::col(Column::UserId).eq(own), Expr::col(Column::Kind));
            select.expr_as(Func::cust("string_agg").arg(mine).arg(" "), "mine");
        }
        let row = self.app.database()?.query_one(&select).await?.expect("a row");
        if !row.try_get("", "has_post")? {
            return Err(posts::unknown(id.0).into());
        }
        let mut counts = Counts::from_query_result(&row, "")?;
        if caller.0.is_some() {
            let mine: Option<String> = row.try_get("", "mine")?;
            let mine = mine.unwrap_or_default();
            let is_mine = |kind: &Kind| mine.split(' ').any(|mine| mine == kind.to_value());
            counts.mine = Some(Kind::iter().filter(is_mine).collect());
        }
        Ok(Found::new(&counts))
    }

    /// Set a reaction
    ///
    /// Setting it again changes nothing.
    #[oai(path = "/posts/:id/reactions/:kind", method = "put", operation_id = "set_reaction")]
    async fn set(
        &self,
        writer: By<Writer>,
        /// The post's id.
        id: Path<Id>,
        /// The kind of reaction.
        kind: Path<Kind>,
        /// The user who reacts.
        named: N::Set,
    ) -> Result<Done, Failure<N::SetFailure>> {
        let (post, kind) = (id.0, kind.0);
        let actor = Actor::of(writer.0, named.into())?;
        let reaction = ActiveModel { post_id: Set(post), kind: Set(kind), ..Default::default() };
        let key = [Column::PostId, Column::UserId, Column::Kind];
        let once = OnConflict::columns(key).do_nothing().to_owned();
        let terms = Made { unique: Some(once), ..actor.terms() };
        let (database, set) = (self.app.database()?, self.set.clone());
        match database.insert_on(terms, reaction, None, move |_| set.inc()).await {
            Ok(Inserted::Row(reaction)) => actor.note(reaction.user_id),
            // It was set already. The 204 confirms that, so the check waits for a synchronous standby.
            Ok(_) => actor.check(database, post).await?,
            Err(error) => return Err(actor.problem(error, database, post).await.into()),
        }
        Ok(Done::Done)
    }

    /// Remove a reaction
    ///
    /// Whether or not it was set.
    #[oai(path = "/posts/:id/reactions/:kind", method = "delete", operation_id = "unset_reaction")]
    async fn unset(
        &self,
        writer: By<Writer>,
        /// The post's id.
        id: Path<Id>,
        /// The kind of reaction.
        kind: Path<Kind>,
        /// The id of the user who has reacted.
        user_id: N::Unset,
    ) -> Result<Done, Failure<ChangeFailure>> {
        let (post, kind) = (id.0, kind.0);
        let actor = Actor::of(writer.0, user_id.into())?;
        let delete = Entity::delete_many()
            .filter(Column::PostId.eq(post))
            .filter(Expr::col(Column::UserId).eq(actor.user()))
            .filter(Column::Kind.eq(kind));
        let (app, unset) = (self.app.clone(), self.unset.clone());
        let removed = to_the_end(async move {
            let done = delete.exec(app.database()?).await?;
            unset.inc_by(done.rows_affected);
            Ok::<_, Problem>(done.rows_affected > 0)
        });
        if !removed.await? {
            actor.check(self.app.database()?, post).await?;
        }
        Ok(Done::Done)
    }
}
