//! Processes of pods, seen from the node: what a crash does to a container cannot be done from inside it.

use std::fs;

use anyhow::{Result, ensure};

/// The host process ids of a pod whose command line holds `needle`.
pub fn of_pod(pod_uid: &str, needle: &str) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        let cgroup = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        if cgroup.contains(pod_uid) && command.contains(needle) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// `kill -9` of a pod's processes whose command line holds `needle`.
pub fn kill(pod_uid: &str, needle: &str) -> Result<()> {
    let pids = of_pod(pod_uid, needle)?;
    ensure!(
        !pids.is_empty(),
        "pod {pod_uid} has no process with `{needle}` in its command line"
    );
    for pid in pids {
        crate::command::run("kill", &["-9", &pid.to_string()], None)?;
    }
    Ok(())
}
