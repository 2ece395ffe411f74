//! What the service reports about itself: its log, its metrics and its traces.

mod exporter;
pub mod log;
pub mod metrics;
mod process;
mod spans;
pub mod traces;
