//! The API as a Rust engineer would write it in an hour, on axum and sqlx: what wiki-service is
//! measured against. It has no log, metrics, request ids, limits, probes or document.

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    routing::{get, post},
    serve::ListenerExt,
};
use chrono::{NaiveDateTime, Utc};
use serde::{Deserialize, Serialize, Serializer};
use sqlx::{FromRow, PgPool, postgres::PgPoolOptions};

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
    State(pool): State<PgPool>,
    Json(new): Json<NewUser>,
) -> Result<(StatusCode, Json<User>), StatusCode> {
    let sql =
        "INSERT INTO users (name, created_time) VALUES ($1, $2) RETURNING id, name, created_time";
    let user = sqlx::query_as(sql).bind(new.name).bind(Utc::now().naive_utc());
    user.fetch_one(&pool).await.map(|user| (StatusCode::CREATED, Json(user))).map_err(status)
}

async fn read_user(
    State(pool): State<PgPool>,
    Path(id): Path<i64>,
) -> Result<Json<User>, StatusCode> {
    let user = sqlx::query_as("SELECT id, name, created_time FROM users WHERE id = $1").bind(id);
    user.fetch_one(&pool).await.map(Json).map_err(status)
}

async fn create_post(
    State(pool): State<PgPool>,
    Json(new): Json<NewPost>,
) -> Result<(StatusCode, Json<Post>), StatusCode> {
    let sql = "INSERT INTO posts (content, user_id, created_time) VALUES ($1, $2, $3) \
               RETURNING post_id, content, user_id, created_time";
    let post = sqlx::query_as(sql).bind(new.content).bind(new.user_id).bind(Utc::now().naive_utc());
    post.fetch_one(&pool).await.map(|post| (StatusCode::CREATED, Json(post))).map_err(status)
}

async fn read_post(
    State(pool): State<PgPool>,
    Path(id): Path<i64>,
) -> Result<Json<Post>, StatusCode> {
    let sql = "SELECT post_id, content, user_id, created_time FROM posts WHERE post_id = $1";
    sqlx::query_as(sql).bind(id).fetch_one(&pool).await.map(Json).map_err(status)
}

#[tokio::main]
async fn main() {
    let variable = |name| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"));
    let pool = PgPoolOptions::new()
        .max_connections(variable("DATABASE_POOL_SIZE").parse().expect("a number"))
        // Each would be a round trip more.
        .test_before_acquire(false)
        .connect_lazy(&variable("DATABASE_URL"))
        .expect("a URL");
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
