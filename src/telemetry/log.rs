//! The log: one line per event on standard output, as JSON or as text.

use std::{
    fmt::{Debug, Display},
    io::{IsTerminal, Write},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use serde::Serialize;
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::{LevelFilter, Targets},
    layer::{Context, SubscriberExt},
    util::SubscriberInitExt,
};

use crate::{
    clock::Time,
    config::{Config, LogFormat},
    request,
};

/// The target under which the driver logs PostgreSQL's notices and warnings.
const NOTICE: &str = "sqlx::postgres::notice";

pub fn init(config: &Config) -> Result<(), String> {
    let mut filter = filter(&config.rust_log).map_err(|error| {
        format!("RUST_LOG={:?} is not valid: {error}; see wiki-service --help", config.rust_log)
    })?;
    let json = match config.log_format {
        LogFormat::Auto => !std::io::stdout().is_terminal(),
        LogFormat::Json => true,
        LogFormat::Text => false,
    };
    // The service needs PostgreSQL's warnings, whether or not they are logged.
    let is_enabled = |targets: Targets| targets.would_enable(NOTICE, &Level::WARN);
    let notices = config.rust_log.parse().map_or(true, is_enabled);
    if !notices {
        filter = filter.add_directive(format!("{NOTICE}=warn").parse().expect("a directive"));
    }
    tracing_subscriber::registry().with(filter).with(Lines { json, notices }).init();
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!("{panic}");
        // A panic of this thread ends the process.
        if thread::current().name() == Some("main") {
            flush();
        }
    }));
    let writer = thread::Builder::new().name("log".to_owned());
    writer.spawn(|| OUTBOX.write_for_ever()).map_err(|error| error.to_string())?;
    Ok(())
}

/// The filter of `RUST_LOG`. Checked here, since `EnvFilter` takes an unknown word for a crate's name, and
/// then nothing is logged at all.
fn filter(text: &str) -> Result<EnvFilter, String> {
    let parts: Vec<&str> = text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
    let is_known = |part: &&str| {
        let target = part.split(['=', '[']).next().unwrap_or_default();
        target.is_empty() || is_level(part) || is_crate(target.split("::").next().unwrap_or(target))
    };
    let is_bare = |part: &&str| !part.contains(['=', '[', ']', '}']);
    // Filters such as `other_crate=debug` are ignored if others remain; a bare unknown word is not.
    let unknown = match parts.iter().any(is_known) {
        true => parts.iter().find(|part| is_bare(part) && !is_known(part)),
        false => parts.first(),
    };
    if let Some(part) = unknown {
        let target = part.split('=').next().unwrap_or_default();
        return Err(format!(
            "{target} is neither a level (error, warn, info, debug, trace or off) nor a crate of this \
             program, such as wiki_service"
        ));
    }
    EnvFilter::try_new(parts.join(",")).map_err(|error| {
        match parts
            .iter()
            .find(|part| part.rsplit_once('=').is_some_and(|(_, level)| !is_level(level)))
        {
            Some(part) => {
                format!("{part} does not end in a level: error, warn, info, debug, trace or off")
            }
            None => error.to_string(),
        }
    })
}

fn is_level(word: &str) -> bool {
    word.parse::<LevelFilter>().is_ok()
}

/// Whether this program contains a crate of this name.
fn is_crate(name: &str) -> bool {
    let lock = include_str!("../../Cargo.lock");
    let names = lock.lines().filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'));
    names.map(|package| package.replace('-', "_")).any(|package| package == name)
}

struct Lines {
    json: bool,
    /// Whether PostgreSQL's warnings are logged.
    notices: bool,
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        if metadata.target() == NOTICE && *metadata.level() == Level::WARN {
            request::note_warning();
            if !self.notices {
                return;
            }
        }
        let mut line = Line { json: self.json, bytes: Vec::with_capacity(512) };
        let time = Time::now().format();
        let level = metadata.level();
        if self.json {
            line.push(&[r#"{"time":""#, &time, r#"Z","level":""#, level.as_str(), "\""]);
        } else {
            write!(line.bytes, "{time}Z {level:>5}").expect("memory takes all");
        }
        event.record(&mut line);
        request::with_id(|id| line.text("request_id", id));
        if let Some(id) = request::trace_id() {
            line.text("trace_id", &id.to_string());
        }
        line.push(&[if self.json { "}\n" } else { "\n" }]);
        OUTBOX.put(&line.bytes);
    }
}

static OUTBOX: Outbox = Outbox { waiting: Mutex::new(Waiting::NONE), changed: Condvar::new() };

/// How long a line waits for others. Writing each on its own would take a fifth of a request's CPU time.
const PATIENCE: Duration = Duration::from_millis(10);
/// Bytes beyond which lines are lost.
const MOST_WAITING: usize = 1024 * 1024;

/// Waits until all lines are written, for at most a second.
pub fn flush() {
    let mut waiting = OUTBOX.lock();
    waiting.due = true;
    OUTBOX.changed.notify_all();
    let is_left = |waiting: &mut Waiting| waiting.writing || !waiting.lines.is_empty();
    drop(OUTBOX.changed.wait_timeout_while(waiting, Duration::from_secs(1), is_left));
}

/// Lines waiting to be written to standard output. A thread of its own writes them: it blocks when the log
/// is a pipe that nobody reads, which must not happen to a request.
struct Outbox {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

struct Waiting {
    lines: Vec<u8>,
    lost: u64,
    /// Whether to write them now.
    due: bool,
    writing: bool,
}

impl Waiting {
    const NONE: Waiting = Waiting { lines: Vec::new(), lost: 0, due: false, writing: false };
}

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, line: &[u8]) {
        let mut waiting = self.lock();
        if waiting.lines.is_empty() {
            self.changed.notify_all();
        }
        match waiting.lines.len() + line.len() > MOST_WAITING {
            true => waiting.lost += 1,
            false => waiting.lines.extend_from_slice(line),
        }
    }

    fn write_for_ever(&self) -> ! {
        let mut lines = Vec::new();
        loop {
            let some = self.changed.wait_while(self.lock(), |waiting| waiting.lines.is_empty());
            let some = some.unwrap_or_else(PoisonError::into_inner);
            let all = self.changed.wait_timeout_while(some, PATIENCE, |waiting| !waiting.due);
            let (mut waiting, _) = all.unwrap_or_else(PoisonError::into_inner);
            std::mem::swap(&mut lines, &mut waiting.lines);
            let lost = std::mem::take(&mut waiting.lost);
            (waiting.due, waiting.writing) = (false, true);
            drop(waiting);
            // A line that cannot be written is lost. `println!` would panic when the log is closed.
            std::io::stdout().write_all(&lines).ok();
            lines.clear();
            lines.shrink_to(64 * 1024);
            if lost > 0 {
                tracing::warn!("{lost} lines of the log were lost here, since nobody read it");
            }
            self.lock().writing = false;
            self.changed.notify_all();
        }
    }
}

/// A line in the making. The fields of every request's line bypass `fmt`, which takes twice as long.
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
        // Nothing that a client sends may reach a terminal as a control sequence.
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
