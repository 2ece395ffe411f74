//! A file of passwords, `~/.pgpass` (PostgreSQL 18's manual, 32.16).

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

/// The password of the first line whose host, port, database and user are these, or `*`. As in libpq,
/// a missing file is no error, and one that others may access is ignored.
pub fn find(file: &Path, hosts: &[&str], rest: [&str; 3]) -> Option<String> {
    let mode = fs::metadata(file).ok()?.permissions().mode();
    if mode & 0o77 != 0 {
        let file = file.display();
        tracing::warn!("ignored, as others may access it (chmod 600 prevents that): {file}");
        return None;
    }
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) => {
            tracing::warn!("ignored: {}: {error}", file.display());
            return None;
        }
    };
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let [host, port, database, user, password] = fields(line).try_into().ok()?;
        let is = |field: &str, value: &str| field == "*" || field == value;
        let found = hosts.iter().any(|value| is(&host, value))
            && [port, database, user].iter().zip(rest).all(|(field, value)| is(field, value));
        found.then_some(password)
    })
}

/// A line's fields, in which backslashes and colons are escaped with a backslash.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        let last = fields.len() - 1;
        match character {
            ':' if last < 4 => fields.push(String::new()),
            '\\' => fields[last].extend(characters.next()),
            _ => fields[last].push(character),
        }
    }
    fields
}
