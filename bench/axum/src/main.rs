//! The API as a Rust engineer would write it in an hour, on axum and sqlx: what wiki-service is
//! measured against. It has no log, metrics, request ids, limits, probes or document.
//!
//! With `OWN_POOL` in the environment it does not use sqlx's pool, which pings each returned
//! connection: the cheapest possible variant.

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    routing::{get, post},
    serve::ListenerExt,
};
use chrono::{NaiveDateTime, Utc};
use serde::{Deserialize, Serialize, Serializer};
use sqlx::{
    ConnectOptions, FromRow, PgConnection, PgPool, Postgres,
    postgres::{PgArguments, PgConnectOptions, PgPoolOptions, PgRow},
    query::QueryAs,
};
use std::sync::{Arc, Mutex};
use tokio::sync::Semaphore;

#[derive(Clone)]
enum Pool {
    Sqlx(PgPool),
    Own(Arc<Own>),
}

struct Own {
    options: PgConnectOptions,
    slots: Semaphore,
    idle: Mutex<Vec<PgConnection>>,
}

impl Pool {
    async fn one<T>(&self, query: QueryAs<'_, Postgres, T, PgArguments>) -> sqlx::Result<T>
    where
        T: for<'r> FromRow<'r, PgRow> + Send + Unpin,
    {
        let own = match self {
            Self::Sqlx(pool) => return query.fetch_one(pool).await,
            Self::Own(own) => own,
        };
        let _slot = own.slots.acquire().await.expect("never closed");
        let idle = own.idle.lock().expect("no panic").pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => own.options.connect().await?,
        };
        let row = query.fetch_one(&mut connection).await;
        own.idle.lock().expect("no panic").push(connection);
        row
    }
}

#[derive(FromRow, Serialize)]
struct User {
    id: i64,
    name: String,
    #[serde(serialize_with = "microseconds")]
    created_time: NaiveDateTime,
}

#[derive(FromRow, Serialize)]
struct Post {
    post_id: i64,
    content: String,
    user_id: i64,
    #[serde(serialize_with = "microseconds")]
    created_time: NaiveDateTime,
}

#[derive(Deserialize)]
struct NewUser {
    name: String,
}

#[derive(Deserialize)]
struct NewPost {
    user_id: i64,
    content: String,
}

fn microseconds<S: Serializer>(time: &NaiveDateTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&time.format("%Y-%m-%dT%H:%M:%S%.6f"))
}

fn status(error: sqlx::Error) -> StatusCode {
    match error {
        sqlx::Error::RowNotFound => StatusCode::NOT_FOUND,
        sqlx::Error::Database(error) if error.is_foreign_key_violation() => StatusCode::NOT_FOUND,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

async fn create_user(
    State(pool): State<Pool>,
    Json(new): Json<NewUser>,
) -> Result<(StatusCode, Json<User>), StatusCode> {
    let sql =
        "INSERT INTO users (name, created_time) VALUES ($1, $2) RETURNING id, name, created_time";
    let user = sqlx::query_as(sql).bind(new.name).bind(Utc::now().naive_utc());
    pool.one(user).await.map(|user| (StatusCode::CREATED, Json(user))).map_err(status)
}

async fn read_user(
    State(pool): State<Pool>,
    Path(id): Path<i64>,
) -> Result<Json<User>, StatusCode> {
    let user = sqlx::query_as("SELECT id, name, created_time FROM users WHERE id = $1").bind(id);
    pool.one(user).await.map(Json).map_err(status)
}

async fn create_post(
    State(pool): State<Pool>,
    Json(new): Json<NewPost>,
) -> Result<(StatusCode, Json<Post>), StatusCode> {
    let sql = "INSERT INTO posts (content, user_id, created_time) VALUES ($1, $2, $3) \
               RETURNING post_id, content, user_id, created_time";
    let post = sqlx::query_as(sql).bind(new.content).bind(new.user_id).bind(Utc::now().naive_utc());
    pool.one(post).await.map(|post| (StatusCode::CREATED, Json(post))).map_err(status)
}

async fn read_post(
    State(pool): State<Pool>,
    Path(id): Path<i64>,
) -> Result<Json<Post>, StatusCode> {
    let sql = "SELECT post_id, content, user_id, created_time FROM posts WHERE post_id = $1";
    pool.one(sqlx::query_as(sql).bind(id)).await.map(Json).map_err(status)
}

#[tokio::main]
async fn main() {
    let variable = |name| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"));
    let size = variable("DATABASE_POOL_SIZE").parse().expect("a number");
    let options: PgConnectOptions = variable("DATABASE_URL").parse().expect("a URL");
    let pool = match std::env::var_os("OWN_POOL") {
        None => Pool::Sqlx(
            PgPoolOptions::new()
                .max_connections(size)
                // Each would be one more round trip.
                .test_before_acquire(false)
                .connect_lazy_with(options),
        ),
        Some(_) => Pool::Own(Arc::new(Own {
            options,
            slots: Semaphore::new(size as usize),
            idle: Mutex::default(),
        })),
    };
    let app = Router::new()
        .route("/users", post(create_user))
        .route("/users/{id}", get(read_user))
        .route("/user/{id}", get(read_user))
        .route("/posts", post(create_post))
        .route("/posts/{id}", get(read_post))
        .with_state(pool);
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{}", variable("PORT")));
    let listener = listener.await.expect("a free port").tap_io(|socket| {
        socket.set_nodelay(true).ok();
    });
    axum::serve(listener, app).await.expect("never ends");
}
