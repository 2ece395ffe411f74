//! The span of a statement, by OpenTelemetry's semantic conventions for database clients.

use std::sync::Arc;

use opentelemetry::{
    KeyValue, StringValue,
    trace::{Span as _, SpanKind, Status, Tracer},
};
use opentelemetry_sdk::trace::Span;
use sea_orm::{DbErr, RuntimeErr, sqlx};

use crate::{database::address::Options, request, telemetry::traces::tracer};

/// Makes spans for the statements to one database.
#[derive(Clone)]
pub struct Spans(Arc<[KeyValue]>);

impl Spans {
    pub fn new(options: &Options) -> Self {
        let text = |name, value: &str| KeyValue::new(name, StringValue::from(Arc::from(value)));
        Self(match options {
            Options::Sqlite(_) => [text("db.system.name", "sqlite")].into(),
            Options::Postgres(options) => {
                let port = options.get_port();
                let (address, port) = match options.get_socket() {
                    Some(folder) => (format!("{}/.s.PGSQL.{port}", folder.display()), None),
                    None => (options.get_host().to_owned(), Some(port)),
                };
                let database = options.get_database().unwrap_or(options.get_username());
                let port = port.map(|port| KeyValue::new("server.port", i64::from(port)));
                [
                    text("db.system.name", "postgresql"),
                    text("db.namespace", database),
                    text("server.address", &address),
                ]
                .into_iter()
                .chain(port)
                .collect()
            }
        })
    }

    /// Begins the span of a statement, if its request is traced.
    pub fn begin(&self, sql: &str) -> Option<Statement> {
        request::with_trace(|trace| {
            let tracer = tracer()?;
            let (operation, table) = summary(sql);
            let name = match table {
                "" => operation.to_owned(),
                _ => format!("{operation} {table}"),
            };
            let mut attributes = Vec::with_capacity(self.0.len() + 5);
            attributes.extend_from_slice(&self.0);
            // Its values are parameters, and not in the text.
            attributes.push(KeyValue::new("db.query.text", sql.to_owned()));
            attributes.push(KeyValue::new("db.query.summary", name.clone()));
            attributes.push(KeyValue::new("db.operation.name", operation.to_owned()));
            let span = tracer.span_builder(name).with_kind(SpanKind::Client);
            let span = tracer.build_with_context(span.with_attributes(attributes), trace);
            Some(Statement { span: Box::new(span), is_answered: false })
        })?
    }
}

/// The span of a statement. It ends when it is dropped.
pub struct Statement {
    span: Box<Span>,
    is_answered: bool,
}

impl Statement {
    pub fn end<T>(mut self, answer: &Result<T, DbErr>) {
        self.is_answered = true;
        let Err(error) = answer else { return };
        let code = match error {
            DbErr::Conn(RuntimeErr::SqlxError(error))
            | DbErr::Exec(RuntimeErr::SqlxError(error))
            | DbErr::Query(RuntimeErr::SqlxError(error)) => match &**error {
                sqlx::Error::Database(error) => error.code(),
                _ => None,
            },
            _ => None,
        };
        if let Some(code) = &code {
            let code = code.clone().into_owned();
            self.span.set_attribute(KeyValue::new("db.response.status_code", code));
        }
        let kind = match error {
            DbErr::ConnectionAcquire(_) => "acquire_timeout".into(),
            DbErr::Query(RuntimeErr::Internal(_)) => "timeout".into(),
            _ => code.unwrap_or("connection".into()),
        };
        self.fail(kind.into_owned());
    }

    /// Without the message: the database's messages repeat values.
    fn fail(&mut self, kind: String) {
        self.span.set_attribute(KeyValue::new("error.type", kind));
        self.span.set_status(Status::error(""));
    }
}

impl Drop for Statement {
    fn drop(&mut self) {
        if !self.is_answered {
            self.fail("cancelled".to_owned());
        }
    }
}

/// The operation of a statement, and the first table that it names.
fn summary(sql: &str) -> (&str, &str) {
    let mut words = sql.split([' ', '\n', '(', ')', ',', ';']).filter(|word| !word.is_empty());
    let operation = words.next().unwrap_or_default();
    let before = match operation {
        "INSERT" => "INTO",
        "UPDATE" => "UPDATE",
        _ => "FROM",
    };
    let mut words = sql.split([' ', '\n', '(', ')', ',', ';']).filter(|word| !word.is_empty());
    words.find(|word| *word == before);
    (operation, words.next().unwrap_or_default().trim_matches('"'))
}
