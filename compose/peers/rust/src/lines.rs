//! What the lines on stdin and stdout say.

use std::{
    error::Error,
    io::Write,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::Deserialize;
use serde_json::{Map, Value, json};

pub const MAX_LINE: usize = 1 << 20;
const DEFAULT_TIMEOUT: f64 = 30.0;
const MAX_TIMEOUT: f64 = 3600.0;

#[derive(Debug, Deserialize)]
pub struct Request {
    pub id: Option<i64>,
    #[serde(rename = "do")]
    pub what: String,
    timeout: Option<f64>,
    #[serde(default)]
    pub addr: String,
    #[serde(default)]
    pub peer: String,
    #[serde(default)]
    pub bytes: u64,
    #[serde(default)]
    pub upload: u64,
    #[serde(default)]
    pub download: u64,
    pub protocol: Option<String>,
    #[serde(default)]
    pub addrs: Vec<String>,
    pub version: Option<u8>,
}

/// An error with its causes, which many of libp2p's leave out of their own text.
pub fn whole(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

impl Request {
    pub fn timeout(&self) -> Result<Duration, Refusal> {
        let seconds = self.timeout.unwrap_or(DEFAULT_TIMEOUT);
        if seconds > 0.0 && seconds <= MAX_TIMEOUT {
            Ok(Duration::from_secs_f64(seconds))
        } else {
            Err(Refusal::new("bad-argument", format!("`timeout` must be up to {MAX_TIMEOUT} seconds")))
        }
    }
}

/// Why a command could not be done, with the contract's word for it.
#[derive(Debug)]
pub struct Refusal {
    pub kind: &'static str,
    pub why: String,
}

impl Refusal {
    pub fn new(kind: &'static str, why: impl ToString) -> Self {
        Refusal { kind, why: why.to_string() }
    }
}

/// The kind of a refusal that is none: this peer does not have what `why` names.
pub const UNSUPPORTED: &str = "unsupported";

pub type Answer = Result<Value, Refusal>;

pub fn answer(id: i64, answer: Answer) {
    line(&match answer {
        Ok(fields) => json!({"id": id, "ok": fields}),
        Err(Refusal { kind: UNSUPPORTED, why }) => json!({"id": id, "unsupported": why}),
        Err(refusal) => json!({"id": id, "error": refusal.kind, "why": refusal.why}),
    });
}

/// One event; fields that are null are left out.
pub fn event(name: &str, fields: Value) {
    let mut all = Map::new();
    all.insert("event".into(), name.into());
    all.insert("at".into(), now().into());
    if let Value::Object(fields) = fields {
        all.extend(fields.into_iter().filter(|(_, value)| !value.is_null()));
    }
    line(&Value::Object(all));
}

/// Unix seconds.
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

fn line(value: &Value) {
    let mut out = std::io::stdout().lock();
    let written = writeln!(out, "{value}").and_then(|()| out.flush());
    if let Err(error) = written {
        eprintln!("nobody reads our answers: {error}");
    }
}
