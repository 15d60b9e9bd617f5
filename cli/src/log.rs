//! Log lines of a binary and of all that it is made of, on standard error.

use clap::Args;
use tracing_subscriber::filter::LevelFilter;

/// Where the level comes from if the command line does not say it.
const ENVIRONMENT: &str = "RUST_LOG";

/// What is logged.
#[derive(Args, Clone, Copy, Debug)]
pub struct LogArgs {
    /// What to log on standard error: off, error, warn, info, debug or trace [default: what RUST_LOG
    /// says, or warn].
    #[arg(long = "log", value_name = "LEVEL", value_parser = parse_level)]
    level: Option<LevelFilter>,
}

impl LogArgs {
    /// From now on, for the whole process.
    pub fn install(self) {
        // A filter by target, as others understand in that variable, is none here.
        let environment = || parse_level(&std::env::var(ENVIRONMENT).ok()?).ok();
        let level = self.level.or_else(environment).unwrap_or(LevelFilter::WARN);
        tracing_subscriber::fmt()
            .with_max_level(level)
            .with_writer(std::io::stderr)
            .with_ansi(false)
            // Who closes standard error does not want to hear of that on standard error.
            .log_internal_errors(false)
            .init();
    }
}

fn parse_level(text: &str) -> Result<LevelFilter, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is no level; say off, error, warn, info, debug or trace"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_words() {
        assert_eq!(parse_level("debug"), Ok(LevelFilter::DEBUG));
        assert_eq!(parse_level("off"), Ok(LevelFilter::OFF));
        assert!(parse_level("loud").is_err_and(|error| error.contains("warn")));
    }
}
