//! The metrics of the process, as Prometheus' client libraries name them. They are read from Linux' /proc
//! (proc(5)); elsewhere there are none. prometheus' own collector counts CPU time in whole seconds, which
//! `rate()` turns into zeros with spikes.

use std::{
    fs,
    sync::{Mutex, PoisonError},
};

use prometheus::{
    Counter, Gauge,
    core::{Collector, Desc},
    proto::MetricFamily,
};

/// Ticks per second in /proc: 100 on every architecture that Rust has a standard library for.
const TICKS: f64 = 100.0;

pub struct Process {
    /// Held from reading until everything is collected.
    turn: Mutex<()>,
    cpu: Counter,
    open_files: Gauge,
    max_files: Gauge,
    virtual_memory: Gauge,
    resident_memory: Gauge,
    start_time: Gauge,
    threads: Gauge,
}

impl Process {
    pub fn new() -> Self {
        let gauge = |name, help| Gauge::new(name, help).expect("a valid name");
        Self {
            turn: Mutex::new(()),
            cpu: Counter::new(
                "process_cpu_seconds_total",
                "Total user and system CPU time spent in seconds.",
            )
            .expect("a valid name"),
            open_files: gauge("process_open_fds", "Number of open file descriptors."),
            max_files: gauge("process_max_fds", "Maximum number of open file descriptors."),
            virtual_memory: gauge("process_virtual_memory_bytes", "Virtual memory size in bytes."),
            resident_memory: gauge(
                "process_resident_memory_bytes",
                "Resident memory size in bytes.",
            ),
            start_time: gauge(
                "process_start_time_seconds",
                "Start time of the process since unix epoch in seconds.",
            ),
            threads: gauge("process_threads", "Number of OS threads in the process."),
        }
    }

    fn collectors(&self) -> [&dyn Collector; 7] {
        [
            &self.cpu,
            &self.open_files,
            &self.max_files,
            &self.virtual_memory,
            &self.resident_memory,
            &self.start_time,
            &self.threads,
        ]
    }

    /// Reads everything; `None` where there is no such /proc.
    fn read(&self) -> Option<()> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        // The name, which comes before, may hold anything. The first field after it is the third.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        let status = fs::read_to_string("/proc/self/status").ok()?;
        let bytes = |name| line(&status, name)?.strip_suffix(" kB")?.trim().parse::<f64>().ok();
        let machine = fs::read_to_string("/proc/stat").ok()?;
        let boot = line(&machine, "btime")?.trim().parse::<f64>().ok()?;

        self.cpu.reset();
        self.cpu.inc_by((field(14)? + field(15)?) / TICKS);
        self.open_files.set(fs::read_dir("/proc/self/fd").ok()?.count() as f64);
        self.max_files.set(rlimit::Resource::NOFILE.get_soft().ok()? as f64);
        self.virtual_memory.set(bytes("VmSize:")? * 1024.0);
        self.resident_memory.set(bytes("VmRSS:")? * 1024.0);
        self.start_time.set((boot + field(22)? / TICKS).floor());
        self.threads.set(field(20)?);
        Some(())
    }
}

/// The rest of the line that begins with `name`.
fn line<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name))
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        self.collectors().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        match self.read() {
            Some(()) => self.collectors().into_iter().flat_map(Collector::collect).collect(),
            None => Vec::new(),
        }
    }
}
