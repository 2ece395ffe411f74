//! The log: a line per event on standard output, as JSON or as text.

use std::{
    cell::Cell,
    fmt::{Debug, Display},
    io::{IsTerminal, Write},
    sync::{Mutex, PoisonError},
};

use chrono::{SecondsFormat, Utc};
use serde::Serialize;
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    EnvFilter, Layer,
    layer::{Context, SubscriberExt},
    util::SubscriberInitExt,
};

use crate::{
    config::{Config, LogFormat},
    middleware,
};

pub fn init(config: &Config) -> Result<(), String> {
    let filter = EnvFilter::try_new(&config.rust_log).map_err(|error| {
        format!("RUST_LOG={:?} is not valid: {error}; see wiki-service --help", config.rust_log)
    })?;
    let json = match config.log_format {
        LogFormat::Auto => !std::io::stdout().is_terminal(),
        LogFormat::Json => true,
        LogFormat::Text => false,
    };
    tracing_subscriber::registry().with(filter).with(Lines { json }).init();
    std::panic::set_hook(Box::new(|panic| tracing::error!("{panic}")));
    Ok(())
}

struct Lines {
    json: bool,
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line { json: self.json, bytes: Vec::with_capacity(512) };
        let time = Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true);
        let level = event.metadata().level();
        if self.json {
            line.push(&[r#"{"time":""#, &time, r#"","level":""#, level.as_str(), "\""]);
        } else {
            write!(line.bytes, "{time} {level:>5}").expect("memory takes all");
        }
        event.record(&mut line);
        middleware::with_request_id(|id| line.text("request_id", id));
        line.push(&[if self.json { "}\n" } else { "\n" }]);
        let mut waiting = WAITING.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.append(&mut line.bytes);
        let can_wait = *level > Level::WARN && waiting.len() < MOST_WAITING && SAYS_WHEN_IDLE.get();
        if !can_wait {
            write(&mut waiting);
        }
    }
}

/// Lines that are yet to be written. Under load, to wake whoever reads the log for each of them would
/// take a quarter of a request's time.
static WAITING: Mutex<Vec<u8>> = Mutex::new(Vec::new());
/// Bytes that do not wait any longer.
const MOST_WAITING: usize = 16 * 1024;

thread_local! {
    /// Whether this thread calls [`flush`] when it runs out of work. Others write at once.
    static SAYS_WHEN_IDLE: Cell<bool> = const { Cell::new(false) };
}

/// To be called by a thread of the runtime before it goes to sleep: what waits is written then.
pub fn before_idle() {
    SAYS_WHEN_IDLE.set(true);
    flush();
}

/// Writes what waits.
pub fn flush() {
    write(&mut WAITING.lock().unwrap_or_else(PoisonError::into_inner));
}

/// A line that cannot be written is lost: to say so would panic where nobody reads the log.
fn write(lines: &mut Vec<u8>) {
    if !lines.is_empty() {
        std::io::stdout().write_all(lines).ok();
        lines.clear();
    }
}

/// A line in the making. What is in the line of every request goes past `fmt`, which takes twice as
/// long.
struct Line {
    json: bool,
    bytes: Vec<u8>,
}

impl Line {
    fn push(&mut self, texts: &[&str]) {
        texts.iter().for_each(|text| self.bytes.extend_from_slice(text.as_bytes()));
    }

    fn name(&mut self, name: &str) {
        match (self.json, name) {
            (true, _) => self.push(&[",\"", name, "\":"]),
            (false, "message") => self.push(&[" "]),
            (false, _) => self.push(&[" ", name, "="]),
        }
    }

    fn plain(&mut self, field: &Field, value: impl Display + Serialize) {
        self.name(field.name());
        if self.json {
            serde_json::to_writer(&mut self.bytes, &value).expect("memory takes all");
        } else {
            write!(self.bytes, "{value}").expect("memory takes all");
        }
    }

    fn text(&mut self, name: &str, value: &str) {
        self.name(name);
        // Nothing that a client sends reaches the terminal as a command.
        let is_command = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
        if self.json {
            serde_json::to_writer(&mut self.bytes, value).expect("memory takes all");
        } else if value.contains(is_command) {
            write!(self.bytes, "{}", value.escape_default()).expect("memory takes all");
        } else {
            self.push(&[value]);
        }
    }
}

impl Visit for Line {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.plain(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.plain(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.plain(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.plain(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field.name(), value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.text(field.name(), &format!("{value:?}"));
    }
}
