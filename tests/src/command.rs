//! Commands that tests run as a person would: kubectl and helm.

use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// What a command printed, whatever it returned.
pub fn output(program: &str, arguments: &[&str], input: Option<&str>) -> Result<Output> {
    use std::io::Write;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(if input.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {program}"))?;
    if let (Some(text), Some(mut pipe)) = (input, child.stdin.take()) {
        pipe.write_all(text.as_bytes())?;
    }
    Ok(child.wait_with_output()?)
}

/// Runs a command that must succeed, and returns what it printed.
pub fn run(program: &str, arguments: &[&str], input: Option<&str>) -> Result<String> {
    let output = output(program, arguments, input)?;
    if !output.status.success() {
        bail!(
            "{program} {} failed: {}{}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// `kubectl` with arguments split at spaces.
pub fn kubectl(line: &str) -> Result<String> {
    run(
        "kubectl",
        &line.split_whitespace().collect::<Vec<_>>(),
        None,
    )
}

/// `kubectl apply` of a manifest in a namespace.
pub fn apply(namespace: &str, manifest: &str) -> Result<String> {
    run(
        "kubectl",
        &["apply", "--namespace", namespace, "--filename", "-"],
        Some(manifest),
    )
}

/// What the API server says to a manifest that it must refuse.
pub fn refusal(namespace: &str, manifest: &str) -> Result<String> {
    let output = output(
        "kubectl",
        &["apply", "--namespace", namespace, "--filename", "-"],
        Some(manifest),
    )?;
    if output.status.success() {
        bail!("the API server accepted what it must refuse:\n{manifest}");
    }
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}
