//! How much memory this process may use: what its control groups (version 1 or 2) and the machine allow.

use std::path::Path;

/// In bytes; `None` where the system does not say.
pub(super) fn memory_limit() -> Option<u64> {
    within(Path::new("/"))
}

/// What this process holds that is no file's, in bytes; `None` where the kernel does not say. Pages of mapped files are given back
/// when memory is short.
pub(super) fn held() -> Option<u64> {
    anonymous(&std::fs::read_to_string("/proc/self/status").ok()?)
}

/// `RssAnon:      1234 kB` of `/proc/<pid>/status`.
fn anonymous(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// The same for the system whose files lie under `root`.
fn within(root: &Path) -> Option<u64> {
    let read = |path: &str| std::fs::read_to_string(root.join(path)).ok();
    let groups = read("proc/self/cgroup").unwrap_or_default();
    let of_groups = groups
        .lines()
        .filter_map(group_file)
        .flat_map(|(folder, group, file)| {
            // Each group above limits it too. In a container the path may be that outside, of which only the root is seen.
            Path::new(group)
                .ancestors()
                .filter_map(|above| {
                    let above = above.strip_prefix("/").ok()?;
                    let text = std::fs::read_to_string(root.join(folder).join(above).join(file));
                    // `max` is no limit.
                    text.ok()?.trim().parse().ok()
                })
                .collect::<Vec<u64>>()
        });
    let machine = read("proc/meminfo").and_then(|text| total(&text));
    of_groups.chain(machine).min()
}

/// Where a line of `/proc/self/cgroup` says that memory is limited: the folder of the hierarchy, the group in it, the file.
fn group_file(line: &str) -> Option<(&'static str, &str, &'static str)> {
    let (_, rest) = line.split_once(':')?;
    let (controllers, group) = rest.split_once(':')?;
    if controllers.is_empty() {
        return Some(("sys/fs/cgroup", group, "memory.max"));
    }
    let limits = controllers.split(',').any(|name| name == "memory");
    limits.then_some(("sys/fs/cgroup/memory", group, "memory.limit_in_bytes"))
}

/// `MemTotal:  1234 kB` of `/proc/meminfo`.
fn total(text: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::the_machine_alone("0::/\n", &[], Some(4096 * 1024))]
    #[case::version_2_in_a_container("0::/\n", &[("sys/fs/cgroup/memory.max", "1000000\n")], Some(1_000_000))]
    #[case::no_limit("0::/\n", &[("sys/fs/cgroup/memory.max", "max\n")], Some(4096 * 1024))]
    #[case::a_group_above("0::/pods/one\n", &[("sys/fs/cgroup/pods/memory.max", "7000\n"), ("sys/fs/cgroup/pods/one/memory.max", "9000\n")], Some(7000))]
    #[case::version_1("5:cpu:/x\n7:cpuset,memory:/docker/1\n", &[("sys/fs/cgroup/memory/memory.limit_in_bytes", "8000\n")], Some(8000))]
    #[case::version_1_without_limit("7:memory:/\n", &[("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")], Some(4096 * 1024))]
    fn the_least_of_all_limits_counts(
        #[case] groups: &str,
        #[case] files: &[(&str, &str)],
        #[case] expected: Option<u64>,
    ) {
        let root = tempfile::tempdir().unwrap();
        let fixed = [
            ("proc/self/cgroup", groups),
            ("proc/meminfo", "MemTotal:       4096 kB\nMemFree: 1 kB\n"),
        ];
        for (path, text) in fixed.iter().chain(files) {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        assert_eq!(within(root.path()), expected);
    }

    #[test]
    fn this_machine_says_how_much_memory_there_is() {
        assert!(memory_limit().unwrap() > 1 << 20);
        assert_eq!(within(Path::new("/nowhere")), None);
    }
}
