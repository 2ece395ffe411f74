//! A SQLite file: its address, its connections, and the lock under which its schema is changed.

use std::{
    ffi::OsString,
    fs::{File, OpenOptions},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use sea_orm::sqlx::{
    self, ConnectOptions, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

use crate::{
    config::Config,
    database::{
        error::{connection_error, reason},
        libpq::in_url,
    },
};

/// The virtual machine steps after which SQLite asks whether to go on: some tenths of a millisecond.
const STEPS: i32 = 10_000;

/// Until when a connection may work on a statement. A statement that is stopped then is rolled back.
#[derive(Clone)]
pub struct Deadline(Arc<Mutex<Instant>>);

impl Deadline {
    /// Gives the statement that begins now this much time.
    pub fn begin(&self, limit: Duration) {
        *self.0.lock().expect("no panic") = Instant::now() + limit;
    }

    fn is_ahead(&self) -> bool {
        Instant::now() < *self.0.lock().expect("no panic")
    }
}

/// Opens a connection whose statements end when their time is over, as PostgreSQL's do.
pub async fn connect(
    options: &SqliteConnectOptions,
) -> Result<(SqliteConnection, Deadline), sqlx::Error> {
    let mut connection = options.connect().await?;
    let deadline = Deadline(Arc::new(Mutex::new(Instant::now())));
    let watched = deadline.clone();
    connection.lock_handle().await?.set_progress_handler(STEPS, move || watched.is_ahead());
    Ok((connection, deadline))
}

/// Reads `DATABASE_URL`; `rest` is what follows `sqlite:`.
pub fn options(url: &str, rest: &str, config: &Config) -> Result<SqliteConnectOptions, String> {
    if rest.contains(":memory:") || rest.contains("mode=memory") {
        let why = "a SQLite database in memory ends with its connection: name a file";
        return Err(in_url(why));
    }
    if rest.trim_start_matches('/').is_empty() {
        return Err(in_url("name a file"));
    }
    let options: SqliteConnectOptions =
        url.parse().map_err(|error| in_url(reason(&connection_error(error))))?;
    check_writable(options.get_filename())?;
    Ok(options
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(config.database_statement_timeout_seconds.0)
        .disable_statement_logging())
}

/// SQLite opens files that it cannot write to, and then fails at each write. Call this before it has
/// opened them: closing our handle would release its locks.
fn check_writable(path: &Path) -> Result<(), String> {
    for file in [path.to_owned(), beside(path, "-wal"), beside(path, "-shm")] {
        match OpenOptions::new().write(true).open(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let file = file.display();
                return Err(format!("SQLite file {file}: {error}: the service has to write to it"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Waits for the lock to change the schema of the SQLite file at `path`; closing the returned file
/// releases it. The lock is on a file of its own: where locks are per file and process (macOS, NFS), a
/// lock of ours on the database would shut SQLite out.
pub fn lock(path: &Path) -> Result<File, String> {
    let file = beside(path, "-lock");
    let open = OpenOptions::new().create(true).truncate(false).write(true).open(&file);
    open.and_then(|file| file.lock().map(|()| file)).map_err(|error| {
        let file = file.display();
        format!("{file}: {error}: it and its directory must be there and writable")
    })
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}
