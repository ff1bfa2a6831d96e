//! Keeps the house in order: who may import whom, how large things may get, and that the documents tell the truth.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Each room and what it may import, beside itself. An arrow of ARCHITECTURE.md may be followed any distance.
const LAW: &[(&str, &[&str])] = &[
    ("code", &[]),
    ("error", &["code"]),
    ("config", &["code", "error", "message"]),
    ("message", &["code", "error"]),
    ("wire", &["code", "error", "message"]),
    ("net", &["code", "error", "message", "wire"]),
    ("cluster", &["code", "error", "message", "wire", "net"]),
    (
        "producer",
        &["code", "error", "config", "message", "wire", "net", "cluster"],
    ),
    // A fake that shared the client's plumbing would share its faults.
    ("mock", &["code", "error", "message", "wire"]),
    ("guide", &[]),
];

const MOST_CODE_LINES: usize = 500;
const MOST_FUNCTION_LINES: usize = 70;
const MOST_EXAMPLE_LINES: usize = 60;

/// The whole list of what a user gets with the crate.
const DEPENDENCIES: &[&str] = &["byteorder", "crossbeam-channel", "log", "parking_lot"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    assert!(!found.is_empty(), "no source in {}", folder.display());
    found
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

/// The room of a file: the first part of its path below `src`.
fn room(path: &Path) -> String {
    let below = path.strip_prefix(root().join("src")).unwrap();
    below
        .components()
        .next()
        .unwrap()
        .as_os_str()
        .to_string_lossy()
        .trim_end_matches(".rs")
        .to_owned()
}

/// A file without its comments and, unless it is a test itself, without the tests at its foot.
fn code_lines(text: &str) -> Vec<&str> {
    let end = text
        .find("\n#[cfg(test)]\n#[path")
        .or_else(|| text.find("\n#[cfg(test)]\nmod tests"));
    let code = &text[..end.unwrap_or(text.len())];
    code.lines()
        .filter(|line| !line.trim().is_empty() && !line.trim_start().starts_with("//"))
        .collect()
}

fn is_test(path: &Path) -> bool {
    let name = path.file_stem().unwrap().to_string_lossy();
    name.ends_with("_tests")
        || name == "tests"
        || name == "golden"
        || path.components().any(|part| part.as_os_str() == "golden")
}

/// The rooms that a text names after `crate::`, in a path or in the braces of a `use`.
fn imported(code: &str) -> BTreeSet<String> {
    let mut rooms = BTreeSet::new();
    for (position, _) in code.match_indices("crate::") {
        let rest = &code[position + "crate::".len()..];
        if let Some(list) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut start = true;
            for (at, character) in list.char_indices() {
                match character {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => start = true,
                    _ if depth == 0 && start && character.is_alphabetic() => {
                        rooms.insert(identifier(&list[at..]));
                        start = false;
                    }
                    _ => {}
                }
            }
        } else {
            rooms.insert(identifier(rest));
        }
    }
    rooms
}

fn identifier(text: &str) -> String {
    text.chars()
        .take_while(|character| character.is_alphanumeric() || *character == '_')
        .collect()
}

fn assert_none(what: &str, faults: &[String]) {
    assert!(faults.is_empty(), "{what}:\n{}", faults.join("\n"));
}

#[test]
fn rooms_import_only_what_the_law_allows() {
    let mut faults = Vec::new();
    for path in sources(&root().join("src")) {
        let room = room(&path);
        if room == "lib" {
            continue;
        }
        let law = LAW.iter().find(|(name, _)| *name == room);
        let Some((_, allowed)) = law else {
            faults.push(format!("{}: a room that the law does not know", shown(&path)));
            continue;
        };
        let code = code_lines(&read(&path)).join("\n");
        for import in imported(&code) {
            if import != room && !allowed.contains(&import.as_str()) {
                faults.push(format!("{}: {room} may not import {import}", shown(&path)));
            }
        }
    }
    assert_none("imports against the law", &faults);
}

#[test]
fn the_law_would_notice() {
    let code = "use crate::{\n    net::{a, b},\n    wire,\n};\nfn f() { crate::cluster::g() }";
    assert_eq!(
        imported(code).into_iter().collect::<Vec<_>>(),
        ["cluster", "net", "wire"]
    );
}

#[test]
fn only_the_two_drivers_ask_the_plan() {
    let callers: BTreeSet<_> = sources(&root().join("src/producer"))
        .into_iter()
        .filter(|path| !is_test(path) && code_lines(&read(path)).join("\n").contains("plan.next("))
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    assert_eq!(
        callers.into_iter().collect::<Vec<_>>(),
        ["background", "blocking"]
    );
}

#[test]
fn files_and_functions_stay_small_and_say_what_they_are() {
    let mut faults = Vec::new();
    for path in sources(&root().join("src")) {
        let text = read(&path);
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        if !text.starts_with("//!") && !text.contains("#![doc") {
            faults.push(format!(
                "{}: does not open by saying what lives here",
                shown(&path)
            ));
        }
        if ["util", "utils", "common", "helper", "helpers", "misc"].contains(&name.as_str()) {
            faults.push(format!("{}: homeless code has not found its room", shown(&path)));
        }
        if is_test(&path) {
            continue;
        }
        let lines = code_lines(&text);
        if lines.len() > MOST_CODE_LINES {
            faults.push(format!("{}: {} lines of code", shown(&path), lines.len()));
        }
        faults.extend(
            long_functions(&lines)
                .into_iter()
                .map(|fault| format!("{}: {fault}", shown(&path))),
        );
    }
    assert_none("too large or nameless", &faults);
}

/// Functions whose code, from the line with `fn` to the brace of the same indentation, is too long.
fn long_functions(lines: &[&str]) -> Vec<String> {
    let indentation = |line: &str| line.len() - line.trim_start().len();
    let is_start = |line: &str| {
        let line = line.trim_start();
        [
            "fn ",
            "pub fn ",
            "pub(crate) fn ",
            "pub(super) fn ",
            "pub const fn ",
            "const fn ",
            "pub(crate) const fn ",
        ]
        .iter()
        .any(|start| line.starts_with(start))
    };
    let mut faults = Vec::new();
    for (number, line) in lines.iter().enumerate().filter(|(_, line)| is_start(line)) {
        let declared_only = lines[number..]
            .iter()
            .find(|line| line.ends_with(['{', ';', '}']));
        if declared_only.is_some_and(|line| line.ends_with(';')) {
            continue;
        }
        let end = lines[number..].iter().position(|other| {
            indentation(other) == indentation(line) && (*other).trim_start().starts_with('}')
        });
        let length = end.map_or(1, |end| end + 1);
        if length > MOST_FUNCTION_LINES {
            faults.push(format!("{length} lines in `{}`", line.trim()));
        }
    }
    faults
}

#[test]
fn the_size_check_would_notice() {
    let mut function = vec!["    fn long() {"];
    function.extend(["        line();"; 70]);
    function.push("    }");
    assert_eq!(long_functions(&function).len(), 1);
    assert_eq!(long_functions(&["fn short() {", "}"]).len(), 0);
}

#[test]
fn users_get_four_dependencies_and_no_more() {
    let manifest = read(&root().join("Cargo.toml"));
    let section = manifest
        .split("[dependencies]")
        .nth(1)
        .unwrap()
        .split("\n[")
        .next()
        .unwrap();
    let names: Vec<_> = section
        .lines()
        .filter(|line| line.contains('=') && !line.contains("optional = true"))
        .map(identifier_with_dashes)
        .collect();
    assert_eq!(names, DEPENDENCIES);
    for name in DEPENDENCIES {
        let used = name.replace('-', "_");
        let code = |path: PathBuf| code_lines(&read(&path)).join("\n");
        let is_used = sources(&root().join("src"))
            .into_iter()
            .any(|path| code(path).contains(&used));
        assert!(is_used, "{name} is not used");
    }
}

fn identifier_with_dashes(line: &str) -> String {
    line.chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_' || *c == '-')
        .collect()
}

#[test]
fn examples_are_short_and_listed() {
    let readme = read(&root().join("README.md"));
    let mut faults = Vec::new();
    for entry in fs::read_dir(root().join("examples")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            continue;
        }
        let (text, name) = (
            read(&path),
            path.file_stem().unwrap().to_string_lossy().into_owned(),
        );
        if text.lines().count() > MOST_EXAMPLE_LINES {
            faults.push(format!("{name}: {} lines", text.lines().count()));
        }
        if !readme.contains(&format!("(examples/{name}.rs)")) {
            faults.push(format!("{name}: not in README.md"));
        }
    }
    assert_none("examples", &faults);
}

#[test]
fn every_link_of_a_document_leads_somewhere() {
    let mut faults = Vec::new();
    for document in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"] {
        let text = read(&root().join(document));
        for (position, _) in text.match_indices("](") {
            let target: String = text[position + 2..].chars().take_while(|c| *c != ')').collect();
            if !target.starts_with("http") && !target.starts_with('#') && !root().join(&target).exists() {
                faults.push(format!("{document}: {target}"));
            }
        }
    }
    assert_none("dead links", &faults);
}

#[test]
fn the_tree_in_the_architecture_is_the_tree() {
    let architecture = read(&root().join("ARCHITECTURE.md"));
    let mut faults = Vec::new();
    for path in sources(&root().join("src")) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if !is_test(&path) && name != "mod.rs" && !architecture.contains(&name) {
            faults.push(format!("{} is not in ARCHITECTURE.md", shown(&path)));
        }
    }
    assert_none("files that the architecture does not mention", &faults);
}

#[test]
fn the_changelog_has_a_place_for_the_next_change() {
    assert!(read(&root().join("CHANGELOG.md")).contains("## [Unreleased]"));
}
