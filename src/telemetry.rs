//! Logging: one subscriber for the process, lines on standard error; and traces, where they are exported. Metrics are registered by
//! the rooms that count them. Knows nothing of HTTP's requests but what it is told of them.

mod lines;
pub mod traces;

use std::io::IsTerminal;
use std::sync::OnceLock;
use std::time::Duration;

use lines::Lines;
use tracing_subscriber::EnvFilter;

/// Form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line, for collectors.
    Json,
}

/// Settings of logging.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// Form.
    pub format: LogFormat,
    /// A level, or filters as `tracing` writes them.
    pub level: String,
}

impl LogConfig {
    /// Whether a level or filter can be understood.
    pub fn check_level(level: &str) -> Result<(), String> {
        let sound = !level.trim().is_empty() && EnvFilter::try_new(level).is_ok();
        // A lone word that is no level would be taken for a module's name and switch all else off.
        let word = !level.contains(['=', ',', ':']);
        let known = ["off", "error", "warn", "info", "debug", "trace"].contains(&level.to_ascii_lowercase().as_str());
        if sound && (known || !word) {
            return Ok(());
        }
        Err("error, warn, info, debug, trace, off or filters like switchyard::http=debug are right".to_owned())
    }
}

/// Lines that are not written yet.
static LINES: OnceLock<Lines> = OnceLock::new();

/// Starts logging. A second call changes nothing: tests start many servers in one process.
pub fn start(config: &LogConfig) {
    let filter = EnvFilter::try_new(&config.level).unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = match LINES.get() {
        Some(lines) => lines.clone(),
        // Without a thread there is nothing to serve with either: whoever needs one next says so.
        None => match Lines::start(std::io::stderr()) {
            Ok(lines) => LINES.get_or_init(|| lines).clone(),
            Err(_) => return,
        },
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(lines).with_ansi(std::io::stderr().is_terminal());
    // An error here means that a subscriber is set already.
    let _ = match config.format {
        LogFormat::Text => builder.with_target(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}

/// Waits until every span is exported and every line is written: before the process ends, and before anything else is written to standard error.
pub fn flush() {
    // First, as a failure of theirs is logged.
    traces::flush(PATIENCE);
    if let Some(lines) = LINES.get() {
        lines.flush(PATIENCE);
    }
}

/// A reader of standard error or a collector of spans that takes nothing does not hold the end of the process up for longer.
const PATIENCE: Duration = Duration::from_secs(2);
