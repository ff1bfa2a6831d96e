//! Nothing is left out in silence: a test that cannot run here says so where libtest cannot hide it, and with
//! `CI=true` it fails instead.

use std::{io::Write, path::PathBuf};

/// Whether `test` may run with `version` on this machine. If not, says so on the real standard error (the
/// macros' output of a passing test is captured) in the form that the test runner counts.
pub(crate) fn may_run(test: &str, version: &str) -> bool {
    let Some(why) = reason(version) else { return true };
    assert!(!in_ci(), "{test} must not be left out in CI: {why}");
    // One write, so that lines of tests that run side by side do not mix.
    let line = format!("LEFT OUT: {test}: {why}\n");
    drop(std::io::stderr().write_all(line.as_bytes()));
    false
}

fn reason(version: &str) -> Option<String> {
    if !cfg!(target_os = "linux") {
        return Some("the cluster scripts need Linux".into());
    }
    let missing: Vec<&str> = ["java", "javac", "mvn", "bash"]
        .into_iter()
        .filter(|name| program(name).is_none())
        .collect();
    if !missing.is_empty() {
        return Some(format!("no {} on this machine", missing.join(", no ")));
    }
    if !versions().iter().any(|chosen| chosen == version) {
        return Some(format!("{version} is not in ROCKETMQ_TEST_VERSIONS"));
    }
    None
}

/// The releases to test with: `ROCKETMQ_TEST_VERSIONS`, else all in CI, else the oldest and the newest.
fn versions() -> Vec<String> {
    let chosen = std::env::var("ROCKETMQ_TEST_VERSIONS").unwrap_or_else(|_| {
        if in_ci() {
            "4.7.0 4.9.7 5.5.0".into()
        } else {
            "4.7.0 5.5.0".into()
        }
    });
    chosen
        .split([' ', ','])
        .filter(|version| !version.is_empty())
        .map(str::to_owned)
        .collect()
}

fn in_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true")
}

/// Where a program lies: Java's own in `JAVA_HOME` if that is set (as the cluster scripts do), else in PATH.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let home = std::env::var_os("JAVA_HOME").map(|home| PathBuf::from(home).join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let candidates = home
        .into_iter()
        .chain(std::env::split_paths(&path))
        .map(|folder| folder.join(name));
    candidates.into_iter().find(|file| file.is_file())
}
