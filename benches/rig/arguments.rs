//! The command line that every driver of a peers' table understands.

use std::str::FromStr;

use super::Failure;

/// What a driver is to do.
#[derive(Clone, Debug)]
pub(crate) struct Arguments {
    /// `None` for a sink of one's own.
    pub(crate) name_server: Option<String>,
    pub(crate) topic: String,
    /// `sync`, `async`, `oneway` or `hello`.
    pub(crate) mode: String,
    pub(crate) threads: usize,
    pub(crate) window: usize,
    pub(crate) size: usize,
    pub(crate) seconds: f64,
    pub(crate) warm_up: f64,
    /// What only one driver knows, as given.
    pub(crate) extra: Vec<String>,
}

impl Default for Arguments {
    fn default() -> Self {
        Self {
            name_server: None,
            topic: "Bench".into(),
            mode: "sync".into(),
            threads: 1,
            window: 1024,
            size: 128,
            seconds: 5.0,
            warm_up: 2.0,
            extra: Vec::new(),
        }
    }
}

impl Arguments {
    pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, Failure> {
        let mut parsed = Self::default();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--namesrv" => parsed.name_server = Some(value(&word, &mut words)?),
                "--topic" => parsed.topic = value(&word, &mut words)?,
                "--mode" => parsed.mode = value(&word, &mut words)?,
                "--threads" => parsed.threads = value(&word, &mut words)?,
                "--window" => parsed.window = value(&word, &mut words)?,
                "--size" => parsed.size = value(&word, &mut words)?,
                "--seconds" => parsed.seconds = value(&word, &mut words)?,
                "--warmup" => parsed.warm_up = value(&word, &mut words)?,
                // `cargo bench` adds it.
                "--bench" => {}
                _ => parsed.extra.push(word),
            }
        }
        Ok(parsed)
    }

    pub(crate) fn has(&self, flag: &str) -> bool {
        self.extra.iter().any(|word| word == flag)
    }

    /// The number that follows a word that only one driver knows.
    pub(crate) fn number(&self, flag: &str) -> Result<Option<u64>, Failure> {
        self.after(flag)
    }

    /// The text that follows a word that only one driver knows.
    pub(crate) fn text(&self, flag: &str) -> Result<Option<String>, Failure> {
        self.after(flag)
    }

    fn after<T: FromStr>(&self, flag: &str) -> Result<Option<T>, Failure> {
        let Some(position) = self.extra.iter().position(|word| word == flag) else {
            return Ok(None);
        };
        value(flag, &mut self.extra.iter().skip(position + 1).cloned()).map(Some)
    }
}

/// The value after `flag`.
pub(crate) fn value<T: FromStr>(flag: &str, words: &mut impl Iterator<Item = String>) -> Result<T, Failure> {
    let word = words.next().ok_or_else(|| format!("{flag} needs a value"))?;
    word.parse()
        .map_err(|_| format!("{flag} does not take {word:?}").into())
}
