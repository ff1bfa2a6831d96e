//! Reads recorded traffic of real clients and servers and checks that this room reads and writes it alike.
//!
//! The rows are all lines of all `.jsonl` files in the folder that the environment variable `VECTORS_DIR` names, or in
//! the crate's `tests/vectors`, whose README says where they come from. A row is told by its fields, not by its file:
//!
//! - frames (`frame_hex`, `decoded`) are checked in `golden/frames.rs`,
//! - queries among them also in `golden/queries.rs`,
//! - parts of messages (`kind` and what that kind has) in `golden/bodies.rs`,
//! - odd frames and what servers made of them (`request_hex`, `outcome`) in `golden/probes.rs`.
//!
//! Nothing is skipped in silence: a kind that cannot be checked yet stands in [`NOT_CHECKED`] with the reason, any
//! other unknown row fails, and so does a folder without rows.

mod bodies;
mod frames;
mod probes;
mod queries;
mod transactions;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// Kinds of rows that nothing in this library can check yet.
const NOT_CHECKED: [(&str, &str); 4] = [
    ("acl_signature", "requests are not signed yet"),
    (
        "cluster_info_json",
        "a producer does not ask for the list of clusters",
    ),
    ("recall_handle", "timer messages are not recalled yet"),
    ("trace_body", "messages are not traced yet"),
];

/// At most this many failures are written out.
const SHOWN_FAILURES: usize = 20;

/// What a check says: nothing, or what was wrong.
type Checked = Result<(), String>;

/// What was checked and what failed.
#[derive(Default)]
struct Tally {
    checked: BTreeMap<String, usize>,
    not_checked: BTreeMap<String, usize>,
    failures: Vec<String>,
}

impl Tally {
    fn record(&mut self, kind: &str, name: &str, outcome: Checked) {
        *self.checked.entry(kind.to_owned()).or_default() += 1;
        if let Err(reason) = outcome {
            self.failures.push(format!("{kind} {name}: {reason}"));
        }
    }

    fn print(&self) {
        for (kind, count) in &self.checked {
            println!("{count:6} {kind}");
        }
        for (kind, count) in &self.not_checked {
            let reason = NOT_CHECKED
                .iter()
                .find(|(known, _)| known == kind)
                .map(|(_, reason)| *reason);
            println!("{count:6} {kind} not checked: {}", reason.unwrap_or_default());
        }
        for failure in self.failures.iter().take(SHOWN_FAILURES) {
            println!("FAILED {failure}");
        }
    }
}

#[test]
fn recorded_traffic_is_read_and_written_alike() {
    let given = std::env::var_os("VECTORS_DIR").map(PathBuf::from);
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    let folder = given.as_deref().unwrap_or(&own);
    let rows = read_rows(folder);
    assert!(
        !rows.is_empty(),
        "no rows in the .jsonl files of {}",
        folder.display()
    );

    let mut tally = Tally::default();
    let (frames, others): (Vec<_>, Vec<_>) = rows
        .into_iter()
        .partition(|row| has(row, &["frame_hex", "decoded"]));
    let (probes, bodies): (Vec<_>, Vec<_>) = others
        .into_iter()
        .partition(|row| has(row, &["request_hex", "outcome"]));
    frames::check(&frames, &mut tally);
    probes::check(&probes, &mut tally);
    for body in &bodies {
        check_body(body, &mut tally);
    }
    tally.print();
    let failures = tally.failures.len();
    assert!(
        failures == 0,
        "{failures} of {} rows failed",
        frames.len() + probes.len() + bodies.len()
    );
    if given.is_none() {
        assert!(frames.len() >= 996, "{} frames", frames.len());
        assert!(bodies.len() >= 250, "{} parts of messages", bodies.len());
        assert!(probes.len() >= 138, "{} probes", probes.len());
    }
}

/// All rows with the place where each stands.
fn read_rows(folder: &Path) -> Vec<Value> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
    files.sort();
    let mut rows = Vec::new();
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap();
        let file = path.file_name().unwrap().to_string_lossy().into_owned();
        for (number, line) in text
            .lines()
            .enumerate()
            .filter(|(_, line)| !line.trim().is_empty())
        {
            let place = format!("{file}:{}", number + 1);
            let mut row: Value =
                serde_json::from_str(line).unwrap_or_else(|error| panic!("{place}: {error}"));
            row["place"] = place.into();
            rows.push(row);
        }
    }
    rows
}

fn check_body(row: &Value, tally: &mut Tally) {
    let Some(kind) = row["kind"].as_str() else {
        tally.record(
            "unknown",
            &name_of(row),
            Err("a row without the fields of any known kind".to_owned()),
        );
        return;
    };
    if NOT_CHECKED.iter().any(|(known, _)| *known == kind) {
        *tally.not_checked.entry(kind.to_owned()).or_default() += 1;
        return;
    }
    tally.record(kind, &name_of(row), bodies::check(kind, row));
}

fn has(row: &Value, fields: &[&str]) -> bool {
    fields.iter().all(|field| row.get(field).is_some())
}

/// What a failure calls a row: its name or its source, and where it stands.
fn name_of(row: &Value) -> String {
    let name = row["name"]
        .as_str()
        .or(row["source"].as_str())
        .unwrap_or("without a name");
    format!("{name} ({})", row["place"].as_str().unwrap_or_default())
}

/// The two must be the same.
fn same<T: PartialEq<U> + Debug, U: Debug>(what: &str, ours: &T, expected: &U) -> Checked {
    if *ours == *expected {
        Ok(())
    } else {
        Err(format!("{what} is {ours:.300?}, expected {expected:.300?}"))
    }
}

fn text<'v>(row: &'v Value, field: &str) -> Result<&'v str, String> {
    row[field]
        .as_str()
        .ok_or_else(|| format!("the row has no text {field}"))
}

fn number<T: TryFrom<i64>>(row: &Value, field: &str) -> Result<T, String> {
    let value = row[field].as_i64().and_then(|value| value.try_into().ok());
    value.ok_or_else(|| format!("the row has no number {field}"))
}

fn bytes(hex: &str) -> Result<Vec<u8>, String> {
    if !hex.is_ascii() || hex.len() % 2 != 0 {
        return Err("odd hexadecimal text".to_owned());
    }
    let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).map_err(|error| error.to_string());
    (0..hex.len()).step_by(2).map(byte).collect()
}

/// Pairs of texts from a list of lists, as the rows write properties.
fn text_pairs(value: &Value) -> Option<Vec<(String, String)>> {
    let pair = |pair: &Value| {
        Some((
            pair.get(0)?.as_str()?.to_owned(),
            pair.get(1)?.as_str()?.to_owned(),
        ))
    };
    value.as_array()?.iter().map(pair).collect()
}

/// An error of this room as text.
#[allow(clippy::needless_pass_by_value, reason = "it is handed to map_err")]
fn reason(error: super::WireError) -> String {
    error.to_string()
}
