//! Dump and restore of the database.

use std::fs::{self, File};
use std::io::{self, IsTerminal, Read, Seek, Write, stdin, stdout};
use std::os::unix::fs::OpenOptionsExt;
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;

use crate::config::SHARE;
use crate::machine::DATA;
use crate::process::{run_into, run_with_input};

const LIMIT: Duration = Duration::from_secs(3600);
/// How often progress is reported.
const PROGRESS: Duration = Duration::from_secs(10);
/// The last line but two that `pg_dump` writes: without it a dump is truncated. No row can look like it, since each
/// begins with a number.
const END: &str = "\n-- PostgreSQL database dump complete\n";

pub fn run() -> Result<(), String> {
    if stdout().is_terminal() {
        return Err(
            "the backup goes to stdout: docker exec wiki-cluster wiki-cluster backup > wiki.sql"
                .into(),
        );
    }
    dump().map_err(|error| format!("no backup: {error}"))
}

fn dump() -> Result<(), String> {
    let (reader, writer) = io::pipe().map_err(|error| error.to_string())?;
    let copied = thread::spawn(move || copy(reader, stdout().lock(), "stdout"));
    let command =
        "exec pg_dump --username=\"$POSTGRES_USER\" --dbname=\"$POSTGRES_DB\" --clean --if-exists";
    let dumped = run_into(writer, LIMIT, "kubectl", &in_the_database(&[], command));
    let end = copied.join().expect("it does not panic")?;
    dumped?;
    if !end.contains(END) {
        return Err("its end is missing: the connection to the database's pod broke".into());
    }
    Ok(())
}

/// All or nothing; requests wait or get a 503 meanwhile.
pub fn restore() -> Result<(), String> {
    if stdin().is_terminal() {
        return Err("the backup comes from stdin: docker exec -i wiki-cluster wiki-cluster restore < wiki.sql".into());
    }
    let stream = receive().map_err(|error| format!("nothing is changed: {error}"))?;
    // If the stream ends before its COMMIT, it is rolled back; psql's --single-transaction would commit what has arrived.
    let command = "exec psql --username=\"$POSTGRES_USER\" --dbname=\"$POSTGRES_DB\" --no-psqlrc --set=ON_ERROR_STOP=1";
    match run_with_input(LIMIT, "kubectl", &in_the_database(&["--stdin"], command), stream) {
        Ok(said) if said.trim_end().ends_with("COMMIT") => Ok(()),
        // what kubectl says if the command itself has failed
        Err(error) if error.contains("command terminated with exit code") => {
            Err(format!("not restored, nothing is changed: {error}"))
        }
        broken => {
            let error = broken.err().unwrap_or_default();
            Err(format!(
                "either everything was restored or nothing: the connection to the database's pod broke; restore again {error}"
            ))
        }
    }
}

/// Stored first: nothing of a truncated dump may reach the database. The file has no name, and is gone when this process exits.
fn receive() -> Result<File, String> {
    let folder = format!("{DATA}/wiki-cluster");
    let failed = |error| format!("{folder}: {error}");
    let before = format!("{SHARE}/restore.sql");
    let before = fs::read(&before).map_err(|error| format!("{before}: {error}"))?;
    let mut file = File::options()
        .read(true)
        .write(true)
        .mode(0o600)
        .custom_flags(OFlag::O_TMPFILE.bits())
        .open(&folder)
        .map_err(failed)?;
    file.write_all(&before).map_err(failed)?;
    if !copy(stdin().lock(), &file, &folder)?.contains(END) {
        return Err(
            "stdin was not a complete backup: its end is missing (docker exec needs -i)".into()
        );
    }
    // a copy may have lost its last newline
    file.write_all(b"\nCOMMIT;\n").and_then(|()| file.rewind()).map_err(failed)?;
    Ok(file)
}

/// Returns the end of what was copied.
fn copy(mut from: impl Read, mut to: impl Write, name: &str) -> Result<String, String> {
    let mut buffer = vec![0; 1 << 16];
    let mut end = Vec::new();
    let (mut bytes, mut said) = (0, Instant::now());
    loop {
        let count = from.read(&mut buffer).map_err(|error| error.to_string())?;
        if count == 0 {
            return Ok(String::from_utf8_lossy(&end).into_owned());
        }
        to.write_all(&buffer[..count]).map_err(|error| format!("{name}: {error}"))?;
        end.extend_from_slice(&buffer[..count]);
        end.drain(..end.len().saturating_sub(500));
        bytes += count;
        if said.elapsed() > PROGRESS {
            eprintln!("{} MiB so far", bytes >> 20);
            said = Instant::now();
        }
    }
}

fn in_the_database<'a>(options: &[&'a str], command: &'a str) -> Vec<&'a str> {
    const DATABASE: &str = "statefulset/wiki-release-postgresql";
    [&["exec"], options, &[DATABASE, "--", "sh", "-c", command]].concat()
}
