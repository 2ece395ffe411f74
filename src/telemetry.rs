//! The log: a line per event on standard output, as JSON or as text.

use std::{
    fmt::{self, Debug},
    io::IsTerminal,
};

use chrono::{SecondsFormat, Utc};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    EnvFilter,
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer, layer},
    layer::SubscriberExt,
    registry::LookupSpan,
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
    // A line that cannot be written is lost: to say so would panic where nobody reads standard error.
    let lines = layer().event_format(Line { json }).log_internal_errors(false);
    tracing_subscriber::registry().with(filter).with(lines).init();
    std::panic::set_hook(Box::new(|panic| tracing::error!("{panic}")));
    Ok(())
}

struct Line {
    json: bool,
}

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let time = Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true);
        let level = event.metadata().level();
        if self.json {
            write!(writer, r#"{{"time":"{time}","level":"{level}""#)?;
        } else {
            write!(writer, "{time} {level:>5}")?;
        }
        let mut fields = Fields { json: self.json, writer: &mut writer, result: Ok(()) };
        event.record(&mut fields);
        middleware::with_request_id(|id| fields.text("request_id", id));
        fields.result?;
        writer.write_str(if self.json { "}\n" } else { "\n" })
    }
}

struct Fields<'a, 'w> {
    json: bool,
    writer: &'a mut Writer<'w>,
    result: fmt::Result,
}

impl Fields<'_, '_> {
    fn name(&mut self, name: &str) -> fmt::Result {
        match (self.json, name) {
            (true, _) => write!(self.writer, r#","{name}":"#),
            (false, "message") => self.writer.write_str(" "),
            (false, _) => write!(self.writer, " {name}="),
        }
    }

    fn plain(&mut self, name: &str, value: impl fmt::Display) {
        self.result = self
            .result
            .and_then(|()| self.name(name))
            .and_then(|()| write!(self.writer, "{value}"));
    }

    fn text(&mut self, name: &str, value: &str) {
        if self.json {
            self.plain(name, serde_json::Value::from(value));
        } else {
            // Nothing that a client sends reaches the terminal as a command.
            let is_command = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
            match value.contains(is_command) {
                true => self.plain(name, value.escape_default()),
                false => self.plain(name, value),
            }
        }
    }
}

impl Visit for Fields<'_, '_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.plain(field.name(), value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.plain(field.name(), value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.plain(field.name(), value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.plain(field.name(), value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field.name(), value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.text(field.name(), &format!("{value:?}"));
    }
}
