//! The database, from and to a file outside.

use std::fs::{self, File};
use std::io::{IsTerminal, Read, Seek, SeekFrom, stdin, stdout};
use std::time::Duration;

use crate::config::RELEASE;
use crate::machine::DATA;
use crate::process::pass_through;

const LIMIT: Duration = Duration::from_secs(3600);
/// The last line but one that pg_dump writes: without it a dump is cut off.
const END: &str = "-- PostgreSQL database dump complete";

pub fn run() -> Result<(), String> {
    if stdout().is_terminal() {
        return Err(
            "the backup goes to stdout: docker exec wiki-cluster wiki-cluster backup > wiki.sql"
                .into(),
        );
    }
    psql(
        "exec pg_dump --username=\"$POSTGRES_USER\" --dbname=\"$POSTGRES_DB\" --clean --if-exists",
        None,
    )
    .map_err(|error| format!("no backup: {error}"))
}

/// All or nothing; requests wait or get a 503 meanwhile.
pub fn restore() -> Result<(), String> {
    if stdin().is_terminal() {
        return Err("the backup comes from stdin: docker exec -i wiki-cluster wiki-cluster restore < wiki.sql".into());
    }
    let path = format!("{DATA}/wiki-cluster/restore.sql");
    let restored = receive(&path).and_then(|dump| {
        psql(
            "exec psql --username=\"$POSTGRES_USER\" --dbname=\"$POSTGRES_DB\" --quiet --single-transaction \
             --set=ON_ERROR_STOP=1 --output=/dev/null",
            Some(dump),
        )
    });
    _ = fs::remove_file(&path);
    restored.map_err(|error| format!("not restored, nothing is changed: {error}"))
}

/// Kept first: of a dump that is cut off, nothing may reach the database.
fn receive(path: &str) -> Result<File, String> {
    let failed = |error| format!("{path}: {error}");
    let mut file = File::options()
        .create(true)
        .truncate(true)
        .read(true)
        .write(true)
        .open(path)
        .map_err(failed)?;
    let length = std::io::copy(&mut stdin().lock(), &mut file).map_err(failed)?;
    file.seek(SeekFrom::Start(length.saturating_sub(500))).map_err(failed)?;
    let mut end = Vec::new();
    file.read_to_end(&mut end).map_err(failed)?;
    if !String::from_utf8_lossy(&end).contains(END) {
        return Err(
            "what came from stdin is no whole backup: its end is missing (docker exec needs -i)"
                .into(),
        );
    }
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    Ok(file)
}

fn psql(command: &str, input: Option<File>) -> Result<(), String> {
    let database = format!("statefulset/{RELEASE}-postgresql");
    let mut arguments = vec!["exec", &database];
    if input.is_some() {
        arguments.insert(1, "--stdin");
    }
    arguments.extend(["--", "sh", "-c", command]);
    pass_through(LIMIT, "kubectl", &arguments, input)
}
